#include "pool.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "pool_crew.h"
#include "pool_overdue.h"
#include "pool_thread.h"

#define CALLED_AT_ONCE 32 /* jobs that may come before a thread is called for them */
#define LAIN 10000000u    /* ns that a job has lain in the queue: a thread may be missing */
#define SHORT 1000000u    /* ns: what such a job costs is mostly the sending */

struct fl_pool {
    fl_server *server;
    unsigned number, app;
    fl_pool_options options;
    pthread_mutex_t lock;
    fl_job *first, **last;
    unsigned uncalled; /* jobs for which no thread has been called yet */
    fl_pool_crew crew;
    bool closed;
    fl_pool_stats stats; /* without the crew's part */
};

fl_pool *fl_pool_new(fl_server *server, unsigned number, unsigned app,
                     const fl_pool_options *options)
{
    fl_pool *pool = calloc(1, sizeof(*pool));
    if (!pool) return NULL;
    pool->server = server;
    pool->number = number;
    pool->app = app;
    pool->options = *options;
    pool->last = &pool->first;
    fl_pool_crew_init(&pool->crew, pool);
    pthread_mutex_init(&pool->lock, NULL);
    return pool;
}

void fl_pool_free(fl_pool *pool)
{
    assert(!pool->crew.threads && !pool->first);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

const fl_pool_options *fl_pool_options_of(const fl_pool *pool)
{
    return &pool->options;
}

fl_server *fl_pool_server(const fl_pool *pool)
{
    return pool->server;
}

unsigned fl_pool_number(const fl_pool *pool)
{
    return pool->number;
}

unsigned fl_pool_app(const fl_pool *pool)
{
    return pool->app;
}

/* the queue; with the lock held */

static void enqueue(fl_pool *pool, fl_job *job)
{
    job->phase = FL_JOB_QUEUED;
    job->next = NULL;
    job->link = pool->last;
    *pool->last = job;
    pool->last = &job->next;
    pool->stats.queued++;
}

static void dequeue(fl_pool *pool, fl_job *job)
{
    *job->link = job->next;
    if (job->next)
        job->next->link = job->link;
    else
        pool->last = job->link;
    job->link = NULL;
    pool->stats.queued--;
}

static unsigned bucket_of(uint64_t nanoseconds)
{
    unsigned bucket = 0;
    for (uint64_t rest = nanoseconds / 1000; rest; rest >>= 1) bucket++;
    return bucket < FL_POOL_BUCKETS ? bucket : FL_POOL_BUCKETS - 1;
}

/* waiting for a job's outcome */

static int refuse(fl_pool *pool, int status)
{
    pool->stats.refused++;
    return status;
}

/* What threads that are free will take at once does not count as waiting. */
static bool is_full(const fl_pool *pool)
{
    uint64_t most = (uint64_t)pool->options.size + pool->options.queue;
    return (uint64_t)pool->stats.busy + pool->stats.queued >= most;
}

/* A thread for each job that came since the last call. */
static void call_threads(fl_pool *pool)
{
    for (; pool->uncalled > 0; pool->uncalled--) fl_pool_crew_call(&pool->crew);
}

static int submit_locked(fl_pool *pool, fl_job *job, bool more)
{
    if (pool->closed) return UV_ECANCELED;
    if (is_full(pool)) return refuse(pool, UV_ENOBUFS);
    fl_job_hold(job);
    enqueue(pool, job);
    pool->uncalled++;
    bool now = !more || pool->uncalled >= CALLED_AT_ONCE || pool->crew.count == 0;
    if (now) call_threads(pool);
    if (pool->crew.count > 0) {
        pool->stats.submitted++;
        return 0;
    }
    dequeue(pool, job); /* nobody would ever take it */
    job->phase = FL_JOB_NEW;
    fl_job_release(job);
    return refuse(pool, UV_EAGAIN);
}

int fl_pool_submit(fl_pool *pool, fl_job *job, bool more)
{
    job->submitted = uv_hrtime();
    pthread_mutex_lock(&pool->lock);
    int status = submit_locked(pool, job, more);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

void fl_pool_call(fl_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    call_threads(pool);
    pthread_mutex_unlock(&pool->lock);
}

static void count_cancelled(fl_pool *pool, const char *reason)
{
    if (strcmp(reason, "timeout") == 0)
        pool->stats.timed_out++;
    else
        pool->stats.cancelled++;
}

bool fl_pool_cancel(fl_pool *pool, fl_job *job, const char *reason)
{
    bool dropped = false;
    pthread_mutex_lock(&pool->lock);
    if (job->phase == FL_JOB_QUEUED) {
        dequeue(pool, job);
        job->phase = FL_JOB_ENDED;
        count_cancelled(pool, reason);
        dropped = true;
    } else if (job->phase == FL_JOB_RUNNING) {
        fl_pool_thread_cancel(job->thread, reason);
    }
    pthread_mutex_unlock(&pool->lock);
    if (dropped) fl_job_release(job);
    return dropped;
}

/* With the lock held: it will not be run. */
static void send_home(fl_pool *pool, fl_job *job, fl_job_outcome outcome)
{
    dequeue(pool, job);
    job->phase = FL_JOB_ENDED;
    job->outcome = outcome;
    if (outcome == FL_JOB_CANCELLED)
        pool->stats.cancelled++;
    else
        pool->stats.failed++;
    fl_job_return(job);
}

static void send_all_home(fl_pool *pool, fl_job_outcome outcome)
{
    while (pool->first) send_home(pool, pool->first, outcome);
}

void fl_pool_drop_orphans(fl_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    for (fl_job *job = pool->first, *next; job; job = next) {
        next = job->next;
        if (fl_address_is_closed(job->reply)) send_home(pool, job, FL_JOB_CANCELLED);
    }
    for (fl_pool_thread *thread = pool->crew.threads; thread; thread = thread->next)
        if (thread->job && fl_address_is_closed(thread->job->reply))
            fl_pool_thread_cancel(thread, "cancelled");
    pthread_mutex_unlock(&pool->lock);
}

/* running */

static void begin(fl_pool *pool, fl_pool_thread *thread, fl_job *job)
{
    job->begun = thread->now > job->submitted ? thread->now : uv_hrtime();
    job->phase = FL_JOB_RUNNING;
    job->thread = thread;
    thread->job = job;
    thread->deadline = job->timeout ? job->begun + job->timeout : 0;
    thread->place = FL_POOL_BUSY;
    pool->stats.busy++;
    pool->stats.waited += job->begun - job->submitted;
    pool->stats.waits[bucket_of(job->begun - job->submitted)]++;
}

static fl_job *take_locked(fl_pool *pool, fl_pool_thread *thread)
{
    for (;;) {
        if (thread->retired) return NULL;
        fl_job *job = pool->first;
        if (job) {
            dequeue(pool, job);
            begin(pool, thread, job);
            return job;
        }
        if (pool->closed ||
            (!fl_pool_crew_rest(&pool->crew, thread, &pool->lock) && !pool->first)) {
            fl_pool_crew_forget(&pool->crew, thread);
            return NULL;
        }
    }
}

fl_job *fl_pool_take(fl_pool *pool, fl_pool_thread *thread)
{
    pthread_mutex_lock(&pool->lock);
    fl_job *job = take_locked(pool, thread);
    pthread_mutex_unlock(&pool->lock);
    return job;
}

/* As its waiter sees it: what ended after it was cancelled counts as cancelled. */
static void count_outcome(fl_pool *pool, const fl_job *job)
{
    const char *reason = atomic_load(&job->cancelled);
    if (reason)
        count_cancelled(pool, reason);
    else if (job->outcome == FL_JOB_RETURNED)
        pool->stats.completed++;
    else
        pool->stats.failed++;
}

static void count_times(fl_pool *pool, const fl_job *job, uint64_t ran, uint64_t crossed)
{
    pool->stats.running += ran;
    pool->stats.crossing += crossed;
    pool->stats.runs[bucket_of(ran)]++;
    if (ran < SHORT) pool->stats.costs[bucket_of(job->begun - job->submitted + crossed)]++;
}

bool fl_pool_finish(fl_pool *pool, fl_pool_thread *thread, fl_job *job, uint64_t ran,
                    uint64_t crossed)
{
    pthread_mutex_lock(&pool->lock);
    bool kept = !thread->retired;
    job->phase = FL_JOB_ENDED;
    job->thread = NULL;
    thread->job = NULL;
    if (kept) {
        pool->stats.busy--;
        count_outcome(pool, job);
        count_times(pool, job, ran, crossed);
    }
    pthread_mutex_unlock(&pool->lock);
    fl_job_return(job);
    return kept;
}

void fl_pool_state_replaced(fl_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stats.states_replaced++;
    pthread_mutex_unlock(&pool->lock);
}

bool fl_pool_is_closed(fl_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    bool closed = pool->closed;
    pthread_mutex_unlock(&pool->lock);
    return closed;
}

void fl_pool_left(fl_pool *pool, fl_pool_thread *thread)
{
    pthread_mutex_lock(&pool->lock);
    fl_pool_crew_left(&pool->crew, thread);
    pthread_mutex_unlock(&pool->lock);
}

/* the watch thread's look */

static void retire(fl_pool *pool, fl_pool_thread *thread, uint64_t now)
{
    if (thread->job) {
        pool->stats.busy--;
        pool->stats.timed_out++;
    }
    bool replaced = fl_pool_crew_retire(&pool->crew, thread, now);
    if (replaced && !pool->closed) fl_pool_crew_add(&pool->crew);
    if (fl_pool_crew_is_exhausted(&pool->crew)) send_all_home(pool, FL_JOB_EXHAUSTED);
}

/* A thread may be missing because it could not be started, or was retired too soon after others;
 * and the one that was called may still be busy with what a job left behind. */
static void look_at_queue(fl_pool *pool, uint64_t now)
{
    const fl_job *first = pool->first;
    if (first && now > first->submitted + LAIN) fl_pool_crew_call(&pool->crew);
}

void fl_pool_look(fl_pool *pool, uint64_t now)
{
    pthread_mutex_lock(&pool->lock);
    for (fl_pool_thread *thread = pool->crew.threads, *next; thread; thread = next) {
        next = thread->next;
        if (fl_pool_overdue(thread, &pool->options, now)) retire(pool, thread, now);
    }
    look_at_queue(pool, now);
    pthread_mutex_unlock(&pool->lock);
}

uint64_t fl_pool_retired(fl_pool *pool, uint64_t now)
{
    pthread_mutex_lock(&pool->lock);
    uint64_t longest = fl_pool_crew_retired(&pool->crew, now);
    pthread_mutex_unlock(&pool->lock);
    return longest;
}

/* the end */

void fl_pool_get_stats(fl_pool *pool, fl_pool_stats *stats)
{
    pthread_mutex_lock(&pool->lock);
    *stats = pool->stats;
    fl_pool_crew_get_stats(&pool->crew, stats);
    pthread_mutex_unlock(&pool->lock);
}

/* With the lock held. */
static void close_locked(fl_pool *pool)
{
    pool->closed = true;
    fl_pool_crew_call_idle(&pool->crew);
}

void fl_pool_stop(fl_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    close_locked(pool);
    send_all_home(pool, FL_JOB_CANCELLED);
    for (fl_pool_thread *thread = pool->crew.threads; thread; thread = thread->next)
        if (thread->job) fl_pool_thread_cancel(thread, "shutdown");
    pthread_mutex_unlock(&pool->lock);
}

void fl_pool_close(fl_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    close_locked(pool);
    pthread_mutex_unlock(&pool->lock);
}
