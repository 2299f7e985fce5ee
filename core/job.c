#include "job.h"

#include <stddef.h>
#include <stdlib.h>

#include "pieces.h"
#include "remote.h"

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

void fl_job_release(fl_job *job)
{
    if (atomic_fetch_sub_explicit(&job->references, 1, memory_order_acq_rel) != 1) return;
    fl_parcel_close(&job->call);
    fl_parcel_close(&job->result);
    if (job->remote) fl_remote_free(job->remote);
    if (job->pieces) fl_pieces_free(job->pieces);
    fl_address_release(job->reply);
    free(job);
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
