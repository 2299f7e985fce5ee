/* job: one call that runs in a Lua state of a pool, and its outcome.
 *
 * Made by the thread that waits for it, then shared by that thread and the pool: reference-counted.
 * `call` belongs to whoever runs it once it is submitted; `outcome`, `result`, `text` and `cycle`
 * belong to the waiter once its letter has arrived. `waiter` is touched by the waiting thread
 * alone, which sets it to NULL when it waits no more: a job has one outcome, and what comes later
 * is dropped. */
#ifndef FL_JOB_H
#define FL_JOB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "address.h"
#include "parcel.h"
#include "settings.h"

typedef struct fl_pool fl_pool;
typedef struct fl_pool_thread fl_pool_thread;
typedef struct fl_job fl_job;
typedef struct fl_remote fl_remote;
typedef struct fl_pieces fl_pieces;
typedef struct fl_state fl_state;

typedef enum { FL_JOB_NEW, FL_JOB_QUEUED, FL_JOB_RUNNING, FL_JOB_ENDED } fl_job_phase;

typedef enum {
    FL_JOB_RETURNED,      /* result: its values */
    FL_JOB_RAISED,        /* result: the error value, and its traceback; text: its message */
    FL_JOB_OUT_OF_MEMORY, /* the state has been replaced */
    FL_JOB_TIMED_OUT,
    FL_JOB_CANCELLED,
    FL_JOB_EXHAUSTED, /* too many threads had to be retired before it could begin */
    FL_JOB_LOST       /* it could not be run, or what ran it has died: text says how */
} fl_job_outcome;

typedef enum {
    FL_JOB_CALL,   /* fn(…) */
    FL_JOB_MAP,    /* fn(item) for each item of the list that is the argument */
    FL_JOB_STREAM, /* what fn yields goes to the waiter piece by piece: see pieces.h */
    FL_JOB_REQUEST /* a route's handler: see remote.h */
} fl_job_kind;

struct fl_job {
    _Atomic unsigned references;
    fl_job_kind kind;
    fl_pool *pool;
    unsigned app;              /* index in the server's order */
    uint64_t chain;            /* the pools whose jobs wait for this one: bit = pool's number */
    uint64_t cycle;            /* those of them that it called all the same, or a job of its did */
    uint64_t request_number;   /* of the request that it works for; 0: none */
    uint64_t timeout;          /* ns of running; 0: none */
    uint64_t submitted, begun; /* ns */
    fl_parcel call, result;
    fl_remote *remote; /* of a FL_JOB_REQUEST; owned */
    fl_pieces *pieces; /* of a FL_JOB_STREAM; owned */

    /* the pool's lock */
    fl_job *next, **link;
    fl_job_phase phase;
    fl_pool_thread *thread;          /* that runs it */
    _Atomic(const char *) cancelled; /* why; static text; read without the lock too */

    fl_job_outcome outcome;
    char text[160];

    fl_message cancel; /* to the thread that runs it, once */
    fl_address *reply; /* held */
    fl_letter letter;
    void (*ended)(fl_job *job);   /* the waiter's thread */
    void (*arrived)(fl_job *job); /* there too: new pieces */
    void *waiter;
};

/* *loop* of the thread whose state `reply` leads to. NULL: no memory. One reference. */
fl_job *fl_job_new(fl_pool *pool, fl_job_kind kind, fl_address *reply);
void fl_job_hold(fl_job *job);
void fl_job_release(fl_job *job);

/* The same for a state that sends many: what it recycles is used again, buffers included. While Lua
 * runs in the state, or *loop*. */
fl_job *fl_job_reuse(fl_state *state, fl_pool *pool, fl_job_kind kind);
void fl_job_recycle(fl_state *state, fl_job *job); /* as fl_job_release */
void fl_job_free_kept(fl_state *state);

/* Any thread, once: sends it home with its outcome, and releases the caller's reference. */
void fl_job_return(fl_job *job);

#endif
