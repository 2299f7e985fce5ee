#include "link.h"

#include <errmsg.h>
#include <mysqld_error.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "state.h"
#include "thread.h"

#define TRIES 3                 /* of a query whose connection was lost before it was sent */
#define LARGE ((size_t)1 << 20) /* bytes of arguments that not every server takes */
#define DOOM 10000              /* ms that a stopped statement may go on */
#define ROWS_AT_ONCE 64         /* after which the time is looked at */
#define TURN 2000000            /* ns of rows, after which others have their turn */
#define BATCH_POINT "fasterlua_batch"

static const char as_text; /* its address as what is `known` of a statement: it is not prepared */

/* in and out of the database's lists */

static void become_idle(fl_mariadb_link *self)
{
    fl_mariadb *db = self->db;
    self->idle_since = fl_db_now(&db->db);
    self->next_idle = db->idle;
    if (self->next_idle) self->next_idle->idle_link = &self->next_idle;
    self->idle_link = &db->idle;
    db->idle = self;
    db->idle_count++;
}

static void leave_idle(fl_mariadb_link *self)
{
    if (!self->idle_link) return;
    *self->idle_link = self->next_idle;
    if (self->next_idle) self->next_idle->idle_link = self->idle_link;
    self->idle_link = NULL;
    self->db->idle_count--;
}

static void enlist(fl_mariadb_link *self)
{
    fl_mariadb *db = self->db;
    self->next = db->links;
    if (self->next) self->next->link = &self->next;
    self->link = &db->links;
    db->links = self;
    db->count++;
}

static void delist(fl_mariadb_link *self)
{
    leave_idle(self);
    *self->link = self->next;
    if (self->next) self->next->link = self->link;
    self->db->count--;
    if (self->phase == FL_LINK_CONNECTING) self->db->connecting--;
}

/* the end of a link */

void fl_mariadb_link_close(fl_mariadb_link *self)
{
    delist(self);
    self->phase = FL_LINK_CLOSED;
    fl_deadline_stop(&self->breath);
    fl_deadline_stop(&self->doom);
    fl_mariadb_killer_forget(&self->db->killer, &self->victim);
    MYSQL_STMT *going = self->wire.call == FL_WIRE_FREE ? self->wire.statement : NULL;
    fl_mariadb_wire_close(&self->wire);
    if (self->wire.result) {
        self->wire.result->handle = NULL; /* there is nothing to be read to its end */
        mysql_free_result(self->wire.result);
    }
    fl_mariadb_prepared_close(&self->prepared);
    if (self->handle && self->is_fresh && self->handle != going)
        (void)mysql_stmt_close(self->handle);
    if (self->stream) (void)mysql_stmt_close(self->stream);
    if (self->leaving) (void)mysql_stmt_close(self->leaving);
    fl_mariadb_arguments_close(&self->arguments);
    free(self->columns);
    self->is_dead = true;
    if (!self->is_stepping) free(self);
}

static bool may_run_again(const fl_mariadb_link *self, const fl_mariadb_query *query)
{
    const fl_query *base = &query->query;
    if (base->cancelled || base->error.message || query->tries >= TRIES) return false;
    if (base->session && base->kind != FL_QUERY_ACQUIRE) return false;
    return base->retry || !self->sent;
}

static void send_again(fl_mariadb *db, fl_mariadb_query *query)
{
    for (unsigned i = 0; i < query->query.call_count; i++)
        fl_rows_reset(&query->query.calls[i].rows);
    query->tries++;
    query->at = 0;
    fl_mariadb_line_prepend(&db->line, &query->query);
}

static const char *hint_of(const fl_query *query, bool sent)
{
    if (!sent) return "";
    return query->values.size < LARGE ? "; the statement may have run"
                                      : "; the statement may have run, or it is larger than the "
                                        "server's max_allowed_packet";
}

static void tell_loss(fl_query *query, const fl_mariadb_fault *fault, bool sent)
{
    if (query->cancelled)
        fl_query_fail(query, "cancelled", 0, "%s", query->cancelled);
    else
        fl_query_fail(query, "connection", 503, "the connection to %s was lost: %s%s",
                      query->db->name, fault->message, hint_of(query, sent));
}

static void fail_line(fl_mariadb_line *line, const fl_mariadb_fault *fault)
{
    for (fl_query *query; (query = fl_mariadb_line_take(line)) != NULL;) {
        tell_loss(query, fault, false);
        fl_query_done(query);
    }
}

/* Nothing is left of it; its query is run elsewhere or fails. */
static bool lose(fl_mariadb_link *self, const fl_mariadb_fault *fault)
{
    fl_mariadb *db = self->db;
    fl_mariadb_query *query = self->query;
    fl_mariadb_session *session = self->session;
    bool again = query && may_run_again(self, query), sent = self->sent;
    self->query = NULL;
    if (session) {
        session->link = NULL;
        db->sessions--;
    }
    if (query) query->link = NULL;
    db->db.reconnects++;
    fl_mariadb_link_close(self);
    if (again) {
        send_again(db, query);
    } else if (query) {
        tell_loss(&query->query, fault, sent);
        fl_query_done(&query->query);
    }
    if (session) fail_line(&session->line, fault);
    fl_mariadb_serve(db);
    return false;
}

/* steps: each returns whether the next one is due at once */

static bool go(fl_mariadb_link *self, fl_link_phase phase, fl_wire_call call)
{
    self->phase = phase;
    return fl_mariadb_wire_start(&self->wire, call, 0);
}

static bool ask(fl_mariadb_link *self, fl_link_phase phase, const char *text)
{
    self->wire.text = fl_slice_from_string(text);
    return go(self, phase, FL_WIRE_QUERY);
}

static bool free_handle(fl_mariadb_link *self, fl_link_phase phase, MYSQL_STMT *handle)
{
    self->wire.statement = handle;
    return go(self, phase, FL_WIRE_FREE);
}

static fl_call *call_of(const fl_mariadb_link *self)
{
    return &self->query->query.calls[self->query->at];
}

static void leave_session(fl_mariadb_link *self)
{
    if (!self->session) return;
    self->session->link = NULL;
    self->session = NULL;
    self->is_released = true;
    self->db->sessions--;
}

static bool finish(fl_mariadb_link *self)
{
    fl_query *query = &self->query->query;
    self->query->link = NULL;
    self->query = NULL;
    self->handle = NULL;
    self->phase = FL_LINK_FREE;
    if (query->kind == FL_QUERY_ACQUIRE && query->error.message) leave_session(self);
    fl_query_done(query);
    return true;
}

static bool undo(fl_mariadb_link *self)
{
    if (self->query->query.kind != FL_QUERY_BATCH) return finish(self);
    bool in_session = self->session != NULL;
    return ask(self, FL_LINK_UNDOING,
               in_session ? "rollback to savepoint " BATCH_POINT : "rollback");
}

static bool fail(fl_mariadb_link *self, const fl_mariadb_fault *fault)
{
    if (fault->number == ER_QUERY_INTERRUPTED) self->was_interrupted = true;
    if (self->handle && self->handle == self->stream) self->stream_ended = true;
    fl_mariadb_fault_tell(fault, &self->query->query);
    return undo(self);
}

static bool fail_for_memory(fl_mariadb_link *self)
{
    fl_query_fail(&self->query->query, "memory", 503, "not enough memory");
    return undo(self);
}

static bool is_over(const fl_mariadb_link *self)
{
    return !self->wire.mysql->net.pvio || self->wire.failure || self->is_cut;
}

static void look_at_fault(fl_mariadb_link *self, fl_mariadb_fault *fault, MYSQL_STMT *statement)
{
    fl_mariadb_fault_of(fault, self->wire.mysql, statement);
    if (self->wire.failure) fl_mariadb_fault_set(fault, CR_SERVER_LOST, self->wire.failure);
    if (self->is_cut) fl_mariadb_fault_set(fault, CR_SERVER_LOST, "its statement did not stop");
}

/* The call has failed for good. */
static bool trouble(fl_mariadb_link *self, MYSQL_STMT *statement)
{
    fl_mariadb_fault fault;
    look_at_fault(self, &fault, statement);
    if (is_over(self) || fl_mariadb_fault_is_loss(&fault)) return lose(self, &fault);
    return fail(self, &fault);
}

/* What ought not to fail has. */
static bool give_up(fl_mariadb_link *self)
{
    fl_mariadb_fault fault;
    look_at_fault(self, &fault, NULL);
    return lose(self, &fault);
}

/* the calls of a query */

static bool begin_call(fl_mariadb_link *self);

static bool commit(fl_mariadb_link *self)
{
    bool in_session = self->session != NULL;
    return ask(self, FL_LINK_COMMITTING, in_session ? "release savepoint " BATCH_POINT : "commit");
}

static bool end_call(fl_mariadb_link *self)
{
    fl_mariadb_query *query = self->query;
    if (query->query.error.message) return undo(self);
    if (query->query.kind != FL_QUERY_MORE)
        fl_statement_took(call_of(self)->statement, fl_db_now(&self->db->db) - query->began);
    if (++query->at < query->query.call_count) return begin_call(self);
    return query->query.kind == FL_QUERY_BATCH ? commit(self) : finish(self);
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
    fl_rows *rows = &call_of(self)->rows;
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
    const fl_buffer *now = &call_of(self)->rows.names, *then = &self->entry->names;
    return fl_slice_equal(fl_slice_of(now->data, now->size), fl_slice_of(then->data, then->size));
}

static void begin_row(fl_mariadb_link *self)
{
    self->is_wanted = !self->is_more && fl_rows_begin(&self->query->query, &call_of(self)->rows);
}

static void end_row(fl_mariadb_link *self)
{
    self->rows++;
    if (!self->is_wanted) return;
    if (!fl_rows_end(&self->query->query, &call_of(self)->rows)) fl_mariadb_link_stop(self);
}

/* The library has a row: called for each of its values, in order. NULL: it is NULL. */
static void on_value(void *data, unsigned column, unsigned char **at)
{
    fl_mariadb_link *self = data;
    if (column == 0) begin_row(self);
    fl_buffer *out = self->is_wanted ? &call_of(self)->rows.values : NULL;
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
    uint64_t now = fl_db_now(&self->db->db);
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
    if (has_piece(self)) return finish(self);
    if (is_long_turn(self)) {
        self->phase = FL_LINK_BREATHING;
        fl_mariadb_wire_listen(&self->wire, false);
        fl_thread_start_deadline(self->db->db.state->thread, &self->breath, 0, breathe);
        return false;
    }
    if (self->wire.result) return go(self, FL_LINK_READING, FL_WIRE_FETCH_ROW);
    self->wire.statement = self->handle;
    return go(self, FL_LINK_FETCHING, FL_WIRE_FETCH);
}

static bool end_rows(fl_mariadb_link *self)
{
    fl_call *call = call_of(self);
    if (!self->is_more) call->affected = self->rows;
    if (self->handle == self->stream) self->stream_ended = true; /* what follows is read at once */
    if (!mysql_stmt_more_results(self->handle)) return end_call(self);
    self->is_more = true;
    self->wire.statement = self->handle;
    return go(self, FL_LINK_FINDING_MORE, FL_WIRE_NEXT);
}

static bool fetched(fl_mariadb_link *self)
{
    if (self->wire.status == MYSQL_NO_DATA) return end_rows(self);
    if (self->wire.status != 0) return trouble(self, self->handle);
    end_row(self);
    return read_row(self);
}

/* A table was changed since the statement was prepared. What only reads is prepared and run once
 * more; the rows of anything else are taken, and it is prepared anew the next time. */
static bool renew(fl_mariadb_link *self)
{
    fl_call *call = call_of(self);
    MYSQL_STMT *handle = fl_mariadb_prepared_take(&self->prepared, call->statement);
    self->entry = NULL;
    if (call->statement->kind == FL_SQL_READ && !self->prepared_anew) {
        self->prepared_anew = true;
        self->handle = NULL;
        fl_rows_reset(&call->rows);
        return free_handle(self, FL_LINK_EVICTING, handle);
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
        call_of(self)->affected = mysql_stmt_affected_rows(handle);
        call_of(self)->last_id = (int64_t)mysql_stmt_insert_id(handle);
        if (handle == self->stream) self->stream_ended = true;
        return end_call(self);
    }
    const MYSQL_FIELD *fields = mariadb_stmt_fetch_fields(handle);
    if (!set_columns(self, fields, width)) {
        fl_query_fail(&self->query->query, "memory", 503, "not enough memory");
        return give_up(self);
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
    const fl_statement *statement = call_of(self)->statement;
    MYSQL_STMT *handle = mysql_stmt_init(self->wire.mysql);
    if (!handle) return fail_for_memory(self);
    void (*take)(void *, unsigned, unsigned char **) = on_value;
    (void)mysql_stmt_attr_set(handle, STMT_ATTR_CB_USER_DATA, self);
    (void)mysql_stmt_attr_set(handle, STMT_ATTR_CB_RESULT, *(void **)&take);
    self->handle = handle;
    self->is_fresh = true;
    self->wire.statement = handle;
    self->wire.text = fl_slice_of(statement->text, statement->size);
    return go(self, FL_LINK_PREPARING, FL_WIRE_PREPARE);
}

static bool execute(fl_mariadb_link *self)
{
    fl_query *query = &self->query->query;
    const fl_call *call = call_of(self);
    MYSQL_STMT *handle = self->handle;
    if (fl_query_is_dropped(query)) {
        fl_query_fail(query, "cancelled", 0, "cancelled before it was sent");
        return undo(self);
    }
    if (fl_mariadb_arguments_set(&self->arguments, fl_call_arguments(query, call), call->count) < 0)
        return fail_for_memory(self);
    if (call->count && mysql_stmt_bind_param(handle, self->arguments.binds))
        return trouble(self, handle);
    self->sent = true;
    self->rows = 0;
    self->is_more = false;
    self->wire.statement = handle;
    if (self->entry)
        handle->field_count = 0; /* or the library would keep to the columns it knows */
    return go(self, FL_LINK_EXECUTING, FL_WIRE_EXECUTE);
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
    fl_statement *statement = call_of(self)->statement;
    look_at_fault(self, &fault, self->handle);
    if (is_over(self) || fl_mariadb_fault_is_loss(&fault)) return lose(self, &fault);
    drop_fresh(self);
    if (fault.number == ER_UNSUPPORTED_PS && call_of(self)->count == 0) {
        statement->known = (void *)(uintptr_t)&as_text;
        return send_text(self);
    }
    if (fault.number == ER_MAX_PREPARED_STMT_COUNT_REACHED && self->prepared.count > 0) {
        self->prepared.most = (self->prepared.count + 1) / 2; /* others need some, too */
        return begin_call(self);
    }
    return fail(self, &fault);
}

static bool has_prepared(fl_mariadb_link *self)
{
    if (self->wire.status != 0) return could_not_prepare(self);
    const fl_call *call = call_of(self);
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
        return fail_for_memory(self);
    }
    self->is_fresh = false;
    return self->query->query.error.message ? undo(self) : execute(self);
}

static bool evict(fl_mariadb_link *self)
{
    return free_handle(self, FL_LINK_EVICTING, fl_mariadb_prepared_take_last(&self->prepared));
}

/* What a table's change has made stale is prepared again, once. */
static bool has_executed(fl_mariadb_link *self)
{
    if (self->wire.status == 0) return begin_result(self);
    unsigned number = mysql_stmt_errno(self->handle);
    bool stale = number == ER_NEED_REPREPARE || number == ER_UNKNOWN_STMT_HANDLER;
    if (!stale || self->prepared_anew || is_streaming(self)) return trouble(self, self->handle);
    self->prepared_anew = true;
    self->handle = NULL;
    self->entry = NULL;
    return free_handle(self, FL_LINK_EVICTING,
                       fl_mariadb_prepared_take(&self->prepared, call_of(self)->statement));
}

static bool has_evicted(fl_mariadb_link *self)
{
    if (is_over(self)) return give_up(self);
    return fl_mariadb_prepared_is_full(&self->prepared) ? evict(self) : prepare(self);
}

static bool found_more(fl_mariadb_link *self)
{
    if (self->wire.status > 0) return trouble(self, self->handle);
    return self->wire.status < 0 ? end_call(self) : begin_result(self);
}

/* statements as text */

static bool send_text(fl_mariadb_link *self)
{
    const fl_statement *statement = call_of(self)->statement;
    self->sent = self->query->query.kind != FL_QUERY_ACQUIRE; /* a lost BEGIN has changed nothing */
    self->rows = 0;
    self->is_more = false;
    self->handle = NULL;
    self->wire.text = fl_slice_of(statement->text, statement->size);
    return go(self, FL_LINK_ASKING, FL_WIRE_QUERY);
}

static bool begin_text_result(fl_mariadb_link *self)
{
    MYSQL *mysql = self->wire.mysql;
    if (mysql_field_count(mysql) == 0) {
        if (self->is_more) return end_call(self);
        call_of(self)->affected = mysql_affected_rows(mysql);
        call_of(self)->last_id = (int64_t)mysql_insert_id(mysql);
        return end_call(self);
    }
    self->wire.result = mysql_use_result(mysql);
    if (!self->wire.result) return give_up(self);
    const MYSQL_FIELD *fields = mysql_fetch_fields(self->wire.result);
    if (!set_columns(self, fields, mysql_num_fields(self->wire.result))) return give_up(self);
    name_columns(self, fields);
    return read_row(self);
}

static bool end_text_rows(fl_mariadb_link *self)
{
    MYSQL *mysql = self->wire.mysql;
    mysql_free_result(self->wire.result);
    self->wire.result = NULL;
    if (mysql_errno(mysql)) return trouble(self, NULL);
    if (!self->is_more) call_of(self)->affected = self->rows;
    if (!mysql_more_results(mysql)) return end_call(self);
    self->is_more = true;
    return go(self, FL_LINK_ASKING_MORE, FL_WIRE_NEXT_RESULT);
}

static bool has_read(fl_mariadb_link *self)
{
    MYSQL_ROW row = self->wire.row;
    if (!row) return end_text_rows(self);
    const unsigned long *sizes = mysql_fetch_lengths(self->wire.result);
    begin_row(self);
    fl_buffer *out = &call_of(self)->rows.values;
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
    if (self->wire.status > 0) return trouble(self, NULL);
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

static bool begin_call(fl_mariadb_link *self)
{
    fl_call *call = call_of(self);
    self->prepared_anew = false;
    self->entry = NULL;
    self->query->began = fl_db_now(&self->db->db);
    bool is_own = call->statement->kind == FL_SQL_SESSION && is_command(call->statement);
    if (call->statement->kind == FL_SQL_SESSION && !is_own) self->is_dirty = true;
    if (is_own || call->statement->known == &as_text) return send_text(self);
    if (is_streaming(self)) return prepare(self);
    self->entry = fl_mariadb_prepared_find(&self->prepared, call->statement);
    self->handle = self->entry ? self->entry->handle : NULL;
    if (self->handle) return execute(self);
    return fl_mariadb_prepared_is_full(&self->prepared) ? evict(self) : prepare(self);
}

static bool begin_more(fl_mariadb_link *self)
{
    const fl_query *query = &self->query->query;
    if (query->piece == 0) self->stream_ended = true;
    if (!self->stream || self->stream_ended) return finish(self);
    self->handle = self->stream;
    name_columns(self, mariadb_stmt_fetch_fields(self->stream));
    return read_row(self);
}

static bool begin_query(fl_mariadb_link *self, fl_query *query)
{
    self->query = (fl_mariadb_query *)query;
    self->query->link = self;
    self->query->at = 0;
    self->sent = self->was_interrupted = false;
    if (query->kind == FL_QUERY_ACQUIRE) {
        self->session = (fl_mariadb_session *)query->session;
        self->session->link = self;
        self->db->sessions++;
    }
    switch ((int)query->kind) {
    case FL_QUERY_BATCH:
        return ask(self, FL_LINK_BEGINNING,
                   self->session ? "savepoint " BATCH_POINT : "start transaction");
    case FL_QUERY_MORE: return begin_more(self);
    default: return query->call_count ? begin_call(self) : finish(self);
    }
}

/* between queries */

static bool is_stale_stream(const fl_mariadb_link *self)
{
    if (!self->stream) return false;
    if (self->stream_ended || self->is_released || !self->session) return true;
    const fl_query *next = self->session->line.first;
    return self->was_killed || (next && next->kind != FL_QUERY_MORE);
}

static bool in_transaction(const fl_mariadb_link *self)
{
    return (self->wire.mysql->server_status & SERVER_STATUS_IN_TRANS) != 0;
}

static bool commits_by_itself(const fl_mariadb_link *self)
{
    return (self->wire.mysql->server_status & SERVER_STATUS_AUTOCOMMIT) != 0;
}

/* What the session has left goes. */
static bool clean(fl_mariadb_link *self)
{
    if (self->is_dirty) return go(self, FL_LINK_RESETTING, FL_WIRE_RESET);
    if (in_transaction(self)) return ask(self, FL_LINK_ROLLING_BACK, "rollback");
    self->is_released = false;
    return true;
}

static bool serve_session(fl_mariadb_link *self)
{
    fl_query *query = fl_mariadb_line_take(&self->session->line);
    if (query) return begin_query(self, query);
    fl_mariadb_wire_listen(&self->wire, !self->stream);
    return false;
}

static bool serve_pool(fl_mariadb_link *self)
{
    if (in_transaction(self) || !commits_by_itself(self)) {
        fl_mariadb *db = self->db;
        fl_mariadb_link_close(self);
        fl_mariadb_serve(db);
        return false;
    }
    fl_query *query = fl_mariadb_line_take(&self->db->line);
    if (query) return begin_query(self, query);
    become_idle(self);
    fl_mariadb_wire_listen(&self->wire, true);
    return false;
}

/* The server stops sending; what is under way is read to its end. */
static bool close_stream(fl_mariadb_link *self)
{
    MYSQL_STMT *stream = self->stream;
    if (!self->stream_ended && !self->was_killed) {
        fl_mariadb_link_stop(self);
        return !self->victim.asked;
    }
    self->stream = NULL;
    self->handle = stream;
    self->is_fresh = true; /* it goes with the link, should that be lost meanwhile */
    return free_handle(self, FL_LINK_CLOSING, stream);
}

static bool find_work(fl_mariadb_link *self)
{
    if (self->victim.asked) return false; /* a statement would be hit in place of the other */
    fl_deadline_stop(&self->doom);
    if (self->is_cut) return give_up(self);
    if (is_stale_stream(self)) return close_stream(self);
    if (self->leaving) {
        self->handle = self->leaving;
        self->leaving = NULL;
        self->is_fresh = true;
        return free_handle(self, FL_LINK_CLOSING, self->handle);
    }
    if (self->was_killed) {
        self->was_killed = false;
        if (!self->was_interrupted) return ask(self, FL_LINK_ABSORBING, "do 0");
    }
    if (self->is_released) return clean(self);
    return self->session ? serve_session(self) : serve_pool(self);
}

static bool has_absorbed(fl_mariadb_link *self)
{
    if (self->wire.status != 0 && mysql_errno(self->wire.mysql) != ER_QUERY_INTERRUPTED)
        return give_up(self);
    self->phase = FL_LINK_FREE;
    return true;
}

static bool has_closed(fl_mariadb_link *self)
{
    self->handle = NULL;
    self->is_fresh = false;
    if (is_over(self)) return give_up(self);
    self->phase = FL_LINK_FREE;
    return true;
}

static bool has_cleaned(fl_mariadb_link *self)
{
    if (self->wire.status != 0) return give_up(self);
    self->phase = FL_LINK_FREE;
    return true;
}

/* The server has forgotten what was prepared. */
static bool has_reset(fl_mariadb_link *self)
{
    if (self->wire.status != 0) return give_up(self);
    fl_mariadb_prepared_close(&self->prepared);
    self->is_dirty = false;
    return ask(self, FL_LINK_SETTING_UP, fl_mariadb_setup);
}

static bool has_undone(fl_mariadb_link *self)
{
    if (self->wire.status != 0 && is_over(self)) return give_up(self);
    return finish(self); /* a deadlock has taken the savepoint along with everything */
}

static bool could_not_connect(fl_mariadb_link *self)
{
    fl_mariadb *db = self->db;
    fl_mariadb_fault fault;
    fl_mariadb_fault_of(&fault, self->wire.mysql, NULL);
    if (self->wire.failure) fl_mariadb_fault_set(&fault, CR_CONN_HOST_ERROR, self->wire.failure);
    fl_mariadb_link_close(self);
    fl_mariadb_failed(db, &fault);
    return false;
}

static bool has_connected(fl_mariadb_link *self)
{
    if (self->wire.status != 0) return could_not_connect(self);
    self->db->connecting--;
    self->phase = FL_LINK_FREE;
    self->victim.id = mysql_thread_id(self->wire.mysql);
    fl_mariadb_connected(self->db);
    return true;
}

static bool step(fl_mariadb_link *self)
{
    bool failed = self->wire.status != 0;
    switch (self->phase) {
    case FL_LINK_CONNECTING: return has_connected(self);
    case FL_LINK_FREE: return find_work(self);
    case FL_LINK_BEGINNING: return failed ? trouble(self, NULL) : begin_call(self);
    case FL_LINK_EVICTING: return has_evicted(self);
    case FL_LINK_PREPARING: return has_prepared(self);
    case FL_LINK_EXECUTING: return has_executed(self);
    case FL_LINK_FETCHING: return fetched(self);
    case FL_LINK_BREATHING: return read_row(self);
    case FL_LINK_FINDING_MORE: return found_more(self);
    case FL_LINK_ASKING: return failed ? trouble(self, NULL) : begin_text_result(self);
    case FL_LINK_READING: return has_read(self);
    case FL_LINK_ASKING_MORE: return found_text_more(self);
    case FL_LINK_COMMITTING: return failed ? trouble(self, NULL) : finish(self);
    case FL_LINK_UNDOING: return has_undone(self);
    case FL_LINK_CLOSING: return has_closed(self);
    case FL_LINK_ABSORBING: return has_absorbed(self);
    case FL_LINK_ROLLING_BACK: return has_cleaned(self);
    case FL_LINK_RESETTING: return has_reset(self);
    case FL_LINK_SETTING_UP: return has_cleaned(self);
    case FL_LINK_CLOSED: return false;
    }
    return false;
}

static void run(fl_mariadb_link *self)
{
    self->is_stepping = true;
    self->turn_began = 0;
    while (!self->is_dead && step(self))
        ;
    self->is_stepping = false;
    if (self->is_dead) free(self);
}

/* what comes from outside */

static fl_mariadb_link *link_of_wire(fl_mariadb_wire *wire)
{
    return (fl_mariadb_link *)((char *)wire - offsetof(fl_mariadb_link, wire));
}

static void ended(fl_mariadb_wire *wire)
{
    run(link_of_wire(wire));
}

static void heard(fl_mariadb_wire *wire)
{
    fl_mariadb_link *self = link_of_wire(wire);
    fl_mariadb_fault fault;
    fl_mariadb_fault_set(&fault, CR_SERVER_LOST, "the server has closed it");
    (void)lose(self, &fault);
}

static void cut(fl_mariadb_link *self)
{
    self->is_cut = true;
    fl_mariadb_wire_cut(&self->wire);
}

static void told(fl_mariadb_victim *victim, bool done)
{
    fl_mariadb_link *self = (fl_mariadb_link *)((char *)victim - offsetof(fl_mariadb_link, victim));
    if (done)
        self->was_killed = true;
    else
        cut(self);
    fl_mariadb_link_kick(self);
}

static void doomed(fl_deadline *deadline)
{
    cut((fl_mariadb_link *)((char *)deadline - offsetof(fl_mariadb_link, doom)));
}

int fl_mariadb_link_open(fl_mariadb *db)
{
    fl_mariadb_link *self = calloc(1, sizeof(*self));
    if (!self) return UV_ENOMEM;
    int status = fl_mariadb_wire_open(&self->wire, &db->db, true);
    if (status < 0) {
        free(self);
        return status;
    }
    self->db = db;
    self->wire.ended = ended;
    self->wire.heard = heard;
    self->victim.told = told;
    self->breath.state = self->doom.state = db->db.state;
    enlist(self);
    db->connecting++;
    self->phase = FL_LINK_CONNECTING;
    if (fl_mariadb_wire_start(&self->wire, FL_WIRE_CONNECT, db->db.connect_timeout)) run(self);
    return 0;
}

void fl_mariadb_link_kick(fl_mariadb_link *self)
{
    if (self->is_stepping || self->wire.call != FL_WIRE_NOTHING) return;
    if (fl_deadline_started(&self->breath)) return;
    leave_idle(self);
    run(self);
}

void fl_mariadb_link_stop(fl_mariadb_link *self)
{
    if (self->victim.asked || self->was_killed) return;
    fl_thread_start_deadline(self->db->db.state->thread, &self->doom, DOOM, doomed);
    fl_mariadb_killer_add(&self->db->killer, &self->victim);
}
