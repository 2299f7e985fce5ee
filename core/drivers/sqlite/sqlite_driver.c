#include "sqlite_driver.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "sqlite_file.h"
#include "sqlite_seat.h"
#include "state.h"
#include "thread.h"
#include "values.h"

/* A state's use of a file, lent to its address: should the state be given up, nobody closes its
 * database. Referred to by the database and by the lease. */
struct fl_sqlite_link {
    _Atomic unsigned references;
    fl_sqlite_file *file; /* used until the lease has ended, held until all is over */
    fl_address *address;
    fl_lease lease;
};

static void link_release(fl_sqlite_link *link)
{
    if (atomic_fetch_sub_explicit(&link->references, 1, memory_order_acq_rel) != 1) return;
    fl_sqlite_file_release(link->file);
    fl_address_release(link->address);
    free(link);
}

static void released(fl_lease *lease)
{
    fl_sqlite_link *link = (fl_sqlite_link *)((char *)lease - offsetof(fl_sqlite_link, lease));
    fl_sqlite_file_leave(link->file);
    link_release(link);
}

static void unlink_file(fl_sqlite_link *link)
{
    if (fl_address_give_back(link->address, &link->lease)) released(&link->lease);
}

static fl_sqlite_link *link_new(fl_sqlite_file *file, fl_address *address)
{
    fl_sqlite_link *link = calloc(1, sizeof(*link));
    if (!link) return NULL;
    atomic_init(&link->references, 2);
    link->file = file;
    link->address = address;
    link->lease.released = released;
    fl_sqlite_file_hold(file);
    fl_address_hold(address);
    if (fl_address_lend(address, &link->lease) == 0) return link;
    link_release(link);
    link_release(link);
    return NULL;
}

static fl_sqlite_link *link_of(fl_sqlite *self)
{
    if (self->link) return self->link;
    fl_sqlite_file *file = fl_sqlite_file_open(&self->options);
    if (!file) return NULL;
    self->link = link_new(file, self->db.state->address);
    if (!self->link) fl_sqlite_file_leave(file);
    return self->link;
}

/* the database */

static int open_db(fl_db *db, char *why, size_t why_size)
{
    fl_sqlite *self = (fl_sqlite *)db;
    fl_sqlite_queue_init(&self->unsent);
    return fl_sqlite_options_read(&self->options, db, why, why_size);
}

static void take_out(fl_query *query)
{
    *query->link = query->next;
    if (query->next) query->next->link = query->link;
    query->link = NULL;
}

static void put_in(fl_sqlite *self, fl_query *query)
{
    query->next = self->first;
    if (query->next) query->next->link = &query->next;
    query->link = &self->first;
    self->first = query;
}

/* Nobody will be told of it; the letter that may be under way finds no query. */
static void abandon(fl_sqlite *self, fl_sqlite_query *query)
{
    fl_sqlite_job *job = query->job;
    fl_deadline_stop(&query->patience);
    take_out(&query->query);
    job->query = NULL;
    query->job = NULL;
    fl_sqlite_job_stop(job);
    if (fl_sqlite_file_withdraw(self->link->file, job)) fl_sqlite_job_release(job);
    fl_sqlite_job_release(job);
}

static void stand_up(fl_sqlite_session *session)
{
    if (!session->seat) return;
    *session->link = session->next;
    if (session->next) session->next->link = session->link;
    fl_sqlite_seat_end(session->seat);
    session->seat = NULL;
}

static void close_db(fl_db *db)
{
    fl_sqlite *self = (fl_sqlite *)db;
    while (self->first) abandon(self, (fl_sqlite_query *)self->first);
    while (self->sessions) stand_up(self->sessions);
    fl_turn_end_stop(&self->sending);
    if (self->link) {
        unlink_file(self->link);
        fl_sqlite_file_wait(self->link->file);
        link_release(self->link);
        self->link = NULL;
    }
    fl_sqlite_options_close(&self->options);
}

/* queries */

static void tell_error(fl_query *query, fl_sqlite_error *error)
{
    const char *message = error->message ? error->message : "out of memory";
    fl_query_fail(query, error->code, error->status, "%s", message);
    fl_db_error *told = &query->error;
    if (error->detail) fl_query_explain(&told->detail, fl_slice_from_string(error->detail));
    if (error->constraint.data) fl_query_explain(&told->constraint, error->constraint);
    if (error->table.data) fl_query_explain(&told->table, error->table);
    if (error->column.data) fl_query_explain(&told->column, error->column);
}

static void take_rows(fl_rows *to, fl_rows *from)
{
    fl_buffer_close(&to->names);
    fl_buffer_close(&to->values);
    *to = *from;
    *from = (fl_rows){0};
}

static void take_results(fl_query *query, fl_sqlite_job *job)
{
    for (unsigned i = 0; i < query->call_count; i++) {
        take_rows(&query->calls[i].rows, &job->calls[i].rows);
        query->calls[i].affected = job->calls[i].affected;
        query->calls[i].last_id = job->calls[i].last_id;
    }
}

void fl_sqlite_query_answered(fl_sqlite_query *asked)
{
    fl_query *query = &asked->query;
    fl_sqlite_job *job = asked->job;
    fl_deadline_stop(&asked->patience);
    take_out(query);
    asked->job = NULL;
    job->query = NULL;
    bool failed = fl_sqlite_job_failed(job);
    if (failed)
        tell_error(query, &job->error);
    else
        take_results(query, job);
    if (failed && query->kind == FL_QUERY_ACQUIRE) stand_up((fl_sqlite_session *)query->session);
    fl_sqlite_job_release(job);
    fl_query_done(query);
}

static fl_sqlite_query *query_of(fl_deadline *deadline)
{
    return (fl_sqlite_query *)((char *)deadline - offsetof(fl_sqlite_query, patience));
}

/* It stood in line for as long as it may; what has been taken up is another's to watch. */
static void impatient(fl_deadline *deadline)
{
    fl_sqlite_query *query = query_of(deadline);
    fl_sqlite *self = (fl_sqlite *)query->query.db;
    fl_sqlite_job *job = query->job;
    if (!fl_sqlite_file_withdraw(self->link->file, job)) return;
    fl_sqlite_error_set(&job->error, "pool_timeout", 503, "%s was busy with others for %llu ms",
                        self->db.name, (unsigned long long)self->db.pool_timeout);
    fl_sqlite_query_answered(query);
    fl_sqlite_job_release(job);
}

/* In a session only what may need another connection waits for one. */
static void be_patient(fl_sqlite_query *query)
{
    const fl_db *db = query->query.db;
    fl_query_kind kind = query->query.kind;
    bool is_seated = query->query.session && kind != FL_QUERY_ACQUIRE && kind != FL_QUERY_STREAM;
    if (db->pool_timeout == 0 || is_seated) return;
    query->patience.state = db->state;
    fl_thread_start_deadline(db->state->thread, &query->patience, db->pool_timeout, impatient);
}

static void fail_memory(fl_query *query)
{
    fl_query_fail(query, "memory", 503, "out of memory for a query of %s", query->db->name);
    fl_query_done(query);
}

static bool sit_down(fl_sqlite *self, fl_sqlite_session *session)
{
    session->seat = fl_sqlite_seat_new(self->link->file, self->db.state->address, self->db.timeout);
    if (!session->seat) return false;
    session->next = self->sessions;
    if (session->next) session->next->link = &session->next;
    session->link = &self->sessions;
    self->sessions = session;
    return true;
}

/* Which session it is for; the first of it makes the seat. */
static bool find_seat(fl_sqlite *self, fl_query *query, fl_sqlite_job *job)
{
    fl_sqlite_session *session = (fl_sqlite_session *)query->session;
    if (!session) return true;
    if (!session->seat && !sit_down(self, session)) return false;
    fl_sqlite_seat_hold(session->seat);
    job->seat = session->seat;
    return true;
}

/* Relative paths are the app's. */
static bool find_path(fl_query *query, fl_sqlite_job *job)
{
    if (query->kind != FL_QUERY_BACKUP || query->values.size == 0) return true;
    const char *at = query->values.data;
    fl_value value = fl_values_read(&at);
    const fl_app_place *app = query->db->state->app;
    bool is_relative = value.text.size > 0 && *value.text.data != '/' && app;
    int size = asprintf(&job->path, "%s%s%.*s", is_relative ? app->folder : "",
                        is_relative ? "/" : "", (int)value.text.size, value.text.data);
    if (size < 0) job->path = NULL;
    return size >= 0;
}

/* All at once: threads are woken once for all that the loop's turn has asked for. */
static void send_all(fl_turn_end *sending)
{
    fl_sqlite *self = (fl_sqlite *)((char *)sending - offsetof(fl_sqlite, sending));
    fl_sqlite_file_submit(self->link->file, &self->unsent);
}

static void submit(fl_query *query)
{
    fl_sqlite *self = (fl_sqlite *)query->db;
    fl_sqlite_query *asked = (fl_sqlite_query *)query;
    fl_sqlite_job *job = link_of(self) ? fl_sqlite_job_new(asked, self->db.state->address) : NULL;
    if (!job || !find_seat(self, query, job) || !find_path(query, job)) {
        if (job) fl_sqlite_job_release(job);
        fail_memory(query);
        return;
    }
    asked->job = job;
    put_in(self, query);
    be_patient(asked);
    fl_sqlite_job_hold(job);
    fl_sqlite_queue_push(&self->unsent, job);
    if (!self->sending.link) fl_turn_end_start(&self->sending, self->db.state, send_all);
}

static void cancel(fl_query *query)
{
    fl_sqlite *self = (fl_sqlite *)query->db;
    fl_sqlite_job *job = ((fl_sqlite_query *)query)->job;
    if (!job) return;
    fl_sqlite_job_stop(job);
    if (!fl_sqlite_file_withdraw(self->link->file, job)) return;
    fl_sqlite_error_set(&job->error, "cancelled", 0, "%s",
                        query->cancelled ? query->cancelled : "the query was cancelled");
    fl_sqlite_job_answer(job);
}

static void release(fl_session *session)
{
    stand_up((fl_sqlite_session *)session);
}

static void stats(fl_db *db, fl_db_stats *out)
{
    const fl_sqlite *self = (fl_sqlite *)db;
    if (!self->link) return;
    fl_sqlite_file *file = self->link->file;
    pthread_mutex_lock(&file->lock);
    out->connections += file->readers + (file->ready ? 1 : 0);
    out->idle += file->idle_readers;
    out->sessions += file->sessions;
    out->waiting += file->writes.count + file->reads.count + file->sittings.count;
    pthread_mutex_unlock(&file->lock);
}

const fl_db_driver fl_sqlite_driver = {.name = "sqlite",
                                       .dialect = FL_SQL_SQLITE,
                                       .db_size = sizeof(fl_sqlite),
                                       .session_size = sizeof(fl_sqlite_session),
                                       .query_size = sizeof(fl_sqlite_query),
                                       .open = open_db,
                                       .close = close_db,
                                       .submit = submit,
                                       .cancel = cancel,
                                       .release = release,
                                       .stats = stats};
