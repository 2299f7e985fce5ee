#include "arguments.h"

#include <inttypes.h>
#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "int64.h"
#include "number.h"

static size_t digits_of(size_t number)
{
    size_t digits = 1;
    while (number >= 10) {
        number /= 10;
        digits++;
    }
    return digits;
}

static size_t bulk_size(size_t size)
{
    return 1 + digits_of(size) + 2 + size + 2; /* "$3\r\nGET\r\n" */
}

/* The place of the call in app code, which lies behind some functions of our own modules. */
static void push_place(lua_State *L)
{
    lua_Debug frame;
    for (int level = 1; lua_getstack(L, level, &frame); level++) {
        lua_getinfo(L, "Sl", &frame);
        if (frame.currentline <= 0 || strstr(frame.source, "lua/fasterlua/redis")) continue;
        lua_pushfstring(L, "%s:%d: ", frame.short_src, frame.currentline);
        return;
    }
    lua_pushliteral(L, "");
}

static int refuse(lua_State *L, int first, int index, const char *what)
{
    push_place(L);
    if (index == first)
        lua_pushfstring(L, "redis: the name of a command is a string, not %s", what);
    else
        lua_pushfstring(L, "redis: argument %d of %s is %s", index - first, lua_tostring(L, first),
                        what);
    lua_concat(L, 2);
    return lua_error(L);
}

static void replace_number(lua_State *L, int first, int index)
{
    char text[64];
    fl_buffer out = {.data = text, .capacity = sizeof(text)};
    double number = lua_tonumber(L, index);
    if (isnan(number)) (void)refuse(L, first, index, "nan");
    if (isinf(number)) {
        lua_pushstring(L, number > 0 ? "inf" : "-inf");
    } else {
        fl_number_write(&out, number);
        lua_pushlstring(L, out.data, out.size);
    }
    lua_replace(L, index);
}

static void replace_int64(lua_State *L, int first, int index)
{
    char text[32];
    uint64_t magnitude;
    bool negative;
    luaL_checkstack(L, 8, "too many arguments");
    lua_pushvalue(L, index);
    if (!fl_int64_read(L, &magnitude, &negative))
        (void)refuse(L, first, index, "cdata: a string, a number or an int64 is expected");
    int size = snprintf(text, sizeof(text), "%s%" PRIu64, negative ? "-" : "", magnitude);
    lua_pop(L, 1);
    lua_pushlstring(L, text, (size_t)size);
    lua_replace(L, index);
}

static void check_word(lua_State *L, int first, int index)
{
    char what[80];
    int type = lua_type(L, index);
    if (type == LUA_TSTRING) return;
    if (index == first || (type != LUA_TNUMBER && type != FL_LUA_TCDATA)) {
        (void)snprintf(what, sizeof(what), "%s%s", type == LUA_TNIL ? "" : "a ",
                       type == LUA_TNIL             ? "nil"
                       : type == LUA_TLIGHTUSERDATA ? "null"
                       : type == FL_LUA_TCDATA      ? "cdata"
                                                    : lua_typename(L, type));
        if (index > first && type != LUA_TNIL)
            (void)strcat(what, ": a string or a number is expected");
        (void)refuse(L, first, index, what);
    }
    if (type == LUA_TNUMBER)
        replace_number(L, first, index);
    else
        replace_int64(L, first, index);
}

size_t fl_redis_arguments_check(lua_State *L, int first)
{
    int last = lua_gettop(L);
    size_t total = 1 + digits_of((size_t)(last - first + 1)) + 2;
    if (last < first) return (size_t)luaL_error(L, "redis: no command is named");
    for (int i = first; i <= last; i++) {
        check_word(L, first, i);
        total += bulk_size(lua_objlen(L, i));
    }
    return total;
}

void fl_redis_arguments_write(lua_State *L, int first, char *to)
{
    int last = lua_gettop(L);
    to += sprintf(to, "*%d\r\n", last - first + 1);
    for (int i = first; i <= last; i++) {
        size_t size;
        const char *word = lua_tolstring(L, i, &size);
        to += sprintf(to, "$%zu\r\n", size);
        memcpy(to, word, size);
        memcpy(to + size, "\r\n", 2);
        to += size + 2;
    }
}

/* The number behind a `*` or `$`, and what follows its line. */
static size_t read_size(const char *bytes, const char **rest)
{
    char *end;
    size_t size = strtoul(bytes + 1, &end, 10);
    *rest = end + 2;
    return size;
}

fl_slice fl_redis_arguments_name(const char *bytes, const char **next)
{
    size_t count = read_size(bytes, &bytes);
    fl_slice name = {NULL, 0};
    for (size_t i = 0; i < count; i++) {
        size_t size = read_size(bytes, &bytes);
        if (i == 0) name = fl_slice_of(bytes, size);
        bytes += size + 2;
    }
    *next = bytes;
    return name;
}
