#include "names.h"

#include <uv.h>

#include "../support/crossing.h"

/* What the border's names know of the value of this expression. */
static fl_known known(lua_State *L, const char *expression)
{
    char source[256];
    (void)snprintf(source, sizeof(source), "return %s", expression);
    lua_settop(L, 0);
    if (run(L, source) < 0) printf("# %s\n", lua_tostring(L, -1));
    return fl_names_look_up(&fl_border_of(L)->names, L);
}

static int push_name(lua_State *L, fl_name_kind kind, const char *module, const char *field)
{
    fl_name name = {kind, fl_slice_of(module, strlen(module)), fl_slice_of(field, strlen(field))};
    lua_settop(L, 0);
    return fl_names_push(&fl_border_of(L)->names, L, &name);
}

TEST(a_value_is_known_once_the_map_is_made)
{
    lua_State *L = state_new();
    CHECK_EQUAL_INT(known(L, "string.format").kind, FL_KNOWN_NOT);
    CHECK(fl_names_renew(&fl_border_of(L)->names, L, false));
    CHECK(!fl_names_renew(&fl_border_of(L)->names, L, true));
    CHECK_EQUAL_INT(known(L, "string.format").kind, FL_KNOWN_BY_NAME);
    CHECK_EQUAL_TEXT(known(L, "string.format").name, "\xe1\x86string\x86"
                                                     "format");
    CHECK_EQUAL_TEXT(known(L, "string").name, "\xe1\x86string\x80");
    CHECK_EQUAL_INT(known(L, "{}").kind, FL_KNOWN_NOT);
    CHECK_EQUAL_INT(lua_gettop(L), 1);
    lua_close(L);
}

TEST(a_module_loaded_later_needs_a_new_map_and_a_field_a_thorough_look)
{
    lua_State *L = state_new();
    fl_names *names = &fl_border_of(L)->names;
    CHECK(fl_names_renew(names, L, false));
    CHECK_EQUAL_INT(known(L, "require('counter').add").kind, FL_KNOWN_NOT);
    CHECK(fl_names_renew(names, L, false));
    CHECK_EQUAL_TEXT(known(L, "require('counter').add").name, "\xe2\x87"
                                                              "counter\x83"
                                                              "add");
    CHECK_EQUAL_INT(run(L, "require('counter').later = function() end"), 0);
    CHECK(!fl_names_renew(names, L, false));
    CHECK(fl_names_renew(names, L, true));
    CHECK_EQUAL_INT(known(L, "require('counter').later").kind, FL_KNOWN_BY_NAME);
    lua_close(L);
}

TEST(notes_are_found_until_the_map_is_made_anew)
{
    lua_State *L = state_new();
    fl_names *names = &fl_border_of(L)->names;
    CHECK_EQUAL_INT(run(L, "nameless, noted = {}, {}"), 0);
    lua_getglobal(L, "nameless");
    lua_pushboolean(L, 0);
    fl_names_note(names, L);
    lua_getglobal(L, "noted");
    const void *block = lua_newuserdata(L, 1);
    fl_names_note(names, L);
    CHECK_EQUAL_INT(lua_gettop(L), 2);
    CHECK_EQUAL_INT(known(L, "nameless").kind, FL_KNOWN_NAMELESS);
    CHECK_EQUAL_INT(known(L, "noted").kind, FL_KNOWN_BY_NOTE);
    CHECK(known(L, "noted").note == block);
    CHECK(fl_names_renew(names, L, false));
    CHECK_EQUAL_INT(known(L, "nameless").kind, FL_KNOWN_NOT);
    CHECK_EQUAL_INT(known(L, "noted").kind, FL_KNOWN_NOT);
    lua_close(L);
}

TEST(a_name_means_what_is_there_at_that_moment)
{
    lua_State *L = state_new();
    for (int i = 1; i <= 3; i++) {
        CHECK_EQUAL_INT(push_name(L, FL_NAME_LOADED, "counter", "add"), 0);
        CHECK_EQUAL_INT(lua_gettop(L), 1);
        lua_call(L, 0, 1);
        CHECK_EQUAL_INT(lua_tointeger(L, -1), i);
    }
    CHECK_EQUAL_INT(run(L, "require('counter').add = function() return 'field' end"), 0);
    CHECK_EQUAL_INT(push_name(L, FL_NAME_LOADED, "counter", "add"), 0);
    lua_call(L, 0, 1);
    CHECK_STRING(lua_tostring(L, -1), "field");
    CHECK_EQUAL_INT(run(L, "package.loaded.counter = {add = function() return 'module' end}"), 0);
    CHECK_EQUAL_INT(push_name(L, FL_NAME_LOADED, "counter", "add"), 0);
    lua_call(L, 0, 1);
    CHECK_STRING(lua_tostring(L, -1), "module");
    CHECK_EQUAL_INT(run(L, "package.loaded.counter = nil"), 0);
    CHECK_EQUAL_INT(push_name(L, FL_NAME_LOADED, "counter", "add"), 0);
    lua_call(L, 0, 1);
    CHECK_EQUAL_INT(lua_tointeger(L, -1), 1); /* loaded again */
    lua_close(L);
}

TEST(names_that_look_alike_are_kept_apart)
{
    lua_State *L = state_new();
    CHECK_EQUAL_INT(run(L, "package.loaded.a = {bc = {1}, b = {2}} package.loaded.ab = {c = {3}} "
                           "package.loaded.abc = {4}"),
                    0);
    static const char *const names[][2] = {{"a", "bc"}, {"a", "b"}, {"ab", "c"}, {"abc", ""}};
    for (int i = 0; i < 8; i++) {
        CHECK_EQUAL_INT(push_name(L, FL_NAME_LOADED, names[i % 4][0], names[i % 4][1]), 0);
        lua_rawgeti(L, -1, 1);
        CHECK_EQUAL_INT(lua_tointeger(L, -1), i % 4 + 1);
    }
    lua_close(L);
}

TEST(a_name_that_means_nothing_says_so)
{
    lua_State *L = state_new();
    CHECK_EQUAL_INT(push_name(L, FL_NAME_LOADED, "broken", "it"), UV_EINVAL);
    CHECK_STRING(lua_tostring(L, -1), "cannot load the module \"broken\": it is broken");
    CHECK_EQUAL_INT(push_name(L, FL_NAME_LOADED, "counter", "no"), UV_EINVAL);
    CHECK_STRING(lua_tostring(L, -1),
                 "\"counter.no\" is neither a function nor a table in the state it was sent to");
    CHECK_EQUAL_INT(push_name(L, FL_NAME_CALLED, "counter", "settings"), UV_EINVAL);
    CHECK_STRING(lua_tostring(L, -1),
                 "\"counter:settings\" is no function in the state it was sent to");
    CHECK_EQUAL_INT(lua_gettop(L), 1);
    lua_close(L);
}

/* From state to state. */

TEST(names_of_the_standard_library_cross)
{
    CHECK_CALL("local format, m, g, p = string.format, math, _G, pcall "
               "return function() return format('%d', 7), m.max(1, 2), rawequal(g, _G), "
               "rawequal(p, pcall), rawequal(format, string.format) end",
               "\"7\" 2 true true true");
    CHECK_CALL("return string.upper, 'abc'", "\"ABC\"");
    CHECK_CALL("local loaded, ffi, new = package.loaded, require 'ffi', require('ffi').new "
               "return function() return rawequal(loaded, package.loaded), "
               "rawequal(ffi, require 'ffi'), rawequal(new, ffi.new) end",
               "true true true");
    CHECK_CALL("local libs = {s = string, rep = string.rep} "
               "return function() return libs.rep('x', 3), rawequal(libs.s, string) end",
               "\"xxx\" true");
}

TEST(functions_that_replace_the_standard_ones_go_by_their_name)
{
    pair p;
    open_pair(&p);
    CHECK_EQUAL_INT(run(p.from, "function print() return 'sender' end string.lower = print"), 0);
    CHECK_EQUAL_INT(run(p.to, "function print() return 'receiver' end"), 0);
    CHECK_STRING(call(&p, "local p = print return function() return p() end"), "\"receiver\"");
    CHECK_STRING(call(&p, "string.rep = function() end local r = string.rep "
                          "return function() return r('x', 2) end"),
                 "\"xx\"");
    close_pair(&p);
}

TEST(what_an_app_adds_to_the_standard_library_goes_by_code)
{
    CHECK_CALL("function helper() return 'helped' end function string.twice(s) return s .. s end "
               "local h, t = helper, string.twice return function() return h(), t('x') end",
               "\"helped\" \"xx\"");
}

TEST(modules_and_what_they_export_go_by_name)
{
    pair p;
    open_pair(&p);
    CHECK_EQUAL_INT(run(p.to, "local c = require 'counter' for i = 1, 10 do c.add() end"), 0);
    CHECK_STRING(call(&p, "local c = require 'counter' c.add() "
                          "return function() return c.add() end"),
                 "11");
    CHECK_STRING(call(&p, "local add = require('counter').add return function() return add() end"),
                 "12");
    CHECK_STRING(call(&p, "return require('counter').add"), "13");
    CHECK_STRING(
        call(&p, "local t = {c = require 'counter'} return function() return t.c.add() end"), "14");
    CHECK_STRING(call(&p, "local s, c = require('counter').settings, require 'counter' "
                          "return function() return rawequal(s, c.settings) end"),
                 "true");
    CHECK_STRING(call(&p, "local f = require 'alone' return function() return f() end"),
                 "\"alone\"");
    close_pair(&p);
}

TEST(of_several_names_the_standard_one_is_used)
{
    pair p;
    open_pair(&p);
    CHECK_STRING(call(&p, "require 'again' local f = string.format "
                          "return function() return f('%d', 1), package.loaded.again == nil end"),
                 "\"1\" true");
    CHECK_STRING(call(&p, "local add = require('again').add "
                          "return function() return add(), package.loaded.again ~= nil end"),
                 "1 true"); /* again.add is shorter than counter.add */
    close_pair(&p);
}

TEST(modules_loaded_later_and_fields_added_later_are_noticed)
{
    pair p;
    open_pair(&p);
    CHECK_STRING(call(&p, "local t = {} return function() return t end"), "{}");
    uint64_t maps = fl_border_of(p.from)->names.maps;
    CHECK_STRING(call(&p, "local t = {1} return function() return t end"), "{1}");
    CHECK_EQUAL_INT(fl_border_of(p.from)->names.maps, maps);
    CHECK_STRING(call(&p, "local c = require 'counter' return function() return c.add() end"), "1");
    CHECK_EQUAL_INT(fl_border_of(p.from)->names.maps, maps + 1);
    CHECK_EQUAL_INT(run(p.to, "require('counter').late = function() return 'there' end"), 0);
    CHECK_STRING(call(&p, "local c = require 'counter' c.late = function() return 'here' end "
                          "local l = c.late return function() return l() end"),
                 "\"there\"");
    CHECK_STRING(call(&p, "local some = require('lazy').some return function() return some() end"),
                 "\"some\"");
    CHECK_EQUAL_INT(run(p.to, "require('counter').iter = string.byte"), 0);
    CHECK_STRING(call(&p, "local c = require 'counter' c.iter = string.gmatch('', '') "
                          "local i = c.iter return function() return i('a') end"),
                 "97");
    CHECK_EQUAL_INT(run(p.to, "require('counter').object = {1}"), 0);
    CHECK_STRING(call(&p, "local c = require 'counter' c.object = setmetatable({}, {}) "
                          "local o = c.object return function() return o end"),
                 "{1}");
    close_pair(&p);
}

TEST(a_module_that_is_replaced_is_noticed)
{
    pair p;
    open_pair(&p);
    CHECK_STRING(call(&p, "return require('counter').add"), "1");
    CHECK_STRING(call(&p, "package.loaded.counter = {add = function() return 'other' end} "
                          "return require('counter').add"),
                 "2");
    close_pair(&p);
}

TEST(a_name_that_is_missing_where_it_arrives_is_an_error)
{
    pair p;
    open_pair(&p);
    const char *text = call(&p, "package.loaded.here = {f = function() end} "
                                "local f = package.loaded.here.f return function() f() end");
    CHECK(strstr(text, "cannot load the module \"here\": module 'here' not found") == text);
    CHECK_STRING(call(&p, "local c = require 'counter' c.extra = function() end "
                          "local e = c.extra return function() return e end"),
                 "\"counter.extra\" is neither a function nor a table in the state it was sent to");
    close_pair(&p);
}

TEST_MAIN
