/* request: one HTTP request from its first byte to the end of its last task.
 *
 * Owner: its thread's pool; *loop*. Held by its connection until it is answered and read to its
 * end, and by every task that belongs to it; when the last hold goes, all that it borrowed goes at
 * once (request_free). The head is kept as offsets from `base`, which points into the thread's read
 * buffer while the handler runs for the first time and into `head` after fl_request_keep: no byte
 * is copied for a handler that answers at once. */
#ifndef FL_REQUEST_H
#define FL_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include <lua.h>

#include "buffer.h"
#include "deadline.h"
#include "peer.h"
#include "slice.h"
#include "state.h"

typedef struct fl_connection fl_connection;
typedef struct fl_job fl_job;

typedef struct fl_header {
    uint16_t name, name_size, value, value_size; /* offsets from the head's base */
} fl_header;

typedef enum { FL_BODY_LATER, FL_BODY_WHOLE, FL_BODY_CHUNKS, FL_BODY_DISCARD } fl_body_use;

struct fl_request {
    fl_request *next; /* the pool's free list, or the connection's unwritten ones */
    fl_thread *thread;
    fl_connection *connection; /* NULL once it has no more to do with the connection */
    fl_state *state;           /* NULL: no app serves this path */
    const fl_route *route;     /* NULL: none fits */
    uint32_t slot;             /* in thread->request_slots, and in the ledger */
    unsigned holds;
    fl_job *away; /* its handler runs in a pool */
    fl_job *job;  /* in a pool's thread: what it stands for */
    fl_peer peer;
    uint64_t number;  /* of the request id */
    uint64_t started; /* ns */

    /* the head */
    const char *base;
    uint32_t head_size;      /* from the target to the last value's end */
    uint32_t head_available; /* bytes there are at base, a little more */
    uint32_t method_gap;     /* bytes from the message's first to the target's */
    uint16_t target_size;    /* the target is at base[0] */
    uint16_t path, path_size, query, query_size;
    fl_slice host;  /* from the target's authority or the Host field */
    uint8_t method; /* llhttp's */
    uint8_t minor;  /* HTTP/1.minor */
    uint16_t header_count;
    uint64_t content_length;
    bool chunked, has_length, expects_continue, keep_alive, is_head;

    /* the body */
    fl_slice body;      /* in the read buffer; empty once `body_kept` has it */
    uint64_t body_size; /* received so far */
    uint64_t max_body;
    fl_body_use body_use;
    bool complete;      /* read to its end */
    double body_ticket; /* the task that waits for more body */

    /* the answer */
    int refused;               /* status decided before the handler: 413, 503 …; 0: none */
    bool in_pool;              /* its handler runs there, or will when its body is complete */
    bool dispatched, answered; /* answered: the head of the response is written */
    bool ended;                /* the response is complete */
    bool streaming, stream_chunked;
    int status;
    uint64_t bytes_out;
    double drain_ticket;  /* the task that waits for the socket */
    int stream_fn;        /* registry reference of fl.stream's function */
    fl_deadline deadline; /* handler timeout */
    fl_task *tasks;       /* alive, this request's */
    int at_end;           /* registry reference of a list of functions to call, or LUA_NOREF */
    int background;
    bool timed_out, gone; /* gone: the client has left */

    /* what the pool keeps from use to use; everything above is cleared */
    fl_buffer head; /* owned copy, when it came in pieces or is kept */
    fl_buffer body_kept;
    fl_buffer trailers; /* name NUL value NUL … */
    fl_buffer extra;    /* header lines that req:set_cookie added */
    fl_header *headers; /* settings->header_fields of them, allocated with the request */
};

fl_request *fl_request_new(fl_thread *thread,
                           fl_connection *connection); /* one hold; NULL: no memory */
void fl_request_hold(fl_request *request);
void fl_request_release(fl_request *request);

/* *loop*, the head is complete: finds app, state (unless it has one) and route; sets max_body and
 * perhaps `refused`. */
void fl_request_route(fl_request *request);

/* Copies method, target, header fields and the like: what is plain. `to` has room for the fields;
 * its base is to be set. */
void fl_request_copy_head(fl_request *to, const fl_request *from);

/* Copies what still lies in the thread's read buffer. false: no memory. */
bool fl_request_keep(fl_request *request);

/* There is no memory to keep it: it goes on without head and body. */
void fl_request_forget(fl_request *request);

/* The request that a handle names, or NULL when it is over. */
fl_request *fl_request_find(fl_thread *thread, double handle);
double fl_request_handle(const fl_request *request);

void fl_request_free_pooled(fl_thread *thread); /* at its end: the pool and the table of slots */

/* The response is complete: cancels the tasks that are left, calls at_end functions. */
void fl_request_end(fl_request *request);
/* Its last byte is written: starts background tasks. */
void fl_request_written(fl_request *request);

fl_slice fl_request_header(const fl_request *request,
                           fl_slice name); /* first; size 0 data NULL: none */
fl_slice fl_request_path(const fl_request *request);
fl_slice fl_request_target(const fl_request *request);
fl_slice fl_request_body(const fl_request *request);
const char *fl_request_method(const fl_request *request);
/* The id that logs and clients see: a trusted proxy's, or our own, written to `id`. */
fl_slice fl_request_shown_id(const fl_request *request, char id[40]);

/* Pushes the table that handlers get.  [-0, +1, m] */
void fl_request_push(fl_request *request, lua_State *co);

static inline fl_slice fl_request_text(const fl_request *request, uint16_t at, uint16_t size)
{
    return fl_slice_of(request->base + at, size);
}

#endif
