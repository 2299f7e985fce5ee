#include "bind/exec.h"

#include <lauxlib.h>
#include <uv.h>

#include "../exec.h"
#include "bind/units.h"
#include "op.h"
#include "thread.h"

typedef struct exec_op {
    fl_op op;
    fl_exec *exec; /* NULL: there was no memory */
    const char *program;
    int error; /* it was never started */
} exec_op;

enum { ARGV = 1, OPTIONS, ARGUMENTS, ENVIRONMENT, FOLDER, INPUT }; /* where on the stack */

static void ended(void *data)
{
    fl_op_done(data);
}

static void cancel(fl_op *op)
{
    fl_exec_cancel(((exec_op *)op)->exec);
}

static int error_of(const exec_op *self)
{
    return self->error ? self->error : fl_exec_result_of(self->exec)->error;
}

static void close_op(fl_op *op)
{
    exec_op *self = (exec_op *)op;
    if (fl_op_is_lost(op)) fl_op_tell_lost_status(op, error_of(self), "program", self->program);
    if (self->exec) fl_exec_release(self->exec);
    self->exec = NULL;
}

static int push_error(const exec_op *self, lua_State *L, int error)
{
    char code[32], reason[128];
    lua_pushboolean(L, false);
    lua_createtable(L, 0, 3);
    lua_pushliteral(L, "exec");
    lua_setfield(L, -2, "kind");
    lua_pushstring(L, uv_err_name_r(error, code, sizeof(code)));
    lua_setfield(L, -2, "code");
    lua_pushfstring(L, "cannot run %s: %s", self->program,
                    uv_strerror_r(error, reason, sizeof(reason)));
    lua_setfield(L, -2, "message");
    return 2;
}

static void set_output(lua_State *L, const char *name, const fl_buffer *kept)
{
    lua_pushlstring(L, kept->size ? kept->data : "", kept->size);
    lua_setfield(L, -2, name);
}

static int take(fl_op *op, lua_State *L)
{
    const exec_op *self = (exec_op *)op;
    if (error_of(self)) return push_error(self, L, error_of(self));
    const fl_exec_result *result = fl_exec_result_of(self->exec);
    lua_pushboolean(L, true);
    lua_createtable(L, 0, 6);
    lua_pushinteger(L, (lua_Integer)(result->signal ? result->signal : result->code));
    lua_setfield(L, -2, result->signal ? "signal" : "code");
    set_output(L, "stdout", &result->output);
    set_output(L, "stderr", &result->errors);
    lua_pushboolean(L, result->timed_out);
    lua_setfield(L, -2, "timed_out");
    lua_pushboolean(L, result->truncated);
    lua_setfield(L, -2, "truncated");
    return 2;
}

/* A NUL would end it early. */
static bool is_text(lua_State *L, int index)
{
    size_t size;
    if (lua_type(L, index) != LUA_TSTRING) return false;
    return strlen(lua_tolstring(L, index, &size)) == size;
}

/* Pushes the arguments, a NUL behind each. */
static void push_arguments(lua_State *L)
{
    luaL_checktype(L, ARGV, LUA_TTABLE);
    int count = (int)lua_objlen(L, ARGV);
    luaL_argcheck(L, count > 0, ARGV, "the program and its arguments expected");
    luaL_Buffer all;
    luaL_buffinit(L, &all);
    for (int i = 1; i <= count; i++) {
        lua_rawgeti(L, ARGV, i);
        if (!is_text(L, -1)) luaL_error(L, "argument %d is not a string without NUL bytes", i);
        luaL_addvalue(&all);
        luaL_addchar(&all, '\0');
    }
    luaL_pushresult(&all);
}

/* Pushes "name=value". */
static void push_variable(lua_State *L, int name, int value)
{
    bool is_name =
        is_text(L, name) && lua_objlen(L, name) > 0 && !strchr(lua_tostring(L, name), '=');
    if (!is_name) luaL_error(L, "env has a name that no variable can have");
    if (lua_isnumber(L, value)) (void)lua_tostring(L, value);
    if (!is_text(L, value))
        luaL_error(L, "env.%s is not a string without NUL bytes", lua_tostring(L, name));
    lua_pushfstring(L, "%s=%s", lua_tostring(L, name), lua_tostring(L, value));
}

/* Pushes the variables, a NUL behind each; or nil. */
static void push_environment(lua_State *L)
{
    lua_getfield(L, OPTIONS, "env");
    if (lua_isnil(L, -1)) return;
    if (!lua_istable(L, -1)) luaL_error(L, "env is not a table");
    int table = lua_gettop(L);
    lua_pushliteral(L, "");
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
        push_variable(L, table + 2, table + 3);
        lua_pushvalue(L, table + 1);
        lua_insert(L, -2);
        lua_pushlstring(L, "", 1);
        lua_concat(L, 3);
        lua_replace(L, table + 1);
    }
    lua_replace(L, table);
}

/* Pushes the folder to run in. */
static void push_folder(lua_State *L)
{
    const fl_state *state = fl_state_of(L);
    const char *folder = state ? state->app->folder : ".";
    lua_getfield(L, OPTIONS, "cwd");
    if (lua_isnil(L, -1)) {
        lua_pushstring(L, folder);
    } else {
        if (!is_text(L, -1)) luaL_error(L, "cwd is not a string without NUL bytes");
        if (lua_tostring(L, -1)[0] == '/') return;
        lua_pushfstring(L, "%s/%s", folder, lua_tostring(L, -1));
    }
    lua_replace(L, -2);
}

/* Pushes the input, or nil. */
static void push_input(lua_State *L)
{
    lua_getfield(L, OPTIONS, "stdin");
    if (!lua_isnil(L, -1) && lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "stdin is not a string");
}

static uint64_t check_timeout(lua_State *L)
{
    lua_getfield(L, OPTIONS, "timeout");
    lua_Number seconds = lua_isnil(L, -1) ? 0 : fl_units_seconds(L, lua_gettop(L));
    bool is_valid = lua_isnil(L, -1) || (seconds > 0 && seconds < 4e9);
    if (!is_valid) luaL_error(L, "timeout is not a number of seconds above 0");
    lua_pop(L, 1);
    return (uint64_t)(seconds * 1000 + 0.999);
}

static fl_slice text_at(lua_State *L, int index)
{
    fl_slice text = {NULL, 0};
    text.data = lua_tolstring(L, index, &text.size);
    return text;
}

static int start(exec_op *self, const fl_exec_program *program)
{
    fl_state *state = self->op.state;
    int status = fl_exec_new(&self->exec, program);
    if (status < 0) return status;
    return fl_exec_start(self->exec, state->thread->server, state->address, ended, &self->op);
}

/* run(argv[, options]) -> op   [-0, +1, e] */
static int exec_run(lua_State *L)
{
    static const fl_op_kind kind = {"exec", take, cancel, close_op, true};
    lua_settop(L, OPTIONS);
    if (lua_isnil(L, OPTIONS)) {
        lua_newtable(L);
        lua_replace(L, OPTIONS);
    }
    luaL_checktype(L, OPTIONS, LUA_TTABLE);
    fl_exec_program program = {.timeout = check_timeout(L)};
    push_arguments(L);
    push_environment(L);
    push_folder(L);
    push_input(L);
    program.arguments = text_at(L, ARGUMENTS);
    program.environment = text_at(L, ENVIRONMENT);
    program.folder = text_at(L, FOLDER);
    program.input = text_at(L, INPUT);
    lua_createtable(L, 1, 0); /* what the op's errors name */
    lua_pushvalue(L, ARGUMENTS);
    lua_rawseti(L, -2, 1);
    exec_op *self = (exec_op *)fl_op_new(L, sizeof(*self), &kind);
    lua_pushvalue(L, -2);
    (void)lua_setfenv(L, -2);
    fl_thread *thread = self->op.state->thread;
    program.output_most = thread->settings->exec_output;
    self->program = program.arguments.data;
    fl_claim_take(&thread->claim);
    self->error = start(self, &program);
    if (self->error) fl_op_done(&self->op);
    fl_claim_give(&thread->claim);
    return 1;
}

int fl_exec_module(lua_State *L)
{
    static const luaL_Reg functions[] = {{"run", exec_run}, {NULL, NULL}};
    lua_createtable(L, 0, 1);
    fl_state_functions(L, functions);
    return 1;
}
