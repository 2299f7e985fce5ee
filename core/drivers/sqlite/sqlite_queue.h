/* sqlite_queue: jobs in line, first come, first served; each has a reference to its job.
 *
 * Owner: whoever embeds it, with the lock of its file. */
#ifndef FL_SQLITE_QUEUE_H
#define FL_SQLITE_QUEUE_H

#include "sqlite_job.h"

typedef struct fl_sqlite_queue {
    fl_sqlite_job *first, **last;
    unsigned count;
} fl_sqlite_queue;

static inline void fl_sqlite_queue_init(fl_sqlite_queue *queue)
{
    *queue = (fl_sqlite_queue){.last = &queue->first};
}

static inline void fl_sqlite_queue_push(fl_sqlite_queue *queue, fl_sqlite_job *job)
{
    job->next = NULL;
    job->link = queue->last;
    job->queue = queue;
    *queue->last = job;
    queue->last = &job->next;
    queue->count++;
}

static inline void fl_sqlite_queue_remove(fl_sqlite_queue *queue, fl_sqlite_job *job)
{
    *job->link = job->next;
    if (job->next)
        job->next->link = job->link;
    else
        queue->last = job->link;
    job->queue = NULL;
    queue->count--;
}

static inline fl_sqlite_job *fl_sqlite_queue_take(fl_sqlite_queue *queue)
{
    fl_sqlite_job *job = queue->first;
    if (job) fl_sqlite_queue_remove(queue, job);
    return job;
}

#endif
