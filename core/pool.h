/* pool: threads that run jobs, each with a Lua state for each app whose jobs it got.
 *
 * Owner: the server's list of them (pools.h), from its first use to the server's end. An idle
 * thread takes the next job, so no job waits behind a busy state; the queue is bounded. What is
 * here may be called from *any* thread; the pool's lock guards the queue, its threads and the
 * counts, and is held for a few steps only. Threads are started when there is more work than idle
 * ones, up to `size`.
 *
 * A job past its time is told so, then its thread is interrupted (pool_overdue.h), and when that
 * does not help either, the thread is *retired*: the pool forgets it and starts another one. A
 * retired thread still owns all it has; when its job ends after all, it closes that and is gone,
 * and when it does not within 5 s, the watch thread has the process replaced.
 *
 * With the option `process` each thread has a child process (pool_process.h) instead of states:
 * what cannot be stopped is killed there, and no thread is ever retired. */
#ifndef FL_POOL_H
#define FL_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "job.h"

typedef struct fl_server fl_server;

#define FL_POOL_NAME 64
#define FL_POOL_BUCKETS 24 /* of its histograms: below 2^n µs */

typedef struct fl_pool_options {
    char name[FL_POOL_NAME];
    unsigned size;          /* threads */
    unsigned queue;         /* jobs that may wait, besides one for each thread */
    uint64_t timeout;       /* ns that a job may run; 0: for ever */
    uint64_t idle;          /* ns after which an idle thread ends; 0: never */
    uint64_t max_memory;    /* bytes of Lua heap per state */
    uint64_t recycle_after; /* jobs after which a state is made anew; 0: never */
    unsigned retire_rate;   /* threads retired in a window; beyond it they are not replaced */
    uint64_t retire_window; /* ns */
    int nice;
    bool process; /* jobs run in child processes */
} fl_pool_options;

typedef struct fl_pool_stats {
    unsigned threads, busy, idle, queued, retired; /* retired: that still run */
    uint64_t submitted, completed, failed, timed_out, cancelled, refused;
    uint64_t retirements, states_replaced;
    uint64_t jit_flushes; /* times that a state threw its machine code away */
    uint64_t running;     /* ns that functions ran, in all */
    uint64_t crossing;    /* ns that threads spent on arguments and results */
    uint64_t waited;      /* ns that jobs lay in the queue, in all */
    uint64_t waits[FL_POOL_BUCKETS], runs[FL_POOL_BUCKETS];
    uint64_t costs[FL_POOL_BUCKETS]; /* of short jobs: waiting and crossing */
} fl_pool_stats;

const fl_pool_options *fl_pool_options_of(const fl_pool *pool);
fl_server *fl_pool_server(const fl_pool *pool);
unsigned fl_pool_number(const fl_pool *pool);
unsigned fl_pool_app(const fl_pool *pool); /* whose it is; UINT_MAX: everybody's */

/* Queues the job, which the pool then holds too. `more`: the caller is about to submit more jobs,
 * so that it may be cheaper to call a thread for several at once; it has to call fl_pool_call soon.
 * 0, UV_ENOBUFS: the queue is full, UV_EAGAIN: it has no thread, because too many had to be retired
 * or none can be started, UV_ECANCELED: the pool is closed. */
int fl_pool_submit(fl_pool *pool, fl_job *job, bool more);

/* After a submission that said `more`: the caller has no more for now. */
void fl_pool_call(fl_pool *pool);

/* Nobody waits for it any more. Not started, it never runs, and true is returned; started, it ends
 * at its next await. `reason` is static text. */
bool fl_pool_cancel(fl_pool *pool, fl_job *job, const char *reason);

void fl_pool_get_stats(fl_pool *pool, fl_pool_stats *stats);
void fl_pool_close(fl_pool *pool); /* refuses jobs from now on; threads end with what is queued */

/* For pools.c: */

/* NULL: no memory. */
fl_pool *fl_pool_new(fl_server *server, unsigned number, unsigned app,
                     const fl_pool_options *options);
void fl_pool_drop_orphans(fl_pool *pool);              /* as fl_pools_drop_orphans */
void fl_pool_look(fl_pool *pool, uint64_t now);        /* as fl_pools_look */
uint64_t fl_pool_retired(fl_pool *pool, uint64_t now); /* as fl_pools_retired */
void fl_pool_stop(fl_pool *pool); /* closes it, sends home what is queued and cancels what runs */
void fl_pool_free(fl_pool *pool); /* all its threads have ended */

/* For pool_thread.c: */

/* Waits for a job and takes it. NULL: the thread has to end. */
fl_job *fl_pool_take(fl_pool *pool, fl_pool_thread *thread);

/* The thread's job has ended; false: the thread was retired meanwhile. The job goes home. */
bool fl_pool_finish(fl_pool *pool, fl_pool_thread *thread, fl_job *job, uint64_t ran,
                    uint64_t crossed);
void fl_pool_state_replaced(fl_pool *pool);

bool fl_pool_is_closed(fl_pool *pool);

/* A thread has left its pool, and may be freed. */
void fl_pool_left(fl_pool *pool, fl_pool_thread *thread);

#endif
