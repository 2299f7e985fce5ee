#include "json.h"

#include <lauxlib.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <uv.h>

#include "int64.h"
#include "json_string.h"
#include "number.h"
#include "rows.h"

#define FUTURE_NAME "fasterlua.future"
#define PATH_LIMIT 320
#define KEY_LIMIT 64

typedef struct step {
    const struct step *up;
    fl_slice key; /* of an object's member, on the Lua stack meanwhile; data is NULL in a list */
    size_t index; /* of a list's element */
} step;

typedef struct encoder {
    lua_State *L;
    fl_buffer *out;
    const step *path;
    const void *mark;   /* the metatable of lists, once it was needed */
    size_t begin, most; /* where the text begins in `out`; bytes it may have */
    unsigned depth;
    size_t said;
    char message[512];
} encoder;

__attribute__((format(printf, 2, 3))) static void say(encoder *e, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = sizeof(e->message) - e->said;
    int length = vsnprintf(e->message + e->said, room, format, arguments);
    va_end(arguments);
    if (length > 0) e->said += (size_t)length < room ? (size_t)length : room - 1;
}

static void say_key(encoder *e, fl_slice key)
{
    say(e, "[\"");
    for (size_t i = 0; i < key.size && i < KEY_LIMIT; i++)
        say(e, "%c", fl_json_is_plain((uint8_t)key.data[i]) ? key.data[i] : '?');
    say(e, key.size > KEY_LIMIT ? "...\"]" : "\"]");
}

static void say_path(encoder *e, const step *at)
{
    if (at->up) say_path(e, at->up);
    if (e->said > PATH_LIMIT) return;
    if (!at->key.data) {
        say(e, "[%zu]", at->index);
    } else if (at->key.size <= KEY_LIMIT && fl_slice_is_name(at->key)) {
        say(e, at->up ? ".%.*s" : "%.*s", (int)at->key.size, at->key.data);
    } else {
        say_key(e, at->key);
    }
    if (e->said > PATH_LIMIT) say(e, "...");
}

static bool refuse(encoder *e, const char *what)
{
    e->said = 0;
    say(e, "cannot encode ");
    if (e->path) {
        say_path(e, e->path);
        say(e, ": ");
    }
    say(e, "%s", what);
    return false;
}

static bool refuse_size(encoder *e)
{
    char what[96];
    (void)snprintf(what, sizeof(what), "more than %zu bytes of JSON (json_bytes)", e->most);
    return refuse(e, what);
}

/* Whether `extra` more bytes may be written. */
static bool has_room(const encoder *e, size_t extra)
{
    size_t written = e->out->size - e->begin;
    return written <= e->most && extra <= e->most - written;
}

static fl_slice string_at(lua_State *L, int index)
{
    fl_slice text;
    text.data = lua_tolstring(L, index, &text.size);
    return text;
}

static bool encode_number(encoder *e, double number)
{
    if (isnan(number)) return refuse(e, "not a number (NaN)");
    if (isinf(number)) return refuse(e, "an infinite number");
    fl_number_write(e->out, number);
    return true;
}

/* The cdata on top of the stack. */
static bool encode_cdata(encoder *e)
{
    uint64_t magnitude;
    bool negative;
    if (!lua_checkstack(e->L, 8)) return refuse(e, "the Lua stack is full");
    if (!fl_int64_read(e->L, &magnitude, &negative))
        return refuse(e, "a cdata that is neither int64 nor uint64");
    if (negative) fl_buffer_byte(e->out, '-');
    fl_buffer_number(e->out, magnitude);
    return true;
}

/* true when the metatable on top of the stack is the one of futures */
static bool is_future(lua_State *L)
{
    lua_pushliteral(L, "__name");
    lua_rawget(L, -2);
    bool result =
        lua_type(L, -1) == LUA_TSTRING && fl_slice_equal(string_at(L, -1), FL_SLICE(FUTURE_NAME));
    lua_pop(L, 1);
    return result;
}

static bool is_mark(encoder *e)
{
    if (!e->mark) {
        luaL_getmetatable(e->L, FL_JSON_ARRAY);
        e->mark = lua_topointer(e->L, -1);
        lua_pop(e->L, 1);
    }
    return lua_topointer(e->L, -1) == e->mark;
}

typedef enum { PLAIN, MARKED, ROW } table_kind;

/* A row's metatable stays on the stack. */
static bool check_metatable(encoder *e, int table, table_kind *kind)
{
    *kind = PLAIN;
    if (!lua_getmetatable(e->L, table)) return true;
    *kind = is_mark(e) ? MARKED : fl_rows_is_metatable(e->L) ? ROW : PLAIN;
    if (*kind == ROW) return true;
    bool future = *kind == PLAIN && is_future(e->L);
    lua_pop(e->L, 1);
    return !future || refuse(e, "a future: did you forget await?");
}

static bool encode_value(encoder *e);

static bool encode_member(encoder *e)
{
    lua_State *L = e->L;
    if (lua_type(L, -2) != LUA_TSTRING) return refuse(e, "a table with mixed keys");
    step here = {e->path, string_at(L, -2), 0};
    if (!has_room(e, here.key.size)) return refuse_size(e);
    if (!fl_json_string_write(e->out, here.key)) return refuse(e, "a key that is invalid UTF-8");
    fl_buffer_byte(e->out, ':');
    e->path = &here;
    if (!encode_value(e)) return false;
    e->path = here.up;
    return true;
}

/* The first key and its value lie on the stack. */
static bool encode_object(encoder *e, int table)
{
    char separator = '{';
    do {
        fl_buffer_byte(e->out, separator);
        if (!encode_member(e)) return false;
        lua_pop(e->L, 1);
        separator = ',';
    } while (lua_next(e->L, table));
    fl_buffer_byte(e->out, '}');
    return true;
}

/* A member whose name and value, which may be nil, lie on the stack, and are taken off. */
static bool encode_field(encoder *e, char *separator)
{
    fl_buffer_byte(e->out, *separator);
    *separator = ',';
    if (!encode_member(e)) return false;
    lua_pop(e->L, 2);
    return true;
}

/* The name is on top. */
static bool is_last_of_name(lua_State *L, int names, int column)
{
    lua_pushvalue(L, -1);
    lua_rawget(L, names);
    bool is_last = lua_tointeger(L, -1) == column;
    lua_pop(L, 1);
    return is_last;
}

/* The columns in their order, null for those that are nil. */
static bool encode_columns(encoder *e, int table, int metatable, char *separator)
{
    lua_State *L = e->L;
    lua_rawgeti(L, metatable, FL_ROWS_NAMES);
    int names = lua_gettop(L);
    for (int i = 1;; i++) {
        lua_rawgeti(L, metatable, i);
        if (lua_isnil(L, -1)) break;
        if (is_last_of_name(L, names, i)) {
            lua_pushvalue(L, -1);
            lua_rawget(L, table);
            if (!encode_field(e, separator)) return false;
        } else {
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 2);
    return true;
}

/* What the app has added. */
static bool encode_others(encoder *e, int table, int metatable, char *separator)
{
    lua_State *L = e->L;
    lua_rawgeti(L, metatable, FL_ROWS_NAMES);
    int names = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, table);) {
        lua_pushvalue(L, -2);
        lua_rawget(L, names);
        bool is_column = !lua_isnil(L, -1);
        lua_pop(L, 1);
        if (!is_column) {
            lua_pushvalue(L, -2);
            lua_insert(L, -2);
            if (!encode_field(e, separator)) return false;
        } else {
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 1);
    return true;
}

/* A row of a database (rows.h); its metatable is on top. */
static bool encode_row(encoder *e, int table)
{
    char separator = '{';
    int metatable = lua_gettop(e->L);
    if (!lua_checkstack(e->L, 12)) return refuse(e, "the Lua stack is full");
    e->depth++;
    bool encoded = encode_columns(e, table, metatable, &separator) &&
                   encode_others(e, table, metatable, &separator);
    e->depth--;
    if (separator == '{') fl_buffer_byte(e->out, '{');
    fl_buffer_byte(e->out, '}');
    if (encoded) lua_pop(e->L, 1);
    return encoded;
}

static bool encode_list(encoder *e, int table, size_t count)
{
    char separator = '[';
    step here = {e->path, {NULL, 0}, 0};
    e->path = &here;
    while (here.index++ < count) {
        fl_buffer_byte(e->out, separator);
        lua_rawgeti(e->L, table, (int)here.index);
        if (!encode_value(e)) return false;
        lua_pop(e->L, 1);
        separator = ',';
    }
    fl_buffer_byte(e->out, ']');
    e->path = here.up;
    return true;
}

/* The numeric keys of a table whose first key is a number must be 1 … n, in any order: distinct,
 * whole, positive and the greatest as great as their count. */
static bool count_list(encoder *e, int table, size_t *count)
{
    lua_State *L = e->L;
    double greatest = 0;
    *count = 0;
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TNUMBER) return refuse(e, "a table with mixed keys");
        double key = lua_tonumber(L, -2);
        if (!(key >= 1 && key <= INT32_MAX) || key != (double)(int32_t)key)
            return refuse(e, "a table with a number as key that is no list index");
        if (key > greatest) greatest = key;
        (*count)++;
    }
    if (greatest != (double)*count) return refuse(e, "a list with holes");
    return true;
}

/* The first key and its value lie on the stack, and are taken off. */
static bool encode_filled(encoder *e, int table, bool marked)
{
    int key = lua_type(e->L, -2);
    if (key == LUA_TSTRING) {
        if (marked) return refuse(e, "a table marked as a list that has string keys");
        return encode_object(e, table);
    }
    if (key != LUA_TNUMBER) return refuse(e, "a table whose keys are neither strings nor 1 to n");
    lua_pop(e->L, 2);
    size_t count;
    return count_list(e, table, &count) && encode_list(e, table, count);
}

static bool encode_table(encoder *e)
{
    lua_State *L = e->L;
    table_kind kind;
    if (e->depth == FL_JSON_DEPTH) return refuse(e, "nested deeper than 96 levels, or a cycle");
    if (!lua_checkstack(L, 8)) return refuse(e, "the Lua stack is full");
    int table = lua_gettop(L);
    if (!check_metatable(e, table, &kind)) return false;
    if (kind == ROW) return encode_row(e, table);
    lua_pushnil(L);
    if (!lua_next(L, table)) {
        fl_buffer_append(e->out, kind == MARKED ? "[]" : "{}", 2);
        return true;
    }
    e->depth++;
    bool encoded = encode_filled(e, table, kind == MARKED);
    e->depth--;
    return encoded;
}

static bool refuse_userdata(encoder *e)
{
    if (lua_checkstack(e->L, 4) && lua_getmetatable(e->L, -1) && is_future(e->L))
        return refuse(e, "a future: did you forget await?");
    return refuse(e, "a userdata");
}

static bool encode_string(encoder *e)
{
    fl_slice text = string_at(e->L, -1);
    if (!has_room(e, text.size)) return refuse_size(e);
    return fl_json_string_write(e->out, text) || refuse(e, "invalid UTF-8");
}

/* The value on top of the stack, which stays there; after a failure more may lie above it. */
static bool encode_value(encoder *e)
{
    lua_State *L = e->L;
    if (!has_room(e, 1)) return refuse_size(e);
    switch (lua_type(L, -1)) {
    case LUA_TNIL: FL_BUFFER_LITERAL(e->out, "null"); return true;
    case LUA_TBOOLEAN:
        if (lua_toboolean(L, -1))
            FL_BUFFER_LITERAL(e->out, "true");
        else
            FL_BUFFER_LITERAL(e->out, "false");
        return true;
    case LUA_TNUMBER: return encode_number(e, lua_tonumber(L, -1));
    case LUA_TSTRING: return encode_string(e);
    case LUA_TTABLE: return encode_table(e);
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, -1)) return refuse(e, "a light userdata");
        FL_BUFFER_LITERAL(e->out, "null");
        return true;
    case LUA_TUSERDATA: return refuse_userdata(e);
    case FL_LUA_TCDATA: return encode_cdata(e);
    case LUA_TFUNCTION: return refuse(e, "a function");
    case LUA_TTHREAD: return refuse(e, "a thread");
    default: return refuse(e, "a value of unknown type");
    }
}

static int encode(encoder *e)
{
    bool encoded = encode_value(e);
    if (encoded && e->out->failed) {
        (void)refuse(e, "not enough memory");
        return UV_ENOMEM;
    }
    return encoded && (has_room(e, 0) || refuse_size(e)) ? 0 : UV_EINVAL;
}

int fl_json_encode(lua_State *L, int index, fl_buffer *out, size_t most)
{
    encoder e;
    e.L = L;
    e.out = out;
    e.path = NULL;
    e.mark = NULL;
    e.depth = 0;
    e.begin = out->size;
    e.most = most;
    int top = lua_gettop(L);
    luaL_checkstack(L, 8, "to encode JSON");
    lua_pushvalue(L, index);
    int error = encode(&e);
    lua_settop(L, top);
    if (!error) return 0;
    out->size = e.begin;
    lua_pushlstring(L, e.message, e.said);
    return error;
}
