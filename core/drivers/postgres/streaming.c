#include "streaming.h"

#include <stdio.h>
#include <stdlib.h>

#include "cancelling.h"
#include "connection.h"
#include "exchange.h"
#include "item.h"
#include "log.h"
#include "pool.h"
#include "refusal.h"
#include "values.h"

#define COPY_UNWRITTEN ((size_t)256 << 10) /* bytes; with more of them COPY waits */
#define COPY_PIECE ((size_t)256 << 10)
#define NOTICES_MOST 10000

static void protocol_broken(fl_pg_connection *self)
{
    fl_pg_connection_lost(self, "the server broke the protocol", false);
}

static void fail_lost(const fl_pg_connection *self, fl_query *query, const char *why)
{
    fl_query_fail(query, "connection", 503, "the connection to %s was lost: %s", self->pg->db.name,
                  why);
    fl_query_done(query);
}

/* portals */

static bool is_copy(const fl_query *query)
{
    const fl_statement *statement = query->call_count ? query->calls[0].statement : NULL;
    return statement && statement->kind == FL_SQL_COPY;
}

bool fl_pg_streaming_begin_portal(fl_pg_connection *self, const fl_pg_query *q)
{
    if (q->query.kind != FL_QUERY_STREAM || is_copy(&q->query)) return false;
    fl_pg_write_close(&self->out, 'P', FL_PG_STREAM_PORTAL);
    self->stream = FL_PG_NO_STREAM;
    return true;
}

/* Without a transaction the portal would end with Sync. */
void fl_pg_streaming_end_writing(fl_pg_connection *self, fl_pg_query *q)
{
    bool is_held = self->status == 'I';
    fl_pg_write_bare(&self->out, is_held ? 'H' : 'S');
    self->writer = is_held ? &q->item : NULL;
}

/* Nobody wants the rest. What COPY still sends is read and dropped: to cancel it would undo the
 * transaction that it is in. */
static void write_no_more(fl_pg_connection *self, fl_pg_query *q)
{
    if (self->stream == FL_PG_COPY_OUT) {
        q->is_deaf = true;
        self->writer = &q->item;
        fl_pg_connection_resume(self);
        return;
    }
    self->stream = FL_PG_NO_STREAM;
    fl_pg_known_keep(&self->stream_known, NULL);
    fl_pg_write_close(&self->out, 'P', FL_PG_STREAM_PORTAL);
    fl_pg_write_bare(&self->out, 'S');
}

static void write_more(fl_pg_connection *self, fl_pg_query *q)
{
    if (self->stream == FL_PG_NO_STREAM) {
        fl_pg_exchange_finish(self, q);
    } else if (q->query.piece == 0) {
        write_no_more(self, q);
    } else if (self->stream == FL_PG_COPY_OUT) {
        self->writer = &q->item;
        fl_pg_connection_resume(self);
    } else {
        fl_pg_write_execute(&self->out, FL_PG_STREAM_PORTAL, (uint32_t)q->query.piece);
        fl_pg_streaming_end_writing(self, q);
    }
}

void fl_pg_streaming_write(fl_pg_connection *self, fl_pg_query *q)
{
    if (q->query.kind == FL_QUERY_MORE) {
        write_more(self, q);
        return;
    }
    const fl_statement *statement = q->query.calls[0].statement;
    fl_pg_write_query(&self->out, fl_slice_of(statement->text, statement->size));
    self->writer = &q->item;
}

bool fl_pg_streaming_is_simple(const fl_pg_connection *self, const fl_pg_query *q)
{
    return is_copy(&q->query) || (q->query.kind == FL_QUERY_MORE && self->stream == FL_PG_COPY_OUT);
}

bool fl_pg_streaming_is_in_the_way(const fl_pg_connection *self, const fl_pg_item *item)
{
    if (self->stream != FL_PG_HELD_PORTAL && self->stream != FL_PG_COPY_OUT) return false;
    bool goes_on = item->query && item->query->query.kind == FL_QUERY_MORE;
    return !goes_on && item->kind != FL_PG_ITEM_END;
}

void fl_pg_streaming_write_end(fl_pg_connection *self)
{
    bool copies = self->stream == FL_PG_COPY_OUT;
    self->stream = FL_PG_NO_STREAM;
    fl_pg_known_keep(&self->stream_known, NULL);
    if (!copies) {
        fl_pg_write_bare(&self->out, 'S');
        return;
    }
    self->writer = &self->end_item;
    fl_pg_cancelling_want(self, &self->end_item);
    if (self->phase == FL_PG_READY) fl_pg_connection_resume(self);
}

/* All of it in one go, which is refused as a whole should anything be. */
bool fl_pg_streaming_write_reset(fl_pg_connection *self)
{
    static const char undo[] = "CLOSE ALL;SET SESSION AUTHORIZATION DEFAULT;RESET ALL;UNLISTEN *;"
                               "SELECT pg_advisory_unlock_all();DISCARD TEMP;DISCARD SEQUENCES";
    bool undoes = self->is_changed && !self->pg->is_pgbouncer;
    fl_buffer text;
    if (self->status == 'I' && !undoes) return false;
    fl_buffer_init(&text);
    if (self->status != 'I') FL_BUFFER_LITERAL(&text, "ROLLBACK;");
    if (undoes) FL_BUFFER_LITERAL(&text, undo);
    fl_pg_write_query(&self->out, fl_slice_of(text.data, text.size));
    self->out.failed |= text.failed;
    fl_buffer_close(&text);
    return true;
}

/* answers to a stream */

static void suspended(fl_pg_connection *self, fl_pg_query *q)
{
    if (q->query.kind == FL_QUERY_STREAM) fl_pg_known_keep(&self->stream_known, q->known[0]);
    if (self->writer != &q->item) {
        self->stream = FL_PG_PORTAL;
        return;
    }
    self->stream = FL_PG_HELD_PORTAL;
    fl_pg_exchange_finish(self, q);
}

static void stream_ended(fl_pg_connection *self, fl_pg_query *q, fl_slice tag)
{
    bool copies = self->stream == FL_PG_COPY_OUT;
    self->stream = FL_PG_NO_STREAM;
    fl_pg_known_keep(&self->stream_known, NULL);
    q->query.calls[0].affected = fl_pg_affected(tag);
    if (copies || self->writer != &q->item) return;
    self->writer = NULL;
    fl_pg_write_bare(&self->out, 'S');
    fl_pg_connection_flush_soon(self);
}

static void take_chunk(fl_pg_connection *self, fl_pg_query *q, fl_slice data)
{
    fl_rows *rows = &q->query.calls[0].rows;
    if (q->is_deaf || !fl_rows_begin(&q->query, rows)) return;
    if (rows->width == 0) fl_rows_column(rows, FL_SLICE("data"));
    fl_values_text(&rows->values, data);
    if (!fl_rows_end(&q->query, rows)) q->is_deaf = true;
    if (rows->count < q->query.piece && rows->values.size < COPY_PIECE) return;
    fl_pg_connection_pause(self);
    fl_pg_exchange_finish(self, q);
}

static bool stream_answer(fl_pg_connection *self, fl_pg_query *q, const fl_pg_message *message)
{
    bool copies = self->stream == FL_PG_COPY_OUT;
    switch (message->type) {
    case 's': suspended(self, q); return true;
    case 'I':
    case 'C': stream_ended(self, q, message->body); return true;
    case 'H':
        if (is_copy(&q->query)) self->stream = FL_PG_COPY_OUT;
        return is_copy(&q->query);
    case 'd':
        if (copies) take_chunk(self, q, message->body);
        return copies;
    case 'c': return copies;
    default: return false;
    }
}

/* COPY FROM */

static fl_slice text_of(const fl_query *query)
{
    const char *at = query->values.data;
    return at ? fl_values_read(&at).text : FL_SLICE("");
}

static void fail_copy(fl_pg_connection *self, fl_query *query)
{
    fl_pg_error error;
    if (fl_pg_error_read(&error, fl_slice_of(self->copy_error.data, self->copy_error.size)) == 0)
        fl_pg_query_refused(query, &error);
    fl_query_done(query);
}

static void refuse_copy(fl_query *query)
{
    fl_query_fail(query, "refused", 0, "no COPY is under way");
    fl_query_done(query);
}

static void abort_copy(fl_pg_connection *self)
{
    fl_pg_write_copy_fail(&self->out, FL_SLICE("the data has not been sent to its end"));
    self->copy = FL_PG_COPY_ENDING;
    fl_pg_connection_flush_soon(self);
}

static void begin_copy(fl_pg_connection *self, fl_pg_query *q)
{
    fl_pg_item_replace(self, &q->item, &self->copy_item);
    self->copy_item.query = NULL;
    self->copy = FL_PG_COPY_OPEN;
    fl_buffer_reset(&self->copy_error, 0);
    q->known = NULL;
    if (self->copy_item.is_unwanted) abort_copy(self);
    fl_query_done(&q->query);
}

void fl_pg_streaming_written(fl_pg_connection *self)
{
    fl_query *query = self->copy_data.first;
    if (!query || fl_pg_connection_unwritten(self) > COPY_UNWRITTEN) return;
    fl_pg_queries_remove(&self->copy_data, query);
    fl_query_done(query);
}

static void send_data(fl_pg_connection *self, fl_query *query)
{
    fl_pg_write_copy_data(&self->out, text_of(query));
    fl_pg_queries_append(&self->copy_data, query);
    fl_pg_connection_flush(self);
    if (self->phase == FL_PG_READY) fl_pg_streaming_written(self);
}

static void end_data(fl_pg_connection *self, fl_query *query)
{
    self->copy_end = query;
    self->copy = FL_PG_COPY_ENDING;
    if (query->kind == FL_QUERY_COPY_END)
        fl_pg_write_bare(&self->out, 'c');
    else
        fl_pg_write_copy_fail(&self->out, text_of(query));
    fl_pg_connection_flush_soon(self);
}

/* The error has come before the end of the data: whoever sends next gets it. */
static void take_failed(fl_pg_connection *self, fl_query *query)
{
    if (query->kind != FL_QUERY_COPY_DATA) self->copy = FL_PG_NO_COPY;
    if (query->kind == FL_QUERY_COPY_FAIL)
        fl_query_done(query);
    else
        fail_copy(self, query);
}

static void take_copy(fl_pg_connection *self, fl_query *query)
{
    switch (self->copy) {
    case FL_PG_NO_COPY:
    case FL_PG_COPY_ENDING: refuse_copy(query); break;
    case FL_PG_COPY_FAILED: take_failed(self, query); break;
    case FL_PG_COPY_OPEN:
        if (query->kind == FL_QUERY_COPY_DATA)
            send_data(self, query);
        else
            end_data(self, query);
        break;
    }
}

void fl_pg_streaming_copy_failed(fl_pg_connection *self, fl_slice error)
{
    fl_buffer_reset(&self->copy_error, 0);
    fl_buffer_slice(&self->copy_error, error);
    if (self->copy == FL_PG_COPY_OPEN) self->copy = FL_PG_COPY_FAILED;
}

static void end_copy_query(fl_pg_connection *self, fl_query *query)
{
    bool has_failed = self->copy_error.size > 0;
    if (query->kind == FL_QUERY_COPY_END && has_failed) {
        fail_copy(self, query);
        return;
    }
    if (!has_failed) query->calls[0].affected = self->copied;
    fl_query_done(query);
}

void fl_pg_streaming_end_copy(fl_pg_connection *self)
{
    fl_query *end = self->copy_end;
    self->copy_end = NULL;
    if (self->copy != FL_PG_COPY_FAILED) self->copy = FL_PG_NO_COPY;
    while (self->copy_data.first) {
        fl_query *query = self->copy_data.first;
        fl_pg_queries_remove(&self->copy_data, query);
        fail_copy(self, query);
    }
    if (end) end_copy_query(self, end);
}

static bool copy_answer(fl_pg_connection *self, fl_pg_item *item, const fl_pg_message *message)
{
    if (message->type == 'G' && item->query) {
        begin_copy(self, item->query);
        return true;
    }
    if (message->type != 'C') return false;
    if (item->query)
        item->query->query.calls[0].affected = fl_pg_affected(message->body);
    else
        self->copied = fl_pg_affected(message->body);
    return true;
}

bool fl_pg_streaming_answer(fl_pg_connection *self, fl_pg_item *item, const fl_pg_message *message)
{
    if (item->kind == FL_PG_ITEM_COPY) return copy_answer(self, item, message);
    return stream_answer(self, item->query, message);
}

/* notifications */

static void drop_notice(fl_pg_connection *self)
{
    fl_pg_notice *notice = self->notices;
    self->notices = notice->next;
    if (!self->notices) self->last_notice = &self->notices;
    self->notice_count--;
    free(notice);
}

static fl_log *log_of(const fl_pg_connection *self)
{
    return self->pg->db.state->thread->log;
}

static void drop_oldest(fl_pg_connection *self)
{
    drop_notice(self);
    if (self->notices_lost++ == 0)
        fl_log_printf(log_of(self), FL_LOG_WARN,
                      "%s: notifications come faster than they are taken, the oldest are dropped",
                      self->pg->db.name);
}

/* One that is missing would never be missed: who listens is told by losing the connection. */
static void keep_notice(fl_pg_connection *self, uint32_t sender, fl_slice channel, fl_slice payload)
{
    fl_pg_notice *notice = malloc(sizeof(*notice) + channel.size + payload.size);
    if (!notice) {
        fl_pg_connection_lost(self, "not enough memory for what the server sends", false);
        return;
    }
    *notice = (fl_pg_notice){
        .sender = sender, .channel_size = channel.size, .size = channel.size + payload.size};
    memcpy(notice->text, channel.data, channel.size);
    memcpy(notice->text + channel.size, payload.data, payload.size);
    *self->last_notice = notice;
    self->last_notice = &notice->next;
    if (++self->notice_count > NOTICES_MOST) drop_oldest(self);
}

void fl_pg_streaming_notified(fl_pg_connection *self, fl_slice body)
{
    fl_pg_reader reader = fl_pg_reader_of(body);
    uint32_t sender = fl_pg_read_int32(&reader);
    fl_slice channel = fl_pg_read_string(&reader);
    fl_slice payload = fl_pg_read_string(&reader);
    if (reader.failed)
        protocol_broken(self);
    else if (self->session)
        keep_notice(self, sender, channel, payload);
}

void fl_pg_streaming_tell(fl_pg_connection *self)
{
    fl_query *query = self->waiter;
    const fl_pg_notice *notice = self->notices;
    if (!query || !notice) return;
    fl_rows *rows = &query->calls[0].rows;
    self->waiter = NULL;
    if (fl_rows_begin(query, rows)) {
        fl_rows_column(rows, FL_SLICE("channel"));
        fl_rows_column(rows, FL_SLICE("payload"));
        fl_rows_column(rows, FL_SLICE("sender"));
        fl_values_text(&rows->values, fl_slice_of(notice->text, notice->channel_size));
        fl_values_text(&rows->values, fl_slice_of(notice->text + notice->channel_size,
                                                  notice->size - notice->channel_size));
        fl_values_integer(&rows->values, notice->sender);
        (void)fl_rows_end(query, rows);
    }
    drop_notice(self);
    fl_query_done(query);
}

static void wait_for_notice(fl_pg_connection *self, fl_query *query)
{
    if (self->waiter) {
        fl_query_fail(query, "refused", 0, "somebody waits for notifications already");
        fl_query_done(query);
        return;
    }
    self->waiter = query;
    fl_pg_streaming_tell(self);
}

void fl_pg_streaming_log(const fl_pg_connection *self, fl_slice body)
{
    fl_pg_error notice;
    if (!fl_log_enabled(log_of(self), FL_LOG_DEBUG) || fl_pg_error_read(&notice, body) < 0) return;
    const fl_log_field fields[] = {
        fl_field_text("database", fl_slice_from_string(self->pg->db.name)),
        fl_field_text("severity", notice.severity), fl_field_text("code", notice.code)};
    fl_log_line(log_of(self), FL_LOG_DEBUG, notice.message, fields, 3);
}

/* the session's queries that are no items */

bool fl_pg_streaming_takes(fl_pg_connection *self, fl_query *query)
{
    switch (query->kind) {
    case FL_QUERY_WAIT: wait_for_notice(self, query); return true;
    case FL_QUERY_COPY_DATA:
    case FL_QUERY_COPY_END:
    case FL_QUERY_COPY_FAIL: take_copy(self, query); return true;
    case FL_QUERY_RUN:
    case FL_QUERY_BATCH:
    case FL_QUERY_ACQUIRE:
    case FL_QUERY_STREAM:
    case FL_QUERY_MORE:
    case FL_QUERY_COPY:
    case FL_QUERY_BACKUP: break;
    }
    return false;
}

void fl_pg_streaming_cancel(fl_pg_connection *self, fl_query *query)
{
    if (self->copy_end == query) {
        fl_pg_cancelling_want(self, &self->copy_item);
        return;
    }
    if (self->waiter == query)
        self->waiter = NULL;
    else
        fl_pg_queries_remove(&self->copy_data, query);
    fl_pg_query_cancelled(query);
}

static void cancel_waiting(fl_pg_connection *self)
{
    fl_query *waiter = self->waiter;
    self->waiter = NULL;
    if (waiter) fl_pg_query_cancelled(waiter);
    while (self->copy_data.first) {
        fl_query *query = self->copy_data.first;
        fl_pg_queries_remove(&self->copy_data, query);
        fl_pg_query_cancelled(query);
    }
}

void fl_pg_streaming_reset(fl_pg_connection *self)
{
    cancel_waiting(self);
    if (self->copy == FL_PG_COPY_OPEN) {
        abort_copy(self);
    } else if (self->copy == FL_PG_COPY_FAILED) {
        self->copy = FL_PG_NO_COPY;
    }
}

void fl_pg_streaming_forget(fl_pg_connection *self)
{
    while (self->notices) drop_notice(self);
    self->notices_lost = 0;
    self->stream = FL_PG_NO_STREAM;
    fl_pg_known_keep(&self->stream_known, NULL);
    fl_buffer_reset(&self->copy_error, 0);
}

void fl_pg_streaming_lost(fl_pg_connection *self, const char *why)
{
    fl_query *waiter = self->waiter, *end = self->copy_end;
    self->waiter = self->copy_end = NULL;
    fl_pg_streaming_forget(self);
    if (waiter) fail_lost(self, waiter, why);
    if (end) fail_lost(self, end, why);
    while (self->copy_data.first) {
        fl_query *query = self->copy_data.first;
        fl_pg_queries_remove(&self->copy_data, query);
        fail_lost(self, query, why);
    }
}
