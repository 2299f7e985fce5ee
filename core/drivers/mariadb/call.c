#include "call.h"

#include <mysqld_error.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"
#include "step.h"
#include "thread.h"

#define ROWS_AT_ONCE 64 /* after which the time is looked at */
#define TURN 2000000    /* ns of rows, after which others have their turn */

static const char as_text; /* its address as what is `known` of a statement: it is not prepared */

/* one after the other */

static bool commit(fl_mariadb_link *self)
{
    bool in_session = self->session != NULL;
    return fl_mariadb_ask(self, FL_LINK_COMMITTING,
                          in_session ? "release savepoint " FL_MARIADB_BATCH_POINT : "commit");
}

static bool end_call(fl_mariadb_link *self)
{
    fl_mariadb_query *query = self->query;
    if (query->query.error.message) return fl_mariadb_undo(self);
    if (query->query.kind != FL_QUERY_MORE)
        fl_statement_took(fl_mariadb_call_of(self)->statement, uv_hrtime() - query->began);
    if (++query->at < query->query.call_count) return fl_mariadb_call_begin(self);
    return query->query.kind == FL_QUERY_BATCH ? commit(self) : fl_mariadb_finish(self);
}

/* rows */

static bool set_columns(fl_mariadb_link *self, const MYSQL_FIELD *fields, unsigned width)
{
    if (width > self->room) {
        free(self->columns);
        self->columns = calloc(width, sizeof(*self->columns));
        self->room = self->columns ? width : 0;
        if (!self->columns) return false;
    }
    self->width = width;
    for (unsigned i = 0; i < width; i++) fl_mariadb_column_read(&self->columns[i], &fields[i]);
    return true;
}

static void name_columns(fl_mariadb_link *self, const MYSQL_FIELD *fields)
{
    fl_rows *rows = &fl_mariadb_call_of(self)->rows;
    if (rows->width || self->is_more) return;
    for (unsigned i = 0; i < self->width; i++)
        fl_rows_column(rows, fl_slice_of(fields[i].name, fields[i].name_length));
}

/* Of what was prepared the library keeps all that the server says of a column; of what is executed
 * it loses that a column is JSON. */
static void recall_json(fl_mariadb_link *self)
{
    const fl_mariadb_prepared *entry = self->entry;
    for (unsigned i = 0; i < self->width; i++)
        if (self->columns[i].type == entry->columns[i].type)
            self->columns[i].is_json = entry->columns[i].is_json;
}

static bool has_its_columns(const fl_mariadb_link *self)
{
    const fl_buffer *now = &fl_mariadb_call_of(self)->rows.names, *then = &self->entry->names;
    return fl_slice_equal(fl_slice_of(now->data, now->size), fl_slice_of(then->data, then->size));
}

static void begin_row(fl_mariadb_link *self)
{
    self->is_wanted =
        !self->is_more && fl_rows_begin(&self->query->query, &fl_mariadb_call_of(self)->rows);
}

static void end_row(fl_mariadb_link *self)
{
    self->rows++;
    if (!self->is_wanted) return;
    if (!fl_rows_end(&self->query->query, &fl_mariadb_call_of(self)->rows))
        fl_mariadb_link_stop(self);
}

/* The library has a row: called for each of its values, in order. NULL: it is NULL. */
static void on_value(void *data, unsigned column, unsigned char **at)
{
    fl_mariadb_link *self = data;
    if (column == 0) begin_row(self);
    fl_buffer *out = self->is_wanted ? &fl_mariadb_call_of(self)->rows.values : NULL;
    if (at)
        fl_mariadb_column_binary(&self->columns[column], out, at);
    else if (out)
        fl_values_null(out);
}

static void breathe(fl_deadline *deadline)
{
    fl_mariadb_link *self =
        (fl_mariadb_link *)((char *)deadline - offsetof(fl_mariadb_link, breath));
    fl_mariadb_link_kick(self);
}

/* Many rows at once would keep everything else waiting. */
static bool is_long_turn(fl_mariadb_link *self)
{
    if (self->rows % ROWS_AT_ONCE != 0) return false;
    uint64_t now = uv_hrtime();
    if (self->turn_began == 0) self->turn_began = now;
    return now - self->turn_began > TURN;
}

static bool has_piece(const fl_mariadb_link *self)
{
    const fl_query *query = &self->query->query;
    bool streams = query->kind == FL_QUERY_STREAM || query->kind == FL_QUERY_MORE;
    return streams && query->calls[0].rows.count >= query->piece;
}

static bool read_row(fl_mariadb_link *self)
{
    if (has_piece(self)) return fl_mariadb_finish(self);
    if (is_long_turn(self)) {
        self->phase = FL_LINK_BREATHING;
        fl_mariadb_wire_listen(&self->wire, false);
        fl_thread_start_deadline(self->db->db.state->thread, &self->breath, 0, breathe);
        return false;
    }
    if (self->wire.result) return fl_mariadb_go(self, FL_LINK_READING, FL_WIRE_FETCH_ROW);
    self->wire.statement = self->handle;
    return fl_mariadb_go(self, FL_LINK_FETCHING, FL_WIRE_FETCH);
}

static bool end_rows(fl_mariadb_link *self)
{
    fl_call *call = fl_mariadb_call_of(self);
    if (!self->is_more) call->affected = self->rows;
    if (self->handle == self->stream) self->stream_ended = true; /* what follows is read at once */
    if (!mysql_stmt_more_results(self->handle)) return end_call(self);
    self->is_more = true;
    self->wire.statement = self->handle;
    return fl_mariadb_go(self, FL_LINK_FINDING_MORE, FL_WIRE_NEXT);
}

static bool fetched(fl_mariadb_link *self)
{
    if (self->wire.status == MYSQL_NO_DATA) return end_rows(self);
    if (self->wire.status != 0) return fl_mariadb_trouble(self, self->handle);
    end_row(self);
    return read_row(self);
}

/* A table was changed since the statement was prepared. What only reads is prepared and run once
 * more; the rows of anything else are taken, and it is prepared anew the next time. */
static bool renew(fl_mariadb_link *self)
{
    fl_call *call = fl_mariadb_call_of(self);
    MYSQL_STMT *handle = fl_mariadb_prepared_take(&self->prepared, call->statement);
    self->entry = NULL;
    if (call->statement->kind == FL_SQL_READ && !self->prepared_anew) {
        self->prepared_anew = true;
        self->handle = NULL;
        fl_rows_reset(&call->rows);
        return fl_mariadb_free(self, FL_LINK_EVICTING, handle);
    }
    self->leaving = handle;
    return read_row(self);
}

/* The statement has a result: rows, or what it has changed. */
static bool begin_result(fl_mariadb_link *self)
{
    MYSQL_STMT *handle = self->handle;
    unsigned width = mysql_stmt_field_count(handle);
    if (width == 0) {
        if (self->is_more) return end_call(self);
        fl_mariadb_call_of(self)->affected = mysql_stmt_affected_rows(handle);
        fl_mariadb_call_of(self)->last_id = (int64_t)mysql_stmt_insert_id(handle);
        if (handle == self->stream) self->stream_ended = true;
        return end_call(self);
    }
    const MYSQL_FIELD *fields = mariadb_stmt_fetch_fields(handle);
    if (!set_columns(self, fields, width)) {
        fl_query_fail(&self->query->query, "memory", 503, "not enough memory");
        return fl_mariadb_give_up(self);
    }
    name_columns(self, fields);
    if (!self->entry || self->is_more || self->entry->width == 0) return read_row(self);
    if (!has_its_columns(self)) return renew(self);
    recall_json(self);
    return read_row(self);
}

/* prepared statements */

static bool is_streaming(const fl_mariadb_link *self)
{
    return self->query->query.kind == FL_QUERY_STREAM;
}

static bool prepare(fl_mariadb_link *self)
{
    const fl_statement *statement = fl_mariadb_call_of(self)->statement;
    MYSQL_STMT *handle = mysql_stmt_init(self->wire.mysql);
    if (!handle) return fl_mariadb_fail_for_memory(self);
    void (*take)(void *, unsigned, unsigned char **) = on_value;
    (void)mysql_stmt_attr_set(handle, STMT_ATTR_CB_USER_DATA, self);
    (void)mysql_stmt_attr_set(handle, STMT_ATTR_CB_RESULT, *(void **)&take);
    self->handle = handle;
    self->is_fresh = true;
    self->wire.statement = handle;
    self->wire.text = fl_slice_of(statement->text, statement->size);
    return fl_mariadb_go(self, FL_LINK_PREPARING, FL_WIRE_PREPARE);
}

static bool execute(fl_mariadb_link *self)
{
    fl_query *query = &self->query->query;
    const fl_call *call = fl_mariadb_call_of(self);
    MYSQL_STMT *handle = self->handle;
    if (fl_query_is_dropped(query)) {
        fl_query_fail(query, "cancelled", 0, "cancelled before it was sent");
        return fl_mariadb_undo(self);
    }
    if (fl_mariadb_arguments_set(&self->arguments, fl_call_arguments(query, call), call->count) < 0)
        return fl_mariadb_fail_for_memory(self);
    if (call->count && mysql_stmt_bind_param(handle, self->arguments.binds))
        return fl_mariadb_trouble(self, handle);
    self->sent = true;
    self->rows = 0;
    self->is_more = false;
    self->wire.statement = handle;
    if (self->entry)
        handle->field_count = 0; /* or the library would keep to the columns it knows */
    return fl_mariadb_go(self, FL_LINK_EXECUTING, FL_WIRE_EXECUTE);
}

/* A failed preparation leaves nothing in the server. */
static void drop_fresh(fl_mariadb_link *self)
{
    (void)mysql_stmt_close(self->handle);
    self->handle = NULL;
    self->is_fresh = false;
}

static bool send_text(fl_mariadb_link *self);

static bool could_not_prepare(fl_mariadb_link *self)
{
    fl_mariadb_fault fault;
    fl_statement *statement = fl_mariadb_call_of(self)->statement;
    fl_mariadb_look_at_fault(self, &fault, self->handle);
    if (fl_mariadb_is_over(self) || fl_mariadb_fault_is_loss(&fault))
        return fl_mariadb_lose(self, &fault);
    drop_fresh(self);
    if (fault.number == ER_UNSUPPORTED_PS && fl_mariadb_call_of(self)->count == 0) {
        statement->known = (void *)(uintptr_t)&as_text;
        return send_text(self);
    }
    if (fault.number == ER_MAX_PREPARED_STMT_COUNT_REACHED && self->prepared.count > 0) {
        self->prepared.most = (self->prepared.count + 1) / 2; /* others need some, too */
        return fl_mariadb_call_begin(self);
    }
    return fl_mariadb_fail(self, &fault);
}

static bool has_prepared(fl_mariadb_link *self)
{
    if (self->wire.status != 0) return could_not_prepare(self);
    const fl_call *call = fl_mariadb_call_of(self);
    if (mysql_stmt_param_count(self->handle) != call->count) {
        fl_query_fail(&self->query->query, "argument", 0, "the server counts %lu arguments, not %u",
                      mysql_stmt_param_count(self->handle), call->count);
    }
    if (is_streaming(self)) {
        self->stream = self->handle;
        self->stream_ended = false;
    } else {
        self->entry = fl_mariadb_prepared_add(&self->prepared, call->statement, self->handle);
    }
    if (!self->entry && !self->stream) {
        self->leaving = self->handle;
        self->is_fresh = false;
        return fl_mariadb_fail_for_memory(self);
    }
    self->is_fresh = false;
    return self->query->query.error.message ? fl_mariadb_undo(self) : execute(self);
}

static bool evict(fl_mariadb_link *self)
{
    return fl_mariadb_free(self, FL_LINK_EVICTING, fl_mariadb_prepared_take_last(&self->prepared));
}

/* What a table's change has made stale is prepared again, once. */
static bool has_executed(fl_mariadb_link *self)
{
    if (self->wire.status == 0) return begin_result(self);
    unsigned number = mysql_stmt_errno(self->handle);
    bool stale = number == ER_NEED_REPREPARE || number == ER_UNKNOWN_STMT_HANDLER;
    if (!stale || self->prepared_anew || is_streaming(self))
        return fl_mariadb_trouble(self, self->handle);
    self->prepared_anew = true;
    self->handle = NULL;
    self->entry = NULL;
    return fl_mariadb_free(
        self, FL_LINK_EVICTING,
        fl_mariadb_prepared_take(&self->prepared, fl_mariadb_call_of(self)->statement));
}

static bool has_evicted(fl_mariadb_link *self)
{
    if (fl_mariadb_is_over(self)) return fl_mariadb_give_up(self);
    return fl_mariadb_prepared_is_full(&self->prepared) ? evict(self) : prepare(self);
}

static bool found_more(fl_mariadb_link *self)
{
    if (self->wire.status > 0) return fl_mariadb_trouble(self, self->handle);
    return self->wire.status < 0 ? end_call(self) : begin_result(self);
}

/* statements as text */

static bool send_text(fl_mariadb_link *self)
{
    const fl_statement *statement = fl_mariadb_call_of(self)->statement;
    self->sent = self->query->query.kind != FL_QUERY_ACQUIRE; /* a lost BEGIN has changed nothing */
    self->rows = 0;
    self->is_more = false;
    self->handle = NULL;
    self->wire.text = fl_slice_of(statement->text, statement->size);
    return fl_mariadb_go(self, FL_LINK_ASKING, FL_WIRE_QUERY);
}

static bool begin_text_result(fl_mariadb_link *self)
{
    MYSQL *mysql = self->wire.mysql;
    if (mysql_field_count(mysql) == 0) {
        if (self->is_more) return end_call(self);
        fl_mariadb_call_of(self)->affected = mysql_affected_rows(mysql);
        fl_mariadb_call_of(self)->last_id = (int64_t)mysql_insert_id(mysql);
        return end_call(self);
    }
    self->wire.result = mysql_use_result(mysql);
    if (!self->wire.result) return fl_mariadb_give_up(self);
    const MYSQL_FIELD *fields = mysql_fetch_fields(self->wire.result);
    if (!set_columns(self, fields, mysql_num_fields(self->wire.result)))
        return fl_mariadb_give_up(self);
    name_columns(self, fields);
    return read_row(self);
}

static bool end_text_rows(fl_mariadb_link *self)
{
    MYSQL *mysql = self->wire.mysql;
    mysql_free_result(self->wire.result);
    self->wire.result = NULL;
    if (mysql_errno(mysql)) return fl_mariadb_trouble(self, NULL);
    if (!self->is_more) fl_mariadb_call_of(self)->affected = self->rows;
    if (!mysql_more_results(mysql)) return end_call(self);
    self->is_more = true;
    return fl_mariadb_go(self, FL_LINK_ASKING_MORE, FL_WIRE_NEXT_RESULT);
}

static bool has_read(fl_mariadb_link *self)
{
    MYSQL_ROW row = self->wire.row;
    if (!row) return end_text_rows(self);
    const unsigned long *sizes = mysql_fetch_lengths(self->wire.result);
    begin_row(self);
    fl_buffer *out = &fl_mariadb_call_of(self)->rows.values;
    for (unsigned i = 0; self->is_wanted && i < self->width; i++)
        if (row[i])
            fl_mariadb_column_text(&self->columns[i], out, fl_slice_of(row[i], sizes[i]));
        else
            fl_values_null(out);
    end_row(self);
    return read_row(self);
}

static bool found_text_more(fl_mariadb_link *self)
{
    if (self->wire.status > 0) return fl_mariadb_trouble(self, NULL);
    return self->wire.status < 0 ? end_call(self) : begin_text_result(self);
}

/* queries */

/* Of a transaction: an app has it only through the framework. */
static bool is_command(const fl_statement *statement)
{
    static const char *const verbs[] = {"BEGIN",    "START",     "COMMIT",
                                        "ROLLBACK", "SAVEPOINT", "RELEASE"};
    for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
        if (strncmp(statement->verb, verbs[i], strlen(verbs[i])) == 0) return true;
    return strncmp(statement->text, "set transaction ", 16) == 0; /* of the next one alone */
}

bool fl_mariadb_call_begin(fl_mariadb_link *self)
{
    fl_call *call = fl_mariadb_call_of(self);
    self->prepared_anew = false;
    self->entry = NULL;
    self->query->began = uv_hrtime();
    bool is_own = call->statement->kind == FL_SQL_SESSION && is_command(call->statement);
    if (call->statement->kind == FL_SQL_SESSION && !is_own) self->is_dirty = true;
    if (is_own || call->statement->known == &as_text) return send_text(self);
    if (is_streaming(self)) return prepare(self);
    self->entry = fl_mariadb_prepared_find(&self->prepared, call->statement);
    self->handle = self->entry ? self->entry->handle : NULL;
    if (self->handle) return execute(self);
    return fl_mariadb_prepared_is_full(&self->prepared) ? evict(self) : prepare(self);
}

bool fl_mariadb_call_more(fl_mariadb_link *self)
{
    const fl_query *query = &self->query->query;
    if (query->piece == 0) self->stream_ended = true;
    if (!self->stream || self->stream_ended) return fl_mariadb_finish(self);
    self->handle = self->stream;
    name_columns(self, mariadb_stmt_fetch_fields(self->stream));
    return read_row(self);
}

bool fl_mariadb_call_step(fl_mariadb_link *self)
{
    bool failed = self->wire.status != 0;
    switch ((int)self->phase) {
    case FL_LINK_EVICTING: return has_evicted(self);
    case FL_LINK_PREPARING: return has_prepared(self);
    case FL_LINK_EXECUTING: return has_executed(self);
    case FL_LINK_FETCHING: return fetched(self);
    case FL_LINK_BREATHING: return read_row(self);
    case FL_LINK_FINDING_MORE: return found_more(self);
    case FL_LINK_ASKING: return failed ? fl_mariadb_trouble(self, NULL) : begin_text_result(self);
    case FL_LINK_READING: return has_read(self);
    case FL_LINK_ASKING_MORE: return found_text_more(self);
    default: return false;
    }
}
