/* sqlite_connection: one connection to a database file, what it is set to, and how it runs a
 * statement for a job.
 *
 * Owner: a thread of the file (sqlite_worker.h), which alone uses it; open ⇒ close. */
#ifndef FL_SQLITE_CONNECTION_H
#define FL_SQLITE_CONNECTION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <sqlite3.h>

#include "sqlite_cache.h"
#include "sqlite_gate.h"
#include "sqlite_options.h"

typedef struct fl_sqlite_connection {
    const fl_sqlite_options *options;
    const char *path;
    sqlite3 *db; /* NULL: not open */
    bool writes;
    fl_sqlite_cache cache;
    sqlite3_stmt *json_valid, *begin, *commit;
    _Atomic bool *ending;     /* of the file */
    fl_sqlite_job *job;       /* that runs */
    uint64_t wait_until;      /* ns: other processes may keep it waiting so long */
    bool waited_out;          /* and they have */
    void (*busy)(void *data); /* it is running for a while already: now and then */
    void *busy_data;
    fl_sqlite_gate gate; /* of who writes */
    int wal_pages;       /* in the write-ahead log, after the last commit */
    int checkpoint_at;   /* pages */
} fl_sqlite_connection;

/* true, or why not. `options`, `path`, `ending` and `writes` are the caller's to set. */
bool fl_sqlite_connection_open(fl_sqlite_connection *connection, fl_sqlite_error *error);
/* Who writes brings the write-ahead log into the file, if nobody holds it up. */
void fl_sqlite_connection_close(fl_sqlite_connection *connection);

/* Runs a text of our own that brings no rows, and tells its result. */
int fl_sqlite_connection_do(fl_sqlite_connection *connection, const char *text);
/* For writing at once; SQLITE_OK or why not. */
int fl_sqlite_connection_begin(fl_sqlite_connection *connection);
int fl_sqlite_connection_commit(fl_sqlite_connection *connection);
bool fl_sqlite_connection_in_transaction(const fl_sqlite_connection *connection);
void fl_sqlite_connection_roll_back(fl_sqlite_connection *connection);

/* After a commit: moves what is in the write-ahead log into the file when it is much. */
void fl_sqlite_connection_checkpoint(fl_sqlite_connection *connection);

/* For waits of our own: whether to go on, until `wait_until`. */
bool fl_sqlite_connection_is_patient(void *connection);
/* Keeps what went wrong with the last call, which was for this job. */
void fl_sqlite_connection_fail(fl_sqlite_connection *connection, fl_sqlite_job *job, int result);

#endif
