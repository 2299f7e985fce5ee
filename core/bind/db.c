/* Databases for Lua: arguments in, queries to drivers, results out. What an app may write is
 * decided here and in lua/fasterlua/db.lua; everything of the database itself is the driver's.
 *
 * A query is made and filled while Lua owns the thread, for nobody else knows it yet; the claim is
 * taken to look up its statement and to submit it. */
#include "bind/db.h"

#include <lauxlib.h>

#include "bind/db_error.h"
#include "bind/db_open.h"
#include "bind/db_place.h"
#include "bind/db_result.h"
#include "bind/db_split.h"
#include "bind/db_statement.h"
#include "query_op.h"
#include "rows.h"
#include "state.h"
#include "thread.h"

/* Values of a batch's entry: they lie on the Lua stack, which takes 8000. */
#define ENTRY_MOST 7900

static void cancel(fl_op *op)
{
    fl_query_op *self = (fl_query_op *)op;
    if (self->query) fl_query_give_up(self->query, "cancelled");
}

static void tell_lost(const fl_query_op *self)
{
    const fl_query *query = self->query;
    const fl_statement *statement = query->call_count ? query->calls[0].statement : NULL;
    if (self->given_up || !query->error.message) return;
    const fl_op_failure failure = {
        .code = fl_slice_from_string(query->error.code),
        .error = fl_slice_from_string(query->error.message),
        .subject = "sql",
        .text = fl_slice_of(statement ? statement->text : "", statement ? statement->size : 0),
    };
    fl_op_tell_lost(&self->op, &failure);
}

static void close_op(fl_op *op)
{
    fl_query_op *self = (fl_query_op *)op;
    if (self->query && fl_op_is_lost(op)) tell_lost(self);
    if (self->query) fl_query_release(self->query);
    self->query = NULL;
}

static const fl_op_kind query_kind = {"a query", fl_db_result_take, cancel, close_op, true};
static const fl_op_kind acquire_kind = {"a session", fl_db_result_take, cancel, close_op,
                                        false}; /* undo */

/* A pending op with a new query; on top of the stack. */
static fl_query_op *make(lua_State *L, fl_db_place where, fl_query_kind kind, unsigned calls,
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

/* The op is on top. A finalizer may have released the session since it was looked at.
 * [-0, +0, e] */
static int submit(lua_State *L, fl_query_op *op, uint64_t timeout)
{
    fl_thread *thread = op->op.state->thread;
    fl_query *query = op->query;
    if (query->session && query->kind != FL_QUERY_ACQUIRE)
        fl_db_place_check_held(L, query->session);
    fl_op_begin(L, &op->op);
    fl_claim_take(&thread->claim);
    fl_query_submit(query, timeout);
    fl_claim_give(&thread->claim);
    return 1;
}

static uint64_t keep_of(fl_query_take how)
{
    return how == FL_TAKE_ROWS ? UINT64_MAX : how == FL_TAKE_COUNTS ? 0 : 1;
}

/* query(where, how, timeout, retry, sql, …) -> op: how 0: all rows, 1: the first, 2: its first
 * value, 3: the counts; timeout in ms, 0: none, nil: the database's   [-0, +1, e] */
static int db_query(lua_State *L)
{
    fl_db_place where = fl_db_place_check(L, 1);
    fl_query_take how = (fl_query_take)luaL_checkinteger(L, 2);
    uint64_t timeout = fl_db_place_timeout(L, 3, where);
    int top = lua_gettop(L);
    fl_query_op *op = make(L, where, FL_QUERY_RUN, 1, how);
    op->query->keep = keep_of(how);
    op->query->retry = lua_toboolean(L, 4);
    fl_db_statement_fill(L, op->query, &op->query->call, where, 5, 6, top);
    return submit(L, op, timeout);
}

/* The entry {sql, …} on top.  [-0, +0, e] */
static void fill_entry(lua_State *L, fl_query *query, fl_call *call, fl_db_place where, int number)
{
    int entry = lua_gettop(L);
    if (!lua_istable(L, entry)) {
        lua_pushfstring(L, "batch: entry %d is a %s, not { sql, arguments }", number,
                        luaL_typename(L, entry));
        fl_db_error_raise(L, "argument", 0);
    }
    lua_getfield(L, entry, "n");
    int count = lua_isnumber(L, -1) ? (int)lua_tointeger(L, -1) : (int)lua_objlen(L, entry);
    lua_pop(L, 1);
    if (count < 1) {
        lua_pushfstring(L, "batch: entry %d has no statement", number);
        fl_db_error_raise(L, "argument", 0);
    }
    if (count > ENTRY_MOST) {
        lua_pushfstring(L, "batch: entry %d has %d arguments, more than %d", number, count - 1,
                        ENTRY_MOST - 1);
        fl_db_error_raise(L, "argument", 0);
    }
    luaL_checkstack(L, count + 16, "for arguments");
    for (int i = 1; i <= count; i++) lua_rawgeti(L, entry, i);
    fl_db_statement_fill(L, query, call, where, entry + 1, entry + 2, entry + count);
    lua_settop(L, entry);
}

/* batch(where, timeout, {{sql, …}, …}) -> op   [-0, +1, e] */
static int db_batch(lua_State *L)
{
    fl_db_place where = fl_db_place_check(L, 1);
    uint64_t timeout = fl_db_place_timeout(L, 2, where);
    luaL_checktype(L, 3, LUA_TTABLE);
    unsigned count = (unsigned)lua_objlen(L, 3);
    if (count < 1 || count > 100000)
        return fl_db_error_raise_text(L, "argument", "batch: 1 to 100000 statements expected");
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
    fl_db_place where = fl_db_place_check(L, 1);
    uint64_t timeout = fl_db_place_timeout(L, 2, where);
    bool begins = !lua_isnoneornil(L, 3);
    where.session = fl_db_place_new_session(L, where.db);
    fl_query_op *op = make(L, where, FL_QUERY_ACQUIRE, begins ? 1 : 0, FL_TAKE_SESSION);
    lua_pushvalue(L, -2);
    fl_db_result_keep_session(L);
    if (begins) fl_db_statement_fill_command(L, op->query, where, 3);
    return submit(L, op, timeout);
}

/* command(session, timeout, sql) -> op   [-0, +1, e] */
static int db_command(lua_State *L)
{
    fl_db_place where = fl_db_place_check(L, 1);
    uint64_t timeout = fl_db_place_timeout(L, 2, where);
    fl_query_op *op = make(L, where, FL_QUERY_RUN, 1, FL_TAKE_COUNTS);
    op->query->keep = 0;
    fl_db_statement_fill_command(L, op->query, where, 3);
    return submit(L, op, timeout);
}

/* stream(session, timeout, piece, sql, …) -> op of the first rows, nil when there are none
 * [-0, +1, e] */
static int db_stream(lua_State *L)
{
    fl_db_place where = fl_db_place_check(L, 1);
    uint64_t timeout = fl_db_place_timeout(L, 2, where);
    uint64_t piece = (uint64_t)luaL_checknumber(L, 3);
    int top = lua_gettop(L);
    fl_query_op *op = make(L, where, FL_QUERY_STREAM, 1, FL_TAKE_PIECE);
    op->query->piece = piece;
    fl_db_statement_fill(L, op->query, &op->query->call, where, 4, 5, top);
    return submit(L, op, timeout);
}

/* more(session, timeout, piece) -> op of the next rows, nil at the end   [-0, +1, e] */
static int db_more(lua_State *L)
{
    fl_db_place where = fl_db_place_check(L, 1);
    uint64_t timeout = fl_db_place_timeout(L, 2, where);
    uint64_t piece = (uint64_t)luaL_checknumber(L, 3);
    fl_query_op *op = make(L, where, FL_QUERY_MORE, 1, FL_TAKE_PIECE);
    op->query->piece = piece;
    return submit(L, op, timeout);
}

/* wait(session) -> op of a notification: a row of channel, payload, sender   [-0, +1, e] */
static int db_wait(lua_State *L)
{
    fl_db_place where = fl_db_place_check(L, 1);
    return submit(L, make(L, where, FL_QUERY_WAIT, 1, FL_TAKE_ROW), 0);
}

/* copy(session, timeout, sql, out|nil) -> op: COPY … FROM is begun, COPY … TO is a stream
 * [-0, +1, e] */
static int db_copy(lua_State *L)
{
    fl_db_place where = fl_db_place_check(L, 1);
    uint64_t timeout = fl_db_place_timeout(L, 2, where);
    uint64_t piece = (uint64_t)luaL_optnumber(L, 4, 0);
    fl_query_op *op = make(L, where, piece ? FL_QUERY_STREAM : FL_QUERY_COPY, 1,
                           piece ? FL_TAKE_PIECE : FL_TAKE_COUNTS);
    op->query->piece = piece;
    fl_db_statement_fill_copy(L, op->query, where, 3);
    return submit(L, op, timeout);
}

static int give_text(lua_State *L, fl_query_kind kind)
{
    fl_db_place where = fl_db_place_check(L, 1);
    uint64_t timeout = fl_db_place_timeout(L, 2, where);
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

/* release(session)   [-0, +0, e] */
static int db_release(lua_State *L)
{
    fl_db_place_release(L, 1);
    return 0;
}

/* undo(op): the session that an op has brought reached nobody   [-0, +0, e] */
static int db_undo(lua_State *L)
{
    (void)fl_op_check(L, 1);
    fl_db_result_push_session(L, 1);
    fl_db_place_release(L, lua_gettop(L));
    return 0;
}

static void set_count(lua_State *L, const char *name, uint64_t count)
{
    lua_pushnumber(L, (lua_Number)count);
    lua_setfield(L, -2, name);
}

/* stats(db) -> table   [-0, +1, e] */
static int db_stats(lua_State *L)
{
    fl_db_place where = fl_db_place_check(L, 1);
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

int fl_db_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"open", fl_db_open},        {"query", db_query},       {"batch", db_batch},
        {"acquire", db_acquire},     {"command", db_command},   {"stream", db_stream},
        {"more", db_more},           {"wait", db_wait},         {"copy", db_copy},
        {"copy_data", db_copy_data}, {"copy_end", db_copy_end}, {"copy_fail", db_copy_fail},
        {"backup", db_backup},       {"release", db_release},   {"undo", db_undo},
        {"stats", db_stats},         {"split", fl_db_split},    {NULL, NULL}};
    fl_rows_open(L);
    lua_newtable(L);
    fl_state_functions(L, functions);
    fl_db_place_open(L);
    fl_db_error_open(L);
    lua_setfield(L, -2, "error");
    return 1;
}
