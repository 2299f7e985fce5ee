#include "bind/units.h"

#include <math.h>

/* [-0, +0, e] */
static lua_Number read_text(lua_State *L, int index, const char *reader)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "fasterlua.units");
    lua_getfield(L, -1, reader);
    lua_pushvalue(L, index);
    lua_call(L, 1, 1);
    lua_Number value = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : NAN;
    lua_pop(L, 3);
    return value;
}

static lua_Number read(lua_State *L, int index, const char *reader)
{
    int type = lua_type(L, index);
    if (type == LUA_TNUMBER) return lua_tonumber(L, index);
    return type == LUA_TSTRING ? read_text(L, index, reader) : NAN;
}

lua_Number fl_units_seconds(lua_State *L, int index)
{
    return read(L, index, "seconds");
}

lua_Number fl_units_bytes(lua_State *L, int index)
{
    return read(L, index, "bytes");
}
