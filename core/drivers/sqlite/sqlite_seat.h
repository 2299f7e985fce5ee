/* sqlite_seat: what a session has of a file: a connection for itself while it is in a transaction
 * or reads a stream, and its statements in order.
 *
 * Made by the loop of the session's state, which lends it to the state's address: when the session
 * is released or the state is given up, whatever is open is rolled back at once, by the thread that
 * has the connection. Reference-counted: session, lease, jobs, worker. */
#ifndef FL_SQLITE_SEAT_H
#define FL_SQLITE_SEAT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lease.h"
#include "sqlite_cache.h"
#include "sqlite_file.h"

struct fl_sqlite_seat {
    _Atomic unsigned references;
    fl_sqlite_file *file; /* held */
    fl_address *address;  /* held */
    fl_lease lease;
    uint64_t patience; /* ns that it may do nothing with its connection; 0: for ever */
    /* with the file's lock */
    fl_sqlite_worker *worker; /* whose connection it has; NULL: none */
    fl_sqlite_job *job;       /* in a queue of the file, or running */
    fl_sqlite_queue line;     /* behind it */
    bool over;
    bool lost;       /* what it had begun was rolled back without it */
    const char *why; /* static text */
    /* the worker's, while it has the connection */
    fl_sqlite_prepared *stream;
    uint64_t since; /* ns: it does nothing */
    /* its jobs': rows of a stream that could not be left half read */
    fl_rows rest;
    size_t rest_at;
};

/* *loop*. NULL: no memory, or the state is being given up. */
fl_sqlite_seat *fl_sqlite_seat_new(fl_sqlite_file *file, fl_address *address, uint64_t timeout);
void fl_sqlite_seat_hold(fl_sqlite_seat *seat);
void fl_sqlite_seat_release(fl_sqlite_seat *seat);
void fl_sqlite_seat_end(fl_sqlite_seat *seat); /* *loop*: the session is over */

/* With the file's lock. submit: false when the job has been failed or done already, to be answered;
 * next: the job that it had is done; the next in line goes where it belongs. */
bool fl_sqlite_seat_submit(fl_sqlite_seat *seat, fl_sqlite_job *job);
void fl_sqlite_seat_next(fl_sqlite_seat *seat);

/* Moves up to `most` rows of the rest to `rows`. false: no memory. */
bool fl_sqlite_seat_take_rest(fl_sqlite_seat *seat, fl_rows *rows, uint64_t most);

#endif
