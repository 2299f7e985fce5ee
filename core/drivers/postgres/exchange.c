#include "exchange.h"

#include <string.h>

#include "cancelling.h"
#include "connection.h"
#include "item.h"
#include "pool.h"
#include "refusal.h"
#include "run.h"
#include "settling.h"
#include "streaming.h"
#include "writing.h"

#define BUSY_SHARE 8 /* of the time that a busy loop measures, this part counts */

/* the time that a statement takes */

/* What the loop did meanwhile is not the statement's time; but it may have been busy while a slow
 * one ran, so that is not left out altogether. */
static uint64_t time_taken(const fl_pg_connection *self)
{
    uint64_t all = uv_hrtime() - self->head_since;
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

/* the end of an item */

/* A session whose beginning failed is none. */
static void leave_session(fl_pg_connection *self, fl_query *query)
{
    ((fl_pg_session *)query->session)->connection = NULL;
    self->session = NULL;
    fl_pg_exchange_reset(self);
}

static void after_item(fl_pg_connection *self)
{
    fl_pg_item_begin_first(self);
    fl_pg_cancelling_turn(self);
    fl_pg_exchange_pump(self);
    if (!self->first) self->idle_since = uv_hrtime();
    if (self->is_shared || fl_pg_exchange_is_idle(self)) fl_pg_pool_idle(self);
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
    if (query->kind == FL_QUERY_ACQUIRE && query->error.message) leave_session(self, query);
    take_time(self, query);
    fl_query_done(query);
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
    fl_pg_item_remove(self, &self->end_item);
    after_item(self);
}

static void end_copy(fl_pg_connection *self, fl_pg_item *item)
{
    fl_pg_item_remove(self, item);
    fl_pg_streaming_end_copy(self);
    after_item(self);
}

static void end_item(fl_pg_connection *self, fl_pg_item *item)
{
    switch (item->kind) {
    case FL_PG_ITEM_QUERY:
    case FL_PG_ITEM_STREAM: fl_pg_exchange_finish(self, item->query); break;
    case FL_PG_ITEM_COPY:
        if (item->query)
            fl_pg_exchange_finish(self, item->query);
        else
            end_copy(self, item);
        break;
    case FL_PG_ITEM_END: end_end(self); break;
    case FL_PG_ITEM_RESET: end_reset(self); break;
    }
}

static bool is_foreign_transaction(const fl_pg_connection *self)
{
    return self->status != 'I' && !self->session && !self->reset_item.link;
}

/* writing */

/* What the server is to forget. */
static void write_closing(fl_pg_connection *self)
{
    fl_buffer *closing = &self->prepared.closing;
    if (closing->size == 0) return;
    fl_buffer_slice(&self->out, fl_slice_of(closing->data, closing->size));
    fl_buffer_reset(closing, 1024);
}

static void write_item(fl_pg_connection *self, fl_pg_item *item)
{
    item->began_at = self->sent + fl_pg_connection_unwritten(self);
    item->is_written = true;
    if (item == self->first) fl_pg_item_begin_first(self);
    write_closing(self);
    switch (item->kind) {
    case FL_PG_ITEM_QUERY:
    case FL_PG_ITEM_STREAM:
    case FL_PG_ITEM_COPY: fl_pg_writing_begin(self, item->query); break;
    case FL_PG_ITEM_END: fl_pg_streaming_write_end(self); break;
    case FL_PG_ITEM_RESET:
        if (!fl_pg_streaming_write_reset(self)) end_reset(self);
        break;
    }
}

static bool can_write(const fl_pg_connection *self, const fl_pg_item *item)
{
    if (self->phase != FL_PG_READY || fl_pg_cancelling_is_on(self) || self->writer) return false;
    return item->kind == FL_PG_ITEM_QUERY || item == self->first;
}

/* cancelling */

static void drop_unwritten(fl_pg_connection *self, fl_query *query)
{
    fl_pg_item_remove(self, &fl_pg_query_of(query)->item);
    if (query->kind == FL_QUERY_ACQUIRE) leave_session(self, query);
    fl_pg_query_cancelled(query);
}

static void drop_all_unwritten(fl_pg_connection *self)
{
    fl_pg_item *next = self->unsent;
    while (next) {
        fl_pg_item *item = next;
        next = item->next;
        if (item->query) drop_unwritten(self, &item->query->query);
    }
}

static void cancel_items(fl_pg_connection *self)
{
    drop_all_unwritten(self);
    fl_pg_item *next = self->first;
    while (next && self->phase == FL_PG_READY) {
        fl_pg_item *item = next;
        next = item->next;
        if (item->query) fl_pg_cancelling_want(self, item);
    }
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

void fl_pg_exchange_cancel(fl_pg_connection *self, fl_query *query)
{
    fl_pg_query *q = fl_pg_query_of(query);
    if (!q->item.link) {
        fl_pg_streaming_cancel(self, query);
    } else if (!q->item.is_written) {
        drop_unwritten(self, query);
    } else {
        fl_pg_cancelling_want(self, &q->item);
    }
}

void fl_pg_exchange_reset(fl_pg_connection *self)
{
    fl_pg_connection_hold(self);
    cancel_items(self);
    if (self->phase == FL_PG_READY) {
        fl_pg_streaming_reset(self);
        self->reset_item = (fl_pg_item){.kind = FL_PG_ITEM_RESET};
        fl_pg_item_insert(self, &self->reset_item, NULL);
        fl_pg_exchange_pump(self);
    }
    fl_pg_connection_release(self);
}

bool fl_pg_exchange_is_idle(const fl_pg_connection *self)
{
    return self->phase == FL_PG_READY && !self->first && !self->session &&
           !fl_pg_cancelling_is_on(self) && self->copy == FL_PG_NO_COPY;
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

void fl_pg_exchange_finish(fl_pg_connection *self, fl_pg_query *q)
{
    fl_query *query = &q->query;
    fl_pg_item_remove(self, &q->item);
    fl_pg_run_end(self, q);
    fl_pg_connection_hold(self);
    if (q->is_again && !q->item.is_unwanted) {
        fl_pg_run_reset_rows(query);
        fl_pg_item_insert(self, &q->item, self->unsent);
    } else {
        if (q->is_again) fl_pg_query_unwanted(query);
        end_query(self, query);
    }
    if (self->phase == FL_PG_READY) after_item(self);
    fl_pg_connection_release(self);
}

void fl_pg_exchange_ready(fl_pg_connection *self, fl_pg_item *item, fl_slice body)
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

void fl_pg_exchange_lost(fl_pg_connection *self, const char *why, bool not_run)
{
    fl_pg_item *items = self->first;
    self->first = self->unsent = self->writer = NULL;
    self->last = &self->first;
    self->items = 0;
    if (self->session) self->session->connection = NULL;
    self->session = NULL;
    fl_pg_streaming_lost(self, why);
    fl_pg_settle(self, items, why, not_run);
}
