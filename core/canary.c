#include "canary.h"

#include <string.h>

#include <lauxlib.h>
#include <uv.h>

/* The compiler forwards `#list` past a store through the other name of the same table: 339,799
 * instead of 500,500. */
static const char length_source[] = "local list, sum = {}, 0\n"
                                    "local alias = list\n"
                                    "for i = 1, 1000 do\n"
                                    "  alias[i] = i\n"
                                    "  sum = sum + #list\n"
                                    "end\n"
                                    "return sum == 500500\n";

/* An outer `pairs` given up on by the compiler after some 40,000 rounds, while traces of the inner
 * one still enter it, ends after its first key. `interpreted` keeps the rounds out of one trace. */
static const char pairs_source[] = "local row = { 1 }\n"
                                   "local rows = { a = row, b = row }\n"
                                   "local function interpreted(...) for _ = 1, 60 do end end\n"
                                   "for _ = 1, 60000 do\n"
                                   "  interpreted()\n"
                                   "  local count = 0\n"
                                   "  for _, each in pairs(rows) do\n"
                                   "    for _ in pairs(each) do end\n"
                                   "    count = count + 1\n"
                                   "  end\n"
                                   "  if count ~= 2 then return false end\n"
                                   "end\n"
                                   "return true\n";

static const char wrong_library[] =
    "this LuaJIT computes wrong results in compiled loops. Install OpenResty's branch: "
    "libluajit2-5.1-dev on Debian 12, libluajit-5.1-dev on Debian 13 and later";

int fl_canary_run(lua_State *L, const char *source)
{
    int status = luaL_loadbuffer(L, source, strlen(source), "=canary");
    if (status == 0) status = lua_pcall(L, 0, 1, 0);
    int sound = status == 0 && lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (status == LUA_ERRMEM) return UV_ENOMEM;
    return sound ? 0 : UV_ENOTSUP;
}

int fl_canary_check(lua_State *L, const char **why)
{
    *why = "not enough memory";
    int error = fl_canary_run(L, length_source);
    if (error == 0) error = fl_canary_run(L, pairs_source);
    if (error == UV_ENOTSUP) *why = wrong_library;
    return error;
}
