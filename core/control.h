/* control: the messages between the supervisor and a server process, over a SOCK_SEQPACKET pair.
 *
 * The supervisor starts `fasterlua` anew (exec, same arguments) with the pair's end as descriptor
 * FL_CONTROL_FD, the ledger's memory as FL_LEDGER_FD, the segment's as FL_SEGMENT_FD and
 * FASTERLUA_SERVER="worker restarts started_ns" in the environment (started_ns: CLOCK_MONOTONIC
 * when the supervisor began, for the banner). Order of a start: the server process loads every app,
 * says LOADED; the supervisor then binds (the first time) and sends LISTENERS; the server process
 * accepts and says READY. It runs as many web threads as the ledger was made for, which is how many
 * listeners it gets. When loading fails it says FAILED with the reason and exits with 3, and
 * nothing was bound.
 *
 * Ownership of listening sockets stays with the supervisor; the server process closes its copies.
 * When the pair closes, the server process drains as for STOP: the supervisor is gone. */
#ifndef FL_CONTROL_H
#define FL_CONTROL_H

#include <stddef.h>

#define FL_CONTROL_FD 3
#define FL_LEDGER_FD 4
#define FL_SEGMENT_FD 5
#define FL_CONTROL_LISTENERS 64 /* descriptors in one message; more messages follow */
#define FL_CONTROL_TEXT 4096
#define FL_CONTROL_MORE "more"     /* another LISTENERS_SENT follows */
#define FL_CONTROL_SHARED "shared" /* every loop accepts on all; else one for each web thread */

typedef enum {
    /* to the supervisor */
    FL_CONTROL_LOADED = 1, /* every app is loaded; send the listeners */
    FL_CONTROL_FAILED,     /* text: why the start failed; exit status 3 follows */
    FL_CONTROL_READY,      /* accepting */
    FL_CONTROL_STUCK,      /* text: which handler; please replace this process */
    FL_CONTROL_CLOSED,     /* the backlogs are accepted empty, own copies of the listeners closed */
    /* to the server process */
    FL_CONTROL_LISTENERS_SENT, /* with descriptors; text: FL_CONTROL_MORE or _SHARED or both */
    FL_CONTROL_STOP,           /* drain: accept what waits, answer what is in flight, then exit */
    FL_CONTROL_REPLACED, /* drain: a new process accepts; idle connections served to the end */
    FL_CONTROL_NOW       /* exit without waiting */
} fl_control_kind;

typedef struct fl_control_message {
    fl_control_kind kind;
    char text[FL_CONTROL_TEXT]; /* NUL-terminated */
    int fds[FL_CONTROL_LISTENERS];
    size_t fd_count; /* the receiver owns them; close-on-exec is set */
} fl_control_message;

/* Any thread; never blocks: UV_EAGAIN when the peer's queue is full. 0 or a negative uv code.
 * Receiving returns 1 for a message, 0 when the peer has closed. */
int fl_control_pair(int fds[2]);
int fl_control_send(int fd, fl_control_kind kind, const char *text, const int *fds,
                    size_t fd_count);
int fl_control_receive(int fd, fl_control_message *message);

#endif
