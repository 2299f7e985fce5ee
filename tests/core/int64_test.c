#include "int64.h"

#include <lauxlib.h>
#include <lualib.h>

#include "../support/test.h"

static lua_State *state_new(void)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    fl_int64_open(L);
    return L;
}

/* The cdata that the expression gives lies on top. */
static lua_State *state_with(const char *expression)
{
    lua_State *L = state_new();
    lua_pushfstring(L, "return %s", expression);
    if (luaL_dostring(L, lua_tostring(L, -1))) printf("# %s\n", lua_tostring(L, -1));
    return L;
}

static void show(lua_State *L)
{
    lua_getglobal(L, "tostring");
    lua_insert(L, -2);
    lua_call(L, 1, 1);
}

#define CHECK_PUSHED(L, expected)                                                                  \
    do {                                                                                           \
        show(L);                                                                                   \
        CHECK_EQUAL_BYTES(lua_tostring(L, -1), strlen(lua_tostring(L, -1)), expected);             \
    } while (0)

TEST(an_int64_is_pushed)
{
    lua_State *L = state_new();
    fl_int64_push(L, -5);
    CHECK_PUSHED(L, "-5LL");
    fl_int64_push(L, INT64_MIN);
    CHECK_PUSHED(L, "-9223372036854775808LL");
    lua_close(L);
}

TEST(both_types_are_pushed_by_their_bits)
{
    lua_State *L = state_new();
    fl_int64_push_bits(L, UINT64_MAX, true);
    CHECK_PUSHED(L, "18446744073709551615ULL");
    fl_int64_push_bits(L, UINT64_MAX, false);
    CHECK_PUSHED(L, "-1LL");
    lua_close(L);
}

TEST(each_push_makes_an_object_of_its_own)
{
    lua_State *L = state_new();
    fl_int64_push(L, 1);
    fl_int64_push(L, 2);
    lua_pushvalue(L, -2);
    CHECK_PUSHED(L, "1LL");
    lua_close(L);
}

static void check_read(const char *expression, uint64_t magnitude, bool negative)
{
    uint64_t number;
    bool below_zero;
    lua_State *L = state_with(expression);
    int top = lua_gettop(L);
    CHECK(fl_int64_read(L, &number, &below_zero));
    CHECK_EQUAL_INT(lua_gettop(L), top);
    CHECK(number == magnitude);
    CHECK_EQUAL_INT(below_zero, negative);
    lua_close(L);
}

TEST(sign_and_magnitude_are_read)
{
    check_read("0LL", 0, false);
    check_read("-7LL", 7, true);
    check_read("-9223372036854775807LL - 1", (uint64_t)INT64_MAX + 1, true);
    check_read("18446744073709551615ULL", UINT64_MAX, false);
}

static void check_bits(const char *expression, uint64_t bits, bool is_unsigned)
{
    uint64_t read;
    bool has_no_sign;
    lua_State *L = state_with(expression);
    int top = lua_gettop(L);
    CHECK(fl_int64_read_bits(L, &read, &has_no_sign));
    CHECK_EQUAL_INT(lua_gettop(L), top);
    CHECK(read == bits);
    CHECK_EQUAL_INT(has_no_sign, is_unsigned);
    lua_close(L);
}

TEST(bits_and_type_are_read)
{
    check_bits("5LL", 5, false);
    check_bits("5ULL", 5, true);
    check_bits("-1LL", UINT64_MAX, false);
    check_bits("-1ULL", UINT64_MAX, true);
}

TEST(other_cdata_is_not_read)
{
    uint64_t number;
    bool flag;
    lua_State *L = state_with("require('ffi').new('int32_t[1]')");
    CHECK(!fl_int64_read(L, &number, &flag));
    CHECK(!fl_int64_read_bits(L, &number, &flag));
    lua_close(L);
}

TEST_MAIN
