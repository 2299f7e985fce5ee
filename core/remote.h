/* remote: a request whose handler runs in a pool (route option `run_in`), and its answer, as bytes.
 *
 * Owner: the job that carries it. Filled by the web thread when the whole request is there, read
 * and answered by the pool's thread, which makes a request of its own from it; the answer is read
 * by the web thread again. Nothing of it points into either thread's memory. */
#ifndef FL_REMOTE_H
#define FL_REMOTE_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "job.h"
#include "request.h"

struct fl_remote {
    /* the request */
    fl_request head;        /* its plain fields: offsets into `text`, flags, method */
    fl_buffer text;         /* the head's bytes */
    size_t host, host_size; /* where in them */
    fl_buffer body;
    fl_buffer trailers;
    fl_header *headers;
    bool is_exiled; /* its route is not one with `run_in`: see exile.h */

    /* the answer */
    int status; /* 0: there is none */
    fl_buffer type, lines, answer;
    const char *unfit; /* why it comes home; NULL: it does not */
    bool for_good;     /* and stays there: no pool can ever run it */
};

/* *loop* of the web thread: the request's route says `run_in` and the request is there to its end.
 * Submits it to the pool; answers at once when that refuses. */
void fl_remote_submit(fl_request *request);

/* *loop* of the web thread: the request wants to hear no more of its job. */
void fl_remote_give_up(fl_request *request, const char *reason);

/* *loop* of the pool's thread: runs the handler for `request`, an empty one, whose job it is;
 * fl_pool_thread_answered follows. */
void fl_remote_run(fl_request *request, fl_job *job);

/* *loop* of the pool's thread: keeps the answer. Called by fl_response_send. */
void fl_remote_answer(fl_request *request, int status, fl_slice type, fl_slice lines,
                      fl_slice body);

/* *loop* of the pool's thread, or owning: the handler does what no pool can, `why` says so after
 * "it". false: its route says `run_in`, it is its own fault. true: it is there by exile, and comes
 * home; the client may try again, unless the handler answers without an error all the same. */
bool fl_remote_send_home(fl_request *request, const char *why);
/* The same for what may pass: only this exile ends. */
bool fl_remote_recall(fl_request *request, const char *why);

void fl_remote_free(fl_remote *remote);

#endif
