/* Any bytes are unpacked as a value and read as a parcel: they are refused or give values, and a
 * value, packed and unpacked again, is the same. Bytecode is not for fuzzing, LuaJIT does not
 * verify it: parcels with functions are read only. */
#include "parcel.h"

#include <lauxlib.h>
#include <lualib.h>
#include <sanitizer/lsan_interface.h>
#include <stdint.h>
#include <stdlib.h>

#include "border.h"
#include "json.h"
#include "pack.h"

#define COLLECT_EVERY 256

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char same[] =
    "local function same(a, b)\n"
    "  if type(a) ~= type(b) then return false end\n"
    "  if type(a) == 'number' then return a == b or (a ~= a and b ~= b) end\n"
    "  if type(a) == 'cdata' then return tostring(a) == tostring(b) end\n"
    "  if type(a) ~= 'table' then return a == b end\n"
    "  if getmetatable(a) ~= getmetatable(b) then return false end\n"
    "  for k, v in pairs(a) do if not same(v, b[k]) then return false end end\n"
    "  for k in pairs(b) do if a[k] == nil then return false end end\n"
    "  return true\n"
    "end\n"
    "return same\n";

/* The C library's, so that a sanitizer sees what the state's memory refers to. The state's own
 * blocks refer to each other by tagged pointers, which LeakSanitizer does not follow: they count as
 * in use, and what they refer to plainly does, too. */
static void *allocate(void *data, void *block, size_t old_size, size_t size)
{
    (void)data;
    (void)old_size;
    __lsan_disable();
    void *result = size ? realloc(block, size) : NULL;
    __lsan_enable();
    if (size == 0) free(block);
    return result;
}

static lua_State *state_new(void)
{
    lua_State *L = lua_newstate(allocate, NULL);
    if (!L) abort();
    luaL_openlibs(L);
    fl_json_open(L);
    fl_border_open(L);
    if (luaL_dostring(L, same)) abort();
    lua_setglobal(L, "same");
    lua_pushnil(L); /* whatever names say, no file is loaded */
    lua_setglobal(L, "require");
    return L;
}

static void check(bool promise)
{
    if (!promise) abort();
}

static void try_value(lua_State *L, fl_slice bytes)
{
    fl_buffer out;
    fl_buffer_init(&out);
    lua_getglobal(L, "same");
    size_t used;
    bool accepted = fl_unpack_value(L, bytes, &used) == 0;
    check(lua_gettop(L) == 2);
    if (accepted) {
        check(used <= bytes.size);
        check(fl_pack_value(L, -1, "it", &out) == 0);
        check(fl_unpack_value(L, fl_slice_of(out.data, out.size), &used) == 0);
        check(used == out.size);
        lua_call(L, 2, 1);
        check(lua_toboolean(L, -1));
    }
    lua_settop(L, 0);
    fl_buffer_close(&out);
}

static void try_parcel(lua_State *L, fl_slice bytes)
{
    fl_parcel parcel;
    fl_parcel_init(&parcel);
    if (fl_parcel_read(&parcel, bytes) == 0 && parcel.function_count == 0) {
        int values = fl_parcel_unpack(&parcel, L);
        check(lua_gettop(L) == (values < 0 ? 1 : values));
    }
    lua_settop(L, 0);
    fl_parcel_close(&parcel);
}

static void try_contents(lua_State *L, fl_slice bytes)
{
    fl_parcel parcel;
    fl_parcel_init(&parcel);
    fl_buffer_slice(&parcel.bytes, bytes);
    parcel.values = 1;
    parcel.linked = true;
    int values = fl_parcel_unpack(&parcel, L);
    check(values == 1 || values < 0);
    check(lua_gettop(L) == 1);
    lua_settop(L, 0);
    fl_parcel_close(&parcel);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lua_State *L;
    static unsigned runs;
    if (!L) L = state_new();
    fl_slice bytes = fl_slice_of((const char *)data, size);
    try_value(L, bytes);
    try_parcel(L, bytes);
    try_contents(L, bytes);
    if (++runs % COLLECT_EVERY == 0) lua_gc(L, LUA_GCCOLLECT, 0);
    return 0;
}
