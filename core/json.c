#include "json.h"

#include <lauxlib.h>
#include <uv.h>

#include "int64.h"
#include "lua_buffer.h"
#include "number.h"

#define MODULE_NODES 1000000
#define LIMIT "fasterlua.json_bytes" /* registry name */

enum { MOST = 2 }; /* upvalue: bytes that encode writes at most */

/* encode(value) -> string   [-0, +1, e] */
static int module_encode(lua_State *L)
{
    luaL_checkany(L, 1);
    fl_buffer *out = fl_lua_buffer_take(L);
    size_t most = (size_t)lua_tonumber(L, lua_upvalueindex(MOST));
    if (fl_json_encode(L, 1, out, most) != 0) return luaL_error(L, "%s", lua_tostring(L, -1));
    return fl_lua_buffer_push(L, out);
}

/* decode(text) -> value   [-0, +1, e] */
static int module_decode(lua_State *L)
{
    fl_slice text;
    luaL_checktype(L, 1, LUA_TSTRING);
    text.data = lua_tolstring(L, 1, &text.size);
    if (fl_json_decode(L, text, FL_JSON_DEPTH, MODULE_NODES) != 0)
        return luaL_error(L, "%s", lua_tostring(L, -1));
    return 1;
}

/* array(table|nil) -> the same table, marked as a list   [-0, +1, e] */
static int module_array(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    luaL_getmetatable(L, FL_JSON_ARRAY);
    if (lua_getmetatable(L, 1) && !lua_rawequal(L, -1, 2))
        return luaL_argerror(L, 1, "the table already has another metatable");
    lua_settop(L, 2);
    lua_setmetatable(L, 1);
    return 1;
}

/* is_array(value) -> boolean: is it a table marked as a list?   [-0, +1, e] */
static int module_is_array(lua_State *L)
{
    luaL_checkany(L, 1);
    bool marked = false;
    if (lua_istable(L, 1) && lua_getmetatable(L, 1)) {
        luaL_getmetatable(L, FL_JSON_ARRAY);
        marked = lua_rawequal(L, -1, -2);
    }
    lua_pushboolean(L, marked);
    return 1;
}

void fl_json_open(lua_State *L)
{
    if (luaL_newmetatable(L, FL_JSON_ARRAY)) {
        lua_pushliteral(L, FL_JSON_ARRAY);
        lua_setfield(L, -2, "__name");
    }
    lua_pop(L, 1);
    fl_int64_open(L);
}

void fl_json_limit(lua_State *L, size_t most)
{
    lua_pushnumber(L, (lua_Number)most);
    lua_setfield(L, LUA_REGISTRYINDEX, LIMIT);
}

void fl_json_push_integer(lua_State *L, int64_t number)
{
    if (number >= -FL_NUMBER_EXACT && number <= FL_NUMBER_EXACT)
        lua_pushnumber(L, (lua_Number)number);
    else
        fl_int64_push(L, number);
}

static void push_limit(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, LIMIT);
    if (!lua_isnil(L, -1)) return;
    lua_pop(L, 1);
    lua_pushnumber(L, FL_JSON_BYTES);
}

int fl_json_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"decode", module_decode},
        {"array", module_array},
        {"is_array", module_is_array},
        {NULL, NULL},
    };
    lua_createtable(L, 0, 5);
    luaL_setfuncs(L, functions, 0);
    fl_lua_buffer_new(L);
    push_limit(L);
    lua_pushcclosure(L, module_encode, 2);
    lua_setfield(L, -2, "encode");
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    return 1;
}
