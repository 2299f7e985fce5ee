#include "json.h"

#include <lauxlib.h>
#include <uv.h>

#include "int64.h"
#include "json_string.h"
#include "number.h"
#include "utf8.h"

#define LIST_START 4            /* room a list is created with */
#define NODE_CEILING (1u << 26) /* LuaJIT raises "table overflow" beyond */

typedef struct decoder {
    lua_State *L;
    const uint8_t *start, *at, *end;
    const char *problem;
    size_t nodes;
    unsigned depth; /* how many more containers may be opened */
    int anchor;     /* stack slot that keeps a big scratch alive */
    uint8_t *scratch;
    size_t capacity;
    uint8_t fields[FL_JSON_DEPTH + 1]; /* of the last object at this depth: its sisters are alike */
    uint8_t small[512];
} decoder;

static bool broken(decoder *d, const uint8_t *at, const char *problem)
{
    d->at = at;
    d->problem = problem;
    return false;
}

static bool expected(decoder *d, const char *problem)
{
    return broken(d, d->at, d->at == d->end ? "unexpected end of the text" : problem);
}

static void skip_space(decoder *d)
{
    while (d->at < d->end && (*d->at == ' ' || *d->at == '\n' || *d->at == '\r' || *d->at == '\t'))
        d->at++;
}

/* Skips space, then the byte if it is the next one. */
static bool take(decoder *d, char byte)
{
    skip_space(d);
    if (d->at == d->end || *d->at != (uint8_t)byte) return false;
    d->at++;
    return true;
}

static bool read_number(decoder *d)
{
    fl_slice text = fl_slice_of((const char *)d->at, (size_t)(d->end - d->at));
    fl_number number;
    bool valid = fl_number_read(text, &number);
    d->at = (const uint8_t *)number.end;
    if (!valid) return expected(d, number.problem);
    if (number.is_int64)
        fl_int64_push(d->L, number.integer);
    else
        lua_pushnumber(d->L, number.value);
    return true;
}

static int hex_digit(uint8_t byte)
{
    if (byte >= '0' && byte <= '9') return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* The code unit of "\uXXXX" at `at`, or -1. */
static int32_t code_unit(const uint8_t *at, const uint8_t *end)
{
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u') return -1;
    int32_t unit = 0;
    for (int i = 2; i < 6; i++) {
        int digit = hex_digit(at[i]);
        if (digit < 0) return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

/* "\uXXXX" or a surrogate pair of two (RFC 8259 section 7); moves d->at behind it. */
static bool read_unicode(decoder *d, const uint8_t *end, uint8_t **out)
{
    int32_t high = code_unit(d->at, end);
    if (high < 0) return broken(d, d->at, "expected four hexadecimal digits after \\u");
    if (high < 0xd800 || high > 0xdfff) {
        *out = fl_utf8_encode(*out, (uint32_t)high);
        d->at += 6;
        return true;
    }
    int32_t low = code_unit(d->at + 6, end);
    if (high > 0xdbff || low < 0xdc00 || low > 0xdfff) return broken(d, d->at, "lone surrogate");
    uint32_t code = 0x10000 + ((uint32_t)(high - 0xd800) << 10) + (uint32_t)(low - 0xdc00);
    *out = fl_utf8_encode(*out, code);
    d->at += 12;
    return true;
}

static bool read_escape(decoder *d, const uint8_t *end, uint8_t **out)
{
    uint8_t byte = d->at[1];
    switch (byte) {
    case '"':
    case '\\':
    case '/': break;
    case 'b': byte = '\b'; break;
    case 'f': byte = '\f'; break;
    case 'n': byte = '\n'; break;
    case 'r': byte = '\r'; break;
    case 't': byte = '\t'; break;
    case 'u': return read_unicode(d, end, out);
    default: return broken(d, d->at, "unknown escape");
    }
    *(*out)++ = byte;
    d->at += 2;
    return true;
}

/* A Lua userdata rather than malloc: a memory error raised meanwhile leaks nothing. */
static void scratch_reserve(decoder *d, size_t size)
{
    if (size <= d->capacity) return;
    size_t capacity = d->capacity * 2 > size ? d->capacity * 2 : size;
    d->scratch = lua_newuserdata(d->L, capacity);
    d->capacity = capacity;
    lua_replace(d->L, d->anchor);
}

/* The closing quote of a string whose first byte needing care is at `at`. */
static const uint8_t *closing_quote(decoder *d, const uint8_t *at)
{
    while (at < d->end && *at == '\\') {
        if (d->end - at < 2) break;
        at = fl_json_string_stop(at + (at[1] == '"' || at[1] == '\\' ? 2 : 1), d->end);
    }
    if (at < d->end && *at == '"') return at;
    if (at == d->end || *at == '\\')
        (void)broken(d, d->end, "unterminated string");
    else if (*at < 0x20)
        (void)broken(d, at, "control character in a string");
    else
        (void)broken(d, at, "invalid UTF-8");
    return NULL;
}

/* What an escape stands for is never longer than the escape. */
static bool read_escaped(decoder *d, const uint8_t *quote)
{
    scratch_reserve(d, (size_t)(quote - d->at));
    uint8_t *out = d->scratch;
    while (d->at < quote) {
        const uint8_t *escape = memchr(d->at, '\\', (size_t)(quote - d->at));
        size_t plain = (size_t)((escape ? escape : quote) - d->at);
        memcpy(out, d->at, plain);
        out += plain;
        d->at += plain;
        if (escape && !read_escape(d, quote, &out)) return false;
    }
    lua_pushlstring(d->L, (const char *)d->scratch, (size_t)(out - d->scratch));
    d->at = quote + 1;
    return true;
}

static bool read_string(decoder *d)
{
    const uint8_t *from = ++d->at;
    const uint8_t *stop = fl_json_string_stop(from, d->end);
    if (stop < d->end && *stop == '"') {
        lua_pushlstring(d->L, (const char *)from, (size_t)(stop - from));
        d->at = stop + 1;
        return true;
    }
    const uint8_t *quote = closing_quote(d, stop);
    return quote && read_escaped(d, quote);
}

static bool read_value(decoder *d);

static bool enter(decoder *d)
{
    if (d->depth == 0) return broken(d, d->at, "nested too deeply");
    if (!lua_checkstack(d->L, 8)) return broken(d, d->at, "the Lua stack is full");
    d->at++;
    d->depth--;
    return true;
}

static bool read_elements(decoder *d)
{
    lua_createtable(d->L, LIST_START, 0);
    for (int index = 1;; index++) {
        if (!read_value(d)) return false;
        lua_rawseti(d->L, -2, index);
        if (take(d, ',')) continue;
        return take(d, ']') || expected(d, "expected ',' or ']'");
    }
}

static bool read_list(decoder *d)
{
    if (!enter(d)) return false;
    if (take(d, ']')) {
        lua_createtable(d->L, 0, 0);
        luaL_getmetatable(d->L, FL_JSON_ARRAY);
        lua_setmetatable(d->L, -2);
    } else if (!read_elements(d)) {
        return false;
    }
    d->depth++;
    return true;
}

static bool read_member(decoder *d)
{
    skip_space(d);
    if (d->at == d->end || *d->at != '"') return expected(d, "expected a string as key");
    if (!read_string(d)) return false;
    if (!take(d, ':')) return expected(d, "expected ':'");
    if (!read_value(d)) return false;
    lua_rawset(d->L, -3);
    return true;
}

static bool read_members(decoder *d)
{
    uint8_t *fields = &d->fields[d->depth];
    lua_createtable(d->L, 0, *fields);
    for (unsigned count = 1;; count++) {
        if (!read_member(d)) return false;
        if (take(d, ',')) continue;
        *fields = (uint8_t)(count < 64 ? count : 64);
        return take(d, '}') || expected(d, "expected ',' or '}'");
    }
}

static bool read_object(decoder *d)
{
    if (!enter(d)) return false;
    if (take(d, '}'))
        lua_createtable(d->L, 0, 0);
    else if (!read_members(d))
        return false;
    d->depth++;
    return true;
}

static bool read_word(decoder *d, fl_slice word)
{
    size_t left = (size_t)(d->end - d->at);
    if (left < word.size || memcmp(d->at, word.data, word.size) != 0)
        return expected(d, "expected a value");
    d->at += word.size;
    return true;
}

static bool read_literal(decoder *d)
{
    if (*d->at == 'n') {
        if (!read_word(d, FL_SLICE("null"))) return false;
        lua_pushlightuserdata(d->L, NULL);
        return true;
    }
    bool truth = *d->at == 't';
    if (!read_word(d, truth ? FL_SLICE("true") : FL_SLICE("false"))) return false;
    lua_pushboolean(d->L, truth);
    return true;
}

static bool read_value(decoder *d)
{
    skip_space(d);
    if (d->at == d->end) return expected(d, NULL);
    if (d->nodes == 0) return broken(d, d->at, "too many values");
    d->nodes--;
    if (*d->at == '-' || (*d->at >= '0' && *d->at <= '9')) return read_number(d);
    switch (*d->at) {
    case '"': return read_string(d);
    case '{': return read_object(d);
    case '[': return read_list(d);
    case 't':
    case 'f':
    case 'n': return read_literal(d);
    case 0xef: return expected(d, "expected a value, not a byte order mark");
    default: return expected(d, "expected a value");
    }
}

static bool read_text(decoder *d)
{
    if (!read_value(d)) return false;
    skip_space(d);
    return d->at == d->end || broken(d, d->at, "expected nothing more");
}

int fl_json_decode(lua_State *L, fl_slice text, unsigned depth, size_t nodes)
{
    decoder d;
    d.L = L;
    d.start = d.at = (const uint8_t *)text.data;
    d.end = d.start + text.size;
    d.nodes = nodes < NODE_CEILING ? nodes : NODE_CEILING;
    d.depth = depth < FL_JSON_DEPTH ? depth : FL_JSON_DEPTH;
    d.scratch = d.small;
    d.capacity = sizeof(d.small);
    memset(d.fields, 0, sizeof(d.fields));
    int top = lua_gettop(L);
    d.anchor = top + 1;
    luaL_checkstack(L, 8, "to decode JSON");
    lua_pushnil(L);
    if (read_text(&d)) {
        lua_remove(L, d.anchor);
        return 0;
    }
    lua_settop(L, top);
    lua_pushfstring(L, "invalid JSON at byte %d: %s", (int)(d.at - d.start) + 1, d.problem);
    return UV_EINVAL;
}
