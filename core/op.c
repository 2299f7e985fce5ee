#include "op.h"

#include <assert.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "thread.h"

#define METATABLE "fasterlua.op"
#define SHOWN 300 /* bytes of what a lost op was about */

/* Known by its metatable's address, which costs less than its name. */
fl_op *fl_op_check(lua_State *L, int index)
{
    const fl_state *state = fl_state_of(L);
    if (state && lua_getmetatable(L, index)) {
        bool is_op = lua_topointer(L, -1) == state->op_metatable;
        lua_pop(L, 1);
        fl_op *op = is_op ? lua_touserdata(L, index) : NULL; /* a table can have it, too */
        if (op) return op;
    }
    return luaL_checkudata(L, index, METATABLE);
}

int fl_op_refuse(lua_State *L, const char *what)
{
    luaL_where(L, 2);
    lua_pushfstring(L, "%s: at the top level of a file nothing can wait: use app:on_start", what);
    lua_concat(L, 2);
    return lua_error(L);
}

fl_op *fl_op_prepare(lua_State *L, size_t size, const fl_op_kind *kind)
{
    fl_state *state = fl_state_of(L);
    if (!state) fl_op_refuse(L, kind->name);
    fl_op *op = lua_newuserdata(L, size);
    memset(op, 0, size);
    op->kind = kind;
    op->state = state;
    op->done = true;
    lua_rawgeti(L, LUA_REGISTRYINDEX, state->op_metatable_reference);
    lua_setmetatable(L, -2);
    return op;
}

void fl_op_begin(lua_State *L, fl_op *op)
{
    fl_state *state = op->state;
    lua_pushvalue(L, -1);
    op->anchor = luaL_ref(L, LUA_REGISTRYINDEX);
    op->done = false;
    op->next = state->ops;
    if (op->next) op->next->link = &op->next;
    op->link = &state->ops;
    state->ops = op;
}

fl_op *fl_op_new(lua_State *L, size_t size, const fl_op_kind *kind)
{
    fl_op *op = fl_op_prepare(L, size, kind);
    fl_op_begin(L, op);
    return op;
}

bool fl_op_is_lost(const fl_op *op)
{
    return op->anchor && op->done && !op->taken && !op->cancelled;
}

void fl_op_tell_lost(const fl_op *op, const fl_op_failure *failure)
{
    char message[128];
    fl_slice text = failure->text;
    if (text.size > SHOWN) text.size = SHOWN;
    (void)snprintf(message, sizeof(message),
                   "%s that nobody awaited has failed: was await forgotten?", op->kind->name);
    const fl_log_field fields[] = {
        fl_field_text("app", fl_slice_from_string(op->state->app->name)),
        fl_field_text("code", failure->code),
        fl_field_text("error", failure->error),
        fl_field_text(failure->subject, text),
    };
    fl_log_line(op->state->thread->log, FL_LOG_ERROR, fl_slice_from_string(message), fields,
                sizeof(fields) / sizeof(fields[0]));
}

void fl_op_tell_lost_status(const fl_op *op, int error, const char *subject, const char *text)
{
    char code[32], reason[128];
    if (!error) return;
    const fl_op_failure failure = {
        .code = fl_slice_from_string(uv_err_name_r(error, code, sizeof(code))),
        .error = fl_slice_from_string(uv_strerror_r(error, reason, sizeof(reason))),
        .subject = subject,
        .text = fl_slice_from_string(text),
    };
    fl_op_tell_lost(op, &failure);
}

static void leave_state(fl_op *op)
{
    *op->link = op->next;
    if (op->next) op->next->link = op->link;
}

void fl_op_done(fl_op *op)
{
    fl_state *state = op->state;
    assert(!op->done);
    op->done = true;
    leave_state(op);
    luaL_unref(state->L, LUA_REGISTRYINDEX, op->anchor);
    if (op->ticket != 0) fl_task_wake(state, op->ticket);
    for (unsigned i = 0; i < op->more_count; i++) fl_task_wake(state, op->more[i]);
    op->more_count = 0;
}

void fl_op_cancel_all(fl_state *state)
{
    for (fl_op *op = state->ops, *next; op; op = next) {
        next = op->next;
        if (op->cancelled || !op->kind->cancel) continue;
        op->cancelled = true;
        op->kind->cancel(op);
    }
}

/* op_done(op) -> boolean   [-0, +1, e] */
static int op_is_done(lua_State *L)
{
    lua_pushboolean(L, fl_op_check(L, 1)->done);
    return 1;
}

static bool add_waiter(fl_op *op, double ticket)
{
    if (op->ticket == 0) {
        op->ticket = ticket;
        return true;
    }
    double *more = realloc(op->more, (op->more_count + 1) * sizeof(*more));
    if (!more) return false;
    op->more = more;
    op->more[op->more_count++] = ticket;
    return true;
}

/* op_wait(op, ticket): wakes the ticket on completion   [-0, +0, e] */
static int op_wait(lua_State *L)
{
    fl_op *op = fl_op_check(L, 1);
    double ticket = luaL_checknumber(L, 2);
    if (op->done) {
        fl_state *state = fl_state_of(L);
        fl_claim_take(&state->thread->claim);
        fl_task_wake(state, ticket);
        fl_claim_give(&state->thread->claim);
    } else if (!add_waiter(op, ticket)) {
        return luaL_error(L, "not enough memory");
    }
    return 0;
}

/* op_await(op) -> nothing: it is done, or perhaps is | why the task was cancelled; to be called
 * where the coroutine can yield   [-0, +0|1, e] */
static int op_await(lua_State *L)
{
    fl_op *op = fl_op_check(L, 1);
    const char *reason;
    if (op->done) return 0;
    double ticket = fl_task_prepare_wait(L, &reason);
    if (ticket == 0) {
        lua_pushstring(L, reason);
        return 1;
    }
    if (!add_waiter(op, ticket)) return luaL_error(L, "not enough memory");
    return fl_task_wait(L);
}

static void free_op(fl_op *op)
{
    if (op->kind->close) op->kind->close(op);
    free(op->more);
    op->more = NULL;
}

/* The collector has nothing to do for it any more.  [-0, +0, -] */
static void spend(lua_State *L, fl_op *op)
{
    free_op(op);
    lua_pushnil(L);
    lua_setmetatable(L, 1);
}

/* op_take(op) -> true, value… | false, error | nothing: it is not done   [-0, +n, e] */
static int op_take(lua_State *L)
{
    fl_op *op = fl_op_check(L, 1);
    if (!op->done) return 0;
    int count = op->kind->take(op, L);
    op->taken = true;
    if (op->kind->once) spend(L, op);
    return count;
}

/* op_cancel(op)   [-0, +0, e] */
static int op_cancel(lua_State *L)
{
    fl_op *op = fl_op_check(L, 1);
    if (op->done || op->cancelled || !op->kind->cancel) return 0;
    fl_thread *thread = op->state->thread;
    fl_claim_take(&thread->claim);
    op->cancelled = true;
    op->kind->cancel(op);
    fl_claim_give(&thread->claim);
    return 0;
}

/* [-0, +0, -] */
static int op_collect(lua_State *L)
{
    fl_op *op = fl_op_check(L, 1);
    if (op->done && op->kind) free_op(op);
    return 0;
}

void fl_op_functions(lua_State *L)
{
    static const luaL_Reg functions[] = {{"op_done", op_is_done},  {"op_wait", op_wait},
                                         {"op_await", op_await},   {"op_take", op_take},
                                         {"op_cancel", op_cancel}, {NULL, NULL}};
    fl_state_functions(L, functions);
    if (luaL_newmetatable(L, METATABLE)) {
        lua_pushcfunction(L, op_collect);
        lua_setfield(L, -2, "__gc");
    }
    fl_state *state = fl_state_of(L);
    if (!state) {
        lua_pop(L, 1);
        return;
    }
    state->op_metatable = lua_topointer(L, -1);
    state->op_metatable_reference = luaL_ref(L, LUA_REGISTRYINDEX);
}
