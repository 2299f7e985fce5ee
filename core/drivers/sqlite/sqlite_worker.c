#include "sqlite_worker.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <uv.h>

#include "sqlite_group.h"
#include "sqlite_perform.h"

#define IDLE_SECONDS 10     /* then a reader ends */
#define STACK_BYTES 1048576 /* SQLite's parser and its triggers are not deep */
#define HELP_AFTER 500000   /* ns */
#define ANSWERS_MOST 32
#define ANSWERS_WAIT 100000 /* ns */

/* sleeping and waking */

static void take_off_list(fl_sqlite_worker *worker)
{
    fl_sqlite_file *file = worker->file;
    if (!worker->is_listed) return;
    fl_sqlite_worker **place = &file->idle;
    while (*place != worker) place = &(*place)->next;
    *place = worker->next;
    worker->is_listed = false;
    file->idle_readers--;
}

void fl_sqlite_worker_wake(fl_sqlite_worker *worker)
{
    take_off_list(worker);
    if (!worker->sleeps) return;
    worker->sleeps = false;
    pthread_cond_signal(&worker->wake);
}

/* Until it is woken, or until `until` (ns; 0: however long that is). */
static void rest(fl_sqlite_worker *worker, uint64_t until)
{
    fl_sqlite_file *file = worker->file;
    struct timespec at = {.tv_sec = (time_t)(until / 1000000000),
                          .tv_nsec = (long)(until % 1000000000)};
    worker->sleeps = true;
    while (worker->sleeps) {
        int result = until ? pthread_cond_timedwait(&worker->wake, &file->lock, &at)
                           : pthread_cond_wait(&worker->wake, &file->lock);
        if (result == ETIMEDOUT) break;
    }
    worker->sleeps = false;
}

/* A reader; false: nobody needed it for a while. */
static bool idle(fl_sqlite_worker *worker)
{
    fl_sqlite_file *file = worker->file;
    worker->next = file->idle;
    file->idle = worker;
    worker->is_listed = true;
    file->idle_readers++;
    uint64_t until = uv_hrtime() + IDLE_SECONDS * UINT64_C(1000000000);
    rest(worker, until);
    bool needed = !worker->is_listed;
    take_off_list(worker);
    return needed;
}

/* With the lock. */
static void mark(fl_sqlite_worker *worker, bool is_slow)
{
    if (worker->is_slow == is_slow) return;
    worker->is_slow = is_slow;
    if (is_slow)
        worker->file->slow_readers++;
    else
        worker->file->slow_readers--;
}

/* Answers of quick statements go together: who waits for them would otherwise be woken, and take
 * the processor, for each of them. */
static void send_answers(fl_sqlite_worker *worker)
{
    fl_sqlite_job *job = worker->unsent, *first = NULL;
    worker->unsent = NULL;
    worker->unsent_count = 0;
    while (job) {
        fl_sqlite_job *before = job->next;
        job->next = first;
        first = job;
        job = before;
    }
    while (first) {
        fl_sqlite_job *next = first->next;
        fl_sqlite_job_answer(first);
        first = next;
    }
}

static void answer_soon(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    if (!worker->unsent) worker->unsent_since = uv_hrtime();
    job->next = worker->unsent;
    worker->unsent = job;
    worker->unsent_count++;
}

static bool may_wait(const fl_sqlite_worker *worker, const fl_sqlite_job *next)
{
    return fl_sqlite_file_is_quick(next) && worker->unsent_count < ANSWERS_MOST &&
           uv_hrtime() - worker->unsent_since < ANSWERS_WAIT;
}

/* A statement takes its time, and others may be waiting behind it. */
static void is_busy(void *data)
{
    fl_sqlite_worker *worker = data;
    fl_sqlite_file *file = worker->file;
    if (worker->unsent) send_answers(worker);
    if (atomic_load_explicit(&file->reads_waiting, memory_order_relaxed) == 0) return;
    uint64_t now = uv_hrtime();
    if (now - worker->looked_round < HELP_AFTER) return;
    worker->looked_round = now;
    pthread_mutex_lock(&file->lock);
    mark(worker, true);
    fl_sqlite_file_help(file);
    pthread_mutex_unlock(&file->lock);
}

/* seats */

static bool is_open(const fl_sqlite_worker *worker, const fl_sqlite_seat *seat)
{
    return seat->stream || fl_sqlite_connection_in_transaction(&worker->connection);
}

/* With the lock. */
static void stand_up(fl_sqlite_worker *worker)
{
    fl_sqlite_seat *seat = worker->seat;
    worker->seat = NULL;
    seat->worker = NULL;
}

static void seat_down(fl_sqlite_worker *worker, fl_sqlite_seat *seat)
{
    if (worker->seat == seat) return;
    fl_sqlite_seat_hold(seat);
    worker->seat = seat;
    seat->worker = worker;
}

/* Without the lock: whatever the seat has open is undone, and the gate is others'. */
static void clear(fl_sqlite_worker *worker)
{
    fl_sqlite_perform_end_stream(worker);
    fl_sqlite_connection_roll_back(&worker->connection);
    fl_sqlite_gate_leave(&worker->connection.gate);
}

static void lose(fl_sqlite_seat *seat, const char *why)
{
    seat->lost = true;
    seat->why = why;
}

/* With the lock: the job is done, and what it left open is its seat's. */
static void settle(fl_sqlite_worker *worker, fl_sqlite_job *job, bool was_open)
{
    fl_sqlite_seat *seat = job->seat;
    bool stays = is_open(worker, seat);
    bool had = worker->seat == seat;
    if (was_open && !fl_sqlite_connection_in_transaction(&worker->connection) &&
        fl_sqlite_job_failed(job))
        lose(seat, "one of its statements failed");
    if (stays) {
        seat_down(worker, seat);
    } else {
        fl_sqlite_gate_leave(&worker->connection.gate);
        if (had) stand_up(worker);
    }
    seat->since = uv_hrtime();
    fl_sqlite_seat_next(seat);
    fl_sqlite_job_answer(job);
    if (had && !stays) fl_sqlite_seat_release(seat);
}

static void run_seated(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    fl_sqlite_file *file = worker->file;
    worker->seat->job = job;
    bool was_open = fl_sqlite_connection_in_transaction(&worker->connection);
    pthread_mutex_unlock(&file->lock);
    fl_sqlite_perform(worker, job);
    if (job->is_misplaced)
        fl_sqlite_error_set(&job->error, "SQLITE_READONLY", 0,
                            "this transaction was begun for reading only");
    pthread_mutex_lock(&file->lock);
    settle(worker, job, was_open);
}

static void give_up(fl_sqlite_worker *worker, const char *why)
{
    fl_sqlite_file *file = worker->file;
    fl_sqlite_seat *seat = worker->seat;
    pthread_mutex_unlock(&file->lock);
    clear(worker);
    pthread_mutex_lock(&file->lock);
    if (why) lose(seat, why);
    stand_up(worker);
    fl_sqlite_seat_next(seat);
    fl_sqlite_seat_release(seat);
}

/* With the lock: the connection is a session's. */
static void serve(fl_sqlite_worker *worker)
{
    fl_sqlite_seat *seat = worker->seat;
    uint64_t until = seat->patience ? seat->since + seat->patience : 0;
    fl_sqlite_job *job;
    if (seat->over || atomic_load(&worker->file->ending))
        give_up(worker, NULL);
    else if ((job = fl_sqlite_queue_take(&seat->line)))
        run_seated(worker, job);
    else if (until && uv_hrtime() >= until)
        give_up(worker, "it stood idle for too long");
    else
        rest(worker, until);
}

/* BEGIN on a connection that is everybody's would take all others into its transaction. */
static void refuse_transaction(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    if (!fl_sqlite_connection_in_transaction(&worker->connection)) return;
    fl_sqlite_connection_roll_back(&worker->connection);
    fl_sqlite_error_set(&job->error, "refused", 0,
                        "sqlite: a transaction is begun by the database's own transaction() alone");
}

static void run_alone(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    fl_sqlite_connection *connection = &worker->connection;
    connection->job = job;
    connection->wait_until = job->wait_until;
    if (!connection->writes ||
        fl_sqlite_gate_enter(&connection->gate, fl_sqlite_connection_is_patient, connection))
        fl_sqlite_perform(worker, job);
    else
        fl_sqlite_connection_fail(connection, job, SQLITE_BUSY);
    if (job->seat) return; /* see settle */
    refuse_transaction(worker, job);
    fl_sqlite_gate_leave(&connection->gate);
}

void fl_sqlite_worker_alone(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    fl_sqlite_file *file = worker->file;
    pthread_mutex_unlock(&file->lock);
    bool is_seated = job->seat != NULL;
    run_alone(worker, job);
    if (!is_seated) fl_sqlite_job_answer(job);
    pthread_mutex_lock(&file->lock);
    if (is_seated) settle(worker, job, false);
}

/* writing */

static void fail_queue(fl_sqlite_queue *queue, const fl_sqlite_error *error)
{
    fl_sqlite_job *job;
    while ((job = fl_sqlite_queue_take(queue))) {
        fl_sqlite_error_copy(&job->error, error);
        if (job->seat) fl_sqlite_seat_next(job->seat);
        fl_sqlite_job_answer(job);
    }
}

static bool open_connection(fl_sqlite_worker *worker, const fl_sqlite_job *job,
                            fl_sqlite_error *error)
{
    worker->connection.job = NULL;
    worker->connection.waited_out = false;
    worker->connection.wait_until = job->wait_until;
    pthread_mutex_unlock(&worker->file->lock);
    bool opened = fl_sqlite_connection_open(&worker->connection, error);
    pthread_mutex_lock(&worker->file->lock);
    return opened;
}

/* Whoever waits for the database hears why it cannot be opened; the next one tries again. */
static void open_file(fl_sqlite_worker *worker)
{
    fl_sqlite_file *file = worker->file;
    fl_sqlite_error error = {0};
    const fl_sqlite_job *first = fl_sqlite_file_first(file);
    fl_sqlite_job_hold((fl_sqlite_job *)first);
    file->ready = open_connection(worker, first, &error);
    fl_sqlite_job_release((fl_sqlite_job *)first);
    if (!file->ready) {
        fail_queue(&file->writes, &error);
        fail_queue(&file->reads, &error);
        fail_queue(&file->sittings, &error);
    }
    fl_sqlite_file_help(file);
    fl_sqlite_error_close(&error);
}

static void write_next(fl_sqlite_worker *worker)
{
    fl_sqlite_file *file = worker->file;
    fl_sqlite_job *job = fl_sqlite_queue_take(&file->writes);
    if (fl_sqlite_group_fits(job) && !file->options.is_memory)
        fl_sqlite_group_run(worker, job);
    else
        fl_sqlite_worker_alone(worker, job);
}

static void tidy(fl_sqlite_worker *worker)
{
    const fl_sqlite_connection *connection = &worker->connection;
    if (worker->seat || connection->wal_pages == worker->pages_seen) return;
    worker->pages_seen = connection->wal_pages;
    pthread_mutex_unlock(&worker->file->lock);
    fl_sqlite_connection_checkpoint(&worker->connection);
    pthread_mutex_lock(&worker->file->lock);
}

static void write_all(fl_sqlite_worker *worker)
{
    fl_sqlite_file *file = worker->file;
    while (!atomic_load(&file->ending) || worker->seat) {
        if (worker->seat)
            serve(worker);
        else if (!file->ready && fl_sqlite_file_first(file))
            open_file(worker);
        else if (file->writes.first)
            write_next(worker);
        else
            rest(worker, 0);
        tidy(worker);
    }
    while (file->threads > 1) pthread_cond_wait(&file->quiet, &file->lock);
}

/* reading */

/* What its words did not say, it changes something after all: then it is for the writer. */
static void read_alone(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    fl_sqlite_file *file = worker->file;
    pthread_mutex_unlock(&file->lock);
    if (worker->unsent && !may_wait(worker, job)) send_answers(worker);
    run_alone(worker, job);
    bool goes_on = job->is_misplaced, is_seated = job->seat != NULL;
    if (goes_on)
        fl_sqlite_job_reset(job);
    else if (!is_seated)
        answer_soon(worker, job);
    pthread_mutex_lock(&file->lock);
    if (goes_on)
        fl_sqlite_file_push_write(file, job);
    else if (is_seated)
        settle(worker, job, false);
}

static bool open_reader(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    fl_sqlite_file *file = worker->file;
    if (worker->connection.db || open_connection(worker, job, &job->error)) return true;
    if (job->seat) fl_sqlite_seat_next(job->seat);
    fl_sqlite_job_answer(job);
    fl_sqlite_file_help(file);
    return false;
}

/* With the lock. */
static void sit(fl_sqlite_worker *worker, bool sits)
{
    if (worker->sits == sits) return;
    worker->sits = sits;
    if (sits) {
        worker->file->seated++;
    } else {
        worker->file->seated--;
        fl_sqlite_file_help(worker->file);
    }
}

static void read_next(fl_sqlite_worker *worker)
{
    fl_sqlite_file *file = worker->file;
    fl_sqlite_job *job = fl_sqlite_file_take_read(file);
    if (job->seat) sit(worker, true);
    mark(worker, !fl_sqlite_file_is_quick(job));
    fl_sqlite_file_help(file);
    if (open_reader(worker, job)) read_alone(worker, job);
}

static void send_unlocked(fl_sqlite_worker *worker)
{
    pthread_mutex_unlock(&worker->file->lock);
    send_answers(worker);
    pthread_mutex_lock(&worker->file->lock);
}

static void read_all(fl_sqlite_worker *worker)
{
    fl_sqlite_file *file = worker->file;
    while (!atomic_load(&file->ending) || worker->seat) {
        mark(worker, worker->seat != NULL);
        if (!worker->seat) sit(worker, false);
        if (worker->seat && worker->unsent)
            send_unlocked(worker);
        else if (worker->seat)
            serve(worker);
        else if (fl_sqlite_file_can_read(file))
            read_next(worker);
        else if (worker->unsent)
            send_unlocked(worker);
        else if (!idle(worker) && !fl_sqlite_file_can_read(file))
            break;
    }
    mark(worker, false);
    sit(worker, false);
    if (worker->unsent) send_unlocked(worker);
}

/* the thread */

static void leave(fl_sqlite_worker *worker)
{
    fl_sqlite_file *file = worker->file;
    pthread_mutex_lock(&file->lock);
    file->threads--;
    pthread_cond_broadcast(&file->quiet);
    pthread_mutex_unlock(&file->lock);
    pthread_cond_destroy(&worker->wake);
    free(worker);
    fl_sqlite_file_release(file);
}

static void *thread_main(void *data)
{
    fl_sqlite_worker *worker = data;
    fl_sqlite_file *file = worker->file;
    pthread_mutex_lock(&file->lock);
    if (worker->connection.writes)
        write_all(worker);
    else
        read_all(worker);
    if (!worker->connection.writes) file->readers--;
    pthread_mutex_unlock(&file->lock);
    fl_sqlite_connection_close(&worker->connection);
    leave(worker);
    return NULL;
}

static fl_sqlite_worker *worker_new(fl_sqlite_file *file, bool writes)
{
    fl_sqlite_worker *worker = calloc(1, sizeof(*worker));
    if (!worker) return NULL;
    worker->file = file;
    worker->connection = (fl_sqlite_connection){.options = &file->options,
                                                .path = file->options.path,
                                                .writes = writes,
                                                .ending = &file->ending};
    if (!writes) {
        worker->connection.busy = is_busy;
        worker->connection.busy_data = worker;
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&worker->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    return worker;
}

/* Signals are for the process' other threads. */
static int start_thread(fl_sqlite_worker *worker)
{
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, &attributes, thread_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error == 0)
        (void)pthread_setname_np(thread,
                                 worker->connection.writes ? "sqlite-write" : "sqlite-read");
    return error;
}

fl_sqlite_worker *fl_sqlite_worker_start(fl_sqlite_file *file, bool writes)
{
    fl_sqlite_worker *worker = worker_new(file, writes);
    if (!worker) return NULL;
    file->threads++;
    if (!writes) file->readers++;
    fl_sqlite_file_hold(file);
    if (start_thread(worker) == 0) return worker;
    file->threads--;
    if (!writes) file->readers--;
    pthread_cond_destroy(&worker->wake);
    free(worker);
    fl_sqlite_file_release(file);
    return NULL;
}
