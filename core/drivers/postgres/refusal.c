#include "refusal.h"

#include <stdio.h>
#include <string.h>

#include "cancelling.h"
#include "connection.h"
#include "run.h"
#include "streaming.h"
#include "writing.h"

#define HITS_MOST 20 /* runs of a query that was cancelled in place of others */

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

/* The server takes the parameters of what is prepared for what they were then. */
static bool may_be_of_other_types(const fl_pg_connection *self, const fl_pg_query *q,
                                  const fl_pg_error *error)
{
    bool is_about_types = is_class(error, "22") || is_code(error, "42804") ||
                          is_code(error, "42883") || is_code(error, "42846");
    const fl_pg_known *known = q->answering < q->query.call_count ? q->known[q->answering] : NULL;
    if (!is_about_types || !known || known->parameter_count == 0) return false;
    return fl_pg_writing_is_doubtful(self, known);
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
    return is_code(error, "57014") && fl_pg_cancelling_may_hit(self, &q->item);
}

static bool may_run_again(const fl_pg_connection *self, const fl_pg_query *q, unsigned runs_most)
{
    bool in_transaction = self->session && self->status != 'I';
    return !in_transaction && q->item.kind == FL_PG_ITEM_QUERY && q->runs < runs_most &&
           !q->query.cancelled && !q->query.error.message;
}

static void query_failed(fl_pg_connection *self, fl_pg_query *q, const fl_pg_error *error)
{
    bool stale = is_stale(self, q, error), hit = was_hit(self, q, error);
    bool again = may_run_again(self, q, hit ? HITS_MOST : FL_PG_RUNS_MOST);
    bool is_simple = fl_pg_streaming_is_simple(self, q);
    if (q->item.kind == FL_PG_ITEM_STREAM) self->stream = FL_PG_NO_STREAM;
    if (q->item.kind != FL_PG_ITEM_COPY && stale && q->answering < q->query.call_count)
        fl_pg_prepared_forget(&self->prepared, q->query.calls[q->answering].statement);
    fl_pg_run_drop_parsing(self, q);
    q->is_again = again && (stale || hit);
    if (stale) q->is_fresh = true;
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

void fl_pg_refusal_take(fl_pg_connection *self, fl_pg_item *item, fl_slice body)
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

void fl_pg_query_unwanted(fl_query *query)
{
    fl_query_fail(query, "cancelled", 0, "%s", query->cancelled ? query->cancelled : "cancelled");
}

void fl_pg_query_cancelled(fl_query *query)
{
    fl_pg_query_unwanted(query);
    fl_query_done(query);
}
