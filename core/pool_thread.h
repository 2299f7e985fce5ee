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
#include "pool_process.h"
#include "thread.h"

typedef struct fl_pool_place { /* for one app */
    uint64_t jobs;             /* run by the present state */
    bool broken;               /* the state has to be replaced */
    enum { FL_POOL_NOT_STARTED, FL_POOL_STARTING, FL_POOL_STARTED } app; /* its start hooks */
} fl_pool_place;

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
    fl_pool_thread *next, **link;           /* all that it knows, or has retired */
    fl_pool_thread *next_idle, **idle_link; /* those without a job */
    fl_pool_thread_place place;
    bool wanted; /* there is something to do */
    pthread_cond_t wake;
    fl_job *job;
    uint64_t deadline;               /* ns, of the job; 0: none */
    uint64_t turn;                   /* of Lua, seen at the last look while it had no job */
    uint64_t turn_since;             /* ns */
    uint64_t interrupted, used_then; /* the turn, and ns of processor time at its first signal */
    bool retired;
    uint64_t retired_at; /* ns */

    /* its own */
    uint64_t now;        /* ns, when the job before this one ended: the next begins then */
    fl_job *running;     /* whose task has not ended */
    fl_request *request; /* stands for the job: its tasks, its logs */
    uint64_t entered;    /* ns, when the job's function was called */
    uint64_t ran;        /* ns that it took */
    bool waiting;        /* the request waits until the app's start hooks have run */
    bool looping;        /* within uv_run */
    bool hook_ended;     /* a stop hook */
    fl_pool_place *places;
    fl_pool_process *process; /* in which its jobs run; NULL: in its own states */
};

/* With the pool's lock held: it will take jobs. 0 or a negative uv code. */
int fl_pool_thread_start(fl_pool_thread **out, fl_pool *pool);

/* With the pool's lock held: tells the tasks of the job that it runs, at their next await, once.
 * `reason` is static text; "timeout" ends the job's time too. */
void fl_pool_thread_cancel(fl_pool_thread *thread, const char *reason);

/* With the pool's lock held: an idle one looks for work. */
void fl_pool_thread_summon(fl_pool_thread *thread);

/* *loop*. */

/* With the pool's lock held, which is given up meanwhile: an idle one sleeps, or runs its loop for
 * what needs it, until there may be work. false: it has slept for `patience` ns (0: for ever). */
bool fl_pool_thread_wait(fl_pool_thread *thread, pthread_mutex_t *lock, uint64_t patience);

/* Runs the handler of a request that is the job, once the app's start hooks have run here. */
void fl_pool_thread_handle(fl_request *request);
/* The handler's answer is complete. */
void fl_pool_thread_answered(fl_request *request);
/* The app's start hooks run in that state now. */
bool fl_pool_thread_is_starting(const fl_state *state);
/* The app cannot be loaded: its state will be replaced. */
void fl_pool_thread_broken(fl_request *request);

#endif
