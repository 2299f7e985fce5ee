/* Any bytes are unpacked as a value and read as a parcel: they are refused or give values, and a
 * value, packed and unpacked again, is the same. Bytecode is not for fuzzing, LuaJIT does not
 * verify it: parcels with functions are read only. */
#include "border.h"
#include "fuzz_lua.h"
#include "pack.h"
#include "parcel.h"

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

static lua_State *state_new(void)
{
    lua_State *L = fuzz_lua_new();
    fl_border_open(L);
    demand(luaL_dostring(L, same) == 0);
    lua_setglobal(L, "same");
    lua_pushnil(L); /* whatever names say, no file is loaded */
    lua_setglobal(L, "require");
    return L;
}

static void try_value(lua_State *L, fl_slice bytes)
{
    fl_buffer out;
    fl_buffer_init(&out);
    lua_getglobal(L, "same");
    size_t used;
    bool accepted = fl_unpack_value(L, bytes, &used) == 0;
    demand(lua_gettop(L) == 2);
    if (accepted) {
        demand(used <= bytes.size);
        demand(fl_pack_value(L, -1, "it", &out) == 0);
        demand(fl_unpack_value(L, fl_slice_of(out.data, out.size), &used) == 0);
        demand(used == out.size);
        lua_call(L, 2, 1);
        demand(lua_toboolean(L, -1));
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
        demand(lua_gettop(L) == (values < 0 ? 1 : values));
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
    demand(values == 1 || values < 0);
    demand(lua_gettop(L) == 1);
    lua_settop(L, 0);
    fl_parcel_close(&parcel);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lua_State *L;
    if (!L) L = state_new();
    fl_slice bytes = fl_slice_of((const char *)data, size);
    try_value(L, bytes);
    try_parcel(L, bytes);
    try_contents(L, bytes);
    fuzz_lua_collect(L);
    return 0;
}
