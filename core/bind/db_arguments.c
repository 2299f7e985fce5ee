#include "bind/db_arguments.h"

#include <lauxlib.h>
#include <math.h>

#include "bind/db_error.h"
#include "int64.h"
#include "json.h"
#include "state.h"
#include "thread.h"
#include "values.h"

#define EXACT 9007199254740992.0 /* 2^53 */

static bool is_whole(double number)
{
    return number >= -EXACT && number <= EXACT && number == floor(number);
}

static void add_cdata(lua_State *L, fl_buffer *out, int number, int sql)
{
    uint64_t bits;
    bool is_unsigned;
    luaL_checkstack(L, 8, "for an argument");
    if (!fl_int64_read_bits(L, &bits, &is_unsigned)) {
        lua_pushfstring(L, "argument %d is a cdata that is neither int64 nor uint64", number);
        fl_db_error_raise(L, "argument", sql);
    }
    if (is_unsigned && bits > INT64_MAX) {
        lua_pushfstring(L, "argument %d is a uint64 beyond the largest int64", number);
        fl_db_error_raise(L, "argument", sql);
    }
    fl_values_integer(out, (int64_t)bits);
}

/* As JSON: what it is to the database its column or cast decides. */
static void add_table(lua_State *L, fl_buffer *out, int number, int sql)
{
    size_t at = fl_values_begin_json(out);
    const fl_state *state = fl_state_of(L);
    size_t most = state ? (size_t)state->thread->settings->json_bytes : FL_JSON_BYTES;
    if (fl_json_encode(L, lua_gettop(L), out, most) < 0) {
        lua_pushfstring(L, "argument %d: %s", number, lua_tostring(L, -1));
        fl_db_error_raise(L, "argument", sql);
    }
    if (fl_values_end_json(out, at)) return;
    lua_pushfstring(L, "argument %d has 4 GiB or more as JSON", number);
    fl_db_error_raise(L, "argument", sql);
}

/* The value on top, which stays there. */
static void add_value(lua_State *L, fl_buffer *out, int number, int sql)
{
    fl_slice text;
    double value;
    switch (lua_type(L, -1)) {
    case LUA_TNIL: fl_values_null(out); return;
    case LUA_TBOOLEAN: fl_values_bool(out, lua_toboolean(L, -1)); return;
    case LUA_TNUMBER:
        value = lua_tonumber(L, -1);
        if (is_whole(value))
            fl_values_integer(out, (int64_t)value);
        else
            fl_values_number(out, value);
        return;
    case LUA_TSTRING:
        text.data = lua_tolstring(L, -1, &text.size);
        fl_values_text(out, text);
        return;
    case LUA_TTABLE: add_table(L, out, number, sql); return;
    case FL_LUA_TCDATA: add_cdata(L, out, number, sql); return;
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, -1)) {
            fl_values_null(out);
            return;
        } /* fall through */
    default:
        lua_pushfstring(L, "argument %d is a %s", number, luaL_typename(L, -1));
        fl_db_error_raise(L, "argument", sql);
    }
}

/* `fl.array`'s mark, a sequence, or nothing at all. */
static bool is_list(lua_State *L, int index)
{
    if (lua_objlen(L, index) > 0) return true;
    lua_pushnil(L);
    if (!lua_next(L, index)) return true;
    lua_pop(L, 2);
    return false;
}

/* The first `count` items of the list on top. */
static void add_list(lua_State *L, fl_buffer *out, uint32_t count, int number, int sql)
{
    for (uint32_t i = 1; i <= count; i++) {
        lua_rawgeti(L, -1, (int)i);
        if (lua_istable(L, -1)) {
            lua_pushfstring(L, "argument %d: item %d of the list is a table", number, (int)i);
            fl_db_error_raise(L, "argument", sql);
        }
        add_value(L, out, number, sql);
        lua_pop(L, 1);
    }
}

bool fl_db_arguments_measure(lua_State *L, const fl_sql *sql, uint32_t *lengths, int first,
                             int last)
{
    bool any = false;
    for (int i = first; i <= last; i++) {
        uint32_t number = (uint32_t)(i - first);
        lengths[number] = FL_SQL_SINGLE;
        if (!lua_istable(L, i) || !fl_sql_is_list(sql, number) || !is_list(L, i)) continue;
        lengths[number] = (uint32_t)lua_objlen(L, i);
        any = true;
    }
    return any;
}

void fl_db_arguments_add(lua_State *L, fl_buffer *out, const uint32_t *lengths, int first, int last,
                         int sql)
{
    for (int i = first; i <= last; i++) {
        int number = i - first;
        lua_pushvalue(L, i);
        if (lengths[number] == FL_SQL_SINGLE)
            add_value(L, out, number + 1, sql);
        else
            add_list(L, out, lengths[number], number + 1, sql);
        lua_pop(L, 1);
    }
}
