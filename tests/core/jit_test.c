#include "jit.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>

#include "../support/test.h"

static const char work[] = "local sum = 0 for i = 1, 1000 do sum = sum + i % 7 end";

static void run(lua_State *L, const char *text)
{
    CHECK_EQUAL_INT(luaL_dostring(L, text), 0);
}

static int open_jit(lua_State *L)
{
    fl_jit_open(lua_touserdata(L, 1), L);
    return 0;
}

static lua_State *state_with(fl_jit *jit)
{
    lua_State *L = luaL_newstate();
    if (!L) abort();
    luaL_openlibs(L);
    *jit = (fl_jit){0};
    if (lua_cpcall(L, open_jit, jit)) abort();
    return L;
}

TEST(a_state_that_has_compiled_nothing_is_left_alone)
{
    fl_jit jit;
    lua_State *L = state_with(&jit);
    for (int i = 0; i < 100; i++) CHECK(!fl_jit_has_flushed(&jit, L));
    run(L, "assert(not require('jit.util').traceinfo(1))");
    run(L, "require('jit').flush()");
    CHECK(!fl_jit_has_flushed(&jit, L));
    lua_close(L);
}

TEST(each_flush_is_told_once)
{
    fl_jit jit;
    lua_State *L = state_with(&jit);
    for (int i = 0; i < 5; i++) {
        run(L, work);
        CHECK(!fl_jit_has_flushed(&jit, L));
        CHECK(!fl_jit_has_flushed(&jit, L));
        run(L, "require('jit').flush()");
        CHECK(fl_jit_has_flushed(&jit, L));
        CHECK(!fl_jit_has_flushed(&jit, L));
    }
    CHECK_EQUAL_INT(lua_gettop(L), 0);
    lua_close(L);
}

TEST(a_flush_is_seen_when_traces_have_been_made_again_since)
{
    fl_jit jit;
    lua_State *L = state_with(&jit);
    run(L, work);
    CHECK(!fl_jit_has_flushed(&jit, L));
    run(L, "require('jit').flush()");
    for (int i = 0; i < 10; i++) run(L, work);
    CHECK(fl_jit_has_flushed(&jit, L));
    CHECK(!fl_jit_has_flushed(&jit, L));
    lua_close(L);
}

TEST(a_flush_for_want_of_room_is_one)
{
    fl_jit jit;
    lua_State *L = state_with(&jit);
    run(L, work);
    CHECK(!fl_jit_has_flushed(&jit, L));
    run(L, "require('jit.opt').start('maxtrace=20')\n"
           "for i = 1, 40 do loadstring('local s = 0 for i = 1, 1000 do s = s + i end')() end");
    CHECK(fl_jit_has_flushed(&jit, L));
    lua_close(L);
}

TEST(a_trace_thrown_away_alone_is_none)
{
    fl_jit jit;
    lua_State *L = state_with(&jit);
    run(L, work);
    CHECK(!fl_jit_has_flushed(&jit, L));
    run(L, "require('jit').flush(1)");
    CHECK(!fl_jit_has_flushed(&jit, L));
    lua_close(L);
}

TEST(a_compiler_that_was_switched_off_is_asked_a_bounded_number_of_times)
{
    fl_jit jit;
    lua_State *L = state_with(&jit);
    run(L, work);
    run(L, "require('jit').off()");
    for (int i = 0; i < 1000; i++) CHECK(!fl_jit_has_flushed(&jit, L));
    CHECK(!jit.is_compiled);
    CHECK(jit.attempts < 100);
    lua_close(L);
}

TEST(what_an_app_does_to_the_library_changes_nothing)
{
    fl_jit jit;
    lua_State *L = state_with(&jit);
    run(L, "local util, jit = require('jit.util'), require('jit')\n"
           "for name in pairs(util) do util[name] = error end");
    run(L, work);
    CHECK(!fl_jit_has_flushed(&jit, L));
    run(L, "require('jit').flush()");
    CHECK(fl_jit_has_flushed(&jit, L));
    lua_close(L);
}

TEST(one_that_was_not_opened_has_flushed_nothing)
{
    fl_jit jit = {0};
    CHECK(!fl_jit_has_flushed(&jit, NULL));
}

TEST_MAIN
