#include "border.h"

#include <assert.h>

static const char border_key;

/* __gc of the border   [-0, +0, -] */
static int border_close(lua_State *L)
{
    fl_border *border = lua_touserdata(L, 1);
    fl_functions_close(&border->functions);
    fl_names_close(&border->names);
    return 0;
}

static fl_border *push_border(lua_State *L)
{
    fl_border *border = lua_newuserdata(L, sizeof(*border));
    *border = (fl_border){0};
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, border_close);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    return border;
}

void fl_border_open(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)&border_key);
    fl_border *border = push_border(L);
    fl_functions_open(&border->functions, L);
    fl_names_open(&border->names, L);
    lua_rawset(L, LUA_REGISTRYINDEX);
    lua_setexdata2(L, border);
}

/* Threads inherit exdata2; those made before fl_border_open, and nobody else's, have none. */
fl_border *fl_border_of(lua_State *L)
{
    fl_border *known = lua_getexdata2(L);
    if (known) return known;
    lua_pushlightuserdata(L, (void *)(uintptr_t)&border_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    fl_border *border = lua_touserdata(L, -1);
    assert(border); /* else fl_border_open was not called */
    lua_pop(L, 1);
    return border;
}
