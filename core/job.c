#include "job.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "pieces.h"
#include "remote.h"
#include "state.h"

#define KEPT_MOST 128 /* jobs that a state keeps to use again */

fl_job *fl_job_new(fl_pool *pool, fl_job_kind kind, fl_address *reply)
{
    fl_job *job = calloc(1, sizeof(*job));
    if (!job) return NULL;
    atomic_init(&job->references, 1);
    job->pool = pool;
    job->kind = kind;
    fl_parcel_init(&job->call);
    fl_parcel_init(&job->result);
    fl_address_hold(reply);
    job->reply = reply;
    return job;
}

void fl_job_hold(fl_job *job)
{
    atomic_fetch_add_explicit(&job->references, 1, memory_order_relaxed);
}

static bool drop_reference(fl_job *job)
{
    return atomic_fetch_sub_explicit(&job->references, 1, memory_order_acq_rel) == 1;
}

static void close_extras(fl_job *job)
{
    if (job->remote) fl_remote_free(job->remote);
    if (job->pieces) fl_pieces_free(job->pieces);
}

static void free_job(fl_job *job)
{
    fl_parcel_close(&job->call);
    fl_parcel_close(&job->result);
    close_extras(job);
    fl_address_release(job->reply);
    free(job);
}

void fl_job_release(fl_job *job)
{
    if (drop_reference(job)) free_job(job);
}

/* Clears it but for what is worth keeping. */
static void clear(fl_job *job)
{
    fl_address *reply = job->reply;
    fl_parcel call, result;
    fl_parcel_reset(&job->call);
    fl_parcel_reset(&job->result);
    call = job->call;
    result = job->result;
    close_extras(job);
    memset(job, 0, sizeof(*job));
    job->reply = reply;
    job->call = call;
    job->result = result;
}

void fl_job_recycle(fl_state *state, fl_job *job)
{
    if (!drop_reference(job)) return;
    if (job->reply != state->address || state->kept_job_count == KEPT_MOST) {
        free_job(job);
        return;
    }
    clear(job);
    job->next = state->kept_jobs;
    state->kept_jobs = job;
    state->kept_job_count++;
}

fl_job *fl_job_reuse(fl_state *state, fl_pool *pool, fl_job_kind kind)
{
    fl_job *job = state->kept_jobs;
    if (!job) return fl_job_new(pool, kind, state->address);
    state->kept_jobs = job->next;
    state->kept_job_count--;
    job->next = NULL;
    atomic_init(&job->references, 1);
    job->pool = pool;
    job->kind = kind;
    return job;
}

void fl_job_free_kept(fl_state *state)
{
    for (fl_job *job = state->kept_jobs, *next; job; job = next) {
        next = job->next;
        free_job(job);
    }
    state->kept_jobs = NULL;
    state->kept_job_count = 0;
}

static fl_job *job_of(fl_letter *letter)
{
    return (fl_job *)((char *)letter - offsetof(fl_job, letter));
}

static void deliver(fl_letter *letter, fl_state *state)
{
    (void)state;
    fl_job *job = job_of(letter);
    if (job->waiter) job->ended(job);
    fl_job_release(job);
}

static void drop(fl_letter *letter)
{
    fl_job_release(job_of(letter));
}

void fl_job_return(fl_job *job)
{
    job->letter = (fl_letter){.deliver = deliver, .drop = drop};
    if (fl_address_post(job->reply, &job->letter) < 0) fl_job_release(job);
}
