/* web: a web thread: a thread (thread.h) with connections.
 *
 * Owner: the server. Everything in it is touched by its own thread only, except what is atomic, the
 * mailbox, and, once the thread is retired, by whoever took it over. */
#ifndef FL_WEB_H
#define FL_WEB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bell.h"
#include "listener.h"
#include "thread.h"

#define FL_READ_BUFFER 65536
#define FL_WEB_FAILURE 2048

typedef struct fl_spare_letter fl_spare_letter;

typedef enum { FL_WEB_LOADING, FL_WEB_SERVING, FL_WEB_DRAINING, FL_WEB_ENDED } fl_web_phase;

typedef struct fl_web_counts { /* what other threads see of it; stays when another takes its place
                                */
    _Atomic unsigned connections;
    _Atomic unsigned arriving; /* handed over by others, not opened yet */
    _Atomic bool draining;     /* takes no more of them */
} fl_web_counts;

struct fl_web {
    fl_thread thread;
    fl_web_counts *counts;
    fl_web_counts own_counts;
    uv_tcp_t first_stream;
    uint64_t late_since; /* ns; since when the queueing delay is above the bound; 0: it is not */
    uint64_t last_late;
    bool shedding; /* new requests are refused */

    fl_web_phase phase;
    _Atomic(const char *) start; /* what of the start is going on, static text; NULL: it is over */
    bool closing_idle;           /* draining for a stop: idle connections go at once */

    fl_listener *listeners;
    _Atomic int own_listener; /* the socket that only this thread accepts on; -1: none */
    fl_connection *connections;
    fl_connection *ahead; /* what these have read ahead can be parsed now */
    uv_idle_t go_on;      /* active while there are any */
    unsigned connections_most;
    int spare_fd; /* given up for a moment when descriptors run out */
    char *read_buffer;

    fl_bell told;                 /* what other threads want of it */
    _Atomic int help_fd;          /* the socket that it is to help to accept on; -1: none */
    fl_spare_letter *letters;     /* to a spare one; each is sent once */
    fl_bell says;                 /* to the server */
    char failure[FL_WEB_FAILURE]; /* why it cannot be loaded; written once, before it says so */
};

/* *boot*, the server's main thread: makes the loop and mailbox; the thread's fields up to the claim
 * are set before. */
int fl_web_init(fl_web *web);
/* Starts the thread, which loads the apps and tells the server (fl_server_loaded). */
int fl_web_start(fl_web *web);
/* A spare one: it loads no app until it is told. */
int fl_web_start_spare(fl_web *web);
void fl_web_join(fl_web *web);
void fl_web_close(fl_web *web); /* after join */

/* Any thread. */
void fl_web_prepare_spare(fl_web *spare, unsigned app); /* loads it; fl_spares_loaded */
void fl_web_take_place(fl_web *spare, fl_web *stuck);   /* evacuation.h; fl_spares_taken */
bool fl_web_listen(fl_web *web, int fd); /* false: no memory, fd is still the caller's */
void fl_web_drain(fl_web *web, bool close_idle);
void fl_web_stop(fl_web *web);              /* runs the stop hooks and ends the thread */
bool fl_web_hand_over(fl_web *web, int fd); /* false: it takes no more, fd is still the caller's */
void fl_web_help_accept(fl_web *web, int fd); /* beside its own; one at a time; -1: none */

/* *loop*. */
void fl_web_maybe_drained(fl_web *web);
bool fl_web_overloaded(fl_web *web);
void fl_web_cannot_accept(fl_web *web, int status); /* logs it; the server knows what to do */

#endif
