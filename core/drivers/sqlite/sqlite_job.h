/* sqlite_job: a query on its way to a thread of a file (sqlite_file.h) and back: copies of all that
 * the thread needs, and what it has found.
 *
 * Reference-counted: by the query, whose thread alone knows it as `query`, and by whoever has it to
 * do: a queue, a thread, the letter that brings it back. What it found is the thread's until the
 * letter has arrived. Should the state be gone, the letter is dropped and the job with it. */
#ifndef FL_SQLITE_JOB_H
#define FL_SQLITE_JOB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "address.h"
#include "database.h"
#include "sqlite_error.h"

typedef struct fl_sqlite_job fl_sqlite_job;
typedef struct fl_sqlite_seat fl_sqlite_seat;
typedef struct fl_sqlite_query fl_sqlite_query;

/* The text of a statement, for all threads at once; what never changes, but for `took`. */
typedef struct fl_sqlite_text {
    _Atomic unsigned references;
    _Atomic uint32_t took; /* ns, mostly; 0: not known */
    uint32_t hash;
    fl_sql_kind kind;
    bool inserts, vacuums;   /* by its verb */
    bool begins, rolls_back; /* a transaction; BEGIN … READ ONLY is ours: */
    bool begins_reading;     /* a snapshot, on a connection that reads */
    size_t size;
    char bytes[]; /* NUL behind */
} fl_sqlite_text;

typedef struct fl_sqlite_call { /* see fl_call */
    fl_sqlite_text *text;       /* held */
    size_t first;
    uint32_t count;
    fl_rows rows;
    uint64_t affected;
    int64_t last_id;
} fl_sqlite_call;

struct fl_sqlite_job {
    fl_sqlite_job *next, **link;   /* of a queue, with the file's lock */
    struct fl_sqlite_queue *queue; /* NULL: it is in none */
    fl_letter letter;
    _Atomic unsigned references;
    _Atomic bool stopped;   /* nobody waits for it any more */
    _Atomic int phase;      /* whether it may be interrupted, see fl_sqlite_job_stop */
    sqlite3 *running_on;    /* while it may */
    fl_address *address;    /* held */
    fl_sqlite_seat *seat;   /* held; NULL: any connection will do */
    fl_sqlite_query *query; /* the loop's; NULL: its state has closed */
    fl_query_kind kind;
    uint64_t keep, piece, most_bytes;
    uint64_t queued;     /* ns */
    uint64_t wait_until; /* ns: so long may it wait for other processes */
    char *path;          /* of a backup */
    bool is_misplaced;   /* it changes something: a connection that reads has not run it */
    fl_sqlite_error error;
    unsigned call_count;         /* statements; without any, rows are in `call` all the same */
    fl_sqlite_call *calls, call; /* one is in the job itself */
    size_t value_size;
    char values[]; /* all arguments */
};

/* The text of a statement, which the statement holds from the first time on. NULL: no memory. */
fl_sqlite_text *fl_sqlite_text_of(fl_statement *statement);
fl_sqlite_text *fl_sqlite_text_new(fl_slice text, fl_sql_kind kind, const char *verb);
void fl_sqlite_text_hold(fl_sqlite_text *text);
void fl_sqlite_text_release(fl_sqlite_text *text);
void fl_sqlite_text_took(fl_sqlite_text *text, uint64_t nanoseconds);

/* *loop*. NULL: no memory. For the query; fl_sqlite_job_hold for the queue. */
fl_sqlite_job *fl_sqlite_job_new(fl_sqlite_query *query, fl_address *address);
void fl_sqlite_job_hold(fl_sqlite_job *job);
void fl_sqlite_job_release(fl_sqlite_job *job);

/* What it has found so far is dropped: it is to run once more. */
void fl_sqlite_job_reset(fl_sqlite_job *job);

/* Any thread: if it runs, it ends soon, and nothing that runs after it is hit. */
void fl_sqlite_job_stop(fl_sqlite_job *job);
/* The thread that runs it. */
void fl_sqlite_job_began(fl_sqlite_job *job, sqlite3 *db);
void fl_sqlite_job_ended(fl_sqlite_job *job);

/* Any thread, with one reference, which goes: the query is to hear of it. */
void fl_sqlite_job_answer(fl_sqlite_job *job);

static inline bool fl_sqlite_job_is_stopped(fl_sqlite_job *job)
{
    return atomic_load_explicit(&job->stopped, memory_order_relaxed);
}

static inline bool fl_sqlite_job_failed(const fl_sqlite_job *job)
{
    return fl_sqlite_error_is_set(&job->error);
}

/* The loop's side (sqlite_driver.c). */
void fl_sqlite_query_answered(fl_sqlite_query *query);

#endif
