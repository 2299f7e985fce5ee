#include "parcel.h"

#include <pthread.h>
#include <stdlib.h>
#include <uv.h>

#include "pack.h"

#include "../support/crossing.h"
#include "../support/scarcity.h"

typedef struct capped { /* an allocator that fails once */
    long blocks;        /* that live */
    long until;         /* allocations; none fails when negative */
} capped;

static void *allocate(void *data, void *block, size_t old_size, size_t size)
{
    capped *c = data;
    if (size > old_size && c->until >= 0 && c->until-- == 0) return NULL;
    if (size) {
        c->blocks += !block;
        return realloc(block, size);
    }
    c->blocks -= block != NULL;
    free(block);
    return NULL;
}

TEST(a_function_is_called_with_its_arguments_and_answers)
{
    CHECK_CALL("return function(a, b) return a + b, a end, 1, 2", "3 1");
    CHECK_CALL("return function(...) return select('#', ...), ... end, nil, false, nil",
               "3 nil false nil");
    CHECK_CALL("return function() end", "");
}

TEST(all_plain_values_cross)
{
    CHECK_CALL("return function(...) return ... end, 1, -1.5, 'a\\0b', {1, {x = true}}, json.null, "
               "json.array(), -5LL, 5ULL, {[1.5] = 1, [true] = 2}",
               "1 -1.5 \"a\\0b\" {1,{\"x\"=true}} null [] -5LL 5ULL {1.5=1,true=2}");
}

TEST(an_empty_parcel_is_empty)
{
    pair p;
    open_pair(&p);
    CHECK_EQUAL_INT(fl_parcel_unpack(&p.parcel, p.to), 0);
    CHECK_EQUAL_INT(lua_gettop(p.to), 0);
    CHECK(through_bytes(&p));
    CHECK_EQUAL_INT(fl_parcel_unpack(&p.parcel, p.to), 0);
    close_pair(&p);
}

TEST(arguments_and_results_are_refused_with_their_path)
{
    CHECK_CALL("return print, 1, {user = {conn = print}}", "argument 2.user.conn is a function");
    CHECK_CALL("return print, {1, 2, {x = setmetatable({}, {})}}",
               "argument 1[3].x: a table with a metatable cannot cross");
    CHECK_CALL("local t = {} t.self = t return print, 1, t", "argument 2.self is a cycle");
    CHECK(strstr(call_once("return print, math"), " is a function"));
    CHECK_CALL("return function() return 1, {coroutine.create(print)} end",
               "result 2[1] is a coroutine");
    CHECK_CALL("return function() return newproxy() end", "result 1 is a userdata");
}

TEST(what_is_called_is_a_function_or_names_one)
{
    CHECK_CALL("return {}",
               "the function must be a function or a string \"module:function\", not a table");
    CHECK_CALL("return nil",
               "the function must be a function or a string \"module:function\", not nil");
    CHECK_CALL("return 'counter'",
               "the function must be a function or a string \"module:function\", not \"counter\"");
    CHECK_CALL("return ':add'",
               "the function must be a function or a string \"module:function\", not \":add\"");
    CHECK_CALL("return 'counter:'",
               "the function must be a function or a string \"module:function\", not \"counter:\"");
    CHECK_CALL("return 'counter:add'", "1");
    CHECK_CALL("return 'lazy:some'", "\"some\"");
    CHECK_CALL("return 'counter:settings'",
               "\"counter:settings\" is no function in the state it was sent to");
    CHECK_CALL("return 'counter:nothing'",
               "\"counter:nothing\" is no function in the state it was sent to");
    CHECK_CALL("return 'broken:it'", "cannot load the module \"broken\": it is broken");
    CHECK(strstr(call_once("return 'absent:it'"),
                 "cannot load the module \"absent\": module 'absent' not found"));
}

TEST(upvalues_are_copied_at_every_call)
{
    pair p;
    open_pair(&p);
    CHECK_STRING(call(&p, "list, n = {1, 2}, 0 local l, m = list, 7 "
                          "f = function() m = m + 1 l[#l + 1] = m return l, m end "
                          "more = function() m = m + 10 end return f"),
                 "{1,2,8} 8");
    CHECK_STRING(call(&p, "return f"), "{1,2,8} 8");
    CHECK_STRING(call(&p, "more() list[3] = 'x' return f"), "{1,2,\"x\",18} 18");
    CHECK_STRING(call(&p, "return function() return list end"), "nil"); /* a global is not copied */
    close_pair(&p);
}

TEST(recursion_is_kept)
{
    CHECK_CALL("local function fib(n) return n < 2 and n or fib(n - 1) + fib(n - 2) end "
               "return fib, 20",
               "6765");
    CHECK_CALL("local even, odd function even(n) return n == 0 or odd(n - 1) end "
               "function odd(n) return n ~= 0 and even(n - 1) end return even, 101",
               "false");
    CHECK_CALL("local f, g, h function f(n) return n == 0 and 'f' or g(n - 1) end "
               "function g(n) return n == 0 and 'g' or h(n - 1) end "
               "function h(n) return n == 0 and 'h' or f(n - 1) end return f, 5",
               "\"h\"");
    CHECK_CALL("local f f = function() return rawequal(f, debug.getinfo(1, 'f').func) end return f",
               "true");
}

TEST(shared_upvalues_stay_shared)
{
    CHECK_CALL("local n = 0 local function add() n = n + 1 end local function get() return n end "
               "return function() add() add() return get(), n end",
               "2 2");
    CHECK_CALL("local t = {n = 1} local function a() t = {n = t.n + 1} end "
               "local function b() return t.n end return function() a() a() return b() end",
               "3");
    CHECK_CALL("local function get() return 1 end local a, b = get, get "
               "return function() return rawequal(a, b) end",
               "true");
    CHECK_CALL("local a, b = {1}, {1} return function() a[1] = 2 return b[1] end", "1");
}

TEST(functions_in_tables_of_upvalues_cross)
{
    CHECK_CALL("local util = {} function util.twice(x) return util.add(x, x) end "
               "function util.add(a, b) return a + b end "
               "return function(x) return util.twice(x) end, 21",
               "42");
    CHECK_CALL("local M = {deep = {f = function() return 'deep' end}} "
               "return function() return M.deep.f() end",
               "\"deep\"");
}

TEST(refused_upvalues_are_named_with_their_function)
{
    CHECK_CALL("local conn = newproxy()\n\nreturn function() return conn end",
               "upvalue \"conn\" of function at app.lua:3 is a userdata");
    CHECK_CALL("local config = {db = newproxy()}\nreturn function() return config end",
               "upvalue \"config\".db is a userdata (function at app.lua:2)");
    CHECK_CALL("local config = {db = {[3] = coroutine.create(print)}}\n"
               "return function() return config end",
               "upvalue \"config\".db[3] is a coroutine (function at app.lua:2)");
    CHECK_CALL("local x = io.stdout\nlocal function inner() return x end\n\n"
               "return function() return inner() end",
               "upvalue \"x\" of function at app.lua:2 is a userdata");
    CHECK_CALL("local app = setmetatable({}, {}) return function() return app end",
               "upvalue \"app\" of function at app.lua:1: a table with a metatable cannot cross");
    CHECK_CALL("local t = {} t.t = t return function() return t end",
               "upvalue \"t\".t is a cycle (function at app.lua:1)");
    CHECK_CALL("local f = setmetatable({}, {__name = 'fasterlua.future'}) "
               "return function() return f end",
               "upvalue \"f\" of function at app.lua:1 is a future: did you forget await?");
    CHECK_CALL("local f = string.gmatch('', '') return function() return f end",
               "upvalue \"f\" of function at app.lua:1 is a C function that no module exports");
    CHECK_CALL("return string.gmatch('', '')",
               "the function is a C function that no module exports");
    CHECK_CALL(
        "local f = setfenv(function() end, {}) return function() return f end",
        "upvalue \"f\" of function at app.lua:1 is a function with an environment of its own "
        "(setfenv)");
    CHECK_CALL("return setfenv(function() end, {})",
               "the function is a function with an environment of its own (setfenv)");
}

TEST(coroutines_send_and_receive)
{
    pair p;
    open_pair(&p);
    lua_State *from = p.from, *to = p.to;
    p.from = lua_newthread(from);
    p.to = lua_newthread(to);
    CHECK_STRING(call(&p,
                      "local c = require 'counter' return function(p) return c.add() + p.x end, "
                      "require('point').new(1, 2)"),
                 "2");
    p.from = from;
    p.to = to;
    close_pair(&p);
}

TEST(a_chain_of_functions_is_bounded)
{
    CHECK_CALL("local f = function() return 0 end for i = 1, 96 do local g = f "
               "f = function() return g() + 1 end end return f",
               "96");
    CHECK(strstr(call_once("local f = function() return 0 end for i = 1, 97 do local g = f "
                           "f = function() return g() + 1 end end return f"),
                 "upvalue \"g\" of function at app.lua:1 is nested deeper than 96 levels"));
    CHECK_CALL("local list = {} for i = 1, 999 do list[i] = function() return i end end "
               "return function() return list[999]() end",
               "999");
    CHECK_CALL("local list = {} for i = 1, 1000 do list[i] = function() return i end end "
               "return function() return list[999]() end",
               "upvalue \"list\"[1000] is one function too many: 1000 can cross (function at "
               "app.lua:1)");
}

TEST(handles_cross_everywhere)
{
    CHECK_CALL("local P = require 'point' return function(p) return p.x + p.y, "
               "rawequal(getmetatable(p), require 'point') end, P.new(1, 2)",
               "3 true");
    CHECK_CALL("local p = require('point').new(3, 4) return function() return p.x + p.y end", "7");
    CHECK_CALL("local P = require 'point' return function(l) return l[1].p.x end, "
               "{{p = P.new(P.new(5, 0), 1)}}",
               "{\"x\"=5,\"y\"=0}");
    CHECK_CALL("return function() return require('point').new(8, 9) end", "{\"x\"=8,\"y\"=9}");
    CHECK_CALL("local u = newproxy(true) getmetatable(u).__crossing = function() "
               "return 'point', 1, {2} end return function(p) return p.x, p.y end, u",
               "1 2");
}

TEST(handles_that_cannot_cross_say_why)
{
    CHECK_CALL(
        "return print, {h = setmetatable({}, {__crossing = function() error('closed', 0) end})}",
        "argument 1.h cannot cross: closed");
    CHECK_CALL("return print, setmetatable({}, {__crossing = function() end})",
               "argument 1: __crossing must return the name of a module first");
    CHECK_CALL("return print, require('point').new(1, print)", "argument 1[2][1] is a function");
    CHECK(
        strstr(call_once("local P = require 'point' local p = P.new(1, 2) p.x = p return print, p"),
               "[1][1] is nested deeper than 96 levels"));
    CHECK_CALL("return print, setmetatable({}, {__crossing = function() return 'counter' end})",
               "cannot receive a handle of \"counter\": attempt to call a nil value");
    CHECK_CALL("return print, setmetatable({}, {__crossing = function() return 'broken' end})",
               "cannot receive a handle of \"broken\": it is broken");
    CHECK_CALL("local t = {} for i = 1, 61 do t[i] = i end return print, "
               "setmetatable({}, {__crossing = function() return 'point', unpack(t) end})",
               "argument 1: __crossing returned too many values");
}

/* Each thread with its state sends to the other's half of the parcels what both know. */

#define PARCELS 200

typedef struct half {
    pthread_t thread;
    lua_State *L;
    fl_parcel sent[PARCELS], *received;
    pthread_barrier_t *barrier;
    int sum;
} half;

static void *send_and_receive(void *data)
{
    half *h = data;
    for (int i = 0; i < PARCELS; i++) {
        fl_parcel_init(&h->sent[i]);
        lua_getglobal(h->L, "f");
        if (fl_parcel_pack_function(&h->sent[i], h->L, -1, "f") < 0) return NULL;
        lua_settop(h->L, 0);
    }
    (void)pthread_barrier_wait(h->barrier);
    for (int i = 0; i < PARCELS; i++) {
        if (fl_parcel_unpack(&h->received[i], h->L) != 1) return NULL;
        fl_parcel_close(&h->received[i]);
        lua_call(h->L, 0, 1);
        h->sum += (int)lua_tointeger(h->L, -1);
        lua_settop(h->L, 0);
    }
    return NULL;
}

TEST(parcels_cross_between_threads)
{
    static half halves[2];
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, 2);
    for (int i = 0; i < 2; i++) {
        halves[i] = (half){.L = state_new(), .barrier = &barrier};
        halves[i].received = halves[1 - i].sent;
        CHECK_EQUAL_INT(run(halves[i].L, "local n = 1 function f() return n end"), 0);
    }
    for (int i = 0; i < 2; i++)
        CHECK_EQUAL_INT(pthread_create(&halves[i].thread, NULL, send_and_receive, &halves[i]), 0);
    for (int i = 0; i < 2; i++) (void)pthread_join(halves[i].thread, NULL);
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL_INT(halves[i].sum, PARCELS);
        lua_close(halves[i].L);
    }
    pthread_barrier_destroy(&barrier);
}

TEST(large_strings_travel_beside_the_values)
{
    pair p;
    open_pair(&p);
    CHECK_STRING(call(&p, "s = ('x'):rep(65536) return function(a, b) return #a, b end, s, 1"),
                 "65536 1");
    for (int extra = 0; extra < 2; extra++) {
        fl_parcel_reset(&p.parcel);
        lua_settop(p.from, 0);
        CHECK_EQUAL_INT(run(p.from, extra ? "return s .. 'y'" : "return s"), 0);
        CHECK_EQUAL_INT(fl_parcel_pack(&p.parcel, p.from, 1, 1, "argument"), 0);
        CHECK_EQUAL_INT(p.parcel.blob_count, extra);
        CHECK_EQUAL_INT(p.parcel.bytes.size > 65536, !extra);
    }
    CHECK_EQUAL_INT(p.parcel.bytes.size, 1);
    CHECK_STRING(call(&p,
                      "local s = s .. 'y' local keys = {[s] = s} "
                      "return function(a, t) return a == s, keys[s] == a, t[1] == s end, s, {s}"),
                 "true true true");
    p.by_bytes = true;
    CHECK_STRING(call(&p,
                      "local s = s .. 'y' local keys = {[s] = s} "
                      "return function(a, t) return a == s, keys[s] == a, t[1] == s end, s, {s}"),
                 "true true true");
    close_pair(&p);
}

TEST(a_parcel_crosses_as_bytes)
{
    pair p;
    open_pair(&p);
    p.by_bytes = true;
    CHECK_STRING(call(&p, "local even, odd function even(n) return n == 0 or odd(n - 1) end "
                          "function odd(n) return n ~= 0 and even(n - 1) end return even, 10, {1}"),
                 "true");
    CHECK_STRING(call(&p, "local add = require('counter').add return function(p) "
                          "return add() + p.y end, require('point').new(1, 2)"),
                 "3");
    CHECK_STRING(call(&p, "return 'counter:add'"), "2");
    close_pair(&p);
}

TEST(damaged_bytes_are_refused)
{
    pair p;
    open_pair(&p);
    fl_buffer bytes;
    fl_buffer_init(&bytes);
    CHECK_EQUAL_INT(run(p.from, "local n = 1 local function f() return n end "
                                "return function() return f() + n end, 1, ('x'):rep(70000)"),
                    0);
    CHECK_EQUAL_INT(fl_parcel_pack_function(&p.parcel, p.from, 1, "f"), 0);
    CHECK_EQUAL_INT(fl_parcel_pack(&p.parcel, p.from, 2, 2, "argument"), 0);
    CHECK_EQUAL_INT(fl_parcel_write(&p.parcel, &bytes), 0);
    size_t step = 1;
    for (size_t size = 0; size < bytes.size; size += step) {
        fl_parcel_reset(&p.parcel);
        char *copy = malloc(size ? size : 1);
        memcpy(copy, bytes.data, size);
        CHECK_EQUAL_INT(fl_parcel_read(&p.parcel, fl_slice_of(copy, size)), UV_EINVAL);
        free(copy);
        CHECK_EQUAL_INT(p.parcel.function_count + p.parcel.blob_count + p.parcel.values, 0);
        step = size > 1000 && size < 70000 ? 997 : 1;
    }
    for (size_t at = 0; at < 700; at++) { /* the code's digest guards it */
        bytes.data[at] = (char)(bytes.data[at] + 1);
        fl_parcel_reset(&p.parcel);
        if (fl_parcel_read(&p.parcel, fl_slice_of(bytes.data, bytes.size)) == 0) {
            lua_settop(p.to, 0);
            (void)fl_parcel_unpack(&p.parcel, p.to);
        }
        bytes.data[at] = (char)(bytes.data[at] - 1);
    }
    fl_parcel_reset(&p.parcel);
    CHECK_EQUAL_INT(fl_parcel_read(&p.parcel, fl_slice_of(bytes.data, bytes.size)), 0);
    CHECK_EQUAL_INT(fl_parcel_unpack(&p.parcel, p.to), 3);
    fl_buffer_close(&bytes);
    close_pair(&p);
}

static int unpack_bytes(pair *p, const char *bytes, size_t size, uint32_t values)
{
    fl_parcel_reset(&p->parcel);
    lua_settop(p->to, 0);
    fl_buffer_append(&p->parcel.bytes, bytes, size);
    p->parcel.values = values;
    p->parcel.linked = true;
    return fl_parcel_unpack(&p->parcel, p->to);
}

TEST(what_no_sender_packs_is_refused)
{
    pair p;
    open_pair(&p);
    static const fl_slice malformed[] = {
        FL_SLICE(""),                  /* nothing */
        FL_SLICE("\x01\x02"),          /* more than was said */
        FL_SLICE("\xe0"),              /* a blob that is not there */
        FL_SLICE("\xe5"),              /* a function that is not there */
        FL_SLICE("\xe5\x01"),          //
        FL_SLICE("\xe6\x00"),          /* one that did not arrive yet */
        FL_SLICE("\xe7\x00\x01"),      /* an upvalue where none can be */
        FL_SLICE("\xe8"),              /* an unknown kind */
        FL_SLICE("\xe1\x01\x01"),      /* a name that is no string */
        FL_SLICE("\xe1\x86string"),    /* half a name */
        FL_SLICE("\xe4\x85point"),     /* a handle without values */
        FL_SLICE("\xe4\x85point\x3d"), /* one with too many */
    };
    for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++) {
        CHECK_EQUAL_INT(unpack_bytes(&p, malformed[i].data, malformed[i].size, 1), UV_EINVAL);
        CHECK_EQUAL_INT(lua_gettop(p.to), 1);
        CHECK(strstr(lua_tostring(p.to, 1), "malformed packed value at byte"));
    }
    CHECK_EQUAL_INT(unpack_bytes(&p, "\x01\x02", 2, 2), 2);
    close_pair(&p);
}

TEST(upvalues_that_do_not_fit_the_function_are_refused)
{
    static const fl_slice malformed[] = {
        FL_SLICE("\xe5\x02\x01\x02"),         /* more than it has */
        FL_SLICE("\xe5\x01\xe7\x00\x02"),     /* shared with one it does not have */
        FL_SLICE("\xe5\x01\xe7\x01\x01"),     /* of a function that is not there */
        FL_SLICE("\xe5\x02\x01\xe7\x00\x01"), //
    };
    pair p;
    open_pair(&p);
    CHECK_STRING(call(&p, "local n = 1 f = function() return n end return f"), "1");
    for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++) {
        fl_parcel_reset(&p.parcel);
        lua_settop(p.to, 0);
        lua_getglobal(p.from, "f");
        CHECK_EQUAL_INT(fl_parcel_pack_function(&p.parcel, p.from, -1, "f"), 0);
        p.parcel.bytes.size = 0;
        fl_buffer_slice(&p.parcel.bytes, malformed[i]);
        p.parcel.linked = true;
        CHECK_EQUAL_INT(fl_parcel_unpack(&p.parcel, p.to), UV_EINVAL);
        CHECK(strstr(lua_tostring(p.to, 1), "malformed packed value at byte"));
    }
    close_pair(&p);
}

TEST(what_fails_leaves_the_parcel_as_it_was)
{
    pair p;
    open_pair(&p);
    CHECK_EQUAL_INT(run(p.from, "local u, big = newproxy(), ('x'):rep(70000) "
                                "local function f() return 1 end "
                                "return 7, f, function() return f, big, u end, {big, print}"),
                    0);
    CHECK_EQUAL_INT(fl_parcel_pack_function(&p.parcel, p.from, 2, "f"), 0);
    CHECK_EQUAL_INT(fl_parcel_pack(&p.parcel, p.from, 1, 1, "argument"), 0);
    size_t size = p.parcel.bytes.size;
    CHECK_EQUAL_INT(fl_parcel_pack_function(&p.parcel, p.from, 3, "f"), UV_EINVAL);
    CHECK_EQUAL_INT(fl_parcel_pack(&p.parcel, p.from, 4, 1, "argument"), UV_EINVAL);
    CHECK_EQUAL_INT(lua_gettop(p.from), 6);
    CHECK_EQUAL_INT(p.parcel.bytes.size, size);
    CHECK_EQUAL_INT(p.parcel.blob_count, 0);
    CHECK_EQUAL_INT(p.parcel.function_count, 1);
    CHECK_EQUAL_INT(fl_parcel_unpack(&p.parcel, p.to), 2);
    CHECK_EQUAL_INT(lua_tointeger(p.to, 2), 7);
    close_pair(&p);
}

/* Under an allocator that fails once, at each point: an error, nothing lost, and the next try
 * works. */

static const char crossing_everything[] =
    "local n, s, c = {1, {x = 'y'}}, ('x'):rep(70000), require 'counter' "
    "local function rec(i) return i == 0 and n or rec(i - 1) end "
    "return function() return rec(1), s, c.add() end, {1, 2, a = -1LL}, require('point').new(1, 2)";

static int pack_protected(lua_State *L)
{
    pair *p = lua_touserdata(L, 4);
    int error = fl_parcel_pack_function(&p->parcel, L, 1, "f");
    if (!error) error = fl_parcel_pack(&p->parcel, L, 2, 2, "argument");
    return error ? lua_error(L) : 0;
}

static int unpack_protected(lua_State *L)
{
    const pair *p = lua_touserdata(L, 1);
    int values = fl_parcel_unpack(&p->parcel, L);
    return values < 0 ? lua_error(L) : values;
}

static lua_State *capped_state(capped *c)
{
    c->until = -1;
    lua_State *L = lua_newstate(allocate, c);
    if (L) open_state(L);
    return L;
}

TEST(packing_survives_the_lack_of_memory)
{
    pair p;
    capped c = {0, -1};
    long failures = 0;
    open_pair(&p);
    lua_close(p.from);
    for (long until = 0, failed = 1; failed; until++) {
        p.from = capped_state(&c);
        fl_parcel_reset(&p.parcel);
        CHECK_EQUAL_INT(run(p.from, crossing_everything), 0);
        for (int i = 1; i <= 3; i++) lua_pushvalue(p.from, i); /* for the second try */
        lua_pushlightuserdata(p.from, &p);
        lua_pushcfunction(p.from, pack_protected);
        for (int i = 1; i <= 3; i++) lua_pushvalue(p.from, i);
        lua_pushlightuserdata(p.from, &p);
        c.until = until;
        failed = lua_pcall(p.from, 4, 0, 0) != 0;
        c.until = -1;
        failures += failed;
        if (failed) {
            CHECK(strstr(lua_tostring(p.from, -1), "not enough memory"));
            lua_pop(p.from, 1);
            fl_parcel_reset(&p.parcel);
            lua_pushcfunction(p.from, pack_protected);
            lua_insert(p.from, 4);
            CHECK_EQUAL_INT(lua_pcall(p.from, 4, 0, 0), 0);
        }
        lua_settop(p.to, 0);
        CHECK_EQUAL_INT(fl_parcel_unpack(&p.parcel, p.to), 3);
        fl_parcel_reset(&p.parcel);
        lua_close(p.from);
        CHECK_EQUAL_INT(c.blocks, 0);
    }
    CHECK(failures > 20);
    p.from = state_new();
    close_pair(&p);
}

TEST(unpacking_survives_the_lack_of_memory)
{
    pair p;
    capped c = {0, -1};
    long failures = 0;
    open_pair(&p);
    lua_close(p.to);
    CHECK_EQUAL_INT(run(p.from, crossing_everything), 0);
    CHECK_EQUAL_INT(fl_parcel_pack_function(&p.parcel, p.from, 1, "f"), 0);
    CHECK_EQUAL_INT(fl_parcel_pack(&p.parcel, p.from, 2, 2, "argument"), 0);
    for (long until = 0, failed = 1; failed; until++) {
        p.to = capped_state(&c);
        CHECK_EQUAL_INT(run(p.to, "require 'counter' require 'point'"), 0);
        lua_settop(p.to, 0);
        lua_pushcfunction(p.to, unpack_protected);
        lua_pushlightuserdata(p.to, &p);
        c.until = until;
        failed = lua_pcall(p.to, 1, LUA_MULTRET, 0) != 0;
        c.until = -1;
        failures += failed;
        if (failed) CHECK(strstr(lua_tostring(p.to, -1), "not enough memory"));
        lua_settop(p.to, 0);
        CHECK_EQUAL_INT(fl_parcel_unpack(&p.parcel, p.to), 3);
        lua_settop(p.to, 1);
        CHECK_EQUAL_INT(lua_pcall(p.to, 0, 3, 0), 0);
        CHECK_EQUAL_INT(lua_tointeger(p.to, 3), 1);
        lua_close(p.to);
        CHECK_EQUAL_INT(c.blocks, 0);
    }
    CHECK(failures > 20);
    p.to = state_new();
    close_pair(&p);
}

static pair *scarce;
static fl_parcel arrived;

/* The stack but for the job is the function and its arguments.  [-0, +1, e] */
static int pack_job(lua_State *L)
{
    int count = lua_gettop(L);
    int status = fl_parcel_pack_function(&scarce->parcel, L, 1, "the function");
    if (status == 0) status = fl_parcel_pack(&scarce->parcel, L, 2, count - 1, "argument");
    lua_pushinteger(L, lua_gettop(L) == count + (status < 0) ? status : 1);
    return 1;
}

/* unpack() -> how many values   [-0, +1, e] */
static int unpack_job(lua_State *L)
{
    int values = fl_parcel_unpack(&arrived, L);
    lua_pushinteger(L, values);
    return 1;
}

/* What the job returns; Lua's memory errors may come through. The first `count` values of the stack
 * are its arguments. */
static int protect(lua_State *L, lua_CFunction job, int count)
{
    lua_pushcfunction(L, job);
    for (int i = 1; i <= count; i++) lua_pushvalue(L, i);
    int status = lua_pcall(L, count, 1, 0) ? UV_ENOMEM : (int)lua_tointeger(L, -1);
    lua_settop(L, count);
    return status;
}

static int cross_scarcely(void)
{
    fl_buffer bytes;
    fl_buffer_init(&bytes);
    fl_parcel_init(&arrived);
    int count = lua_gettop(scarce->from);
    int status = protect(scarce->from, pack_job, count);
    if (status == 0) status = fl_parcel_write(&scarce->parcel, &bytes);
    if (status == 0) status = fl_parcel_read(&arrived, fl_slice_of(bytes.data, bytes.size));
    if (status == 0) {
        status = protect(scarce->to, unpack_job, 0);
        if (status >= 0) status = status != count;
    }
    fl_parcel_close(&arrived);
    fl_parcel_close(&scarce->parcel);
    fl_buffer_close(&bytes);
    return status;
}

static int cross_from_anew(void)
{
    pair p;
    scarcity_pause();
    open_pair(&p);
    const char *source = "local function f(n) return n end "
                         "local function g(n) return f(n), require('counter').add() end "
                         "return g, ('x'):rep(70000), {a = {1, 2, ('y'):rep(70000)}}, math.huge";
    scarce = &p;
    int status = run(p.from, source) < 0;
    scarcity_resume();
    if (status == 0) status = cross_scarcely();
    scarcity_pause();
    close_pair(&p);
    return status;
}

/* Functions are remembered where there is memory for it. */
TEST(without_memory_nothing_crosses)
{
    CHECK_SCARCITY_COPES(cross_from_anew);
}

TEST_MAIN
