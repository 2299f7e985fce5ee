/* pool_thread: one thread of a pool: takes jobs and runs them, one at a time.
 *
 * Owner: itself, from its start to its end; the pool knows it until it leaves or is retired. It has
 * a loop of its own, so that jobs may await; it runs the loop while a job, or what a job has left
 * behind, needs it, and otherwise sleeps on a condition, which costs a waker less. */
#ifndef FL_POOL_THREAD_H
#define FL_POOL_THREAD_H

#include <pthread.h>
#include <stdatomic.h>

#include "pool.h"
#include "thread.h"

typedef enum {
    FL_POOL_BUSY,
    FL_POOL_ASLEEP, /* on its condition */
    FL_POOL_IN_LOOP /* idle, but its loop runs */
} fl_pool_thread_place;

struct fl_pool_thread {
    fl_thread thread;
    fl_thread_metrics metrics;
    fl_pool *pool;
    uv_async_t summons; /* ends the loop's run */

    /* the pool's lock */
    fl_pool_thread *next, **link;           /* all that it knows */
    fl_pool_thread *next_idle, **idle_link; /* those without a job, the last one first */
    fl_pool_thread_place place;
    bool wanted; /* there is something to do */
    pthread_cond_t wake;
    fl_job *job;
    uint64_t deadline;   /* ns, of the job; 0: none */
    unsigned escalation; /* of a job past its time: steps taken */
    bool retired;

    /* its own */
    fl_job *running;     /* whose task has not ended */
    fl_request *request; /* stands for the job: its tasks, its logs */
    uint64_t entered;    /* ns, when the job's function was called */
    uint64_t ran;        /* ns that it took */
    uint64_t *jobs_run;  /* per app, by the present state */
    bool broken;         /* the state that ran the job has to be replaced */
};

/* With the pool's lock held: it will take jobs. 0 or a negative uv code. */
int fl_pool_thread_start(fl_pool_thread **out, fl_pool *pool);

/* With the pool's lock held: tells the job's tasks, at their next await. */
void fl_pool_thread_cancel(fl_pool_thread *thread, fl_job *job, const char *reason);

/* With the pool's lock held: an idle one looks for work. */
void fl_pool_thread_summon(fl_pool_thread *thread);

/* *loop*: the answer of a route's handler, which is the job, is complete. */
void fl_pool_thread_answered(fl_request *request);

#endif
