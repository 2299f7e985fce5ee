#include "code.h"

#include <lauxlib.h>
#include <lualib.h>
#include <uv.h>

#include "../support/test.h"

typedef struct dumper {
    lua_State *L;
    fl_buffer template, bytes;
} dumper;

static void open_dumper(dumper *d)
{
    d->L = luaL_newstate();
    luaL_openlibs(d->L);
    fl_buffer_init(&d->template);
    fl_buffer_init(&d->bytes);
    if (fl_code_template(d->L, &d->template) != 0) printf("# no template\n");
}

static void close_dumper(dumper *d)
{
    fl_buffer_close(&d->bytes);
    fl_buffer_close(&d->template);
    lua_close(d->L);
}

static fl_slice slice(const fl_buffer *buffer)
{
    return fl_slice_of(buffer->data, buffer->size);
}

/* The code of the function that the source returns; NULL: it was refused. */
static fl_code *dump(dumper *d, const char *source)
{
    fl_code *code;
    fl_buffer_reset(&d->bytes, 0);
    if (luaL_loadbuffer(d->L, source, strlen(source), "@app.lua") || lua_pcall(d->L, 0, 1, 0))
        printf("# %s\n", lua_tostring(d->L, -1));
    int top = lua_gettop(d->L);
    int error = fl_code_dump(d->L, slice(&d->template), &d->bytes);
    if (lua_gettop(d->L) != top) printf("# left-overs\n");
    if (error || fl_code_new(slice(&d->bytes), &code) < 0) return NULL;
    return code;
}

TEST(a_factory_makes_closures_whose_upvalues_are_their_own)
{
    dumper d;
    open_dumper(&d);
    fl_code *code = dump(&d, "local n, s return function() n = (n or 0) + 1 return n, s end");
    CHECK(code);
    lua_State *L = luaL_newstate();
    CHECK_EQUAL_INT(fl_code_load(L, code), 0);
    for (int i = 1; i <= 2; i++) {
        lua_pushvalue(L, 1);
        lua_call(L, 0, 1);
        CHECK(lua_isfunction(L, -1));
        CHECK(lua_upvalueid(L, -1, 1) != lua_upvalueid(L, -1, 2));
    }
    CHECK(lua_upvalueid(L, 2, 1) != lua_upvalueid(L, 3, 1));
    for (int i = 1; i <= 2; i++) {
        lua_pushvalue(L, 2);
        lua_call(L, 0, 1);
        CHECK_EQUAL_INT(lua_tointeger(L, -1), i);
    }
    lua_pushvalue(L, 3);
    lua_call(L, 0, 1);
    CHECK_EQUAL_INT(lua_tointeger(L, -1), 1);
    lua_close(L);
    fl_code_release(code);
    close_dumper(&d);
}

TEST(the_same_function_gives_the_same_bytes_in_every_state)
{
    dumper one, two;
    open_dumper(&one);
    open_dumper(&two);
    fl_code *a = dump(&one, "local n = 1 return function(x) return x + n end");
    fl_code *b = dump(&two, "local n = 2 return function(x) return x + n end");
    fl_code *c = dump(&two, "local n = 2 return function(x) return x - n end");
    CHECK(a && b && c);
    CHECK(fl_code_equal(a, b));
    CHECK(a->digest[0] == b->digest[0] && a->digest[1] == b->digest[1]);
    CHECK(!fl_code_equal(a, c));
    fl_code_release(a);
    fl_code_release(b);
    fl_code_release(c);
    close_dumper(&one);
    close_dumper(&two);
}

TEST(without_a_template_nothing_is_dumped)
{
    dumper d;
    open_dumper(&d);
    fl_buffer_reset(&d.template, 0);
    CHECK(!dump(&d, "return function() end"));
    close_dumper(&d);
}

TEST(a_function_without_debug_information_is_dumped_too)
{
    dumper d;
    open_dumper(&d);
    fl_code *code = dump(&d, "return loadstring(string.dump(function() return 5 end, true))");
    CHECK(code);
    CHECK_EQUAL_INT(fl_code_load(d.L, code), 0);
    lua_call(d.L, 0, 1);
    lua_call(d.L, 0, 1);
    CHECK_EQUAL_INT(lua_tointeger(d.L, -1), 5);
    fl_code_release(code);
    close_dumper(&d);
}

TEST(what_is_no_bytecode_is_not_loaded)
{
    fl_code *code;
    lua_State *L = luaL_newstate();
    CHECK_EQUAL_INT(fl_code_new(FL_SLICE("return 1"), &code), 0);
    CHECK_EQUAL_INT(fl_code_load(L, code), UV_EINVAL);
    CHECK(strstr(lua_tostring(L, -1), "attempt to load chunk with wrong mode"));
    CHECK_EQUAL_INT(lua_gettop(L), 1);
    fl_code_release(code);
    lua_close(L);
}

TEST(a_digest_depends_on_every_byte_and_on_the_length)
{
    char bytes[40] = "";
    uint64_t whole[2], other[2];
    fl_code_digest(fl_slice_of(bytes, sizeof(bytes)), whole);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = 1;
        fl_code_digest(fl_slice_of(bytes, sizeof(bytes)), other);
        CHECK(whole[0] != other[0] && whole[1] != other[1]);
        bytes[i] = 0;
        fl_code_digest(fl_slice_of(bytes, i), other);
        CHECK(whole[0] != other[0] && whole[1] != other[1]);
    }
}

TEST_MAIN
