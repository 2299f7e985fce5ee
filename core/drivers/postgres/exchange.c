#include "exchange.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "arguments.h"
#include "columns.h"
#include "connection.h"
#include "item.h"
#include "pool.h"
#include "streaming.h"

#define RUNS_MOST 3
#define CONFIRMED UINT64_C(1000000000) /* ns that types are not asked for again */
#define BUSY_SHARE 8                   /* of the time that a busy loop measures, this part counts */
#define CANCEL_PATIENCE 5000           /* ms until a connection that does not cancel is closed */

typedef enum { DONE, WAITS, FAILED, DOUBTED } written;

static uint64_t now_of(const fl_pg_connection *self)
{
    return fl_db_now(&self->pg->db);
}

void fl_pg_exchange_begin_first(fl_pg_connection *self)
{
    self->head_since = now_of(self);
    self->head_waited = fl_thread_waited(self->pg->db.state->thread);
}

/* items */

void fl_pg_item_insert(fl_pg_connection *self, fl_pg_item *item, fl_pg_item *before)
{
    item->is_written = false;
    item->next = before;
    item->link = before ? before->link : self->last;
    *item->link = item;
    *(before ? &before->link : &self->last) = &item->next;
    if (self->unsent == before) self->unsent = item;
    if (self->items++ == 0) atomic_store(&self->line->is_busy, true);
}

void fl_pg_item_remove(fl_pg_connection *self, fl_pg_item *item)
{
    if (self->unsent == item) self->unsent = item->next;
    if (self->writer == item) self->writer = NULL;
    *item->link = item->next;
    *(item->next ? &item->next->link : &self->last) = item->link;
    item->link = NULL;
    if (--self->items == 0) atomic_store(&self->line->is_busy, false);
}

void fl_pg_item_replace(fl_pg_connection *self, fl_pg_item *item, fl_pg_item *by)
{
    bool writes = self->writer == item;
    *by = *item;
    *by->link = by;
    *(by->next ? &by->next->link : &self->last) = &by->next;
    item->link = NULL;
    if (writes) self->writer = by;
}

bool fl_pg_exchange_is_idle(const fl_pg_connection *self)
{
    return self->phase == FL_PG_READY && !self->first && !self->session && !self->is_cancelling &&
           self->copy == FL_PG_NO_COPY;
}

/* cancelling */

static void cancel_delivered(fl_pg_connection *self)
{
    self->is_cancelling = false;
    fl_pg_connection_hold(self);
    fl_pg_exchange_pump(self);
    if (fl_pg_exchange_is_idle(self)) fl_pg_pool_idle(self);
    fl_pg_connection_release(self);
}

static void no_answer(fl_deadline *deadline)
{
    fl_pg_connection *self =
        (fl_pg_connection *)((char *)deadline - offsetof(fl_pg_connection, deadline));
    fl_pg_connection_lost(self, "it did not cancel what it was asked to", false);
}

/* What the first item does. A cancel may come late: nothing more is written until it has been. */
void fl_pg_exchange_cancel_first(fl_pg_connection *self)
{
    if (self->is_cancelling) return;
    int status = fl_pg_line_cancel(self->line, cancel_delivered);
    if (status < 0) {
        fl_pg_connection_lost(self, "what runs cannot be cancelled", false);
        return;
    }
    self->is_cancelling = self->may_be_hit = true;
    fl_deadline_stop(&self->deadline);
    fl_thread_start_deadline(self->pg->db.state->thread, &self->deadline, CANCEL_PATIENCE,
                             no_answer);
}

/* A session whose beginning failed is none. */
static void leave_session(fl_pg_connection *self, fl_query *query)
{
    ((fl_pg_session *)query->session)->connection = NULL;
    self->session = NULL;
    fl_pg_exchange_reset(self);
}

static void drop_unwritten(fl_pg_connection *self, fl_query *query)
{
    fl_pg_item_remove(self, &fl_pg_query_of(query)->item);
    if (query->kind == FL_QUERY_ACQUIRE) leave_session(self, query);
    fl_pg_query_cancelled(query);
}

void fl_pg_exchange_cancel(fl_pg_connection *self, fl_query *query)
{
    fl_pg_query *q = fl_pg_query_of(query);
    if (!q->item.link) {
        fl_pg_streaming_cancel(self, query);
    } else if (!q->item.is_written) {
        drop_unwritten(self, query);
    } else {
        q->is_cancelling = true;
        fl_pg_connection_flush(self);
        if (self->phase == FL_PG_READY && self->first == &q->item)
            fl_pg_exchange_cancel_first(self);
    }
}

/* a query's state */

static void push_parsing(fl_pg_query *q, fl_pg_entry *entry)
{
    entry->next_parsing = NULL;
    *q->parsing_last = entry;
    q->parsing_last = &entry->next_parsing;
}

static void pop_parsing(fl_pg_query *q)
{
    fl_pg_entry *entry = q->parsing;
    q->parsing = entry->next_parsing;
    if (!q->parsing) q->parsing_last = &q->parsing;
    fl_pg_prepared_parsed(entry);
}

/* The server did not get as far as to prepare these. */
static void drop_parsing(fl_pg_connection *self, fl_pg_query *q)
{
    while (q->parsing) {
        fl_pg_entry *entry = q->parsing;
        fl_pg_prepared_drop(&self->prepared, entry, false);
        pop_parsing(q);
    }
}

static bool begin_run(fl_pg_query *q)
{
    q->writing = q->answering = 0;
    q->parsing = NULL;
    q->parsing_last = &q->parsing;
    q->is_mismatched = q->is_bound = q->is_again = q->is_deaf = false;
    q->one = NULL;
    q->known = &q->one;
    if (q->query.call_count > 1) q->known = calloc(q->query.call_count, sizeof(fl_pg_known *));
    q->runs++;
    return q->known != NULL;
}

static void end_run(fl_pg_connection *self, fl_pg_query *q)
{
    if (!q->known) return;
    drop_parsing(self, q);
    unsigned count = q->known == &q->one ? 1 : q->query.call_count;
    for (unsigned i = 0; i < count; i++) fl_pg_known_release(q->known[i]);
    if (q->known != &q->one) free(q->known);
    q->known = NULL;
}

static void reset_rows(fl_query *query)
{
    for (unsigned i = 0; i < query->call_count; i++) {
        fl_rows_reset(&query->calls[i].rows);
        query->calls[i].affected = 0;
    }
}

static void set_known(fl_pg_known **place, fl_pg_known *known)
{
    fl_pg_known *old = *place;
    *place = fl_pg_known_hold(known);
    fl_pg_known_release(old);
}

static void learn(fl_statement *statement, fl_pg_known *known)
{
    if (statement->known) statement->forget(statement->known);
    statement->known = fl_pg_known_hold(known);
    statement->forget = fl_pg_known_release;
}

/* It is to be prepared anew. */
static void unlearn(fl_pg_connection *self, fl_statement *statement)
{
    fl_pg_entry *entry = fl_pg_prepared_find(&self->prepared, statement);
    if (entry) fl_pg_prepared_drop(&self->prepared, entry, true);
}

/* writing */

static bool is_stream(const fl_pg_query *q)
{
    return q->item.kind == FL_PG_ITEM_STREAM;
}

/* What is known of the types may be of a table that has been made anew since. Not asked more often
 * than that it costs nothing. */
static bool may_be_stale(const fl_pg_connection *self, const fl_pg_known *known)
{
    if (known->confirmed == 0 || known->schema != self->pg->schemas) return true;
    return now_of(self) - known->confirmed > CONFIRMED;
}

static written refuse_arguments(fl_pg_connection *self, fl_pg_query *q, const fl_pg_known *known,
                                const char *why)
{
    if (!q->is_fresh && may_be_stale(self, known)) return DOUBTED;
    fl_query_fail(&q->query, "argument", 0, "%s", why);
    return FAILED;
}

static written write_bind(fl_pg_connection *self, fl_pg_query *q, const char *name,
                          fl_pg_known *known)
{
    char why[256];
    fl_query *query = &q->query;
    const fl_call *call = &query->calls[q->writing];
    if (known->parameter_count != call->count) {
        (void)snprintf(why, sizeof(why), "%u arguments expected, got %u",
                       (unsigned)known->parameter_count, (unsigned)call->count);
        return refuse_arguments(self, q, known, why);
    }
    fl_pg_bind bind = {.portal = is_stream(q) ? FL_PG_STREAM_PORTAL : "",
                       .statement = name,
                       .types = known->parameters,
                       .count = known->parameter_count,
                       .values = fl_call_arguments(query, call),
                       .formats = fl_slice_of(known->formats.data, known->formats.size)};
    if (fl_pg_write_bind(&self->out, &bind, why, sizeof(why)) < 0)
        return refuse_arguments(self, q, known, why);
    set_known(&q->known[q->writing], known);
    fl_pg_write_execute(&self->out, bind.portal, is_stream(q) ? (uint32_t)query->piece : 0);
    return DONE;
}

static written write_parse(fl_pg_connection *self, fl_pg_query *q, fl_statement *statement,
                           fl_pg_known *known)
{
    fl_pg_entry *entry = fl_pg_prepared_add(&self->prepared, statement, !self->pg->is_pgbouncer);
    if (!entry) {
        fl_query_fail(&q->query, "memory", 503, "not enough memory");
        return FAILED;
    }
    entry->call = q->writing;
    if (known) entry->known = fl_pg_known_hold(known);
    push_parsing(q, entry);
    fl_pg_write_parse(&self->out, entry->name, fl_slice_of(statement->text, statement->size),
                      known ? known->parameters : NULL, known ? known->parameter_count : 0);
    fl_pg_write_describe(&self->out, entry->name);
    if (known) return write_bind(self, q, entry->name, known);
    fl_pg_write_bare(&self->out, 'H');
    return WAITS;
}

static written write_call(fl_pg_connection *self, fl_pg_query *q)
{
    fl_statement *statement = q->query.calls[q->writing].statement;
    if (memchr(statement->text, '\0', statement->size)) {
        fl_query_fail(&q->query, "argument", 0, "the statement has a zero byte in it");
        return FAILED;
    }
    fl_pg_entry *entry = fl_pg_prepared_find(&self->prepared, statement);
    written how = entry && entry->known
                      ? write_bind(self, q, entry->name, entry->known)
                      : write_parse(self, q, statement, q->is_fresh ? NULL : statement->known);
    if (how != DOUBTED) return how;
    q->is_fresh = true;
    unlearn(self, statement);
    return write_parse(self, q, statement, NULL);
}

/* Statements that went before in the same transaction must not take effect: what is not there
 * cannot be executed, and that is an error of the server's. */
static void write_failure(fl_pg_connection *self)
{
    fl_pg_write_execute(&self->out, "none", 0);
}

static void end_writing(fl_pg_connection *self, fl_pg_query *q)
{
    if (is_stream(q) && !q->query.error.message) {
        fl_pg_streaming_end_writing(self, q);
        return;
    }
    fl_pg_write_bare(&self->out, 'S');
    if (self->writer == &q->item) self->writer = NULL;
}

static void write_calls(fl_pg_connection *self, fl_pg_query *q)
{
    for (; q->writing < q->query.call_count; q->writing++) {
        written how = write_call(self, q);
        if (how == WAITS) {
            self->writer = &q->item;
            return;
        }
        if (how == FAILED) {
            if (q->writing > 0) write_failure(self);
            break;
        }
    }
    end_writing(self, q);
}

static void note_change(fl_pg_connection *self, const fl_query *query)
{
    for (unsigned i = 0; self->session && i < query->call_count; i++) {
        const fl_statement *statement = query->calls[i].statement;
        if (!statement) continue;
        fl_sql_kind kind = statement->kind;
        if ((kind == FL_SQL_SESSION && strcmp(statement->verb, "its own") != 0) ||
            kind == FL_SQL_OTHER || kind == FL_SQL_COPY)
            self->is_changed = true;
    }
}

static void write_query(fl_pg_connection *self, fl_pg_query *q)
{
    if (!begin_run(q)) {
        fl_query_fail(&q->query, "memory", 503, "not enough memory");
        fl_pg_write_bare(&self->out, 'S');
        return;
    }
    note_change(self, &q->query);
    if (q->item.kind == FL_PG_ITEM_QUERY || fl_pg_streaming_begin_portal(self, q))
        write_calls(self, q);
    else
        fl_pg_streaming_write(self, q);
}

static void end_reset(fl_pg_connection *self);

static void write_item(fl_pg_connection *self, fl_pg_item *item)
{
    item->began_at = self->sent + fl_pg_connection_unwritten(self);
    item->is_written = true;
    if (item == self->first) fl_pg_exchange_begin_first(self);
    fl_buffer_slice(&self->out,
                    fl_slice_of(self->prepared.closing.data, self->prepared.closing.size));
    fl_buffer_reset(&self->prepared.closing, 1024);
    switch (item->kind) {
    case FL_PG_ITEM_QUERY:
    case FL_PG_ITEM_STREAM:
    case FL_PG_ITEM_COPY: write_query(self, item->query); break;
    case FL_PG_ITEM_END: fl_pg_streaming_write_end(self); break;
    case FL_PG_ITEM_RESET:
        if (!fl_pg_streaming_write_reset(self)) end_reset(self);
        break;
    }
}

static bool can_write(const fl_pg_connection *self, const fl_pg_item *item)
{
    if (self->phase != FL_PG_READY || self->is_cancelling || self->writer) return false;
    return item->kind == FL_PG_ITEM_QUERY || item == self->first;
}

void fl_pg_exchange_pump(fl_pg_connection *self)
{
    fl_pg_connection_hold(self);
    while (self->unsent && can_write(self, self->unsent)) {
        fl_pg_item *item = self->unsent;
        if (fl_pg_streaming_is_in_the_way(self, item)) {
            if (item != self->first) break;
            self->end_item = (fl_pg_item){.kind = FL_PG_ITEM_END};
            item = &self->end_item;
            fl_pg_item_insert(self, item, self->unsent);
        }
        self->unsent = item->next;
        write_item(self, item);
    }
    fl_pg_connection_flush_soon(self);
    fl_pg_connection_release(self);
}

void fl_pg_exchange_add(fl_pg_connection *self, fl_query *query)
{
    fl_pg_query *q = fl_pg_query_of(query);
    q->connection = self;
    if (!fl_pg_streaming_takes(self, query)) {
        fl_pg_item_kind kind = query->kind == FL_QUERY_COPY ? FL_PG_ITEM_COPY : FL_PG_ITEM_QUERY;
        if (query->kind == FL_QUERY_STREAM || query->kind == FL_QUERY_MORE)
            kind = FL_PG_ITEM_STREAM;
        q->item = (fl_pg_item){.kind = kind, .query = q};
        fl_pg_item_insert(self, &q->item, NULL);
        fl_pg_exchange_pump(self);
    }
}

/* the end of an item */

static void after_item(fl_pg_connection *self)
{
    fl_pg_item *item = self->first;
    fl_pg_exchange_begin_first(self);
    if (item && item->is_written && item->query && item->query->is_cancelling)
        fl_pg_exchange_cancel_first(self);
    if (self->phase != FL_PG_READY) return;
    fl_pg_exchange_pump(self);
    if (!self->first) self->idle_since = now_of(self);
    if (self->is_shared || fl_pg_exchange_is_idle(self)) fl_pg_pool_idle(self);
}

/* What the loop did meanwhile is not the statement's time; but it may have been busy while a slow
 * one ran, so that is not left out altogether. */
static uint64_t time_taken(const fl_pg_connection *self)
{
    uint64_t all = now_of(self) - self->head_since;
    uint64_t waited = fl_thread_waited(self->pg->db.state->thread);
    uint64_t asleep = waited > self->head_waited ? waited - self->head_waited : 0;
    if (asleep > all) asleep = all; /* another thread's loop, since it has moved */
    return asleep > all / BUSY_SHARE ? asleep : all / BUSY_SHARE;
}

static void take_time(fl_pg_connection *self, fl_query *query)
{
    if (query->kind != FL_QUERY_RUN || query->error.message || query->cancelled) return;
    fl_statement *statement = query->calls[0].statement;
    bool was_known = statement->p95 != 0;
    fl_statement_took(statement, time_taken(self));
    if (!was_known && statement->p95) fl_pg_pool_learned(self->pg, statement);
}

static void note_schema(fl_pg *pg, const fl_query *query)
{
    for (unsigned i = 0; i < query->call_count; i++)
        if (query->calls[i].statement && query->calls[i].statement->kind == FL_SQL_SCHEMA)
            pg->schemas++;
}

static void end_query(fl_pg_connection *self, fl_query *query)
{
    note_schema(self->pg, query);
    fl_pg_query *q = fl_pg_query_of(query);
    if (q->is_cancelling || !self->is_cancelling) fl_deadline_stop(&self->deadline);
    if (!self->is_cancelling && !q->is_cancelling) self->may_be_hit = false;
    if (query->kind == FL_QUERY_ACQUIRE && query->error.message) leave_session(self, query);
    take_time(self, query);
    fl_query_done(query);
}

void fl_pg_exchange_finish(fl_pg_connection *self, fl_pg_query *q)
{
    fl_query *query = &q->query;
    fl_pg_item_remove(self, &q->item);
    end_run(self, q);
    fl_pg_connection_hold(self);
    if (q->is_again) {
        reset_rows(query);
        fl_pg_item_insert(self, &q->item, self->unsent);
    } else {
        end_query(self, query);
    }
    if (self->phase == FL_PG_READY) after_item(self);
    fl_pg_connection_release(self);
}

static void end_reset(fl_pg_connection *self)
{
    if (self->status != 'I') {
        fl_pg_connection_lost(self, "it is still in a transaction after ROLLBACK", false);
        return;
    }
    fl_pg_item_remove(self, &self->reset_item);
    fl_pg_streaming_forget(self);
    self->is_changed = false;
    after_item(self);
}

static void end_end(fl_pg_connection *self)
{
    fl_deadline_stop(&self->deadline);
    fl_pg_item_remove(self, &self->end_item);
    after_item(self);
}

static void end_item(fl_pg_connection *self, fl_pg_item *item)
{
    switch (item->kind) {
    case FL_PG_ITEM_QUERY:
    case FL_PG_ITEM_STREAM: fl_pg_exchange_finish(self, item->query); break;
    case FL_PG_ITEM_COPY:
        if (item->query) {
            fl_pg_exchange_finish(self, item->query);
        } else {
            fl_pg_item_remove(self, item);
            fl_pg_streaming_end_copy(self);
            after_item(self);
        }
        break;
    case FL_PG_ITEM_END: end_end(self); break;
    case FL_PG_ITEM_RESET: end_reset(self); break;
    }
}

static bool is_foreign_transaction(const fl_pg_connection *self)
{
    return self->status != 'I' && !self->session && !self->reset_item.link;
}

static void become_ready(fl_pg_connection *self, fl_pg_item *item, fl_slice body)
{
    if (body.size != 1 || !strchr("ITE", body.data[0]) || !body.data[0]) {
        fl_pg_connection_lost(self, "the server broke the protocol", false);
        return;
    }
    self->status = body.data[0];
    fl_pg_connection_hold(self);
    end_item(self, item);
    if (self->phase == FL_PG_READY && is_foreign_transaction(self))
        fl_pg_connection_lost(self, "a statement has begun a transaction and left it open", false);
    fl_pg_connection_release(self);
}

/* errors */

static bool is_code(const fl_pg_error *error, const char *code)
{
    return fl_slice_equal(error->code, fl_slice_from_string(code));
}

static bool is_class(const fl_pg_error *error, const char *start)
{
    size_t size = strlen(start);
    return error->code.size >= size && memcmp(error->code.data, start, size) == 0;
}

static int status_of(const fl_pg_error *error)
{
    return is_class(error, "53") || is_class(error, "57P0") ? 503 : 0;
}

void fl_pg_query_refused(fl_query *query, const fl_pg_error *error)
{
    char code[8];
    if (query->error.message) return;
    (void)snprintf(code, sizeof(code), "%.*s", (int)(error->code.size < 7 ? error->code.size : 7),
                   error->code.data ? error->code.data : "");
    fl_query_fail(query, code, status_of(error), "%.*s", (int)error->message.size,
                  error->message.data ? error->message.data : "");
    fl_query_explain(&query->error.detail, error->detail);
    fl_query_explain(&query->error.hint, error->hint);
    fl_query_explain(&query->error.constraint, error->constraint);
    fl_query_explain(&query->error.table, error->table);
    fl_query_explain(&query->error.column, error->column);
}

void fl_pg_query_cancelled(fl_query *query)
{
    fl_query_fail(query, "cancelled", 0, "%s", query->cancelled ? query->cancelled : "cancelled");
    fl_query_done(query);
}

/* The server takes the parameters of what is prepared for what they were then. */
static bool may_be_of_other_types(const fl_pg_connection *self, const fl_pg_query *q,
                                  const fl_pg_error *error)
{
    bool is_about_types = is_class(error, "22") || is_code(error, "42804") ||
                          is_code(error, "42883") || is_code(error, "42846");
    const fl_pg_known *known = q->answering < q->query.call_count ? q->known[q->answering] : NULL;
    if (!is_about_types || !known || known->parameter_count == 0) return false;
    return may_be_stale(self, known);
}

/* Whether its plan, or what we took its parameters and columns for, is of an older schema. */
static bool is_stale(const fl_pg_connection *self, const fl_pg_query *q, const fl_pg_error *error)
{
    if (q->is_fresh) return false;
    if (is_code(error, "0A000") || is_code(error, "26000")) return true;
    if (may_be_of_other_types(self, q, error)) return true;
    const fl_pg_entry *entry = q->parsing;
    return q->is_mismatched || (entry && entry->call == q->answering && entry->known);
}

static bool was_hit(const fl_pg_connection *self, const fl_pg_query *q, const fl_pg_error *error)
{
    return is_code(error, "57014") && self->may_be_hit && !q->is_cancelling;
}

static bool may_run_again(const fl_pg_connection *self, const fl_pg_query *q)
{
    bool in_transaction = self->session && self->status != 'I';
    return !in_transaction && q->item.kind == FL_PG_ITEM_QUERY && q->runs < RUNS_MOST &&
           !q->query.cancelled && !q->query.error.message;
}

static void query_failed(fl_pg_connection *self, fl_pg_query *q, const fl_pg_error *error)
{
    bool stale = is_stale(self, q, error), again = may_run_again(self, q);
    bool is_simple = fl_pg_streaming_is_simple(self, q);
    if (q->item.kind == FL_PG_ITEM_STREAM) self->stream = FL_PG_NO_STREAM;
    if (q->item.kind != FL_PG_ITEM_COPY && stale && q->answering < q->query.call_count)
        unlearn(self, q->query.calls[q->answering].statement);
    drop_parsing(self, q);
    q->is_again = again && (stale || was_hit(self, q, error));
    if (stale) q->is_fresh = true;
    if (q->is_cancelling && is_code(error, "57014") && !self->is_cancelling)
        self->may_be_hit = false;
    if (!q->is_again) fl_pg_query_refused(&q->query, error);
    if (self->writer != &q->item) return;
    if (!is_simple) {
        self->writer = NULL;
        fl_pg_write_bare(&self->out, 'S');
        fl_pg_connection_flush_soon(self);
    }
}

/* The server closes the connection after this. One that it was told to close (57P01) has rolled
 * back what it did, and has not begun what comes after. */
static void fatal(fl_pg_connection *self, const fl_pg_error *error)
{
    char why[512];
    (void)snprintf(why, sizeof(why), "%.*s (%.*s)", (int)error->message.size,
                   error->message.data ? error->message.data : "", (int)error->code.size,
                   error->code.data ? error->code.data : "");
    fl_pg_connection_lost(self, why, is_code(error, "57P01"));
}

static void take_error(fl_pg_connection *self, fl_pg_item *item, fl_slice body)
{
    fl_pg_error error;
    if (fl_pg_error_read(&error, body) < 0) {
        fl_pg_connection_lost(self, "the server broke the protocol", false);
    } else if (fl_slice_equal(error.severity, FL_SLICE("FATAL")) ||
               fl_slice_equal(error.severity, FL_SLICE("PANIC")) || !item) {
        fatal(self, &error);
    } else if (item->query) {
        query_failed(self, item->query, &error);
    } else if (item->kind == FL_PG_ITEM_COPY) {
        fl_pg_streaming_copy_failed(self, body);
    } else if (item->kind == FL_PG_ITEM_RESET) {
        fatal(self, &error);
    }
}

/* answers */

static fl_call *call_of(fl_pg_query *q)
{
    return q->answering < q->query.call_count ? &q->query.calls[q->answering] : NULL;
}

static bool is_same(const fl_pg_known *a, const fl_pg_known *b)
{
    return a->formats.size == b->formats.size && a->parameter_count == b->parameter_count &&
           memcmp(a->formats.data, b->formats.data, a->formats.size) == 0;
}

/* It is prepared by what was known before: that is looked over. */
static void check_known(fl_pg_query *q, fl_pg_entry *entry, fl_pg_known *known)
{
    fl_pg_known **used = &q->known[entry->call];
    if (*used && !is_same(*used, known))
        q->is_mismatched = true;
    else if (*used)
        set_known(used, known);
    set_known(&entry->known, known);
}

static bool has_same_parameters(const fl_pg_known *a, const fl_pg_known *b)
{
    return a && a->parameter_count == b->parameter_count &&
           memcmp(a->parameters, b->parameters, a->parameter_count * sizeof(uint32_t)) == 0;
}

/* Nothing is newer than what the server has just said. */
static written write_first_bind(fl_pg_connection *self, fl_pg_query *q, const char *name,
                                fl_pg_known *known)
{
    bool is_fresh = q->is_fresh;
    q->is_fresh = true;
    written how = write_bind(self, q, name, known);
    q->is_fresh = is_fresh;
    return how;
}

static void described(fl_pg_connection *self, fl_pg_query *q, fl_pg_known *known)
{
    fl_pg_entry *entry = q->parsing;
    if (q->is_fresh && has_same_parameters(entry->statement->known, known)) {
        known->confirmed = now_of(self);
        known->schema = self->pg->schemas;
    }
    learn(entry->statement, known);
    if (entry->known) {
        check_known(q, entry, known);
        pop_parsing(q);
        return;
    }
    if (self->writer != &q->item) {
        fl_pg_connection_lost(self, "the server broke the protocol", false);
        return;
    }
    entry->known = fl_pg_known_hold(known);
    written how = write_first_bind(self, q, entry->name, known);
    pop_parsing(q);
    if (how == FAILED && q->writing > 0) write_failure(self);
    q->writing = how == FAILED ? q->query.call_count : q->writing + 1;
    write_calls(self, q);
    fl_pg_connection_hold(self);
    fl_pg_exchange_pump(self);
    fl_pg_connection_release(self);
}

static void take_description(fl_pg_connection *self, fl_pg_query *q, const fl_pg_message *message)
{
    fl_pg_known *known;
    fl_slice parameters = fl_slice_of(self->parameters.data, self->parameters.size);
    fl_slice columns = message->type == 'T' ? message->body : fl_slice_of(NULL, 0);
    int status =
        q->parsing && parameters.size ? fl_pg_known_new(&known, parameters, columns) : UV_EPROTO;
    fl_buffer_reset(&self->parameters, 4096);
    if (status < 0) {
        fl_pg_connection_lost(self, "the server broke the protocol", false);
        return;
    }
    described(self, q, known);
    fl_pg_known_release(known);
}

static void name_columns(fl_pg_query *q, const fl_pg_known *known)
{
    fl_call *call = call_of(q);
    if (q->query.keep == 0 || call->rows.width) return;
    fl_buffer_append(&call->rows.names, known->names.data, known->names.size);
    call->rows.width = known->column_count;
}

/* What runs now cannot be run again, and what it brings cannot be read. */
static void bound(fl_pg_connection *self, fl_pg_query *q)
{
    if (!call_of(q) || !q->known[q->answering]) {
        fl_pg_connection_lost(self, "the server broke the protocol", false);
        return;
    }
    q->is_bound = true;
    if (q->is_mismatched)
        fl_query_fail(&q->query, "0A000", 0, "its columns have changed while it was sent; it ran");
    name_columns(q, q->known[q->answering]);
}

static int take_values(fl_buffer *out, const fl_pg_known *known, fl_slice body)
{
    int status = 0;
    fl_pg_reader reader = fl_pg_reader_of(body);
    if (fl_pg_read_int16(&reader) != known->column_count) return UV_EPROTO;
    for (uint16_t i = 0; i < known->column_count && status == 0; i++) {
        fl_slice value = fl_pg_read_value(&reader);
        if (reader.failed) return UV_EPROTO;
        if (value.data)
            status = fl_pg_column_read(out, known->columns[i], value);
        else
            fl_values_null(out);
    }
    return status < 0 || reader.at != reader.end ? UV_EPROTO : 0;
}

/* Rows that are too many are not waited for, when nothing but they would be missed. */
static void stop_rows(fl_pg_connection *self, fl_pg_query *q)
{
    q->is_deaf = true;
    if (q->query.kind != FL_QUERY_RUN || q->query.calls[0].statement->kind != FL_SQL_READ) return;
    if (!q->query.error.message) return;
    q->is_cancelling = true;
    fl_pg_exchange_cancel_first(self);
}

static void take_row(fl_pg_connection *self, fl_pg_query *q, fl_slice body)
{
    fl_call *call = call_of(q);
    const fl_pg_known *known = q->item.kind == FL_PG_ITEM_STREAM && q->query.kind == FL_QUERY_MORE
                                   ? self->stream_known
                               : call && q->known ? q->known[q->answering]
                                                  : NULL;
    if (!call || !known) {
        fl_pg_connection_lost(self, "the server broke the protocol", false);
        return;
    }
    if (q->is_deaf || !fl_rows_begin(&q->query, &call->rows)) return;
    name_columns(q, known);
    if (take_values(&call->rows.values, known, body) < 0)
        fl_pg_connection_lost(self, "the server sent a row that is none", false);
    else if (!fl_rows_end(&q->query, &call->rows))
        stop_rows(self, q);
}

static void completed(fl_pg_query *q, uint64_t affected)
{
    fl_call *call = call_of(q);
    if (!call) return;
    call->affected = affected;
    q->answering++;
    q->is_bound = q->is_mismatched = false;
}

static void take_answer(fl_pg_connection *self, fl_pg_query *q, const fl_pg_message *message)
{
    switch (message->type) {
    case '1':
    case '3': break;
    case '2': bound(self, q); break;
    case 't':
        fl_buffer_reset(&self->parameters, 4096);
        fl_buffer_slice(&self->parameters, message->body);
        break;
    case 'T':
    case 'n': take_description(self, q, message); break;
    case 'D': take_row(self, q, message->body); break;
    case 'C': completed(q, fl_pg_affected(message->body)); break;
    case 'I': completed(q, 0); break;
    default: fl_pg_connection_lost(self, "the server broke the protocol", false); break;
    }
}

static void take_message(fl_pg_connection *self, fl_pg_item *item, const fl_pg_message *message)
{
    if (item->kind == FL_PG_ITEM_END || item->kind == FL_PG_ITEM_RESET) return;
    if (item->kind != FL_PG_ITEM_QUERY && fl_pg_streaming_answer(self, item, message)) return;
    if (item->query)
        take_answer(self, item->query, message);
    else
        fl_pg_connection_lost(self, "the server broke the protocol", false);
}

void fl_pg_exchange_message(fl_pg_connection *self, const fl_pg_message *message)
{
    fl_pg_item *item = self->first && self->first->is_written ? self->first : NULL;
    switch (message->type) {
    case 'S': return; /* a parameter of the session has changed */
    case 'N': fl_pg_streaming_log(self, message->body); return;
    case 'A': fl_pg_streaming_notified(self, message->body); return;
    case 'E': take_error(self, item, message->body); return;
    default: break;
    }
    if (!item)
        fl_pg_connection_lost(self, "the server broke the protocol", false);
    else if (message->type == 'Z')
        become_ready(self, item, message->body);
    else
        take_message(self, item, message);
}

void fl_pg_exchange_too_large(fl_pg_connection *self)
{
    fl_pg_item *item = self->first;
    if (!item || !item->query) return;
    fl_query_fail(&item->query->query, "too_large", 0, "a row is larger than %" PRIu64 " bytes",
                  self->pg->db.most_bytes);
    item->query->is_deaf = true;
}

void fl_pg_exchange_parsed(fl_pg_connection *self)
{
    fl_pg_streaming_tell(self);
}

void fl_pg_exchange_written(fl_pg_connection *self)
{
    fl_pg_streaming_written(self);
}

/* the end of a session, and of a connection */

static void cancel_items(fl_pg_connection *self)
{
    fl_pg_item *item = self->unsent;
    while (item) {
        fl_pg_item *next = item->next;
        if (item->query) drop_unwritten(self, &item->query->query);
        item = next;
    }
    for (item = self->first; item; item = item->next)
        if (item->query) item->query->is_cancelling = true;
}

void fl_pg_exchange_reset(fl_pg_connection *self)
{
    fl_pg_connection_hold(self);
    cancel_items(self);
    fl_pg_streaming_reset(self);
    self->reset_item = (fl_pg_item){.kind = FL_PG_ITEM_RESET};
    fl_pg_item_insert(self, &self->reset_item, NULL);
    if (self->first->is_written && self->first->query) {
        fl_pg_connection_flush(self);
        if (self->phase == FL_PG_READY) fl_pg_exchange_cancel_first(self);
    }
    if (self->phase == FL_PG_READY) fl_pg_exchange_pump(self);
    fl_pg_connection_release(self);
}

static bool may_be_asked_again(const fl_query *query, bool is_sent, bool not_run)
{
    const fl_pg_query *q = (const fl_pg_query *)query;
    if (query->cancelled || query->error.message || q->runs > RUNS_MOST) return false;
    if (query->kind == FL_QUERY_ACQUIRE) return true;
    return !query->session && (!is_sent || not_run || query->retry);
}

static void settle(fl_pg_connection *self, fl_query *query, const char *why, bool is_sent,
                   bool not_run)
{
    fl_pg_query *q = fl_pg_query_of(query);
    fl_pg *pg = self->pg;
    q->connection = NULL;
    q->is_cancelling = false;
    if (query->kind == FL_QUERY_ACQUIRE) ((fl_pg_session *)query->session)->connection = NULL;
    if (!pg->is_closing && may_be_asked_again(query, is_sent, not_run)) {
        reset_rows(query);
        fl_pg_pool_again(pg, query);
        return;
    }
    if (query->cancelled)
        fl_query_fail(query, "cancelled", 0, "%s", query->cancelled);
    else
        fl_query_fail(
            query, "connection", 503, "the connection to %s was lost%s: %s", pg->db.name,
            is_sent && !not_run ? " while the statement ran; it may have taken effect" : "", why);
    fl_query_done(query);
}

/* The last first: each that is asked again goes before those that wait. */
static void settle_items(fl_pg_connection *self, fl_pg_item *item, const char *why, bool not_run)
{
    fl_pg_item *reversed = NULL;
    for (fl_pg_item *next; item; item = next) {
        next = item->next;
        item->next = reversed;
        item->link = NULL;
        reversed = item;
    }
    for (fl_pg_item *next; reversed; reversed = next) {
        next = reversed->next;
        fl_pg_query *q = reversed->query;
        if (!q) continue;
        end_run(self, q);
        bool is_sent = reversed->is_written && self->sent > reversed->began_at;
        settle(self, &q->query, why, is_sent, not_run);
    }
}

void fl_pg_exchange_lost(fl_pg_connection *self, const char *why, bool not_run)
{
    fl_pg_item *items = self->first;
    self->first = self->unsent = self->writer = NULL;
    self->last = &self->first;
    self->items = 0;
    if (self->session) self->session->connection = NULL;
    self->session = NULL;
    fl_pg_streaming_lost(self, why);
    settle_items(self, items, why, not_run);
}
