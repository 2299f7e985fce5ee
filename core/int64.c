#include "int64.h"

#include <assert.h>
#include <lauxlib.h>
#include <string.h>

#define SIGNED_TYPE "fasterlua.int64"
#define UNSIGNED_TYPE "fasterlua.uint64"
#define IS_TYPE "fasterlua.istype"

/* Is the value on top of the stack of this type? */
static bool is_type(lua_State *L, const char *type)
{
    lua_getfield(L, LUA_REGISTRYINDEX, IS_TYPE);
    assert(!lua_isnil(L, -1)); /* else fl_int64_open was not called */
    lua_getfield(L, LUA_REGISTRYINDEX, type);
    lua_pushvalue(L, -3);
    lua_call(L, 2, 1);
    bool result = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return result;
}

void fl_int64_open(lua_State *L)
{
    static const char types[] = "local ffi = require('ffi')\n"
                                "return ffi.istype, ffi.typeof('int64_t'), ffi.typeof('uint64_t')";
    if (luaL_loadbuffer(L, types, sizeof(types) - 1, "=int64") != 0) lua_error(L);
    lua_call(L, 0, 3);
    lua_setfield(L, LUA_REGISTRYINDEX, UNSIGNED_TYPE);
    lua_setfield(L, LUA_REGISTRYINDEX, SIGNED_TYPE);
    lua_setfield(L, LUA_REGISTRYINDEX, IS_TYPE);
}

void fl_int64_push(lua_State *L, int64_t number)
{
    fl_int64_push_bits(L, (uint64_t)number, false);
}

bool fl_int64_read(lua_State *L, uint64_t *magnitude, bool *negative)
{
    bool is_unsigned;
    if (!fl_int64_read_bits(L, magnitude, &is_unsigned)) return false;
    *negative = !is_unsigned && *magnitude > INT64_MAX;
    if (*negative) *magnitude = -*magnitude;
    return true;
}

void fl_int64_push_bits(lua_State *L, uint64_t bits, bool is_unsigned)
{
    lua_getfield(L, LUA_REGISTRYINDEX, is_unsigned ? UNSIGNED_TYPE : SIGNED_TYPE);
    assert(lua_type(L, -1) == FL_LUA_TCDATA); /* else fl_int64_open was not called */
    lua_call(L, 0, 1);                        /* always a fresh object, so it can be written */
    memcpy((void *)(uintptr_t)lua_topointer(L, -1), &bits, sizeof(bits));
}

/* lua_topointer of a cdata gives the address of its value. */
bool fl_int64_read_bits(lua_State *L, uint64_t *bits, bool *is_unsigned)
{
    *is_unsigned = is_type(L, UNSIGNED_TYPE);
    if (!*is_unsigned && !is_type(L, SIGNED_TYPE)) return false;
    memcpy(bits, lua_topointer(L, -1), sizeof(*bits));
    return true;
}
