/* connection: a client's socket, from its acceptance to its end: what it waits for and for how
 * long, what is written to it, and how it closes. What it reads is a batch's (batch.h).
 *
 * Owner: its web thread; *loop*; freed after the socket's close callback. The uv handle is held by
 * pointer, because evacuation abandons it with its loop. Answers are written in the order of the
 * requests; what the socket does not take at once is an output (output.h). An idle connection holds
 * no buffers. */
#ifndef FL_CONNECTION_H
#define FL_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "buffer.h"
#include "deadline.h"
#include "http1.h"
#include "peer.h"
#include "request.h"

typedef struct fl_output fl_output;
typedef struct fl_web fl_web;

typedef enum {
    FL_CONNECTION_OPEN,
    FL_CONNECTION_LINGERING, /* answered and shut down; reads and drops what still comes */
    FL_CONNECTION_CLOSED     /* uv_close called */
} fl_connection_phase;

struct fl_connection {
    fl_connection *next, **link;
    fl_web *web;
    uv_tcp_t *socket;
    fl_connection_phase phase;
    bool reading, half_closed, close_after;

    /* what is read */
    fl_http1 http;
    fl_request *request; /* being read or handled; NULL: idle */
    fl_slice unread; /* bytes in the read buffer not parsed yet, recorded before Lua is entered */
    fl_buffer ahead; /* bytes read while a request is handled */
    fl_connection *next_ahead, **ahead_link; /* web->ahead; link NULL: not in it */
    bool processing;                         /* a batch */
    uint32_t served;                         /* requests */
    fl_peer peer;

    /* what is written */
    fl_output *output;     /* NULL: all is with the kernel */
    fl_request *unwritten; /* answered in what is queued; have something to do afterwards */

    /* what it waits for */
    fl_deadline deadline;
    uint64_t expires;    /* ms; when the present wait is too long; UINT64_MAX: never */
    uint64_t body_since; /* ms */
    size_t stalled;      /* bytes queued when the write stall was last looked at */
    uint64_t lingered;   /* bytes dropped */
    bool in_head;        /* the deadline of a head in the making runs */
};

/* Takes the descriptor over, also on failure. */
void fl_connection_open(fl_web *web, int fd);
void fl_connection_close(fl_connection *connection); /* now */

/* Writes what is in web->out, as answers of this connection. */
void fl_connection_flush(fl_connection *connection);

/* A piece of a stream, outside the batch: `prefix` and `suffix` frame it. 0 or a negative uv code.
 */
int fl_connection_write(fl_connection *connection, fl_slice prefix, fl_slice piece,
                        fl_slice suffix);
size_t fl_connection_queued(const fl_connection *connection);

/* Evacuation, on the loop of `web`, which takes the connection over; the loop it was on is dead.
 * take_over: 0, or a negative uv code and the connection is gone. */
void fl_connection_leave_behind(fl_connection *connection, const fl_state *state);
int fl_connection_take_over(fl_connection *connection, fl_web *web);

void fl_connection_want_body(fl_connection *connection); /* sends 100 Continue, reads on */
bool fl_connection_is_idle(const fl_connection *connection);

/* For batch.c: */

void fl_connection_settle(fl_connection *connection);     /* what it waits for after a batch */
void fl_connection_read_on(fl_connection *connection);    /* what is left of a message */
void fl_connection_await_body(fl_connection *connection); /* from now on it has to come */

#endif
