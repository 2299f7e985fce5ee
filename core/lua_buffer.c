#include "lua_buffer.h"

#include <lauxlib.h>

#define KEEP 65536

static int collect(lua_State *L)
{
    fl_buffer_close(lua_touserdata(L, 1));
    return 0;
}

void fl_lua_buffer_new(lua_State *L)
{
    fl_buffer_init(lua_newuserdata(L, sizeof(fl_buffer)));
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, collect);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
}

fl_buffer *fl_lua_buffer_take(lua_State *L)
{
    fl_buffer *buffer = lua_touserdata(L, lua_upvalueindex(1));
    fl_buffer_reset(buffer, KEEP);
    return buffer;
}

int fl_lua_buffer_push(lua_State *L, fl_buffer *buffer)
{
    if (buffer->failed) return luaL_error(L, "not enough memory");
    lua_pushlstring(L, buffer->size ? buffer->data : "", buffer->size);
    fl_buffer_reset(buffer, KEEP);
    return 1;
}
