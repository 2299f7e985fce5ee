#include "sqlite_seat.h"

#include <stddef.h>
#include <stdlib.h>

#include "sqlite_worker.h"
#include "values.h"

static void refuse_all(fl_sqlite_job *job)
{
    while (job) {
        fl_sqlite_job *next = job->next;
        fl_sqlite_error_set(&job->error, "cancelled", 0, "the session was released");
        fl_sqlite_job_answer(job);
        job = next;
    }
}

/* Who runs one of its statements stops; nobody takes up the others. */
static void end(fl_sqlite_seat *seat)
{
    fl_sqlite_file *file = seat->file;
    pthread_mutex_lock(&file->lock);
    seat->over = true;
    file->sessions--;
    fl_sqlite_job *waiting = seat->line.first;
    fl_sqlite_queue_init(&seat->line);
    for (fl_sqlite_job *job = waiting; job; job = job->next) job->queue = NULL;
    if (seat->job) fl_sqlite_job_stop(seat->job);
    if (seat->worker) fl_sqlite_worker_wake(seat->worker);
    pthread_mutex_unlock(&file->lock);
    refuse_all(waiting);
}

static void released(fl_lease *lease)
{
    fl_sqlite_seat *seat = (fl_sqlite_seat *)((char *)lease - offsetof(fl_sqlite_seat, lease));
    end(seat);
    fl_sqlite_seat_release(seat);
}

fl_sqlite_seat *fl_sqlite_seat_new(fl_sqlite_file *file, fl_address *address, uint64_t timeout)
{
    fl_sqlite_seat *seat = calloc(1, sizeof(*seat));
    if (!seat) return NULL;
    atomic_init(&seat->references, 2); /* the session's and the lease's */
    seat->file = file;
    seat->address = address;
    seat->patience = timeout * 1000000;
    seat->lease.released = released;
    fl_sqlite_queue_init(&seat->line);
    fl_sqlite_file_hold(file);
    fl_address_hold(address);
    pthread_mutex_lock(&file->lock);
    file->sessions++;
    pthread_mutex_unlock(&file->lock);
    if (fl_address_lend(address, &seat->lease) == 0) return seat;
    end(seat);
    fl_sqlite_seat_release(seat);
    fl_sqlite_seat_release(seat);
    return NULL;
}

void fl_sqlite_seat_hold(fl_sqlite_seat *seat)
{
    atomic_fetch_add_explicit(&seat->references, 1, memory_order_relaxed);
}

void fl_sqlite_seat_release(fl_sqlite_seat *seat)
{
    if (atomic_fetch_sub_explicit(&seat->references, 1, memory_order_acq_rel) != 1) return;
    fl_buffer_close(&seat->rest.names);
    fl_buffer_close(&seat->rest.values);
    fl_address_release(seat->address);
    fl_sqlite_file_release(seat->file);
    free(seat);
}

void fl_sqlite_seat_end(fl_sqlite_seat *seat)
{
    if (fl_address_give_back(seat->address, &seat->lease)) {
        end(seat);
        fl_sqlite_seat_release(seat);
    }
    fl_sqlite_seat_release(seat);
}

/* After it was rolled back without its session's doing, a ROLLBACK is no error, and the end of it:
 * nothing else may pass for a part of that transaction. */
static void answer_lost(fl_sqlite_seat *seat, fl_sqlite_job *job)
{
    bool rolls_back = job->call_count > 0 && job->calls[0].text->rolls_back;
    if (rolls_back)
        seat->lost = false;
    else
        fl_sqlite_error_set(&job->error, "transaction", 0,
                            "what this session had begun was ended: %s", seat->why);
}

bool fl_sqlite_seat_submit(fl_sqlite_seat *seat, fl_sqlite_job *job)
{
    if (seat->over) {
        fl_sqlite_error_set(&job->error, "cancelled", 0, "the session was released");
        return false;
    }
    if (seat->lost) {
        answer_lost(seat, job);
        return false;
    }
    if (seat->job) {
        fl_sqlite_queue_push(&seat->line, job);
        return true;
    }
    if (seat->worker) {
        fl_sqlite_queue_push(&seat->line, job);
        fl_sqlite_worker_wake(seat->worker);
        return true;
    }
    if (job->kind == FL_QUERY_ACQUIRE && job->call_count == 0) return false;
    if (job->kind == FL_QUERY_MORE) {
        (void)fl_sqlite_seat_take_rest(seat, &job->call.rows, job->piece);
        return false;
    }
    seat->job = job;
    fl_sqlite_file_push(seat->file, job);
    return true;
}

void fl_sqlite_seat_next(fl_sqlite_seat *seat)
{
    seat->job = NULL;
    if (seat->worker) return;
    fl_sqlite_job *job;
    while (!seat->job && (job = fl_sqlite_queue_take(&seat->line)))
        if (!fl_sqlite_seat_submit(seat, job)) fl_sqlite_job_answer(job);
}

static void skip_row(const char **at, uint32_t width)
{
    for (uint32_t i = 0; i < width; i++) (void)fl_values_read(at);
}

bool fl_sqlite_seat_take_rest(fl_sqlite_seat *seat, fl_rows *rows, uint64_t most)
{
    fl_rows *rest = &seat->rest;
    if (rest->count == 0) return true;
    const char *from = rest->values.data + seat->rest_at, *at = from;
    uint64_t count = rest->count < most ? rest->count : most;
    for (uint64_t i = 0; i < count; i++) skip_row(&at, rest->width);
    fl_buffer_append(&rows->values, from, (size_t)(at - from));
    fl_buffer_append(&rows->names, rest->names.data, rest->names.size);
    rows->width = rest->width;
    rows->count = count;
    rest->count -= count;
    seat->rest_at += (size_t)(at - from);
    if (rest->count == 0 || most == 0) {
        rest->count = 0;
        fl_buffer_close(&rest->values);
        seat->rest_at = 0;
    }
    return !rows->values.failed && !rows->names.failed;
}
