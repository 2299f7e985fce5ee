/* crossing: two Lua states and the parcel between them, for what is tested from end to end.
 *
 *     CHECK_CALL("return function(a, b) return a + b end, 1, 2", "3");
 *
 * Both states know the same modules. */
#ifndef FL_CROSSING_H
#define FL_CROSSING_H

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>

#include "border.h"
#include "json.h"
#include "parcel.h"

#include "test.h"

/* Modules that both states can load, and what shows a value. */
static const char prelude[] =
    "local function module(name, source)\n"
    "  package.preload[name] = assert(loadstring(source, '@' .. name .. '.lua'))\n"
    "end\n"
    "module('counter', 'local M, count = {}, 0 function M.add() count = count + 1 return count end "
    "'\n"
    "  .. 'M.settings = {step = 1} return M')\n"
    "module('again', 'return {format = string.format, add = require(\"counter\").add}')\n"
    "module('alone', 'return function() return \"alone\" end')\n"
    "module('broken', 'error(\"it is broken\", 0)')\n"
    "module('point', 'local P = {} P.__index = P P.__crossing = function(p) '\n"
    "  .. 'return \"point\", p.x, {p.y} end '\n"
    "  .. 'function P.new(x, y) return setmetatable({x = x, y = y}, P) end '\n"
    "  .. 'function P.from_crossing(x, t) return P.new(x, t[1]) end return P')\n"
    "module('lazy', 'return setmetatable({}, {__index = function(t, k) '\n"
    "  .. 'local f = function() return k end rawset(t, k, f) return f end})')\n"
    "local function show(v)\n"
    "  if type(v) == 'string' then return ('%q'):format(v) end\n"
    "  if v == json.null then return 'null' end\n"
    "  if type(v) ~= 'table' then return tostring(v) end\n"
    "  local parts = {}\n"
    "  for i, e in ipairs(v) do parts[i] = show(e) end\n"
    "  local keys = {}\n"
    "  for k in pairs(v) do\n"
    "    if not (type(k) == 'number' and parts[k]) then keys[#keys + 1] = k end\n"
    "  end\n"
    "  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)\n"
    "  for _, k in ipairs(keys) do parts[#parts + 1] = show(k) .. '=' .. show(v[k]) end\n"
    "  local list = json.is_array(v) and {'[', ']'} or {'{', '}'}\n"
    "  return list[1] .. table.concat(parts, ',') .. list[2]\n"
    "end\n"
    "function shown(...)\n"
    "  local parts = {}\n"
    "  for i = 1, select('#', ...) do parts[i] = show((select(i, ...))) end\n"
    "  return table.concat(parts, ' ')\n"
    "end\n";

static inline void open_state(lua_State *L)
{
    luaL_openlibs(L);
    fl_json_open(L);
    fl_border_open(L);
    lua_pushcfunction(L, fl_json_module);
    lua_call(L, 0, 1);
    lua_setglobal(L, "json");
    if (luaL_dostring(L, prelude)) printf("# %s\n", lua_tostring(L, -1));
}

static inline lua_State *state_new(void)
{
    lua_State *L = luaL_newstate();
    open_state(L);
    return L;
}

/* Two states, and the parcel between them. */
typedef struct pair {
    lua_State *from, *to;
    fl_parcel parcel;
    bool by_bytes; /* the parcel is written and read on its way */
    char text[8192];
} pair;

static inline void open_pair(pair *p)
{
    p->from = state_new();
    p->to = state_new();
    p->by_bytes = false;
    fl_parcel_init(&p->parcel);
}

static inline void close_pair(pair *p)
{
    fl_parcel_close(&p->parcel);
    lua_close(p->from);
    lua_close(p->to);
}

static inline const char *say(pair *p, const char *text)
{
    (void)snprintf(p->text, sizeof(p->text), "%s", text);
    return p->text;
}

static inline const char *say_top(pair *p, lua_State *L)
{
    return say(p, lua_isstring(L, -1) ? lua_tostring(L, -1) : luaL_typename(L, -1));
}

static inline int run(lua_State *L, const char *source)
{
    if (luaL_loadbuffer(L, source, strlen(source), "@app.lua")) return -1;
    return lua_pcall(L, 0, LUA_MULTRET, 0) ? -1 : 0;
}

static inline const char *show(pair *p, lua_State *L, int first)
{
    lua_getglobal(L, "shown");
    lua_insert(L, first);
    lua_call(L, lua_gettop(L) - first, 1);
    return say_top(p, L);
}

static inline bool through_bytes(pair *p)
{
    fl_buffer bytes;
    fl_buffer_init(&bytes);
    FL_BUFFER_LITERAL(&bytes, "before");
    bool fine = fl_parcel_write(&p->parcel, &bytes) == 0;
    fl_parcel_reset(&p->parcel);
    fine = fine && fl_parcel_read(&p->parcel, fl_slice_of(bytes.data + 6, bytes.size - 6)) == 0;
    fl_buffer_close(&bytes);
    return fine;
}

/* The chunk returns a function and its arguments: what calling it in the other state gives. */
static inline const char *call(pair *p, const char *source)
{
    lua_State *from = p->from, *to = p->to;
    lua_settop(from, 0);
    lua_settop(to, 0);
    fl_parcel_reset(&p->parcel);
    if (run(from, source) < 0) return say_top(p, from);
    int count = lua_gettop(from);
    if (fl_parcel_pack_function(&p->parcel, from, 1, "the function") < 0) return say_top(p, from);
    if (fl_parcel_pack(&p->parcel, from, 2, count - 1, "argument") < 0) return say_top(p, from);
    if (lua_gettop(from) != count) return say(p, "left-overs");
    if (p->by_bytes && !through_bytes(p)) return say(p, "not read");
    int values = fl_parcel_unpack(&p->parcel, to);
    if (values < 0) return say_top(p, to);
    if (values != count || lua_gettop(to) != count) return say(p, "left-overs");
    if (lua_pcall(to, values - 1, LUA_MULTRET, 0)) return say_top(p, to);
    fl_parcel_reset(&p->parcel);
    if (fl_parcel_pack(&p->parcel, to, 1, lua_gettop(to), "result") < 0) return say_top(p, to);
    if (fl_parcel_unpack(&p->parcel, from) < 0) return say_top(p, from);
    return show(p, from, count + 1);
}

static inline const char *call_once(const char *source)
{
    static pair p;
    static char text[8192];
    open_pair(&p);
    (void)snprintf(text, sizeof(text), "%s", call(&p, source));
    close_pair(&p);
    return text;
}

#define CHECK_STRING(actual, expected)                                                             \
    do {                                                                                           \
        const char *test_text = (actual);                                                          \
        CHECK_EQUAL_BYTES(test_text, strlen(test_text), expected);                                 \
    } while (0)

#define CHECK_CALL(source, expected) CHECK_STRING(call_once(source), expected)

#endif
