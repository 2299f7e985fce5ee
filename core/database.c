#include "database.h"

#include <assert.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "farewell.h"
#include "query_op.h"
#include "server.h"
#include "state.h"
#include "thread.h"

#define MILLISECOND UINT64_C(1000000) /* ns */
#define LOOK_AGAIN 2     /* ms, whether an idle connection is still held back for others */
#define FREE_MOST 256    /* queries kept by a database to be used again */
#define BUFFER_KEPT 2048 /* bytes, of each of their buffers */

static char no_memory[] = "not enough memory to say what is wrong"; /* in place of a message */

/* the database */

const char *fl_db_option_of(const fl_db *db, const char *name)
{
    for (unsigned i = 0; i < db->option_count; i++)
        if (strcmp(db->options[i].name, name) == 0) return db->options[i].value;
    return NULL;
}

/* the quota */

static void say_ended(fl_db *db)
{
    fl_thread *thread = db->state->thread;
    if (thread->ended) thread->ended(thread);
}

static fl_db *db_of_debt(fl_deadline *deadline)
{
    return (fl_db *)((char *)deadline - offsetof(fl_db, debt));
}

static void pay(fl_deadline *deadline);

static void start(fl_db *db, fl_deadline *deadline, uint64_t delay, fl_deadline_callback callback)
{
    fl_deadline_stop(deadline);
    deadline->state = db->state;
    fl_thread_start_deadline(db->state->thread, deadline, delay, callback);
}

static void pay_later(fl_db *db, uint64_t at)
{
    uint64_t now = uv_hrtime();
    start(db, &db->debt, at > now ? (at - now) / MILLISECOND + 1 : 0, pay);
}

/* What is not idle any more is not waited for: somebody else may have an idle one. */
static void pay_debts(fl_db *db)
{
    fl_deadline_stop(&db->debt);
    while (fl_quota_owes(db->member)) {
        uint64_t at = fl_quota_is_wanted(db->member) ? db->driver->yield(db) : UINT64_MAX;
        if (at == UINT64_MAX) {
            fl_quota_decline(db->member);
        } else if (at > 0) {
            pay_later(db, at);
            break;
        }
    }
    db->driver->serve(db);
    say_ended(db);
}

static void pay(fl_deadline *deadline)
{
    pay_debts(db_of_debt(deadline));
}

static void asked(void *owner)
{
    pay_debts(owner);
}

static void granted(void *owner)
{
    fl_db *db = owner;
    db->driver->serve(db);
}

static int join(fl_db *db)
{
    static const fl_quota_calls calls = {.granted = granted, .asked = asked};
    fl_quota *quota = fl_server_quota(db->state->thread->server);
    return fl_quota_join(&db->member, quota, db->state->address, &calls, db);
}

static void look_again(fl_deadline *deadline)
{
    fl_db *db = (fl_db *)((char *)deadline - offsetof(fl_db, in_line));
    if (!fl_db_is_in_line(db)) return;
    start(db, &db->in_line, FL_QUOTA_TURN / MILLISECOND, look_again);
    db->driver->serve(db);
}

int fl_db_take_slot(fl_db *db, fl_quota_member **slot)
{
    if (db->closing) return UV_ECANCELED;
    int status = db->member ? 0 : join(db);
    if (status == 0) status = fl_quota_take(db->member);
    if (status == 0) *slot = db->member;
    if (status == UV_EAGAIN && !fl_deadline_started(&db->in_line))
        start(db, &db->in_line, FL_QUOTA_TURN / MILLISECOND, look_again);
    return status;
}

bool fl_db_is_in_line(const fl_db *db)
{
    return db->member && fl_quota_is_in_line(db->member);
}

void fl_db_tell(fl_db *db, unsigned idle, unsigned serving, uint64_t waiting)
{
    if (!db->member) return;
    if (waiting == 0) fl_quota_withdraw(db->member);
    fl_quota_tell(db->member, idle, serving);
    if (fl_deadline_started(&db->debt)) return;
    bool is_held_back = idle > 0 && waiting > 0 && fl_quota_is_wanted(db->member);
    if (fl_quota_owes(db->member))
        pay_later(db, 0);
    else if (is_held_back)
        start(db, &db->debt, LOOK_AGAIN, pay);
}

bool fl_db_is_pressed(const fl_db *db, uint64_t since)
{
    return db->member && fl_quota_is_pressed(db->member, since);
}

static void leave_quota(fl_db *db)
{
    fl_quota_member *member = db->member;
    fl_deadline_stop(&db->debt);
    fl_deadline_stop(&db->in_line);
    db->member = NULL;
    if (member) fl_quota_leave(member);
}

/* the database */

static void free_options(fl_db *db)
{
    for (unsigned i = 0; i < db->option_count; i++) {
        free(db->options[i].name);
        free(db->options[i].value);
    }
    free(db->options);
}

/* queries */

/* An old one keeps its buffers' memory. */
static fl_query *reuse(fl_db *db)
{
    fl_query *query = db->free;
    fl_buffer values = query->values, names = query->call.rows.names,
              rows = query->call.rows.values;
    db->free = query->next;
    db->free_count--;
    memset(query, 0, db->driver->query_size);
    query->values = values;
    query->call.rows.names = names;
    query->call.rows.values = rows;
    return query;
}

fl_query *fl_query_new(fl_db *db, fl_query_kind kind, unsigned call_count)
{
    fl_query *query = db->free ? reuse(db) : calloc(1, db->driver->query_size);
    if (!query) return NULL;
    query->db = db;
    query->kind = kind;
    query->keep = UINT64_MAX;
    query->call_count = call_count;
    query->calls = &query->call;
    query->references = 1;
    if (call_count > 1) query->calls = calloc(call_count, sizeof(*query->calls));
    if (query->calls) return query;
    query->calls = &query->call;
    query->call_count = 0;
    fl_query_release(query);
    return NULL;
}

static void free_error(fl_db_error *error)
{
    if (!error->message) return;
    if (error->message != no_memory) free(error->message);
    free(error->detail);
    free(error->hint);
    free(error->constraint);
    free(error->table);
    free(error->column);
}

static void close_calls(fl_query *query)
{
    for (unsigned i = 0; i < query->call_count; i++) {
        fl_call *call = &query->calls[i];
        fl_statement_release(call->statement);
        if (call == &query->call) continue;
        fl_buffer_close(&call->rows.names);
        fl_buffer_close(&call->rows.values);
    }
    if (query->calls != &query->call) free(query->calls);
}

static void free_query(fl_query *query)
{
    fl_buffer_close(&query->values);
    fl_buffer_close(&query->call.rows.names);
    fl_buffer_close(&query->call.rows.values);
    free(query);
}

static bool may_be_used_again(const fl_db *db)
{
    return db->free_count < FREE_MOST;
}

void fl_query_release(fl_query *query)
{
    fl_db *db = query->db;
    if (--query->references > 0) return;
    close_calls(query);
    free_error(&query->error);
    fl_session_drop(query->session);
    if (!may_be_used_again(db)) {
        free_query(query);
        return;
    }
    fl_buffer_reset(&query->values, BUFFER_KEPT);
    fl_buffer_reset(&query->call.rows.names, BUFFER_KEPT);
    fl_buffer_reset(&query->call.rows.values, BUFFER_KEPT);
    query->next = db->free;
    db->free = query;
    db->free_count++;
}

void fl_db_free(fl_db *db)
{
    for (fl_query *query = db->free, *next; query; query = next) {
        next = query->next;
        free_query(query);
    }
    fl_statements_free(db->statements);
    free_options(db);
    free(db->url);
    free(db->name);
    free(db);
}

static void start_running(fl_query *query)
{
    fl_db *db = query->db;
    query->next_running = db->running;
    if (query->next_running) query->next_running->running_link = &query->next_running;
    query->running_link = &db->running;
    db->running = query;
    db->pending++;
    db->queries++;
}

static void stop_running(fl_query *query)
{
    *query->running_link = query->next_running;
    if (query->next_running) query->next_running->running_link = query->running_link;
    query->db->pending--;
}

/* What waited for it went with Lua's heap, unasked: an op that is pending is not collected. */
static void silence(fl_query *query)
{
    fl_deadline_stop(&query->deadline);
    if (!query->op) return;
    query->op = NULL;
    fl_query_release(query);
}

static void close_db(fl_db *db)
{
    db->closing = true;
    for (fl_query *query = db->running; query; query = query->next_running) silence(query);
    leave_quota(db);
    db->driver->close(db);
    fl_farewell_close_all(db);
    while (db->running) {
        fl_query *query = db->running;
        stop_running(query);
        fl_query_release(query); /* the driver's reference */
    }
    fl_deadline_stop(&db->idle);
    fl_db_free(db);
}

void fl_db_close_all(fl_state *state)
{
    for (fl_db *db = state->databases, *next; db; db = next) {
        next = db->next;
        close_db(db);
    }
    state->databases = NULL;
}

static void tell(fl_query *query)
{
    fl_query_op *op = query->op;
    query->op = NULL;
    if (op) fl_op_done(&op->op);
}

void fl_query_give_up(fl_query *query, const char *reason)
{
    if (query->cancelled || query->done) return;
    query->cancelled = reason;
    if (query->op) query->op->given_up = reason;
    fl_deadline_stop(&query->deadline);
    query->references++;
    tell(query);
    query->db->driver->cancel(query);
    fl_query_release(query);
}

static void too_late(fl_deadline *deadline)
{
    fl_query *query = (fl_query *)((char *)deadline - offsetof(fl_query, deadline));
    fl_query_give_up(query, "timeout");
}

void fl_query_submit(fl_query *query, uint64_t timeout)
{
    fl_db *db = query->db;
    fl_thread *thread = db->state->thread;
    query->references++; /* the driver's */
    query->submitted = uv_hrtime();
    start_running(query);
    query->deadline.state = db->state;
    if (timeout) fl_thread_start_deadline(thread, &query->deadline, timeout, too_late);
    if (db->pending > db->pending_most) {
        fl_query_fail(query, "queue_full", 503, "%llu queries of %s are under way already",
                      (unsigned long long)db->pending_most, db->name);
        fl_query_done(query);
    } else {
        db->driver->submit(query);
    }
}

/* The thread of a pool may sleep more deeply when no socket is left to be looked after. */
static void look_for_idle(fl_deadline *deadline)
{
    fl_db *db = (fl_db *)((char *)deadline - offsetof(fl_db, idle));
    db->driver->close_idle(db);
    say_ended(db);
}

/* Web threads keep theirs: there will be more requests. */
static void expect_idle(fl_db *db)
{
    if (!db->state->is_pooled || !db->driver->close_idle || db->closing) return;
    db->idle.state = db->state;
    fl_deadline_stop(&db->idle);
    fl_thread_start_deadline(db->state->thread, &db->idle, db->idle_timeout + 1, look_for_idle);
}

/* Rows that end without one, or begin with no more than their columns, may still lack something. */
static void check_memory(fl_query *query)
{
    for (unsigned i = 0; i < query->call_count; i++) {
        const fl_rows *rows = &query->calls[i].rows;
        if (rows->names.failed || rows->values.failed)
            fl_query_fail(query, "memory", 503, "not enough memory for the rows");
    }
}

/* One that could not be made ready, or that nobody waits for any more, goes back at once. */
static void settle_session(fl_query *query)
{
    if (query->kind != FL_QUERY_ACQUIRE) return;
    query->session->held = true;
    if (query->error.message || query->cancelled) fl_session_release(query->session);
}

void fl_query_done(fl_query *query)
{
    assert(!query->done);
    query->done = true;
    fl_deadline_stop(&query->deadline);
    stop_running(query);
    check_memory(query);
    if (query->error.message) query->db->errors++;
    settle_session(query);
    expect_idle(query->db);
    tell(query);
    fl_query_release(query);
}

static char *format_text(const char *format, va_list arguments)
{
    char *text = NULL;
    return vasprintf(&text, format, arguments) >= 0 ? text : no_memory;
}

void fl_query_fail(fl_query *query, const char *code, int status, const char *format, ...)
{
    fl_db_error *error = &query->error;
    if (error->message) return;
    (void)snprintf(error->code, sizeof(error->code), "%s", code);
    error->status = status;
    va_list arguments;
    va_start(arguments, format);
    error->message = format_text(format, arguments);
    va_end(arguments);
}

void fl_query_explain(char **field, fl_slice text)
{
    if (*field || text.size == 0) return;
    *field = strndup(text.data, text.size);
}

bool fl_query_is_dropped(const fl_query *query)
{
    return query->cancelled != NULL;
}

const char *fl_call_arguments(const fl_query *query, const fl_call *call)
{
    return query->values.data ? query->values.data + call->first : "";
}

/* rows */

void fl_rows_column(fl_rows *rows, fl_slice name)
{
    fl_values_text(&rows->names, name);
    rows->width++;
}

bool fl_rows_begin(fl_query *query, fl_rows *rows)
{
    return !query->cancelled && !query->error.message && rows->count < query->keep;
}

bool fl_rows_end(fl_query *query, fl_rows *rows)
{
    rows->count++;
    if (rows->values.failed || rows->names.failed) {
        fl_query_fail(query, "memory", 503, "not enough memory for the rows");
        return false;
    }
    if (rows->values.size <= query->db->most_bytes) return true;
    fl_query_fail(query, "too_large", 0,
                  "more than %llu bytes of rows: db:each takes them piece by piece, and the option "
                  "max_result sets the bound",
                  (unsigned long long)query->db->most_bytes);
    return false;
}

void fl_rows_reset(fl_rows *rows)
{
    fl_buffer_reset(&rows->names, 1024);
    fl_buffer_reset(&rows->values, 65536);
    rows->width = 0;
    rows->count = 0;
}

/* sessions */

fl_session *fl_session_new(fl_db *db)
{
    fl_session *session = calloc(1, db->driver->session_size);
    if (!session) return NULL;
    session->db = db;
    session->references = 1;
    return session;
}

void fl_session_release(fl_session *session)
{
    if (!session->held) return;
    session->held = false;
    session->db->driver->release(session);
    expect_idle(session->db);
}

void fl_session_drop(fl_session *session)
{
    if (session && --session->references == 0) free(session);
}
