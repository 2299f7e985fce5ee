#include "fields.h"

#include <lauxlib.h>

#include "response.h"
#include "test.h"

static lua_State *open_lua(void)
{
    lua_State *L = luaL_newstate();
    luaL_newmetatable(L, FL_HTTP_ERROR);
    lua_settop(L, 0);
    return L;
}

/* The field of the table on top, or "(none)"; a string, so that a test can compare it. */
static fl_slice field(lua_State *L, const char *name)
{
    fl_slice value = FL_SLICE("(none)");
    lua_getfield(L, 1, name);
    if (lua_isstring(L, -1)) value.data = lua_tolstring(L, -1, &value.size);
    lua_pop(L, 1); /* the table keeps it */
    return value;
}

static void form(lua_State *L, const char *text)
{
    lua_settop(L, 0);
    fl_fields_form(L, fl_slice_from_string(text), 100, NULL);
}

static size_t cookies(lua_State *L, const char *text)
{
    lua_settop(L, 0);
    lua_newtable(L);
    return fl_fields_cookies(L, fl_slice_from_string(text));
}

static int names(lua_State *L)
{
    int count = 0;
    for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) count++;
    return count;
}

TEST(a_query_is_names_and_values)
{
    lua_State *L = open_lua();
    form(L, "a=1&b=two&c");
    CHECK_EQUAL_TEXT(field(L, "a"), "1");
    CHECK_EQUAL_TEXT(field(L, "b"), "two");
    CHECK_EQUAL_TEXT(field(L, "c"), "");
    CHECK_EQUAL_INT(names(L), 3);
    CHECK_EQUAL_INT(lua_gettop(L), 1);
    lua_close(L);
}

TEST(an_empty_query_has_no_names)
{
    lua_State *L = open_lua();
    fl_fields_form(L, (fl_slice){0}, 0, NULL);
    CHECK_EQUAL_INT(names(L), 0);
    form(L, "&&&");
    CHECK_EQUAL_INT(names(L), 0);
    lua_close(L);
}

TEST(escapes_and_plus_are_decoded_in_names_and_values)
{
    lua_State *L = open_lua();
    form(L, "a+b=c+%2B%26%3d&%C3%A9=%e2%82%ac");
    CHECK_EQUAL_TEXT(field(L, "a b"), "c +&=");
    CHECK_EQUAL_TEXT(field(L, "\xc3\xa9"), "\xe2\x82\xac");
    form(L, "a=x%00y");
    CHECK(fl_slice_equal(field(L, "a"), FL_SLICE("x\0y")));
    lua_close(L);
}

TEST(a_percent_sign_that_begins_no_escape_stays)
{
    lua_State *L = open_lua();
    form(L, "a=100%&b=%4&c=%zz&d=%%41&e=%4g");
    CHECK_EQUAL_TEXT(field(L, "a"), "100%");
    CHECK_EQUAL_TEXT(field(L, "b"), "%4");
    CHECK_EQUAL_TEXT(field(L, "c"), "%zz");
    CHECK_EQUAL_TEXT(field(L, "d"), "%A");
    CHECK_EQUAL_TEXT(field(L, "e"), "%4g");
    lua_close(L);
}

TEST(only_an_ampersand_separates_and_only_the_first_equals_sign_divides)
{
    lua_State *L = open_lua();
    form(L, "a=1;b=2&c=d=e&=f");
    CHECK_EQUAL_TEXT(field(L, "a"), "1;b=2");
    CHECK_EQUAL_TEXT(field(L, "c"), "d=e");
    CHECK_EQUAL_TEXT(field(L, ""), "f");
    lua_close(L);
}

TEST(of_repeated_names_the_last_counts)
{
    lua_State *L = open_lua();
    form(L, "a=1&a=2&%61=3");
    CHECK_EQUAL_TEXT(field(L, "a"), "3");
    CHECK_EQUAL_INT(names(L), 1);
    lua_close(L);
}

TEST(all_values_of_one_name_come_as_a_list_in_order)
{
    lua_State *L = open_lua();
    fl_slice name = FL_SLICE("a");
    fl_fields_form(L, FL_SLICE("a=1&b=2&%61=3&a"), 100, &name);
    CHECK_EQUAL_INT(lua_objlen(L, 1), 3);
    const char *expected[] = {"1", "3", ""};
    for (int i = 0; i < 3; i++) {
        lua_rawgeti(L, 1, i + 1);
        CHECK_EQUAL_TEXT(fl_slice_from_string(lua_tostring(L, -1)), expected[i]);
        lua_pop(L, 1);
    }
    CHECK_EQUAL_INT(lua_gettop(L), 1);
    lua_close(L);
}

static int parse_two(lua_State *L)
{
    size_t size;
    const char *text = luaL_checklstring(L, 1, &size);
    fl_fields_form(L, fl_slice_of(text, size), 2, NULL);
    return 0;
}

/* The status of the error raised when no more than two names are allowed; 0: none. */
static int status_of(lua_State *L, const char *text)
{
    lua_settop(L, 0);
    lua_pushcfunction(L, parse_two);
    lua_pushstring(L, text);
    if (lua_pcall(L, 1, 0, 0) == 0) return 0;
    lua_getfield(L, 1, "status");
    return (int)lua_tointeger(L, -1);
}

TEST(too_many_names_raise_an_http_error)
{
    lua_State *L = open_lua();
    CHECK_EQUAL_INT(status_of(L, "a&b"), 0);
    CHECK_EQUAL_INT(status_of(L, "&a&&b&"), 0);
    CHECK_EQUAL_INT(status_of(L, "a&b&c"), 400);
    CHECK_EQUAL_INT(status_of(L, "a&a&a"), 400); /* repeated ones count too */
    CHECK(lua_getmetatable(L, 1));
    luaL_getmetatable(L, FL_HTTP_ERROR);
    CHECK(lua_rawequal(L, -1, -2));
    lua_close(L);
}

TEST(a_cookie_field_is_pairs_between_semicolons)
{
    lua_State *L = open_lua();
    CHECK_EQUAL_INT(cookies(L, "a=1; b=two ;c=\"three\";d="), 4);
    CHECK_EQUAL_TEXT(field(L, "a"), "1");
    CHECK_EQUAL_TEXT(field(L, "b"), "two");
    CHECK_EQUAL_TEXT(field(L, "c"), "three");
    CHECK_EQUAL_TEXT(field(L, "d"), "");
    CHECK_EQUAL_INT(lua_gettop(L), 1);
    lua_close(L);
}

TEST(of_repeated_cookies_the_first_counts_over_several_fields_too)
{
    lua_State *L = open_lua();
    CHECK_EQUAL_INT(cookies(L, "a=1; a=2"), 2);
    CHECK_EQUAL_INT(fl_fields_cookies(L, FL_SLICE("a=3; b=4")), 2);
    CHECK_EQUAL_TEXT(field(L, "a"), "1");
    CHECK_EQUAL_TEXT(field(L, "b"), "4");
    lua_close(L);
}

TEST(cookies_are_taken_as_they_are)
{
    lua_State *L = open_lua();
    cookies(L, "a=b=c; d=e+f%20g; h=\"; i=\"\"");
    CHECK_EQUAL_TEXT(field(L, "a"), "b=c");
    CHECK_EQUAL_TEXT(field(L, "d"), "e+f%20g");
    CHECK_EQUAL_TEXT(field(L, "h"), "\"");
    CHECK_EQUAL_TEXT(field(L, "i"), "");
    lua_close(L);
}

TEST(what_is_no_pair_is_no_cookie)
{
    lua_State *L = open_lua();
    CHECK_EQUAL_INT(cookies(L, "a; ; ;;b"), 0);
    CHECK_EQUAL_INT(cookies(L, ""), 0);
    CHECK_EQUAL_INT(names(L), 0);
    lua_close(L);
}

TEST_MAIN
