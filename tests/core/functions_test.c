#include "functions.h"

#include "../support/crossing.h"

/* Pushes the userdata with the code of the function that the source returns. */
static fl_code *dump(lua_State *L, const char *source, bool *is_new)
{
    if (run(L, source) < 0) printf("# %s\n", lua_tostring(L, -1));
    if (fl_functions_dump(&fl_border_of(L)->functions, L, is_new) != 0) return NULL;
    return fl_functions_code(lua_touserdata(L, -1));
}

TEST(functions_of_the_same_bytecode_share_one_code)
{
    lua_State *L = state_new();
    bool is_new;
    fl_code *one = dump(L, "return function() return 1 end", &is_new);
    CHECK(one && is_new);
    CHECK(dump(L, "return function() return 1 end", &is_new) == one);
    CHECK(!is_new);
    fl_code *two = dump(L, "return function() return 2 end", &is_new);
    CHECK(two && two != one && is_new);
    lua_close(L);
}

TEST(the_userdata_holds_the_code)
{
    lua_State *L = state_new();
    bool is_new;
    fl_code *code = dump(L, "return function() end", &is_new);
    fl_code_hold(code);
    CHECK_EQUAL_INT(code->holders, 2);
    lua_close(L);
    CHECK_EQUAL_INT(code->holders, 1);
    fl_code_release(code);
}

TEST(each_push_has_upvalues_of_its_own_unless_there_are_none)
{
    lua_State *L = state_new();
    fl_functions *functions = &fl_border_of(L)->functions;
    bool is_new;
    fl_code *codes[] = {dump(L, "local n = 1 return function() n = n + 1 return n end", &is_new),
                        dump(L, "return function() end", &is_new)};
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL_INT(fl_functions_push(functions, L, codes[i]), 0);
        CHECK_EQUAL_INT(fl_functions_push(functions, L, codes[i]), 0);
        CHECK_EQUAL_INT(lua_rawequal(L, -1, -2), i == 1);
        CHECK_EQUAL_INT(functions->loads, i + 1);
    }
    lua_close(L);
}

/* From state to state. */

/* LuaJIT compiles upvalues that are never assigned as constants. */
TEST(compiled_code_sees_each_calls_upvalues)
{
    pair p;
    open_pair(&p);
    for (int i = 1; i <= 50; i++) {
        char source[256], expected[32];
        (void)snprintf(source, sizeof(source),
                       "local factor = %d return function(n) local sum = 0 "
                       "for i = 1, n do sum = sum + factor end return sum end, 500",
                       i);
        (void)snprintf(expected, sizeof(expected), "%d", i * 500);
        CHECK_STRING(call(&p, source), expected);
    }
    CHECK_EQUAL_INT(fl_border_of(p.to)->functions.loads, 1);
    close_pair(&p);
}

TEST(one_calls_closures_keep_their_upvalues)
{
    pair p;
    open_pair(&p);
    const char *source = "local n = 1 keep = keep or function(v) n = v end f = f or function() "
                         "kept = kept or {} kept[#kept + 1] = function() return n end "
                         "local all = {} for i, k in ipairs(kept) do all[i] = k() end "
                         "return all end keep(%s) return f";
    char text[512];
    (void)snprintf(text, sizeof(text), source, "1");
    CHECK_STRING(call(&p, text), "{1}");
    (void)snprintf(text, sizeof(text), source, "'two'");
    CHECK_STRING(call(&p, text), "{1,\"two\"}");
    close_pair(&p);
}

TEST(a_closure_per_call_shares_no_upvalue_with_the_next)
{
    CHECK_CALL("local function make(v) return function() v = v + 1 return v end end "
               "local a, b = make(1), make(10) return function() return a(), a(), b() end",
               "2 3 11");
}

TEST(many_upvalues_cross)
{
    char source[8192] = "";
    size_t at = 0;
    for (int i = 1; i <= 60; i++)
        at += (size_t)snprintf(source + at, sizeof(source) - at, "local u%d = %d ", i, i);
    at += (size_t)snprintf(source + at, sizeof(source) - at, "return function() return 0");
    for (int i = 1; i <= 60; i++)
        at += (size_t)snprintf(source + at, sizeof(source) - at, " + u%d", i);
    (void)snprintf(source + at, sizeof(source) - at, " end");
    CHECK_CALL(source, "1830");
}

TEST(functions_with_all_kinds_of_constants_cross)
{
    CHECK_CALL(
        "return function() return 'text', 1.5, 2^53, -3, 7LL, 7ULL, {1, 2, x = 'y'}, (2i).im "
        "end",
        "\"text\" 1.5 9.007199254741e+15 -3 7LL 7ULL {1,2,\"x\"=\"y\"} 2");
    CHECK_CALL(
        "return function(...) local function inner(...) return ... end return inner(...) end, "
        "1, 2",
        "1 2");
    CHECK_CALL("return function() local t = {} for i = 1, 3 do t[i] = function() return i end end "
               "return t[1](), t[3]() end",
               "1 3");
}

TEST(an_environment_set_later_is_noticed)
{
    pair p;
    open_pair(&p);
    CHECK_STRING(call(&p, "f = function() return 1 end return f"), "1");
    CHECK_STRING(call(&p, "return setfenv(f, {})"),
                 "the function is a function with an environment of its own (setfenv)");
    close_pair(&p);
}

TEST(a_call_that_changes_its_environment_changes_no_other)
{
    pair p;
    open_pair(&p);
    const char *source =
        "f = f or function() local t = type setfenv(1, {}) return t(t), t(type) end "
        "return f";
    for (int i = 0; i < 3; i++) CHECK_STRING(call(&p, source), "\"function\" \"nil\"");
    CHECK_STRING(call(&p, "return function() return 1 end"), "1");
    close_pair(&p);
}

TEST(the_same_closure_is_dumped_and_loaded_once)
{
    pair p;
    open_pair(&p);
    for (int i = 0; i < 5; i++)
        CHECK_STRING(call(&p, "f = f or function(x) return x end return f, 1"), "1");
    CHECK_EQUAL_INT(fl_border_of(p.from)->functions.dumps, 1);
    CHECK_EQUAL_INT(fl_border_of(p.to)->functions.loads, 1);
    for (int i = 0; i < 5; i++)
        CHECK_STRING(call(&p, "make = make or function(n) return function() return n end end "
                              "return make(3)"),
                     "3");
    CHECK_EQUAL_INT(fl_border_of(p.from)->functions.dumps, 6); /* new closures */
    CHECK_EQUAL_INT(fl_border_of(p.to)->functions.loads, 2);   /* of one code */
    close_pair(&p);
}

TEST(a_collected_closure_gives_its_code_back)
{
    pair p;
    open_pair(&p);
    CHECK_STRING(call(&p, "return function() return 1 end"), "1");
    fl_parcel_reset(&p.parcel);
    lua_settop(p.from, 0);
    lua_gc(p.from, LUA_GCCOLLECT, 0);
    lua_gc(p.from, LUA_GCCOLLECT, 0);
    CHECK_STRING(call(&p, "return function() return 1 end"), "1");
    CHECK_EQUAL_INT(fl_border_of(p.to)->functions.loads, 1);
    close_pair(&p);
}

static const char *call_numbered(pair *p, int number)
{
    char source[128];
    (void)snprintf(source, sizeof(source), "return function(x) return x + %d.5 end, 0.5", number);
    return call(p, source);
}

TEST(a_state_keeps_a_thousand_functions)
{
    pair p;
    open_pair(&p);
    for (int i = 0; i < 1200; i++) {
        char expected[16];
        (void)snprintf(expected, sizeof(expected), "%d", i + 1);
        CHECK_STRING(call_numbered(&p, i), expected);
        CHECK_STRING(call_numbered(&p, 0), "1"); /* stays, being used */
    }
    CHECK_EQUAL_INT(fl_border_of(p.to)->functions.loads, 1200);
    CHECK_STRING(call_numbered(&p, 201), "202");
    CHECK_EQUAL_INT(fl_border_of(p.to)->functions.loads, 1200);
    CHECK_STRING(call_numbered(&p, 200), "201");
    CHECK_EQUAL_INT(fl_border_of(p.to)->functions.loads, 1201);
    lua_gc(p.to, LUA_GCCOLLECT, 0);
    CHECK_STRING(call_numbered(&p, 1199), "1200");
    close_pair(&p);
}

TEST(a_received_function_can_be_sent_on)
{
    pair p;
    open_pair(&p);
    CHECK_STRING(call(&p, "local n = 5 local function rec(i) return i == 0 and n or rec(i - 1) end "
                          "return function(...) sent = rec return rec(...) end, 3"),
                 "5");
    lua_State *from = p.from;
    p.from = p.to;
    p.to = from;
    CHECK_STRING(call(&p, "return sent, 10"), "5");
    close_pair(&p);
}

TEST(tracebacks_name_the_file_and_the_line)
{
    CHECK_CALL("\n\nreturn function()\n error('here') end", "app.lua:4: here");
}

TEST_MAIN
