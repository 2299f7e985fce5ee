/* Input: a query, form or Cookie field. Its pairs are taken into a Lua table in every way there is;
 * each must agree with the others and leave the stack as found. */
#include "fields.h"
#include "fuzz_lua.h"
#include "response.h"

enum { MOST = 16 };

static unsigned count_pairs(fl_slice text)
{
    unsigned count = 0;
    for (size_t i = 0; i < text.size; i++)
        if (text.data[i] != '&' && (i == 0 || text.data[i - 1] == '&')) count++;
    return count;
}

/* (text) -> name -> value, and for every name the list of its values */
static int take_form(lua_State *L)
{
    fl_slice text;
    text.data = luaL_checklstring(L, 1, &text.size);
    fl_fields_form(L, text, MOST, NULL);
    demand(lua_gettop(L) == 2);
    unsigned total = 0;
    for (lua_pushnil(L); lua_next(L, 2); lua_settop(L, 3)) {
        fl_slice name, value, last;
        demand(lua_type(L, 3) == LUA_TSTRING && lua_type(L, 4) == LUA_TSTRING);
        name.data = lua_tolstring(L, 3, &name.size);
        value.data = lua_tolstring(L, 4, &value.size);
        demand(name.size + value.size <= text.size);
        fl_fields_form(L, text, MOST, &name);
        demand(lua_gettop(L) == 5 && lua_objlen(L, 5) > 0);
        total += (unsigned)lua_objlen(L, 5);
        lua_rawgeti(L, 5, (int)lua_objlen(L, 5));
        last.data = lua_tolstring(L, 6, &last.size);
        demand(fl_slice_equal(last, value)); /* the last counts */
    }
    demand(total == count_pairs(text));
    return 0;
}

static int take_cookies(lua_State *L)
{
    fl_slice text;
    size_t count = 0, names = 0;
    text.data = luaL_checklstring(L, 1, &text.size);
    lua_newtable(L);
    count = fl_fields_cookies(L, text);
    demand(lua_gettop(L) == 2);
    for (lua_pushnil(L); lua_next(L, 2); lua_settop(L, 3)) names++;
    demand(names <= count && (names > 0) == (count > 0));
    size_t again = fl_fields_cookies(L, text); /* the first counts: nothing changes */
    demand(again == count);
    for (lua_pushnil(L); lua_next(L, 2); lua_settop(L, 3)) names--;
    demand(names == 0);
    return 0;
}

/* The status of the error it raised; 0: none. */
static int call(lua_State *L, lua_CFunction function, const uint8_t *data, size_t size)
{
    lua_settop(L, 0);
    lua_pushcfunction(L, function);
    lua_pushlstring(L, (const char *)data, size);
    if (lua_pcall(L, 1, 0, 0) == 0) return 0;
    demand(lua_istable(L, 1));
    lua_getfield(L, 1, "status");
    return (int)lua_tointeger(L, -1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lua_State *L; /* one serves all inputs */
    if (!L) {
        L = fuzz_lua_new();
        luaL_newmetatable(L, FL_HTTP_ERROR);
    }
    bool too_many = count_pairs(fl_slice_of((const char *)data, size)) > MOST;
    demand(call(L, take_form, data, size) == (too_many ? 400 : 0));
    demand(call(L, take_cookies, data, size) == 0);
    return 0;
}
