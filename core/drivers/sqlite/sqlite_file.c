/* Locks, in order: the registry's, a file's, a mailbox's. */
#include "sqlite_file.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

#include "sqlite_worker.h"

#define QUICK 100000       /* ns: a statement that does not hold others up */
#define QUICK_IN_LINE 16   /* so many for each reader that is awake */
#define LONG_WAIT 1000000u /* ns: then another reader is to help */
#define CLOSING_SECONDS 10

/* Those that are open in this process: they outlive every state and belong to none. */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static fl_sqlite_file *registry;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Without its statistics SQLite's allocator takes no lock that all threads share. */
static void configure(void)
{
    (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    (void)sqlite3_initialize();
}

static void init_lock(fl_sqlite_file *file)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&file->lock, NULL);
    pthread_cond_init(&file->quiet, &attributes);
    pthread_condattr_destroy(&attributes);
}

static fl_sqlite_file *file_new(const fl_sqlite_options *options, char *path)
{
    fl_sqlite_file *file = calloc(1, sizeof(*file));
    if (!file) return NULL;
    atomic_init(&file->references, 1);
    file->options = *options;
    file->options.path = path;
    fl_sqlite_queue_init(&file->writes);
    fl_sqlite_queue_init(&file->reads);
    fl_sqlite_queue_init(&file->sittings);
    init_lock(file);
    return file;
}

/* Its own name, whatever links lead to it. A file that is not there yet is in a folder that may
 * be. */
static char *canonical(const fl_sqlite_options *options)
{
    char *real = options->is_memory ? NULL : realpath(options->path, NULL);
    if (real || options->is_memory || errno != ENOENT) return real ? real : strdup(options->path);
    const char *slash = strrchr(options->path, '/');
    char *folder = strndup(options->path, (size_t)(slash - options->path) + 1);
    real = folder ? realpath(folder, NULL) : NULL;
    free(folder);
    char *path;
    if (!real) return strdup(options->path);
    if (asprintf(&path, "%s/%s", real, slash + 1) < 0) path = NULL;
    free(real);
    return path;
}

static bool is_for(const fl_sqlite_file *file, const fl_sqlite_options *options, const char *path)
{
    return file->options.is_memory == options->is_memory &&
           file->options.read_only == options->read_only && strcmp(file->options.path, path) == 0;
}

static fl_sqlite_file *find_or_make(const fl_sqlite_options *options, char *path)
{
    fl_sqlite_file *file = registry;
    while (file && !is_for(file, options, path)) file = file->next;
    if (!file) {
        file = file_new(options, path);
        if (!file) return NULL;
        file->next = registry;
        registry = file;
    }
    file->users++;
    return file;
}

fl_sqlite_file *fl_sqlite_file_open(const fl_sqlite_options *options)
{
    pthread_once(&once, configure);
    char *path = canonical(options);
    if (!path) return NULL;
    pthread_mutex_lock(&registry_lock);
    fl_sqlite_file *file = find_or_make(options, path);
    pthread_mutex_unlock(&registry_lock);
    if (!file || file->options.path != path) free(path);
    return file;
}

static void end(fl_sqlite_file *file)
{
    pthread_mutex_lock(&file->lock);
    atomic_store(&file->ending, true);
    if (file->writer) fl_sqlite_worker_wake(file->writer);
    while (file->idle) fl_sqlite_worker_wake(file->idle);
    pthread_mutex_unlock(&file->lock);
}

void fl_sqlite_file_leave(fl_sqlite_file *file)
{
    pthread_mutex_lock(&registry_lock);
    bool last = --file->users == 0;
    fl_sqlite_file **place = &registry;
    while (last && *place != file) place = &(*place)->next;
    if (last) *place = file->next;
    pthread_mutex_unlock(&registry_lock);
    if (!last) return;
    end(file);
    fl_sqlite_file_release(file);
}

void fl_sqlite_file_wait(fl_sqlite_file *file)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += CLOSING_SECONDS;
    pthread_mutex_lock(&file->lock);
    while (atomic_load(&file->ending) && file->threads > 0)
        if (pthread_cond_timedwait(&file->quiet, &file->lock, &until) == ETIMEDOUT) break;
    pthread_mutex_unlock(&file->lock);
}

void fl_sqlite_file_hold(fl_sqlite_file *file)
{
    atomic_fetch_add_explicit(&file->references, 1, memory_order_relaxed);
}

static void drop_all(fl_sqlite_queue *queue)
{
    fl_sqlite_job *job;
    while ((job = fl_sqlite_queue_take(queue))) fl_sqlite_job_release(job);
}

void fl_sqlite_file_release(fl_sqlite_file *file)
{
    if (atomic_fetch_sub_explicit(&file->references, 1, memory_order_acq_rel) != 1) return;
    drop_all(&file->writes);
    drop_all(&file->reads);
    drop_all(&file->sittings);
    pthread_cond_destroy(&file->quiet);
    pthread_mutex_destroy(&file->lock);
    fl_sqlite_options_close(&file->options);
    free(file);
}

/* who reads */

bool fl_sqlite_file_is_quick(const fl_sqlite_job *job)
{
    if (job->kind != FL_QUERY_RUN) return false;
    uint32_t took = atomic_load_explicit(&job->calls[0].text->took, memory_order_relaxed);
    return took > 0 && took < QUICK;
}

static bool can_sit(const fl_sqlite_file *file)
{
    return file->sittings.first && file->seated < FL_SQLITE_SEATED_MOST;
}

bool fl_sqlite_file_can_read(const fl_sqlite_file *file)
{
    return file->reads.first || can_sit(file);
}

const fl_sqlite_job *fl_sqlite_file_first(const fl_sqlite_file *file)
{
    if (file->writes.first) return file->writes.first;
    return file->reads.first ? file->reads.first : file->sittings.first;
}

static void count_reads(fl_sqlite_file *file)
{
    unsigned count = file->reads.count + file->sittings.count;
    atomic_store_explicit(&file->reads_waiting, count, memory_order_relaxed);
}

/* Who has waited longest. */
fl_sqlite_job *fl_sqlite_file_take_read(fl_sqlite_file *file)
{
    const fl_sqlite_job *read = file->reads.first;
    bool sits = can_sit(file) && (!read || file->sittings.first->queued < read->queued);
    fl_sqlite_job *job = fl_sqlite_queue_take(sits ? &file->sittings : &file->reads);
    count_reads(file);
    return job;
}

/* Whether those that are awake will be there soon: waking one costs more than a quick statement. */
static bool is_enough(const fl_sqlite_file *file)
{
    unsigned soon = file->readers - file->idle_readers - file->slow_readers;
    const fl_sqlite_job *first = file->reads.first;
    if (can_sit(file) && soon < file->sittings.count) return false;
    if (!first) return true;
    if (file->reads.count > soon * QUICK_IN_LINE || !fl_sqlite_file_is_quick(first)) return false;
    return uv_hrtime() - first->queued < LONG_WAIT;
}

void fl_sqlite_file_help(fl_sqlite_file *file)
{
    if (atomic_load(&file->ending) || is_enough(file)) return;
    if (!file->ready)
        fl_sqlite_worker_wake(file->writer);
    else if (file->idle)
        fl_sqlite_worker_wake(file->idle);
    else if (file->readers - file->seated < file->options.readers + (can_sit(file) ? 1 : 0))
        (void)fl_sqlite_worker_start(file, false);
}

/* queues */

static bool only_reads(const fl_sqlite_job *job)
{
    for (unsigned i = 0; i < job->call_count; i++)
        if (job->calls[i].text->kind != FL_SQL_READ && !job->calls[i].text->begins_reading)
            return false;
    return true;
}

bool fl_sqlite_file_is_write(const fl_sqlite_file *file, const fl_sqlite_job *job)
{
    return file->options.readers == 0 || !only_reads(job);
}

static bool refuse(fl_sqlite_file *file, fl_sqlite_job *job, const fl_sqlite_queue *queue)
{
    if (!file->writer) file->writer = fl_sqlite_worker_start(file, true);
    if (!file->writer)
        fl_sqlite_error_set(&job->error, "memory", 503, "cannot start a thread for %s",
                            file->options.path);
    else if (queue->count >= FL_SQLITE_WAITING_MOST)
        fl_sqlite_error_set(&job->error, "queue_full", 503, "%u queries wait for %s already",
                            queue->count, file->options.path);
    else
        return false;
    if (job->seat) fl_sqlite_seat_next(job->seat);
    fl_sqlite_job_answer(job);
    return true;
}

void fl_sqlite_file_push_write(fl_sqlite_file *file, fl_sqlite_job *job)
{
    if (refuse(file, job, &file->writes)) return;
    fl_sqlite_queue_push(&file->writes, job);
    fl_sqlite_worker_wake(file->writer);
}

static void push_read(fl_sqlite_file *file, fl_sqlite_job *job)
{
    fl_sqlite_queue *queue = job->seat ? &file->sittings : &file->reads;
    if (refuse(file, job, queue)) return;
    fl_sqlite_queue_push(queue, job);
    count_reads(file);
    fl_sqlite_file_help(file);
}

void fl_sqlite_file_push(fl_sqlite_file *file, fl_sqlite_job *job)
{
    if (fl_sqlite_file_is_write(file, job))
        fl_sqlite_file_push_write(file, job);
    else
        push_read(file, job);
}

void fl_sqlite_file_submit(fl_sqlite_file *file, fl_sqlite_queue *jobs)
{
    fl_sqlite_job *job;
    pthread_mutex_lock(&file->lock);
    while ((job = fl_sqlite_queue_take(jobs))) {
        if (!job->seat)
            fl_sqlite_file_push(file, job);
        else if (!fl_sqlite_seat_submit(job->seat, job))
            fl_sqlite_job_answer(job);
    }
    pthread_mutex_unlock(&file->lock);
}

bool fl_sqlite_file_withdraw(fl_sqlite_file *file, fl_sqlite_job *job)
{
    pthread_mutex_lock(&file->lock);
    bool queued = job->queue != NULL;
    if (queued) fl_sqlite_queue_remove(job->queue, job);
    if (queued && job->seat && job->seat->job == job) fl_sqlite_seat_next(job->seat);
    count_reads(file);
    pthread_mutex_unlock(&file->lock);
    return queued;
}
