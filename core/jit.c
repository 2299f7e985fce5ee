#include "jit.h"

#include <lauxlib.h>

/* LuaJIT's own defaults fit one VM per process: with dozens, machine code must stay small enough to
 * lie within reach of the VM's code, and traces flushed by one hot app must not starve the others.
 */
static const char options[] =
    "require('jit.opt').start('sizemcode=64', 'maxmcode=4096', 'maxtrace=4000', 'maxrecord=8000')";

static const char loop_text[] = "for _ = 1, 1000 do end";
#define LOOP_AT 5        /* its FORL: after FUNCV, three constants and FORI */
#define ATTEMPTS_MOST 16 /* the app may have switched the compiler off */

static lua_CFunction function_of(lua_State *L, int table, const char *name)
{
    lua_getfield(L, table, name);
    lua_CFunction function = lua_tocfunction(L, -1);
    lua_pop(L, 1);
    return function;
}

static int keep_loop(lua_State *L)
{
    if (luaL_loadstring(L, loop_text)) lua_error(L);
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

/* The library's functions are called as the functions in C that they are, with all that is on the
 * stack: Lua is not entered. */

/* jit.util.funcbc(loop, LOOP_AT) -> instruction, mode */
static int instruction(const fl_jit *jit, lua_State *L)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, jit->loop);
    lua_pushinteger(L, LOOP_AT);
    int results = jit->bytecode_of(L);
    int result = results ? (int)lua_tointeger(L, -results) : 0;
    lua_settop(L, 0);
    return result;
}

/* jit.util.traceir(1, 0) -> its first instruction, or nothing. Traces are numbered from 1. */
static bool has_traces(const fl_jit *jit, lua_State *L)
{
    lua_pushinteger(L, 1);
    lua_pushinteger(L, 0);
    int results = jit->trace_part(L);
    lua_settop(L, 0);
    return results > 0;
}

static void compile(fl_jit *jit, lua_State *L)
{
    jit->attempts++;
    jit->plain = instruction(jit, L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, jit->loop);
    if (lua_pcall(L, 0, 0, 0)) lua_pop(L, 1); /* out of memory: another time */
    jit->is_compiled = instruction(jit, L) != jit->plain;
    if (jit->is_compiled) jit->attempts = 0;
}

void fl_jit_open(fl_jit *jit, lua_State *L)
{
    if (luaL_dostring(L, options)) lua_error(L);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "jit.util");
    lua_call(L, 1, 1);
    jit->bytecode_of = function_of(L, lua_gettop(L), "funcbc");
    jit->trace_part = function_of(L, lua_gettop(L), "traceir");
    lua_pop(L, 1);
    if (jit->bytecode_of && jit->trace_part) jit->loop = keep_loop(L);
}

bool fl_jit_has_flushed(fl_jit *jit, lua_State *L)
{
    if (!jit->loop || lua_gettop(L) > 0) return false;
    bool flushed = jit->is_compiled && instruction(jit, L) == jit->plain;
    if (flushed) jit->is_compiled = false;
    if (!jit->is_compiled && jit->attempts < ATTEMPTS_MOST && has_traces(jit, L)) compile(jit, L);
    return flushed;
}
