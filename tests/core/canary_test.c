#include "canary.h"
#include "test.h"

#include <lauxlib.h>
#include <lualib.h>
#include <uv.h>

TEST(the_luajit_we_are_tested_with_computes_right)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    const char *why = NULL;
    CHECK_EQUAL_INT(fl_canary_check(L, &why), 0);
    CHECK_EQUAL_INT(lua_gettop(L), 0);
    lua_close(L);
}

TEST(a_canary_that_dies_refuses)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    CHECK_EQUAL_INT(fl_canary_run(L, "return true"), 0);
    CHECK_EQUAL_INT(fl_canary_run(L, "return 1 + 1 == 3"), UV_ENOTSUP);
    CHECK_EQUAL_INT(fl_canary_run(L, "error('?')"), UV_ENOTSUP);
    CHECK_EQUAL_INT(lua_gettop(L), 0);
    lua_close(L);
}

TEST_MAIN
