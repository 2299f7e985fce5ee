/* Databases for Lua: arguments in, queries to drivers, results out. What an app may write is
 * decided here and in lua/fasterlua/db.lua; everything of the database itself is the driver's.
 *
 * A query is made and filled while Lua owns the thread, for nobody else knows it yet; the claim is
 * taken to look up its statement and to submit it. */
#include "bind/db.h"

#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "int64.h"
#include "json.h"
#include "query_op.h"
#include "rows.h"
#include "sql_split.h"
#include "state.h"
#include "thread.h"

#define HANDLE "fasterlua.db"
#define SESSION "fasterlua.db.session"
#define EXACT 9007199254740992.0 /* 2^53 */
#define ERROR_SIZE 512
#define SQL_SHOWN 300 /* bytes of a statement in an error's `sql` */
#define ENTRY_MOST                                                                                 \
    7900 /* values of a batch's entry: they lie on the Lua stack, which takes 8000                 \
          */

typedef struct handle {
    fl_db *db; /* NULL: opened where there is no server */
} handle;

typedef struct session_handle {
    fl_session *session;
} session_handle;

/* What a query is asked of: a database or a session of it. */
typedef struct place {
    fl_db *db;
    fl_session *session; /* NULL: none */
} place;

/* errors: raised, or what an op ends with */

static void set_text(lua_State *L, const char *name, const char *text)
{
    if (!text) return;
    lua_pushstring(L, text);
    lua_setfield(L, -2, name);
}

static void push_error(lua_State *L, const char *code, const char *message)
{
    lua_createtable(L, 0, 8);
    set_text(L, "kind", "db");
    set_text(L, "code", code);
    set_text(L, "message", message);
}

static void set_sql(lua_State *L, fl_slice sql)
{
    lua_pushlstring(L, sql.data, sql.size < SQL_SHOWN ? sql.size : SQL_SHOWN);
    lua_setfield(L, -2, "sql");
}

/* The message lies on top; the statement, if there is one, at `sql`.  [-1, +0, e] */
static int raise_message(lua_State *L, const char *code, int sql)
{
    push_error(L, code, lua_tostring(L, -1));
    if (sql && lua_type(L, sql) == LUA_TSTRING) {
        fl_slice text;
        text.data = lua_tolstring(L, sql, &text.size);
        set_sql(L, text);
    }
    luaL_getmetatable(L, "fasterlua.db.error");
    lua_setmetatable(L, -2);
    return lua_error(L);
}

static int raise_error(lua_State *L, const char *code, const char *message)
{
    lua_pushstring(L, message);
    return raise_message(L, code, 0);
}

static const char *words_of(const char *reason)
{
    if (strcmp(reason, "timeout") == 0) return "it took longer than its timeout";
    return "cancelled";
}

static int push_given_up(lua_State *L, const char *reason, const fl_query *query)
{
    bool late = strcmp(reason, "timeout") == 0;
    lua_pushboolean(L, 0);
    push_error(L, late ? "timeout" : "cancelled", words_of(reason));
    if (late) {
        lua_pushinteger(L, 503);
        lua_setfield(L, -2, "status");
    }
    const fl_statement *statement = query->call_count ? query->calls[0].statement : NULL;
    if (statement) set_sql(L, fl_slice_of(statement->text, statement->size));
    return 2;
}

static int push_failure(lua_State *L, const fl_query *query)
{
    const fl_db_error *error = &query->error;
    const fl_statement *statement = query->call_count ? query->calls[0].statement : NULL;
    lua_pushboolean(L, 0);
    push_error(L, error->code, error->message);
    set_text(L, "detail", error->detail);
    set_text(L, "hint", error->hint);
    set_text(L, "constraint", error->constraint);
    set_text(L, "table", error->table);
    set_text(L, "column", error->column);
    if (error->status) {
        lua_pushinteger(L, error->status);
        lua_setfield(L, -2, "status");
    }
    if (statement) set_sql(L, fl_slice_of(statement->text, statement->size));
    return 2;
}

/* results */

static void push_counts(lua_State *L, const fl_call *call)
{
    lua_pushnumber(L, (lua_Number)call->affected);
    if (call->last_id == 0)
        lua_pushnil(L);
    else if (fabs((double)call->last_id) <= EXACT)
        lua_pushnumber(L, (lua_Number)call->last_id);
    else
        fl_int64_push(L, call->last_id);
}

static void push_batch(lua_State *L, const fl_query *query)
{
    lua_createtable(L, (int)query->call_count, 0);
    for (unsigned i = 0; i < query->call_count; i++) {
        const fl_call *call = &query->calls[i];
        lua_createtable(L, 0, 3);
        push_counts(L, call);
        lua_setfield(L, -3, "last_id");
        lua_setfield(L, -2, "affected");
        if (call->rows.width) {
            fl_rows_push(L, &call->rows);
            lua_setfield(L, -2, "rows");
        }
        lua_rawseti(L, -2, (int)i + 1);
    }
    luaL_getmetatable(L, FL_JSON_ARRAY);
    lua_setmetatable(L, -2);
}

/* The userdata that acquire has put into the op's environment. */
static void push_session(lua_State *L, int op)
{
    lua_getfenv(L, op);
    lua_rawgeti(L, -1, 1);
    lua_remove(L, -2);
}

/* true, value… | false, error   [-0, +n, e] */
static int take(fl_op *op, lua_State *L)
{
    fl_query_op *self = (fl_query_op *)op;
    const fl_query *query = self->query;
    luaL_checkstack(L, 10, "for a result");
    if (self->given_up) return push_given_up(L, self->given_up, query);
    if (query->error.message) return push_failure(L, query);
    const fl_call *call = &query->calls[0];
    lua_pushboolean(L, 1);
    switch (self->take) {
    case FL_TAKE_ROWS: fl_rows_push(L, &call->rows); return 2;
    case FL_TAKE_ROW: fl_rows_push_first(L, &call->rows); return 2;
    case FL_TAKE_VALUE: fl_rows_push_value(L, &call->rows); return 2;
    case FL_TAKE_COUNTS: push_counts(L, call); return 3;
    case FL_TAKE_BATCH: push_batch(L, query); return 2;
    case FL_TAKE_SESSION: push_session(L, 1); return 2;
    case FL_TAKE_PIECE:
        if (call->rows.count == 0) return 1;
        fl_rows_push(L, &call->rows);
        return 2;
    }
    return 1;
}

static void cancel(fl_op *op)
{
    fl_query_op *self = (fl_query_op *)op;
    if (self->query) fl_query_give_up(self->query, "cancelled");
}

/* Nobody has awaited it: what failed is told nevertheless. */
static void tell_lost(const fl_query_op *self)
{
    const fl_op *op = &self->op;
    const fl_query *query = self->query;
    if (op->cancelled || self->given_up || !query->error.message) return;
    const fl_statement *statement = query->call_count ? query->calls[0].statement : NULL;
    size_t size = statement ? statement->size : 0;
    const fl_log_field fields[] = {
        fl_field_text("app", fl_slice_from_string(op->state->app->name)),
        fl_field_text("code", fl_slice_from_string(query->error.code)),
        fl_field_text("error", fl_slice_from_string(query->error.message)),
        fl_field_text(
            "sql", fl_slice_of(size ? statement->text : "", size < SQL_SHOWN ? size : SQL_SHOWN)),
    };
    fl_log_line(op->state->thread->log, FL_LOG_ERROR,
                FL_SLICE("a query that nobody awaited has failed: was await forgotten?"), fields,
                sizeof(fields) / sizeof(fields[0]));
}

static void close_op(fl_op *op)
{
    fl_query_op *self = (fl_query_op *)op;
    if (self->query && !op->taken) tell_lost(self);
    if (self->query) fl_query_release(self->query);
    self->query = NULL;
}

static const fl_op_kind query_kind = {"a query", take, cancel, close_op, true};
static const fl_op_kind acquire_kind = {"a session", take, cancel, close_op, false}; /* undo */

/* where */

static int no_server(lua_State *L)
{
    return raise_error(L, "refused",
                       "there is no server here: a database can be opened, but not used");
}

/* Known by its metatable's address, which costs less than its name. */
static fl_db *quick_db(lua_State *L, int index)
{
    const fl_state *state = fl_state_of(L);
    if (!state || !lua_getmetatable(L, index)) return NULL;
    bool is_handle = lua_topointer(L, -1) == state->db_metatable;
    lua_pop(L, 1);
    const handle *self = is_handle ? lua_touserdata(L, index) : NULL; /* a table can have it, too */
    return self ? self->db : NULL;
}

static place check_place(lua_State *L, int index)
{
    fl_db *quick = quick_db(L, index);
    if (quick) return (place){quick, NULL};
    handle *self = lua_touserdata(L, index);
    place where = {NULL, NULL};
    if (!self || !lua_getmetatable(L, index)) luaL_checkudata(L, index, HANDLE);
    luaL_getmetatable(L, HANDLE);
    if (lua_rawequal(L, -1, -2)) {
        where.db = self->db;
        if (!where.db) no_server(L);
        lua_pop(L, 2);
        return where;
    }
    lua_pop(L, 2);
    where.session = ((session_handle *)luaL_checkudata(L, index, SESSION))->session;
    if (!where.session || !where.session->held)
        raise_error(L, "refused", "the transaction is over");
    where.db = where.session->db;
    return where;
}

/* A pending op with a new query; on top of the stack. */
static fl_query_op *make(lua_State *L, place where, fl_query_kind kind, unsigned calls,
                         fl_query_take how)
{
    fl_query_op *op = (fl_query_op *)fl_op_prepare(
        L, sizeof(*op), kind == FL_QUERY_ACQUIRE ? &acquire_kind : &query_kind);
    op->take = how;
    op->query = fl_query_new(where.db, kind, calls);
    if (!op->query) luaL_error(L, "not enough memory");
    op->query->op = op;
    op->query->session = where.session;
    if (where.session) where.session->references++;
    return op;
}

/* Of a call, in ms; 0: none; without one the database's own. */
static uint64_t check_timeout(lua_State *L, int index, place where)
{
    return lua_isnoneornil(L, index) ? where.db->timeout : (uint64_t)luaL_checknumber(L, index);
}

/* The op is on top. A finalizer may have released the session since it was looked at.
 * [-0, +0, e] */
static int submit(lua_State *L, fl_query_op *op, uint64_t timeout)
{
    fl_thread *thread = op->op.state->thread;
    fl_query *query = op->query;
    if (query->session && query->kind != FL_QUERY_ACQUIRE && !query->session->held)
        return raise_error(L, "refused", "the transaction is over");
    fl_op_begin(L, &op->op);
    fl_claim_take(&thread->claim);
    fl_query_submit(query, timeout);
    fl_claim_give(&thread->claim);
    return 1;
}

/* arguments */

static bool is_whole(double number)
{
    return number >= -EXACT && number <= EXACT && number == floor(number);
}

static void add_cdata(lua_State *L, fl_buffer *out, int number, int sql)
{
    uint64_t bits;
    bool is_unsigned;
    luaL_checkstack(L, 8, "for an argument");
    if (!fl_int64_read_bits(L, &bits, &is_unsigned)) {
        lua_pushfstring(L, "argument %d is a cdata that is neither int64 nor uint64", number);
        raise_message(L, "argument", sql);
    }
    if (is_unsigned && bits > INT64_MAX) {
        lua_pushfstring(L, "argument %d is a uint64 beyond the largest int64", number);
        raise_message(L, "argument", sql);
    }
    fl_values_integer(out, (int64_t)bits);
}

/* As JSON: what it is to the database its column or cast decides. */
static void add_table(lua_State *L, fl_buffer *out, int number, int sql)
{
    size_t at = fl_values_begin_json(out);
    const fl_state *state = fl_state_of(L);
    size_t most = state ? (size_t)state->thread->settings->json_bytes : FL_JSON_BYTES;
    if (fl_json_encode(L, lua_gettop(L), out, most) < 0) {
        lua_pushfstring(L, "argument %d: %s", number, lua_tostring(L, -1));
        raise_message(L, "argument", sql);
    }
    if (fl_values_end_json(out, at)) return;
    lua_pushfstring(L, "argument %d has 4 GiB or more as JSON", number);
    raise_message(L, "argument", sql);
}

/* The value on top, which stays there. */
static void add_value(lua_State *L, fl_buffer *out, int number, int sql)
{
    fl_slice text;
    double value;
    switch (lua_type(L, -1)) {
    case LUA_TNIL: fl_values_null(out); return;
    case LUA_TBOOLEAN: fl_values_bool(out, lua_toboolean(L, -1)); return;
    case LUA_TNUMBER:
        value = lua_tonumber(L, -1);
        if (is_whole(value))
            fl_values_integer(out, (int64_t)value);
        else
            fl_values_number(out, value);
        return;
    case LUA_TSTRING:
        text.data = lua_tolstring(L, -1, &text.size);
        fl_values_text(out, text);
        return;
    case LUA_TTABLE: add_table(L, out, number, sql); return;
    case FL_LUA_TCDATA: add_cdata(L, out, number, sql); return;
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, -1)) {
            fl_values_null(out);
            return;
        } /* fall through */
    default:
        lua_pushfstring(L, "argument %d is a %s", number, luaL_typename(L, -1));
        raise_message(L, "argument", sql);
    }
}

/* `fl.array`'s mark, a sequence, or nothing at all. */
static bool is_list(lua_State *L, int index)
{
    if (lua_objlen(L, index) > 0) return true;
    lua_pushnil(L);
    if (!lua_next(L, index)) return true;
    lua_pop(L, 2);
    return false;
}

/* lengths[i]: how many items argument i has as a list, or FL_SQL_SINGLE. Says whether there is any
 * list.  [-0, +0, -] */
static bool measure(lua_State *L, const fl_sql *sql, uint32_t *lengths, int first, int last)
{
    bool any = false;
    for (int i = first; i <= last; i++) {
        uint32_t number = (uint32_t)(i - first);
        lengths[number] = FL_SQL_SINGLE;
        if (!lua_istable(L, i) || !fl_sql_is_list(sql, number) || !is_list(L, i)) continue;
        lengths[number] = (uint32_t)lua_objlen(L, i);
        any = true;
    }
    return any;
}

/* The first `count` items of the list on top. */
static void add_list(lua_State *L, fl_buffer *out, uint32_t count, int number, int sql)
{
    for (uint32_t i = 1; i <= count; i++) {
        lua_rawgeti(L, -1, (int)i);
        if (lua_istable(L, -1)) {
            lua_pushfstring(L, "argument %d: item %d of the list is a table", number, (int)i);
            raise_message(L, "argument", sql);
        }
        add_value(L, out, number, sql);
        lua_pop(L, 1);
    }
}

/* Arguments from `first` to `last`, as they were measured. */
static void add_arguments(lua_State *L, fl_buffer *out, const uint32_t *lengths, int first,
                          int last, int text)
{
    for (int i = first; i <= last; i++) {
        int number = i - first;
        lua_pushvalue(L, i);
        if (lengths[number] == FL_SQL_SINGLE)
            add_value(L, out, number + 1, text);
        else
            add_list(L, out, lengths[number], number + 1, text);
        lua_pop(L, 1);
    }
}

/* what may be asked */

static bool controls_transaction(const char *verb)
{
    static const char *const verbs[] = {"BEGIN",     "START",    "COMMIT",
                                        "END",       "ROLLBACK", "ABORT",
                                        "SAVEPOINT", "RELEASE",  "PREPARE TRANSACTION"};
    for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
        if (strncmp(verb, verbs[i], strlen(verbs[i])) == 0) return true;
    return false;
}

static void check_allowed(lua_State *L, place where, const fl_sql *sql, int text)
{
    if (sql->kind == FL_SQL_COPY) {
        lua_pushliteral(L, "COPY: db:copy does that");
        raise_message(L, "refused", text);
    }
    if (sql->kind != FL_SQL_SESSION) return;
    if (controls_transaction(sql->verb))
        lua_pushfstring(L, "%s: db:transaction begins, commits and rolls back", sql->verb);
    else if (!where.session)
        lua_pushfstring(L,
                        "%s changes the connection, which others use too: only within "
                        "db:transaction",
                        sql->verb);
    else
        return;
    raise_message(L, "refused", text);
}

/* Until another one is looked for: and whatever allocates in Lua's heap may run a finalizer, which
 * may do that. */
static fl_template *find_template(lua_State *L, place where, int text)
{
    char error[ERROR_SIZE] = "";
    fl_template *found = NULL;
    fl_slice sql;
    if (lua_type(L, text) != LUA_TSTRING) {
        lua_pushfstring(L, "the statement must be a string, got %s%s",
                        lua_isnoneornil(L, text) ? "" : "a ", luaL_typename(L, text));
        raise_message(L, "argument", 0);
    }
    sql.data = lua_tolstring(L, text, &sql.size);
    fl_thread *thread = where.db->state->thread;
    fl_claim_take(&thread->claim);
    int status = fl_statements_find(where.db->statements, &found, sql, error, sizeof(error));
    fl_claim_give(&thread->claim);
    if (status == UV_ENOMEM) luaL_error(L, "not enough memory");
    if (status < 0) {
        lua_pushstring(L, error);
        raise_message(L, "syntax", text);
    }
    return found;
}

static void check_count(lua_State *L, const fl_sql *sql, int given, int text)
{
    if ((uint32_t)given == sql->parameters) return;
    lua_pushfstring(L, "%d argument%s expected, got %d", (int)sql->parameters,
                    sql->parameters == 1 ? "" : "s", given);
    raise_message(L, "argument", text);
}

static void set_statement(lua_State *L, fl_query *query, fl_call *call, fl_template *template,
                          const uint32_t *lengths, int text)
{
    fl_thread *thread = query->db->state->thread;
    fl_claim_take(&thread->claim);
    int status = fl_statements_expand(query->db->statements, &call->statement, template, lengths);
    fl_claim_give(&thread->claim);
    if (status == UV_E2BIG) {
        lua_pushliteral(L, "more values than the database takes in one statement");
        raise_message(L, "argument", text);
    }
    if (status < 0) luaL_error(L, "not enough memory");
    call->count = call->statement->parameters;
}

/* The statement at `text` with its arguments from `first` to `last` becomes a call. */
static void fill(lua_State *L, fl_query *query, fl_call *call, place where, int text, int first,
                 int last)
{
    int given = last - first + 1;
    luaL_checkstack(L, 12, "for arguments");
    uint32_t *lengths = given ? lua_newuserdata(L, (size_t)given * sizeof(*lengths)) : NULL;
    fl_template *template = find_template(L, where, text);
    check_allowed(L, where, &template->sql, text);
    check_count(L, &template->sql, given, text);
    bool any = measure(L, &template->sql, lengths, first, last);
    set_statement(L, query, call, template, any ? lengths : NULL, text);
    if (!given) return;
    call->first = query->values.size;
    add_arguments(L, &query->values, lengths, first, last, text);
    if (query->values.failed) luaL_error(L, "not enough memory");
    lua_pop(L, 1);
}

/* A text of the framework's own, which begins or ends a transaction.  [-0, +0, e] */
static void fill_command(lua_State *L, fl_query *query, place where, int text)
{
    fl_template *template = find_template(L, where, text);
    set_statement(L, query, &query->call, template, NULL, text);
}

/* functions */

static uint64_t keep_of(fl_query_take how)
{
    return how == FL_TAKE_ROWS ? UINT64_MAX : how == FL_TAKE_COUNTS ? 0 : 1;
}

/* query(where, how, timeout, retry, sql, …) -> op: how 0: all rows, 1: the first, 2: its first
 * value, 3: the counts; timeout in ms, 0: none, nil: the database's   [-0, +1, e] */
static int db_query(lua_State *L)
{
    place where = check_place(L, 1);
    fl_query_take how = (fl_query_take)luaL_checkinteger(L, 2);
    uint64_t timeout = check_timeout(L, 3, where);
    int top = lua_gettop(L);
    fl_query_op *op = make(L, where, FL_QUERY_RUN, 1, how);
    op->query->keep = keep_of(how);
    op->query->retry = lua_toboolean(L, 4);
    fill(L, op->query, &op->query->call, where, 5, 6, top);
    return submit(L, op, timeout);
}

/* The entry {sql, …} on top.  [-0, +0, e] */
static void fill_entry(lua_State *L, fl_query *query, fl_call *call, place where, int number)
{
    int entry = lua_gettop(L);
    if (!lua_istable(L, entry)) {
        lua_pushfstring(L, "batch: entry %d is a %s, not { sql, arguments }", number,
                        luaL_typename(L, entry));
        raise_message(L, "argument", 0);
    }
    lua_getfield(L, entry, "n");
    int count = lua_isnumber(L, -1) ? (int)lua_tointeger(L, -1) : (int)lua_objlen(L, entry);
    lua_pop(L, 1);
    if (count < 1) {
        lua_pushfstring(L, "batch: entry %d has no statement", number);
        raise_message(L, "argument", 0);
    }
    if (count > ENTRY_MOST) {
        lua_pushfstring(L, "batch: entry %d has %d arguments, more than %d", number, count - 1,
                        ENTRY_MOST - 1);
        raise_message(L, "argument", 0);
    }
    luaL_checkstack(L, count + 16, "for arguments");
    for (int i = 1; i <= count; i++) lua_rawgeti(L, entry, i);
    fill(L, query, call, where, entry + 1, entry + 2, entry + count);
    lua_settop(L, entry);
}

/* batch(where, timeout, {{sql, …}, …}) -> op   [-0, +1, e] */
static int db_batch(lua_State *L)
{
    place where = check_place(L, 1);
    uint64_t timeout = check_timeout(L, 2, where);
    luaL_checktype(L, 3, LUA_TTABLE);
    unsigned count = (unsigned)lua_objlen(L, 3);
    if (count < 1 || count > 100000)
        return raise_error(L, "argument", "batch: 1 to 100000 statements expected");
    fl_query_op *op = make(L, where, FL_QUERY_BATCH, count, FL_TAKE_BATCH);
    int own = lua_gettop(L);
    for (unsigned i = 0; i < count; i++) {
        lua_rawgeti(L, 3, (int)i + 1);
        fill_entry(L, op->query, &op->query->calls[i], where, (int)i + 1);
        lua_settop(L, own);
    }
    return submit(L, op, timeout);
}

/* acquire(db, timeout, begin|nil) -> op of a session   [-0, +1, e] */
static int db_acquire(lua_State *L)
{
    place where = check_place(L, 1);
    uint64_t timeout = check_timeout(L, 2, where);
    bool begins = !lua_isnoneornil(L, 3);
    session_handle *self = lua_newuserdata(L, sizeof(*self));
    self->session = NULL;
    luaL_getmetatable(L, SESSION);
    lua_setmetatable(L, -2);
    self->session = where.session = fl_session_new(where.db);
    if (!self->session) return luaL_error(L, "not enough memory");
    fl_query_op *op = make(L, where, FL_QUERY_ACQUIRE, begins ? 1 : 0, FL_TAKE_SESSION);
    lua_createtable(L, 1, 0);
    lua_pushvalue(L, -3);
    lua_rawseti(L, -2, 1);
    lua_setfenv(L, -2);
    if (begins) fill_command(L, op->query, where, 3);
    return submit(L, op, timeout);
}

/* command(session, timeout, sql) -> op   [-0, +1, e] */
static int db_command(lua_State *L)
{
    place where = check_place(L, 1);
    uint64_t timeout = check_timeout(L, 2, where);
    fl_query_op *op = make(L, where, FL_QUERY_RUN, 1, FL_TAKE_COUNTS);
    op->query->keep = 0;
    fill_command(L, op->query, where, 3);
    return submit(L, op, timeout);
}

/* stream(session, timeout, piece, sql, …) -> op of the first rows, nil when there are none
 * [-0, +1, e] */
static int db_stream(lua_State *L)
{
    place where = check_place(L, 1);
    uint64_t timeout = check_timeout(L, 2, where);
    uint64_t piece = (uint64_t)luaL_checknumber(L, 3);
    int top = lua_gettop(L);
    fl_query_op *op = make(L, where, FL_QUERY_STREAM, 1, FL_TAKE_PIECE);
    op->query->piece = piece;
    fill(L, op->query, &op->query->call, where, 4, 5, top);
    return submit(L, op, timeout);
}

/* more(session, timeout, piece) -> op of the next rows, nil at the end   [-0, +1, e] */
static int db_more(lua_State *L)
{
    place where = check_place(L, 1);
    uint64_t timeout = check_timeout(L, 2, where);
    uint64_t piece = (uint64_t)luaL_checknumber(L, 3);
    fl_query_op *op = make(L, where, FL_QUERY_MORE, 1, FL_TAKE_PIECE);
    op->query->piece = piece;
    return submit(L, op, timeout);
}

/* wait(session) -> op of a notification: a row of channel, payload, sender   [-0, +1, e] */
static int db_wait(lua_State *L)
{
    place where = check_place(L, 1);
    return submit(L, make(L, where, FL_QUERY_WAIT, 1, FL_TAKE_ROW), 0);
}

/* copy(session, timeout, sql, out|nil) -> op: COPY … FROM is begun, COPY … TO is a stream
 * [-0, +1, e] */
static int db_copy(lua_State *L)
{
    place where = check_place(L, 1);
    uint64_t timeout = check_timeout(L, 2, where);
    uint64_t piece = (uint64_t)luaL_optnumber(L, 4, 0);
    fl_query_op *op = make(L, where, piece ? FL_QUERY_STREAM : FL_QUERY_COPY, 1,
                           piece ? FL_TAKE_PIECE : FL_TAKE_COUNTS);
    fl_template *template = find_template(L, where, 3);
    if (template->sql.kind != FL_SQL_COPY || template->sql.parameters)
        return raise_error(L, "argument", "copy: a COPY statement without parameters expected");
    op->query->piece = piece;
    set_statement(L, op->query, &op->query->call, template, NULL, 3);
    return submit(L, op, timeout);
}

static int give_text(lua_State *L, fl_query_kind kind)
{
    place where = check_place(L, 1);
    uint64_t timeout = check_timeout(L, 2, where);
    fl_slice text = {"", 0};
    if (lua_gettop(L) >= 3) text.data = luaL_checklstring(L, 3, &text.size);
    fl_query_op *op = make(L, where, kind, 1, FL_TAKE_COUNTS);
    fl_values_text(&op->query->values, text);
    if (op->query->values.failed) return luaL_error(L, "not enough memory");
    return submit(L, op, timeout);
}

/* copy_data(session, timeout, bytes) -> op   [-0, +1, e] */
static int db_copy_data(lua_State *L)
{
    return give_text(L, FL_QUERY_COPY_DATA);
}

/* copy_end(session, timeout) -> op of the counts   [-0, +1, e] */
static int db_copy_end(lua_State *L)
{
    return give_text(L, FL_QUERY_COPY_END);
}

/* copy_fail(session, timeout, reason) -> op   [-0, +1, e] */
static int db_copy_fail(lua_State *L)
{
    return give_text(L, FL_QUERY_COPY_FAIL);
}

/* backup(db, timeout, path) -> op   [-0, +1, e] */
static int db_backup(lua_State *L)
{
    return give_text(L, FL_QUERY_BACKUP);
}

static void release(lua_State *L, session_handle *self)
{
    fl_state *state = fl_state_of(L);
    if (!self->session || !self->session->held || !state) return;
    fl_claim_take(&state->thread->claim);
    fl_session_release(self->session);
    fl_claim_give(&state->thread->claim);
}

/* release(session)   [-0, +0, e] */
static int db_release(lua_State *L)
{
    release(L, luaL_checkudata(L, 1, SESSION));
    return 0;
}

/* undo(op): the session that an op has brought reached nobody   [-0, +0, e] */
static int db_undo(lua_State *L)
{
    (void)fl_op_check(L, 1);
    push_session(L, 1);
    release(L, luaL_checkudata(L, -1, SESSION));
    return 0;
}

/* [-0, +0, -] */
static int collect_session(lua_State *L)
{
    session_handle *self = lua_touserdata(L, 1);
    release(L, self);
    fl_session_drop(self->session);
    self->session = NULL;
    return 0;
}

/* opening */

static char *copy_field(lua_State *L, int table, const char *name)
{
    lua_getfield(L, table, name);
    const char *text = lua_tostring(L, -1);
    char *copy = strdup(text ? text : "");
    lua_pop(L, 1);
    return copy;
}

static uint64_t number_field(lua_State *L, int table, const char *name, uint64_t otherwise)
{
    lua_getfield(L, table, name);
    double value = lua_isnil(L, -1) ? (double)otherwise : lua_tonumber(L, -1);
    lua_pop(L, 1);
    return value > 0 ? (uint64_t)value : 0;
}

/* Milliseconds; the settings have nanoseconds. */
static uint64_t time_field(lua_State *L, int table, const char *name, uint64_t otherwise)
{
    return number_field(L, table, name, otherwise / 1000000);
}

/* The table of options on top: names and texts. */
static bool copy_options(lua_State *L, fl_db *db)
{
    unsigned count = 0;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) count++;
    db->options = calloc(count ? count : 1, sizeof(*db->options));
    if (!db->options) return false;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        fl_db_option *option = &db->options[db->option_count++];
        option->name = strdup(lua_tostring(L, -2));
        option->value = strdup(lua_tostring(L, -1));
        if (!option->name || !option->value) return false;
    }
    return true;
}

/* read(db, settings): raises whenever memory runs out  [-0, +0, e] */
static int read_settings(lua_State *L)
{
    fl_db *db = lua_touserdata(L, 1);
    const fl_settings *settings = db->state->thread->settings;
    db->url = copy_field(L, 2, "url");
    db->name = copy_field(L, 2, "name");
    db->pool = (unsigned)number_field(L, 2, "pool", settings->db_pool);
    db->timeout = time_field(L, 2, "timeout", settings->db_timeout);
    db->connect_timeout = time_field(L, 2, "connect_timeout", settings->db_connect_timeout);
    db->pool_timeout = time_field(L, 2, "pool_timeout", settings->db_pool_timeout);
    db->idle_timeout = time_field(L, 2, "idle_timeout", settings->db_idle);
    db->most_bytes = number_field(L, 2, "max_result", settings->db_result);
    db->pending_most = number_field(L, 2, "queue", settings->db_queue);
    lua_getfield(L, 2, "options");
    bool copied = copy_options(L, db);
    lua_pop(L, 1);
    if (!copied || !db->url || !db->name) return luaL_error(L, "not enough memory");
    if (fl_statements_new(&db->statements, db->driver->dialect) == 0) return 0;
    return luaL_error(L, "not enough memory");
}

static int open_driver(fl_db *db, char *why, size_t why_size)
{
    fl_state *state = db->state;
    int status = db->driver->open(db, why, why_size);
    if (status < 0) return status;
    db->next = state->databases;
    state->databases = db;
    return 0;
}

/* Protected, for nothing frees it yet. The settings are at 2.  [-0, +0, e] */
static fl_db *new_db(lua_State *L, const fl_db_driver *driver, fl_state *state)
{
    lua_pushcfunction(L, read_settings);
    fl_db *db = calloc(1, driver->db_size);
    if (!db) luaL_error(L, "not enough memory");
    db->driver = driver;
    db->state = state;
    lua_pushlightuserdata(L, db);
    lua_pushvalue(L, 2);
    if (lua_pcall(L, 2, 0, 0) == 0) return db;
    fl_db_free(db);
    lua_error(L);
    return NULL;
}

/* open(driver, settings) -> handle: settings has the members of fl_db by name, all numbers, and
 * `options`, all texts   [-0, +1, e] */
static int db_open(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TLIGHTUSERDATA);
    luaL_checktype(L, 2, LUA_TTABLE);
    char why[ERROR_SIZE] = "";
    fl_state *state = fl_state_of(L);
    handle *self = lua_newuserdata(L, sizeof(*self));
    self->db = NULL;
    luaL_getmetatable(L, HANDLE);
    lua_setmetatable(L, -2);
    if (!state) return 1;
    fl_db *db = new_db(L, lua_touserdata(L, 1), state);
    fl_claim_take(&state->thread->claim);
    int status = open_driver(db, why, sizeof(why));
    fl_claim_give(&state->thread->claim);
    if (status == 0) {
        self->db = db;
        return 1;
    }
    fl_db_free(db);
    lua_pushstring(L, why[0] ? why : uv_strerror(status));
    return raise_message(L, "argument", 0);
}

static void set_count(lua_State *L, const char *name, uint64_t count)
{
    lua_pushnumber(L, (lua_Number)count);
    lua_setfield(L, -2, name);
}

/* stats(db) -> table   [-0, +1, e] */
static int db_stats(lua_State *L)
{
    place where = check_place(L, 1);
    fl_db_stats stats = {0};
    fl_thread *thread = where.db->state->thread;
    fl_claim_take(&thread->claim);
    where.db->driver->stats(where.db, &stats);
    fl_claim_give(&thread->claim);
    lua_createtable(L, 0, 8);
    set_count(L, "connections", stats.connections);
    set_count(L, "idle", stats.idle);
    set_count(L, "sessions", stats.sessions);
    set_count(L, "waiting", stats.waiting);
    set_count(L, "pending", where.db->pending);
    set_count(L, "queries", where.db->queries);
    set_count(L, "errors", where.db->errors);
    set_count(L, "reconnects", where.db->reconnects);
    return 1;
}

/* texts of many statements */

static fl_sql_dialect check_dialect(lua_State *L, int index)
{
    static const char *const names[] = {"postgres", "sqlite", "mariadb", NULL};
    static const fl_sql_dialect dialects[] = {FL_SQL_POSTGRES, FL_SQL_SQLITE, FL_SQL_MARIADB};
    return dialects[luaL_checkoption(L, index, NULL, names)];
}

static void push_part(lua_State *L, const fl_sql_part *part)
{
    lua_createtable(L, 0, 4);
    lua_pushlstring(L, part->text.data, part->text.size);
    lua_setfield(L, -2, "text");
    lua_pushnumber(L, (lua_Number)part->line);
    lua_setfield(L, -2, "line");
    set_text(L, "verb", part->verb);
    lua_pushboolean(L, part->kind == FL_SQL_SCHEMA);
    lua_setfield(L, -2, "is_schema");
}

static int push_split_problem(lua_State *L, const char *problem, const char *hint, size_t line)
{
    lua_pushnil(L);
    lua_pushfstring(L, "%s%s", problem, hint);
    lua_pushnumber(L, (lua_Number)line);
    return 3;
}

/* split(dialect, text) -> list of { text, line, verb, is_schema } | nil, problem, line
 * [-0, +1|3, e] */
static int db_split(lua_State *L)
{
    fl_slice text;
    fl_sql_dialect dialect = check_dialect(L, 1);
    text.data = luaL_checklstring(L, 2, &text.size);
    if (memchr(text.data, '\0', text.size)) return push_split_problem(L, "a NUL byte", "", 1);
    fl_sql_split split;
    fl_sql_part part;
    int status;
    fl_sql_split_init(&split, dialect, text);
    lua_newtable(L);
    for (int i = 1; (status = fl_sql_split_next(&split, &part)) == 1; i++) {
        push_part(L, &part);
        lua_rawseti(L, -2, i);
    }
    if (status == 0) return 1;
    return push_split_problem(L, split.problem, split.hint, split.wrong_line);
}

static void make_metatable(lua_State *L, const char *name, lua_CFunction collect)
{
    luaL_newmetatable(L, name);
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__name");
    if (collect) {
        lua_pushcfunction(L, collect);
        lua_setfield(L, -2, "__gc");
    }
    lua_newtable(L);
    lua_setfield(L, -2, "__index");
}

int fl_db_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"open", db_open},           {"query", db_query},       {"batch", db_batch},
        {"acquire", db_acquire},     {"command", db_command},   {"stream", db_stream},
        {"more", db_more},           {"wait", db_wait},         {"copy", db_copy},
        {"copy_data", db_copy_data}, {"copy_end", db_copy_end}, {"copy_fail", db_copy_fail},
        {"backup", db_backup},       {"release", db_release},   {"undo", db_undo},
        {"stats", db_stats},         {"split", db_split},       {NULL, NULL}};
    fl_rows_open(L);
    lua_newtable(L);
    fl_state_functions(L, functions);
    make_metatable(L, HANDLE, NULL);
    if (fl_state_of(L)) fl_state_of(L)->db_metatable = lua_topointer(L, -1);
    lua_setfield(L, -2, "metatable");
    make_metatable(L, SESSION, collect_session);
    lua_setfield(L, -2, "session");
    make_metatable(L, "fasterlua.db.error", NULL);
    lua_setfield(L, -2, "error");
    return 1;
}
