/* Any bytes, taken for each format, decompress within the limit or are refused; what came out,
 * compressed and decompressed again, stays as it is. */
#include <string.h>

#include "bind/compress.h"
#include "fuzz_lua.h"

#define LIMIT 65536

static const char *const formats[] = {"gzip", "deflate", "br", "zstd"};

static lua_State *state_new(void)
{
    lua_State *L = fuzz_lua_new();
    lua_pushcfunction(L, fl_compress_module);
    lua_call(L, 0, 1);
    return L;
}

/* Replaces the string on top by what `function` makes of it, or by why it does not. */
static bool call(lua_State *L, const char *function, const char *format)
{
    lua_getfield(L, 1, function);
    lua_insert(L, -2);
    lua_pushstring(L, format);
    lua_insert(L, -2);
    if (strcmp(function, "compress") == 0) return lua_pcall(L, 2, 1, 0) == 0;
    lua_createtable(L, 0, 1);
    lua_pushinteger(L, LIMIT);
    lua_setfield(L, -2, "limit");
    return lua_pcall(L, 3, 1, 0) == 0;
}

static void round_trip(lua_State *L, const char *format, const uint8_t *data, size_t size)
{
    lua_pushlstring(L, (const char *)data, size);
    if (call(L, "decompress", format)) {
        demand(lua_objlen(L, 2) <= LIMIT);
        lua_pushvalue(L, 2);
        demand(call(L, "compress", format));
        demand(call(L, "decompress", format));
        demand(lua_rawequal(L, 2, 3));
    }
    demand(lua_type(L, 2) == LUA_TSTRING);
    lua_settop(L, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lua_State *L;
    if (!L) L = state_new();
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
        round_trip(L, formats[i], data, size);
    fuzz_lua_collect(L);
    return 0;
}
