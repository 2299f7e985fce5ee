#include "sqlite_perform.h"

#include <uv.h>

#include "sqlite_backup.h"
#include "sqlite_run.h"

static void fail(fl_sqlite_worker *worker, fl_sqlite_job *job, int result)
{
    if (result != SQLITE_OK) fl_sqlite_connection_fail(&worker->connection, job, result);
}

static bool opens_for_writing(const fl_sqlite_connection *connection)
{
    return connection->writes && !connection->options->read_only;
}

/* Together or not at all; in a transaction of its own, unless there is one. */
static int open_batch(fl_sqlite_connection *connection, bool is_inner)
{
    connection->job = NULL;
    if (is_inner) return fl_sqlite_connection_do(connection, "savepoint fasterlua_batch");
    return opens_for_writing(connection) ? fl_sqlite_connection_begin(connection)
                                         : fl_sqlite_connection_do(connection, "begin");
}

static int close_batch(fl_sqlite_connection *connection, bool is_inner, bool done)
{
    connection->job = NULL;
    if (!fl_sqlite_connection_in_transaction(connection)) return SQLITE_OK;
    if (is_inner && !done) (void)fl_sqlite_connection_do(connection, "rollback to fasterlua_batch");
    if (is_inner) return fl_sqlite_connection_do(connection, "release fasterlua_batch");
    int result = done ? fl_sqlite_connection_commit(connection) : SQLITE_OK;
    return result;
}

static void batch(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    fl_sqlite_connection *connection = &worker->connection;
    bool is_inner = fl_sqlite_connection_in_transaction(connection);
    int result = open_batch(connection, is_inner);
    if (result == SQLITE_OK) {
        bool done = fl_sqlite_run_calls(connection, job);
        result = close_batch(connection, is_inner, done);
    }
    fail(worker, job, result);
    if (!is_inner) fl_sqlite_connection_roll_back(connection);
}

static void begin(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    fl_sqlite_connection *connection = &worker->connection;
    bool reads = !opens_for_writing(connection);
    int result = reads ? fl_sqlite_connection_do(connection, "begin")
                       : fl_sqlite_connection_begin(connection);
    if (result == SQLITE_OK && reads) /* its snapshot is of now */
        result = fl_sqlite_connection_do(connection, "select 1 from sqlite_schema limit 1");
    fail(worker, job, result);
}

/* What changes something is not left half done, and the writer is not kept for a stream alone. */
static bool has_to_be_read_at_once(const fl_sqlite_worker *worker, const fl_sqlite_prepared *stream)
{
    const fl_sqlite_connection *connection = &worker->connection;
    if (!stream->reads) return true;
    return connection->writes && !fl_sqlite_connection_in_transaction(connection);
}

static void read_at_once(fl_sqlite_worker *worker, fl_sqlite_job *job, fl_sqlite_prepared *stream)
{
    fl_sqlite_seat *seat = job->seat;
    bool over;
    fl_buffer_close(&seat->rest.names);
    fl_buffer_close(&seat->rest.values);
    seat->rest = (fl_rows){0};
    seat->rest_at = 0;
    (void)fl_sqlite_run_more(&worker->connection, job, stream, &seat->rest, UINT64_MAX, &over);
    fl_sqlite_cache_give(&worker->connection.cache, stream);
    if (!fl_sqlite_job_failed(job) && !fl_sqlite_seat_take_rest(seat, &job->call.rows, job->piece))
        fl_sqlite_error_set(&job->error, "memory", 503, "out of memory for the rows");
}

/* The seat is the worker's from now on, if the stream goes on. */
static void begin_stream(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    fl_sqlite_prepared *stream;
    bool over;
    fl_sqlite_perform_end_stream(worker);
    if (!fl_sqlite_run_begin(&worker->connection, job, &stream)) return;
    if (has_to_be_read_at_once(worker, stream)) {
        read_at_once(worker, job, stream);
        return;
    }
    if (fl_sqlite_run_more(&worker->connection, job, stream, &job->call.rows, job->piece, &over) &&
        !over)
        job->seat->stream = stream;
    else
        fl_sqlite_cache_give(&worker->connection.cache, stream);
}

static void more(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    fl_sqlite_seat *seat = job->seat;
    bool over;
    if (!seat->stream) {
        (void)fl_sqlite_seat_take_rest(seat, &job->call.rows, job->piece);
        return;
    }
    if (job->piece == 0)
        over = true;
    else
        (void)fl_sqlite_run_more(&worker->connection, job, seat->stream, &job->call.rows,
                                 job->piece, &over);
    if (over) fl_sqlite_perform_end_stream(worker);
}

static void refuse(fl_sqlite_job *job)
{
    fl_sqlite_error_set(&job->error, "refused", 0,
                        "sqlite has no notifications and no COPY: other databases do");
}

static void run(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    if (job->call_count > 0 && job->seat && job->calls[0].text->begins &&
        !fl_sqlite_connection_in_transaction(&worker->connection))
        begin(worker, job);
    else
        (void)fl_sqlite_run_calls(&worker->connection, job);
}

static void do_kind(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    switch (job->kind) {
    case FL_QUERY_RUN:
    case FL_QUERY_ACQUIRE: run(worker, job); break;
    case FL_QUERY_BATCH: batch(worker, job); break;
    case FL_QUERY_STREAM: begin_stream(worker, job); break;
    case FL_QUERY_MORE: more(worker, job); break;
    case FL_QUERY_BACKUP: fl_sqlite_backup_run(&worker->connection, job); break;
    case FL_QUERY_WAIT:
    case FL_QUERY_COPY:
    case FL_QUERY_COPY_DATA:
    case FL_QUERY_COPY_END:
    case FL_QUERY_COPY_FAIL: refuse(job); break;
    }
}

void fl_sqlite_perform(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    fl_sqlite_connection *connection = &worker->connection;
    connection->job = job;
    connection->wait_until = job->wait_until;
    connection->waited_out = false;
    worker->looked_round = uv_hrtime();
    fl_sqlite_job_began(job, connection->db);
    if (atomic_load(&job->stopped))
        fl_sqlite_error_set(&job->error, "cancelled", 0, "the query was cancelled");
    else
        do_kind(worker, job);
    fl_sqlite_job_ended(job);
    connection->job = NULL;
}

void fl_sqlite_perform_end_stream(fl_sqlite_worker *worker)
{
    fl_sqlite_seat *seat = worker->seat;
    if (!seat || !seat->stream) return;
    fl_sqlite_cache_give(&worker->connection.cache, seat->stream);
    seat->stream = NULL;
}
