#include "answers.h"

#include <inttypes.h>
#include <string.h>

#include "cancelling.h"
#include "columns.h"
#include "connection.h"
#include "exchange.h"
#include "refusal.h"
#include "run.h"
#include "streaming.h"
#include "writing.h"

static fl_call *call_of(fl_pg_query *q)
{
    return q->answering < q->query.call_count ? &q->query.calls[q->answering] : NULL;
}

static void learn(fl_statement *statement, fl_pg_known *known)
{
    if (statement->known) statement->forget(statement->known);
    statement->known = fl_pg_known_hold(known);
    statement->forget = fl_pg_known_release;
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
        fl_pg_known_keep(used, known);
    fl_pg_known_keep(&entry->known, known);
}

static bool has_same_parameters(const fl_pg_known *a, const fl_pg_known *b)
{
    return a && a->parameter_count == b->parameter_count &&
           memcmp(a->parameters, b->parameters, a->parameter_count * sizeof(uint32_t)) == 0;
}

static void described(fl_pg_connection *self, fl_pg_query *q, fl_pg_known *known)
{
    fl_pg_entry *entry = q->parsing;
    if (q->is_fresh && has_same_parameters(entry->statement->known, known)) {
        known->confirmed = uv_hrtime();
        known->schema = self->pg->schemas;
    }
    learn(entry->statement, known);
    if (entry->known) {
        check_known(q, entry, known);
        fl_pg_run_parsed(q);
        return;
    }
    if (self->writer != &q->item) {
        fl_pg_connection_lost(self, "the server broke the protocol", false);
        return;
    }
    entry->known = fl_pg_known_hold(known);
    fl_pg_writing_go_on(self, q, entry->name, known);
    fl_pg_run_parsed(q);
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
    fl_pg_cancelling_want(self, &q->item);
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

void fl_pg_answers_take(fl_pg_connection *self, const fl_pg_message *message)
{
    fl_pg_item *item = self->first && self->first->is_written ? self->first : NULL;
    switch (message->type) {
    case 'S': return; /* a parameter of the session has changed */
    case 'N': fl_pg_streaming_log(self, message->body); return;
    case 'A': fl_pg_streaming_notified(self, message->body); return;
    case 'E': fl_pg_refusal_take(self, item, message->body); return;
    default: break;
    }
    if (!item)
        fl_pg_connection_lost(self, "the server broke the protocol", false);
    else if (message->type == 'Z')
        fl_pg_exchange_ready(self, item, message->body);
    else
        take_message(self, item, message);
}

void fl_pg_answers_too_large(fl_pg_connection *self)
{
    fl_pg_item *item = self->first;
    if (!item || !item->query) return;
    fl_query_fail(&item->query->query, "too_large", 0, "a row is larger than %" PRIu64 " bytes",
                  self->pg->db.most_bytes);
    item->query->is_deaf = true;
}
