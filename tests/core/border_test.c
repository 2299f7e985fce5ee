#include "border.h"

#include "../support/crossing.h"

TEST(every_coroutine_finds_its_states_border)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    fl_json_open(L);
    lua_State *before = lua_newthread(L);
    fl_border_open(L);
    lua_State *after = lua_newthread(L);
    CHECK(fl_border_of(L));
    CHECK(fl_border_of(before) == fl_border_of(L));
    CHECK(fl_border_of(after) == fl_border_of(L));
    CHECK_EQUAL_INT(lua_gettop(before), 0);
    CHECK_EQUAL_INT(lua_gettop(L), 2);
    lua_close(L);
}

TEST(each_state_has_its_own)
{
    lua_State *one = state_new(), *two = state_new();
    CHECK(fl_border_of(one) != fl_border_of(two));
    lua_close(one);
    lua_close(two);
}

TEST_MAIN
