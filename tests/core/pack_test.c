#include "pack.h"

#include <uv.h>

#include "../support/scarcity.h"
#include "../support/written.h"

/* same(a, b): equal to the bit, and of the same structure. */
static const char prelude[] =
    "local function bits(n) return require('ffi').string(require('ffi').new('double[1]', n), 8) "
    "end\n"
    "function same(a, b)\n"
    "  if type(a) ~= type(b) then return false end\n"
    "  if type(a) == 'number' then return bits(a) == bits(b) end\n"
    "  if type(a) == 'cdata' then return tostring(a) == tostring(b) end\n"
    "  if type(a) ~= 'table' then return a == b end\n"
    "  if json.is_array(a) ~= json.is_array(b) then return false end\n"
    "  for k, v in pairs(a) do if not same(v, b[k]) then return false end end\n"
    "  for k in pairs(b) do if a[k] == nil then return false end end\n"
    "  return true\n"
    "end\n";

static lua_State *state_new(void)
{
    lua_State *L = written_state();
    if (luaL_dostring(L, prelude)) printf("# %s\n", lua_tostring(L, -1));
    return L;
}

static int pack(lua_State *L, size_t most, fl_buffer *out)
{
    (void)most;
    return fl_pack_value(L, -1, "it", out);
}

static int unpack(lua_State *L, const char *data, size_t size, size_t *used)
{
    char *copy = written_copy(fl_slice_of(data, size));
    int error = fl_unpack_value(L, fl_slice_of(copy, size), used);
    free(copy);
    return error;
}

static const char *check_packed(lua_State *L, fl_slice bytes)
{
    size_t used = 0;
    for (size_t size = 0; size < bytes.size; size++) {
        if (unpack(L, bytes.data, size, &used) != UV_EINVAL) return "half of it is accepted";
        lua_settop(L, 1);
    }
    lua_getglobal(L, "same");
    lua_pushvalue(L, 1);
    if (unpack(L, bytes.data, bytes.size, &used) != 0) return lua_tostring(L, -1);
    if (used != bytes.size) return "not all was used";
    lua_call(L, 2, 1);
    return lua_toboolean(L, -1) ? "same" : "different";
}

/* The message that packing the Lua expression gives, or whether unpacking gives the same. */
static const char *packed_size(const char *expression, size_t *size)
{
    static char result[4096];
    lua_State *L = state_new();
    fl_buffer out;
    fl_buffer_init(&out);
    const char *text = written_problem(L, expression, pack, 0, &out);
    if (!text) text = check_packed(L, written_bytes(&out));
    if (size) *size = written_bytes(&out).size;
    (void)snprintf(result, sizeof(result), "%s", text);
    fl_buffer_close(&out);
    lua_close(L);
    return result;
}

static const char *packed(const char *expression)
{
    return packed_size(expression, NULL);
}

#define CHECK_SAME(expression) CHECK_STRING(packed(expression), "same")

#define CHECK_SIZE(expression, expected)                                                           \
    do {                                                                                           \
        size_t packed_bytes = 0;                                                                   \
        CHECK_STRING(packed_size(expression, &packed_bytes), "same");                              \
        CHECK_EQUAL_INT(packed_bytes, expected);                                                   \
    } while (0)

TEST(words_come_back)
{
    CHECK_SIZE("nil", 1);
    CHECK_SIZE("true", 1);
    CHECK_SIZE("false", 1);
    CHECK_SIZE("json.null", 1);
}

TEST(numbers_come_back_to_the_bit)
{
    CHECK_SIZE("0", 1);
    CHECK_SIZE("127", 1);
    CHECK_SIZE("128", 3);
    CHECK_SIZE("-1", 2);
    CHECK_SIZE("-127", 2);
    CHECK_SIZE("-128", 3);
    CHECK_SIZE("16383", 3);
    CHECK_SIZE("16384", 4);
    CHECK_SIZE("2^31", 6);
    CHECK_SIZE("-2^31", 6);
    CHECK_SIZE("2^53", 9);
    CHECK_SIZE("-2^53", 9);
    CHECK_SIZE("2^53 + 2", 9);
    CHECK_SIZE("-0", 9);
    CHECK_SIZE("-1 / (1/0)", 9);
    CHECK_SIZE("0.1", 9);
    CHECK_SIZE("1/0", 9);
    CHECK_SIZE("-1/0", 9);
    CHECK_SIZE("0/0", 9);
    CHECK_SIZE("5e-324", 9);
    CHECK_SIZE("1.7976931348623157e308", 9);
}

TEST(int64_and_uint64_come_back)
{
    CHECK_SIZE("0LL", 9);
    CHECK_SIZE("-1LL", 9);
    CHECK_SIZE("1LL", 9);
    CHECK_SIZE("1ULL", 9);
    CHECK_SIZE("9223372036854775807LL", 9);
    CHECK_SIZE("-9223372036854775807LL - 1", 9);
    CHECK_SIZE("18446744073709551615ULL", 9);
    CHECK_SAME("{1LL, {2ULL}}");
}

TEST(strings_come_back_with_all_their_bytes)
{
    CHECK_SIZE("''", 1);
    CHECK_SIZE("'\\0\\255'", 3);
    CHECK_SIZE("('x'):rep(63)", 64);
    CHECK_SIZE("('x'):rep(64)", 66);
    CHECK_SIZE("('x'):rep(1000)", 1003);
    CHECK_SIZE("(function() local t = {} for i = 0, 255 do t[#t + 1] = string.char(i) end "
               "return table.concat(t) end)()",
               259);
}

TEST(tables_come_back)
{
    CHECK_SIZE("{}", 3);
    CHECK_SIZE("{1, 2, 3}", 6);
    CHECK_SIZE("{a = 1}", 6);
    CHECK_SAME("{1, 2, a = 3, [4] = 4, [true] = 5, [false] = 6, [1.5] = 7, [-1] = 8, [0] = 9}");
    CHECK_SAME("{[json.null] = 1, [1e300] = 2, [1/0] = 3, [''] = 4}");
    CHECK_SAME("{1, nil, 3}");
    CHECK_SAME("{nil, nil, 3}");
    CHECK_SAME("{[3] = 'c', [1] = 'a', [2] = 'b'}");
    CHECK_SAME("{{{}}, {a = {b = {}}}, {{1}, {2}}}");
}

TEST(marks_of_lists_are_kept)
{
    CHECK_SIZE("json.array({})", 3);
    CHECK_SAME("json.array({1, {json.array({{}})}})");
    CHECK_SAME("{a = json.array()}");
    CHECK_SAME("json.array({a = 1})");
}

TEST(large_tables_come_back)
{
    CHECK_SIZE("(function() local t = {} for i = 1, 255 do t[i] = 1 end return t end)()", 258);
    CHECK_SIZE("(function() local t = {} for i = 1, 256 do t[i] = 1 end return t end)()", 265);
    CHECK_SAME(
        "(function() local t = json.array() for i = 1, 300 do t[i] = {i} end return t end)()");
    CHECK_SAME("(function() local t = {} for i = 1, 300 do t['k' .. i] = i end return t end)()");
    CHECK_SAME("(function() local t = {} for i = 1, 300 do t['k' .. i] = i t[i] = {t = {i}} end "
               "return {t, 1, t} end)()");
}

TEST(a_table_reached_twice_comes_twice)
{
    CHECK_SAME("(function() local t = {1} return {t, t, {t}} end)()");
}

TEST(the_name_is_part_of_each_message)
{
    CHECK_STRING(packed("print"), "it is a function");
    CHECK_STRING(packed("coroutine.create(print)"), "it is a coroutine");
    CHECK_STRING(packed("io.stdout"), "it is a userdata");
    CHECK_STRING(packed("{}, print"), "same");
    CHECK_STRING(packed("require('ffi').new('int[2]')"),
                 "it is a cdata that is neither int64 nor uint64");
    CHECK_STRING(packed("setmetatable({}, {})"), "it: a table with a metatable cannot cross");
}

TEST(a_refusal_names_the_path)
{
    CHECK_STRING(packed("{user = {conn = print}}"), "it.user.conn is a function");
    CHECK_STRING(packed("{1, 2, {x = setmetatable({}, {})}}"),
                 "it[3].x: a table with a metatable cannot cross");
    CHECK_STRING(packed("{['a b'] = {['c\\n'] = print}}"), "it[\"a b\"][\"c?\"] is a function");
    CHECK_STRING(packed("{[1.5] = {[true] = {[json.null] = print}}}"),
                 "it[1.5][true][null] is a function");
    CHECK_STRING(packed("{[1e6] = {1i}}"),
                 "it[1000000][1] is a cdata that is neither int64 nor uint64");
    CHECK_STRING(packed("{{}, {{print}}}"), "it[2][1][1] is a function");
    CHECK_STRING(packed("{a = {1}, b = coroutine.create(print)}"), "it.b is a coroutine");
}

TEST(keys_are_refused_likewise)
{
    CHECK_STRING(packed("{[print] = 1}"), "a key of it is a function");
    CHECK_STRING(packed("{x = {[{}] = 1}}"), "a key of it.x is a table");
    CHECK_STRING(packed("{x = {[io.stdout] = 1}}"), "a key of it.x is a userdata");
    CHECK_STRING(packed("{{[coroutine.create(print)] = 1}}"), "a key of it[1] is a coroutine");
    CHECK_STRING(packed("{{[1LL] = 1}}"), "a key of it[1] is a cdata");
}

TEST(a_future_asks_for_await)
{
    CHECK_STRING(packed("{row = setmetatable({}, {__name = 'fasterlua.future'})}"),
                 "it.row is a future: did you forget await?");
    CHECK_STRING(packed("(function() local u = newproxy(true) "
                        "getmetatable(u).__name = 'fasterlua.future' return {u} end)()"),
                 "it[1] is a future: did you forget await?");
}

TEST(cycles_are_refused_where_they_close)
{
    CHECK_STRING(packed("(function() local t = {} t.self = t return t end)()"),
                 "it.self is a cycle");
    CHECK_STRING(packed("(function() local t = {} t.a = {t} return {t} end)()"),
                 "it[1].a[1] is a cycle");
}

TEST(nesting_ends_at_96_levels)
{
    CHECK_SAME(written_nested("{}", FL_PACK_DEPTH));
    const char *text = packed(written_nested("{}", FL_PACK_DEPTH + 1));
    CHECK(strstr(text, "it[1][1][1]") == text);
    CHECK(strstr(text, "[1] is nested deeper than 96 levels"));
    CHECK(strstr(packed("(function() local t = {} for i = 1, 100 do t = {['a long key'] = t} end "
                        "return t end)()"),
                 "... is nested deeper than 96 levels"));
}

TEST(no_metamethod_runs)
{
    CHECK_STRING(packed("setmetatable({}, {__index = error, __len = error, __pairs = error, "
                        "__metatable = 1, __tostring = error})"),
                 "it: a table with a metatable cannot cross");
}

TEST(values_can_be_packed_behind_each_other)
{
    lua_State *L = state_new();
    fl_buffer out;
    fl_buffer_init(&out);
    lua_pushinteger(L, 1);
    lua_pushliteral(L, "two");
    CHECK_EQUAL_INT(fl_pack_value(L, 1, "it", &out), 0);
    CHECK_EQUAL_INT(fl_pack_value(L, 2, "it", &out), 0);
    lua_settop(L, 0);
    size_t used, more;
    CHECK_EQUAL_INT(unpack(L, out.data, out.size, &used), 0);
    CHECK_EQUAL_INT(unpack(L, out.data + used, out.size - used, &more), 0);
    CHECK_EQUAL_INT(used + more, out.size);
    CHECK_EQUAL_INT(lua_tointeger(L, 1), 1);
    CHECK_STRING(lua_tostring(L, 2), "two");
    fl_buffer_close(&out);
    lua_close(L);
}

TEST(a_buffer_that_cannot_grow_is_an_error)
{
    lua_State *L = state_new();
    fl_buffer out;
    fl_buffer_init(&out);
    FL_BUFFER_LITERAL(&out, "before ");
    lua_pushliteral(L, "text");
    out.failed = true;
    out.capacity = out.size;
    CHECK_EQUAL_INT(fl_pack_value(L, 1, "the value of \"key\"", &out), UV_ENOMEM);
    CHECK_STRING(lua_tostring(L, -1), "the value of \"key\": not enough memory");
    CHECK_EQUAL_INT(out.size, 7);
    fl_buffer_close(&out);
    lua_close(L);
}

#define CHECK_MALFORMED(bytes, at)                                                                 \
    do {                                                                                           \
        lua_State *test_L = state_new();                                                           \
        size_t test_used;                                                                          \
        int test_error = unpack(test_L, bytes, sizeof(bytes) - 1, &test_used);                     \
        int test_top = lua_gettop(test_L);                                                         \
        char test_message[64];                                                                     \
        (void)snprintf(test_message, sizeof(test_message), "%s", lua_tostring(test_L, -1));        \
        lua_close(test_L);                                                                         \
        CHECK_EQUAL_INT(test_error, UV_EINVAL);                                                    \
        CHECK_EQUAL_INT(test_top, 1);                                                              \
        CHECK_STRING(test_message, "malformed packed value at byte " #at);                         \
    } while (0)

TEST(malformed_bytes_are_refused)
{
    CHECK_MALFORMED("", 1);
    CHECK_MALFORMED("\xce", 2);
    CHECK_MALFORMED("\xdf", 2);
    CHECK_MALFORMED("\xe0", 2); /* kinds of others */
    CHECK_MALFORMED("\xff", 2);
    CHECK_MALFORMED("\x83xy", 2);
    CHECK_MALFORMED("\xc4", 2);
    CHECK_MALFORMED("\xc4\x80\x80", 4);
    CHECK_MALFORMED("\xc4\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11);
    CHECK_MALFORMED("\xc9\xff\xff\xff\xff\xff\xff\xff\xff\x7fx", 11);
    CHECK_MALFORMED("\xc6\x01\x02\x03\x04\x05\x06\x07", 2);
}

TEST(malformed_tables_are_refused)
{
    CHECK_MALFORMED("\xca\x01", 2);
    CHECK_MALFORMED("\xca\x01\x00", 4);
    CHECK_MALFORMED("\xca\x00\x01\x81k", 6);
    CHECK_MALFORMED("\xca\x00\x01\xc0\x01", 5);                                  /* nil as key */
    CHECK_MALFORMED("\xca\x00\x01\xc6\x00\x00\x00\x00\x00\x00\xf8\x7f\x01", 13); /* NaN as key */
    CHECK_MALFORMED("\xca\x00\x01\xca\x00\x00\x01", 7); /* a table as key */
    CHECK_MALFORMED("\xcc\xff\xff\xff\x7f\x00\x00\x00\x00\x01", 10);
    CHECK_MALFORMED("\xcc\x00\x00\x00\x00\xff\xff\xff\xff\x01\x01", 10);
    CHECK_MALFORMED("\xca\x03\x00\xca\x01\x00\x01\x01", 7); /* more than is left for the inner */
}

TEST(forged_numbers_are_numbers)
{
    lua_State *L = state_new();
    size_t used;
    for (unsigned high = 0x7ff0; high <= 0xffff; high += high == 0x7fff ? 0x7ff1 : 1) {
        char bytes[] = "\xc6\x10\x20\x30\x40\x50\x60..";
        bytes[7] = (char)(high & 0xff);
        bytes[8] = (char)(high >> 8);
        CHECK_EQUAL_INT(unpack(L, bytes, 9, &used), 0);
        CHECK_EQUAL_INT(lua_type(L, -1), LUA_TNUMBER);
        lua_settop(L, 0);
    }
    lua_close(L);
}

/* A table may not take more memory than its bytes could fill. */
TEST(counts_alone_take_no_memory)
{
    static char bytes[65536];
    lua_State *L = state_new();
    lua_gc(L, LUA_GCSTOP, 0);
    int before = lua_gc(L, LUA_GCCOUNT, 0);
    size_t used, at = 0;
    for (int depth = 0; depth < 90; depth++) {
        uint32_t counts[2] = {(uint32_t)(sizeof(bytes) - at - 9), 0};
        bytes[at] = (char)FL_PACK_LARGE_TABLE;
        memcpy(bytes + at + 1, counts, sizeof(counts));
        at += 9;
    }
    CHECK_EQUAL_INT(unpack(L, bytes, sizeof(bytes), &used), UV_EINVAL);
    CHECK(lua_gc(L, LUA_GCCOUNT, 0) - before < 2048); /* KiB: 16 per byte and some */
    lua_close(L);
}

/* Under an allocator that fails once, at each point. */

static long until = -1;

static void *allocate(void *data, void *block, size_t old_size, size_t size)
{
    (void)data;
    if (size > old_size && until >= 0 && until-- == 0) return NULL;
    if (size) return realloc(block, size);
    free(block);
    return NULL;
}

static int unpack_protected(lua_State *L)
{
    size_t used;
    const fl_buffer *bytes = lua_touserdata(L, 1);
    return fl_unpack_value(L, fl_slice_of(bytes->data, bytes->size), &used) ? lua_error(L) : 1;
}

TEST(unpacking_survives_the_lack_of_memory)
{
    fl_buffer bytes;
    fl_buffer_init(&bytes);
    lua_State *sender = state_new();
    CHECK_EQUAL_INT(luaL_dostring(sender, "return {1, 'text', {a = {b = {1LL, 2ULL}}, c = 'x'}}"),
                    0);
    CHECK_EQUAL_INT(fl_pack_value(sender, 1, "it", &bytes), 0);
    lua_close(sender);
    long failures = 0;
    for (bool failed = true; failed; failures++) {
        lua_State *L = lua_newstate(allocate, NULL);
        luaL_openlibs(L);
        fl_json_open(L);
        lua_pushcfunction(L, unpack_protected);
        lua_pushlightuserdata(L, &bytes);
        until = failures;
        failed = lua_pcall(L, 1, 1, 0) != 0;
        until = -1;
        CHECK_EQUAL_INT(lua_type(L, 1), failed ? LUA_TSTRING : LUA_TTABLE);
        lua_close(L);
    }
    CHECK(failures > 5);
    fl_buffer_close(&bytes);
}

static lua_State *scarce;

static int pack_scarcely(void)
{
    return written_scarcely(scarce, pack, 0);
}

TEST(without_memory_a_value_is_not_packed)
{
    scarce = state_new();
    CHECK_EQUAL_INT(luaL_dostring(scarce, "local t = {} for i = 1, 300 do t[i] = {id = i, "
                                          "name = ('n'):rep(i), at = i / 7} end return t"),
                    0);
    CHECK_SCARCITY(pack_scarcely);
    lua_close(scarce);
}

TEST_MAIN
