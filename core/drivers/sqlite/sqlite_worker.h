/* sqlite_worker: a thread of a file, with a connection: the one that writes, or one that reads.
 *
 * Frees itself when it ends. What is not its own alone is guarded by the lock of its file. */
#ifndef FL_SQLITE_WORKER_H
#define FL_SQLITE_WORKER_H

#include <pthread.h>
#include <stdbool.h>

#include "sqlite_connection.h"
#include "sqlite_file.h"
#include "sqlite_seat.h"

struct fl_sqlite_worker {
    fl_sqlite_worker *next; /* of the readers that sleep */
    fl_sqlite_file *file;   /* held */
    pthread_cond_t wake;
    bool sleeps, is_listed; /* among the readers that sleep */
    fl_sqlite_seat *seat;   /* held: whose the connection is; NULL: everybody's */
    bool sits;              /* a reader that is counted as a session's */
    bool is_slow;           /* a reader that is counted as such */
    uint64_t looked_round;  /* ns, while a statement runs */
    fl_sqlite_job *unsent;  /* jobs that a reader has done, the last one first */
    unsigned unsent_count;
    uint64_t unsent_since; /* ns */
    int pages_seen;        /* in the write-ahead log, when a checkpoint was last thought of */
    fl_sqlite_connection connection;
};

/* With the file's lock. NULL: the thread could not be started. */
fl_sqlite_worker *fl_sqlite_worker_start(fl_sqlite_file *file, bool writes);
void fl_sqlite_worker_wake(fl_sqlite_worker *worker);

/* The worker's thread, with the lock, which is given up meanwhile. */
void fl_sqlite_worker_alone(fl_sqlite_worker *worker, fl_sqlite_job *job);

#endif
