#include "writing.h"

#include <stdio.h>
#include <string.h>

#include "arguments.h"
#include "refusal.h"
#include "run.h"
#include "streaming.h"

#define CONFIRMED UINT64_C(1000000000) /* ns that types are not asked for again */

typedef enum { DONE, WAITS, FAILED, DOUBTED } written;

static bool is_stream(const fl_pg_query *q)
{
    return q->item.kind == FL_PG_ITEM_STREAM;
}

static written refuse_arguments(fl_pg_connection *self, fl_pg_query *q, const fl_pg_known *known,
                                const char *why)
{
    if (!q->is_fresh && fl_pg_writing_is_doubtful(self, known)) return DOUBTED;
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
    fl_pg_known_keep(&q->known[q->writing], known);
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
    fl_pg_run_parse(q, entry);
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
    fl_pg_prepared_forget(&self->prepared, statement);
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

/* Nothing is newer than what the server has just said. */
static written write_first_bind(fl_pg_connection *self, fl_pg_query *q, const char *name,
                                fl_pg_known *known)
{
    if (q->item.is_unwanted) {
        fl_pg_query_unwanted(&q->query);
        return FAILED;
    }
    bool is_fresh = q->is_fresh;
    q->is_fresh = true;
    written how = write_bind(self, q, name, known);
    q->is_fresh = is_fresh;
    return how;
}

void fl_pg_writing_begin(fl_pg_connection *self, fl_pg_query *q)
{
    if (!fl_pg_run_begin(q)) {
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

void fl_pg_writing_go_on(fl_pg_connection *self, fl_pg_query *q, const char *name,
                         fl_pg_known *known)
{
    written how = write_first_bind(self, q, name, known);
    if (how == FAILED && q->writing > 0) write_failure(self);
    q->writing = how == FAILED ? q->query.call_count : q->writing + 1;
    write_calls(self, q);
}

bool fl_pg_writing_is_doubtful(const fl_pg_connection *self, const fl_pg_known *known)
{
    if (known->confirmed == 0 || known->schema != self->pg->schemas) return true;
    return uv_hrtime() - known->confirmed > CONFIRMED;
}
