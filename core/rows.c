#include "rows.h"

#include <lauxlib.h>
#include <math.h>

#include "int64.h"
#include "json.h"

#define SHAPES "fasterlua.db.shapes" /* metatables by the bytes of their columns' names */
#define SHAPES_MOST 1000
#define COUNT 0                /* index in the table of shapes */
#define TAG 0                  /* index in a metatable: */
#define NAMES -1               /* the set of its columns */
#define EXACT 9007199254740992 /* 2^53: integers up to it are exact in a Lua number */

static const char tag; /* its address says that a metatable is a row's */

void fl_rows_open(lua_State *L)
{
    lua_newtable(L);
    lua_pushinteger(L, 0);
    lua_rawseti(L, -2, COUNT);
    lua_setfield(L, LUA_REGISTRYINDEX, SHAPES);
}

/* [-0, +1, m] */
static void make_shape(lua_State *L, const fl_rows *rows)
{
    const char *at = rows->names.data;
    lua_createtable(L, (int)rows->width, 4);
    lua_pushlightuserdata(L, (void *)(uintptr_t)&tag);
    lua_rawseti(L, -2, TAG);
    lua_pushliteral(L, "fasterlua.row");
    lua_setfield(L, -2, "__name");
    lua_createtable(L, 0, (int)rows->width);
    for (uint32_t i = 1; i <= rows->width; i++) {
        fl_value name = fl_values_read(&at);
        lua_pushlstring(L, name.text.data, name.text.size);
        lua_pushvalue(L, -1);
        lua_rawseti(L, -4, (int)i);
        lua_pushinteger(L, (lua_Integer)i);
        lua_rawset(L, -3);
    }
    lua_rawseti(L, -2, FL_ROWS_NAMES);
}

/* The table of shapes below the new one, which becomes a part of it.  [-0, +0, m] */
static void keep_shape(lua_State *L, const fl_rows *rows)
{
    lua_rawgeti(L, -2, COUNT);
    lua_Integer count = lua_tointeger(L, -1) + 1;
    lua_pop(L, 1);
    if (count > SHAPES_MOST) {
        fl_rows_open(L);
        return;
    }
    lua_pushinteger(L, count);
    lua_rawseti(L, -3, COUNT);
    lua_pushlstring(L, rows->names.data, rows->names.size);
    lua_pushvalue(L, -2);
    lua_rawset(L, -4);
}

/* Pushes the metatable of rows with these columns.  [-0, +1, m] */
static void push_shape(lua_State *L, const fl_rows *rows)
{
    luaL_checkstack(L, 12, "for rows");
    lua_getfield(L, LUA_REGISTRYINDEX, SHAPES);
    lua_pushlstring(L, rows->names.data, rows->names.size);
    lua_rawget(L, -2);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        make_shape(L, rows);
        keep_shape(L, rows);
    }
    lua_remove(L, -2);
}

static void push_value(lua_State *L, const char **at);

static void push_list(lua_State *L, const char **at, uint32_t count)
{
    luaL_checkstack(L, 8, "for an array of a database");
    lua_createtable(L, (int)count, 0);
    for (uint32_t i = 1; i <= count; i++) {
        push_value(L, at);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            lua_pushlightuserdata(L, NULL);
        }
        lua_rawseti(L, -2, (int)i);
    }
    luaL_getmetatable(L, FL_JSON_ARRAY);
    lua_setmetatable(L, -2);
}

static void push_json(lua_State *L, fl_slice text)
{
    if (fl_json_decode(L, text, FL_JSON_DEPTH, (size_t)1 << 26) == 0) return;
    lua_pop(L, 1);
    lua_pushlstring(L, text.data, text.size); /* whatever the database takes for JSON */
}

/* [-0, +1, m] */
static void push_value(lua_State *L, const char **at)
{
    fl_value value = fl_values_read(at);
    switch (value.tag) {
    case FL_VALUE_NULL: lua_pushnil(L); return;
    case FL_VALUE_FALSE: lua_pushboolean(L, 0); return;
    case FL_VALUE_TRUE: lua_pushboolean(L, 1); return;
    case FL_VALUE_INTEGER:
        if (value.integer >= -EXACT && value.integer <= EXACT)
            lua_pushnumber(L, (lua_Number)value.integer);
        else
            fl_int64_push(L, value.integer);
        return;
    case FL_VALUE_NUMBER: lua_pushnumber(L, value.number); return;
    case FL_VALUE_TEXT: lua_pushlstring(L, value.text.data, value.text.size); return;
    case FL_VALUE_JSON: push_json(L, value.text); return;
    case FL_VALUE_LIST: push_list(L, at, value.count); return;
    }
}

/* The shape is on top.  [-0, +1, m] */
static void push_row(lua_State *L, const fl_rows *rows, const char **at)
{
    lua_createtable(L, 0, (int)rows->width);
    for (uint32_t i = 1; i <= rows->width; i++) {
        lua_rawgeti(L, -2, (int)i);
        push_value(L, at);
        lua_rawset(L, -3);
    }
    lua_pushvalue(L, -2);
    lua_setmetatable(L, -2);
}

void fl_rows_push(lua_State *L, const fl_rows *rows)
{
    const char *at = rows->values.data;
    lua_createtable(L, (int)rows->count, 0);
    luaL_getmetatable(L, FL_JSON_ARRAY);
    lua_setmetatable(L, -2);
    push_shape(L, rows);
    for (uint64_t i = 1; i <= rows->count; i++) {
        push_row(L, rows, &at);
        lua_rawseti(L, -3, (int)i);
    }
    lua_pop(L, 1);
}

void fl_rows_push_first(lua_State *L, const fl_rows *rows)
{
    const char *at = rows->values.data;
    if (rows->count == 0) {
        lua_pushnil(L);
        return;
    }
    push_shape(L, rows);
    push_row(L, rows, &at);
    lua_remove(L, -2);
}

void fl_rows_push_value(lua_State *L, const fl_rows *rows)
{
    const char *at = rows->values.data;
    luaL_checkstack(L, 12, "for a value");
    if (rows->count == 0 || rows->width == 0)
        lua_pushnil(L);
    else
        push_value(L, &at);
}

bool fl_rows_is_metatable(lua_State *L)
{
    lua_rawgeti(L, -1, TAG);
    bool is_row = lua_touserdata(L, -1) == (const void *)&tag;
    lua_pop(L, 1);
    return is_row;
}
