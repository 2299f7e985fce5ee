#include "json.h"

#include <assert.h>
#include <lauxlib.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define INT64_TYPE "fasterlua.json.int64"
#define UINT64_TYPE "fasterlua.json.uint64"
#define IS_TYPE "fasterlua.json.istype"
#define FUTURE_NAME "fasterlua.future"

#define LUA_TCDATA 10           /* LuaJIT's own type, which no header names */
#define LIST_START 4            /* room a list is created with */
#define NODE_CEILING (1u << 26) /* LuaJIT raises "table overflow" beyond */
#define MODULE_NODES 1000000
#define MODULE_KEEP 65536
#define EXACT_INTEGER 9007199254740992.0 /* 2^53 */
#define UNIT (UINT64_C(1) << 52)         /* the bit of a mantissa that a double leaves out */
#define KEPT_DIGITS 19                   /* as many as always fit a uint64_t */
#define MOST_DIGITS 780                  /* more cannot change how a double is rounded */

#define EACH_BYTE(byte) (UINT64_C(0x0101010101010101) * (byte))

static uint64_t eight_bytes(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof(word));
    return word;
}

static bool is_plain(uint8_t byte)
{
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

static uint64_t has_zero(uint64_t word)
{
    return (word - EACH_BYTE(1)) & ~word;
}

static bool all_plain(uint64_t word)
{
    uint64_t below_space = (word - EACH_BYTE(0x20)) & ~word;
    uint64_t marks = has_zero(word ^ EACH_BYTE('"')) | has_zero(word ^ EACH_BYTE('\\'));
    return ((word | below_space | marks) & EACH_BYTE(0x80)) == 0;
}

#ifdef __SSE2__
static unsigned special_mask(const uint8_t *at)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
    __m128i controls = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
    __m128i quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
    __m128i backslashes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));
    __m128i special = _mm_or_si128(_mm_or_si128(controls, quotes), backslashes);
    return (unsigned)_mm_movemask_epi8(_mm_or_si128(special, bytes));
}
#endif

/* The first byte that is a quote, a backslash, a control character or no ASCII. */
static const uint8_t *plain_end(const uint8_t *at, const uint8_t *end)
{
#ifdef __SSE2__
    for (; end - at >= 16; at += 16) {
        unsigned special = special_mask(at);
        if (special) return at + __builtin_ctz(special);
    }
#endif
    while (end - at >= 8 && all_plain(eight_bytes(at))) at += 8;
    while (at < end && is_plain(*at)) at++;
    return at;
}

static bool is_tail(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* Bytes of the well-formed sequence at `at` (Unicode 15 table 3-7), 0 when there is none. */
static size_t utf8_length(const uint8_t *at, const uint8_t *end)
{
    size_t left = (size_t)(end - at);
    uint8_t first = at[0];
    if (first < 0x80) return 1;
    if (first < 0xc2 || first > 0xf4 || left < 2 || !is_tail(at[1])) return 0;
    if (first < 0xe0) return 2;
    if (left < 3 || !is_tail(at[2])) return 0;
    if (first < 0xf0) {
        bool overlong = first == 0xe0 && at[1] < 0xa0;
        bool surrogate = first == 0xed && at[1] > 0x9f;
        return overlong || surrogate ? 0 : 3;
    }
    if (left < 4 || !is_tail(at[3])) return 0;
    bool overlong = first == 0xf0 && at[1] < 0x90;
    bool too_big = first == 0xf4 && at[1] > 0x8f;
    return overlong || too_big ? 0 : 4;
}

/* The first byte a JSON string cannot hold as it is: a quote, a backslash, a control character or
 * one that starts no valid UTF-8 sequence. */
static const uint8_t *clean_end(const uint8_t *at, const uint8_t *end)
{
    for (;;) {
        at = plain_end(at, end);
        if (at == end || *at < 0x80) return at;
        do {
            size_t length = utf8_length(at, end);
            if (length == 0) return at;
            at += length;
        } while (at < end && *at >= 0x80);
    }
}

/* printf and strtod follow the thread's locale, which a library may have changed. Making the "C"
 * locale costs nothing: the C library hands out a constant. */
static locale_t enter_c_locale(void)
{
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return uselocale(c);
}

static void leave_c_locale(locale_t former)
{
    locale_t c = uselocale(former);
    if (c != former && c != LC_GLOBAL_LOCALE) freelocale(c);
}

__extension__ typedef unsigned __int128 wide;

static const uint64_t powers[] = {UINT64_C(1),
                                  UINT64_C(10),
                                  UINT64_C(100),
                                  UINT64_C(1000),
                                  UINT64_C(10000),
                                  UINT64_C(100000),
                                  UINT64_C(1000000),
                                  UINT64_C(10000000),
                                  UINT64_C(100000000),
                                  UINT64_C(1000000000),
                                  UINT64_C(10000000000),
                                  UINT64_C(100000000000),
                                  UINT64_C(1000000000000),
                                  UINT64_C(10000000000000),
                                  UINT64_C(100000000000000),
                                  UINT64_C(1000000000000000),
                                  UINT64_C(10000000000000000),
                                  UINT64_C(100000000000000000),
                                  UINT64_C(1000000000000000000),
                                  UINT64_C(10000000000000000000)};

static void write_places(fl_buffer *out, uint64_t digits, unsigned places)
{
    char text[32];
    size_t at = sizeof(text);
    for (unsigned i = 0; i < places; i++, digits /= 10) text[--at] = (char)('0' + digits % 10);
    text[--at] = '.';
    do {
        text[--at] = (char)('0' + digits % 10);
        digits /= 10;
    } while (digits);
    fl_buffer_append(out, text + at, sizeof(text) - at);
}

/* A double as mantissa / 2^shift, for the range whose products with powers of ten fit 128 bits. */
typedef struct fraction {
    uint64_t mantissa;
    int shift;
    int magnitude; /* of the value's first digit: 10^magnitude, or one less than the truth */
} fraction;

static bool to_fraction(double magnitude, fraction *f)
{
    uint64_t bits;
    memcpy(&bits, &magnitude, sizeof(bits));
    int exponent = (int)(bits >> 52) - 1023;
    f->mantissa = (bits & (UNIT - 1)) | UNIT;
    f->shift = 52 - exponent;
    f->magnitude = (exponent * 1233) >> 12;  /* log10(2) × 4096 */
    bool power_of_two = f->mantissa == UNIT; /* its lower neighbour is nearer */
    return magnitude >= 1e-5 && magnitude < EXACT_INTEGER / 2 && !power_of_two;
}

/* The value with `places` decimals, rounded; `*same` says whether that text reads back as the same
 * double: whether it lies within half a unit of the mantissa. */
static uint64_t round_places(const fraction *f, int places, bool *same)
{
    wide power = places <= 19 ? (wide)powers[places] : (wide)powers[19] * powers[places - 19];
    wide product = f->mantissa * power;
    wide rest = product & (((wide)1 << f->shift) - 1);
    bool up = rest >> (f->shift - 1) != 0;
    wide distance = up ? ((wide)1 << f->shift) - rest : rest;
    *same = distance * 2 < power;
    return (uint64_t)(product >> f->shift) + up;
}

/* The exact way without printf, for the numbers that occur: 15 digits, or 16, or 17. */
static bool write_common_decimal(fl_buffer *out, double magnitude)
{
    fraction f;
    bool same;
    if (!to_fraction(magnitude, &f)) return false;
    int places = 14 - f.magnitude;
    if (places > 0 && round_places(&f, places, &same) >= powers[15]) places--;
    for (int last = places + 2; places <= last; places++) {
        if (places <= 0) continue;
        uint64_t digits = round_places(&f, places, &same);
        if (!same) continue;
        while (digits % 10 == 0 && places > 1) {
            digits /= 10;
            places--;
        }
        write_places(out, digits, (unsigned)places);
        return true;
    }
    return false;
}

static void write_decimal(fl_buffer *out, double number)
{
    if (number < 0) fl_buffer_byte(out, '-');
    double magnitude = fabs(number);
    if (write_common_decimal(out, magnitude)) return;
    char text[32];
    locale_t former = enter_c_locale();
    for (int precision = 15; precision <= 17; precision++) {
        (void)snprintf(text, sizeof(text), "%.*g", precision, magnitude);
        if (strtod(text, NULL) == magnitude) break;
    }
    leave_c_locale(former);
    size_t size = strlen(text);
    fl_buffer_append(out, text, size);
    /* without a point it would be read as an int64 */
    if (strspn(text, "0123456789") == size) FL_BUFFER_LITERAL(out, ".0");
}

static void write_number(fl_buffer *out, double number)
{
    bool whole = fabs(number) <= EXACT_INTEGER && (double)(int64_t)number == number;
    if (!whole) {
        write_decimal(out, number);
        return;
    }
    if (signbit(number)) fl_buffer_byte(out, '-'); /* -0 too: it must read back the same */
    fl_buffer_number(out, (uint64_t)fabs(number));
}

typedef struct step {
    const struct step *up;
    fl_slice key; /* of an object's member, on the Lua stack meanwhile; data is NULL in a list */
    size_t index; /* of a list's element */
} step;

typedef struct encoder {
    lua_State *L;
    fl_buffer *out;
    const step *path;
    const void *mark; /* the metatable of lists, once it was needed */
    unsigned depth;
    size_t said;
    char message[512];
} encoder;

#define PATH_LIMIT 320
#define KEY_LIMIT 64

__attribute__((format(printf, 2, 3))) static void say(encoder *e, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = sizeof(e->message) - e->said;
    int length = vsnprintf(e->message + e->said, room, format, arguments);
    va_end(arguments);
    if (length > 0) e->said += (size_t)length < room ? (size_t)length : room - 1;
}

static bool is_word(fl_slice key)
{
    if (key.size == 0 || key.size > KEY_LIMIT) return false;
    for (size_t i = 0; i < key.size; i++) {
        char c = fl_lower(key.data[i]);
        bool digit = c >= '0' && c <= '9';
        if (!(c >= 'a' && c <= 'z') && c != '_' && !(digit && i > 0)) return false;
    }
    return true;
}

static void say_key(encoder *e, fl_slice key)
{
    say(e, "[\"");
    for (size_t i = 0; i < key.size && i < KEY_LIMIT; i++)
        say(e, "%c", is_plain((uint8_t)key.data[i]) ? key.data[i] : '?');
    say(e, key.size > KEY_LIMIT ? "...\"]" : "\"]");
}

static void say_path(encoder *e, const step *at)
{
    if (at->up) say_path(e, at->up);
    if (e->said > PATH_LIMIT) return;
    if (!at->key.data) {
        say(e, "[%zu]", at->index);
    } else if (is_word(at->key)) {
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

static void write_escape(fl_buffer *out, uint8_t byte)
{
    static const char hex[] = "0123456789abcdef";
    static const char letters[32] = {
        ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
    char letter = byte >= 0x20 ? (char)byte : letters[byte];
    if (letter) {
        fl_buffer_append(out, (char[]){'\\', letter}, 2);
    } else {
        fl_buffer_append(out, (char[]){'\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15]}, 6);
    }
}

static bool write_string(fl_buffer *out, fl_slice text)
{
    const uint8_t *at = (const uint8_t *)text.data, *end = at + text.size;
    if (!fl_buffer_room(out, text.size + 2)) return true;
    fl_buffer_byte(out, '"');
    for (;;) {
        const uint8_t *stop = clean_end(at, end);
        fl_buffer_append(out, (const char *)at, (size_t)(stop - at));
        if (stop == end) break;
        if (*stop >= 0x80) return false;
        write_escape(out, *stop);
        at = stop + 1;
    }
    fl_buffer_byte(out, '"');
    return true;
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
    write_number(e->out, number);
    return true;
}

static bool is_ctype(lua_State *L, const char *type)
{
    lua_getfield(L, LUA_REGISTRYINDEX, IS_TYPE);
    assert(!lua_isnil(L, -1)); /* else fl_json_open was not called */
    lua_getfield(L, LUA_REGISTRYINDEX, type);
    lua_pushvalue(L, -3);
    lua_call(L, 2, 1);
    bool result = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return result;
}

/* The cdata on top of the stack. lua_topointer of a cdata gives the address of its value. */
static bool encode_cdata(encoder *e)
{
    lua_State *L = e->L;
    if (!lua_checkstack(L, 8)) return refuse(e, "the Lua stack is full");
    if (is_ctype(L, UINT64_TYPE)) {
        uint64_t number;
        memcpy(&number, lua_topointer(L, -1), sizeof(number));
        fl_buffer_number(e->out, number);
        return true;
    }
    if (!is_ctype(L, INT64_TYPE)) return refuse(e, "a cdata that is neither int64 nor uint64");
    int64_t number;
    memcpy(&number, lua_topointer(L, -1), sizeof(number));
    if (number < 0) fl_buffer_byte(e->out, '-');
    fl_buffer_number(e->out, number < 0 ? -(uint64_t)number : (uint64_t)number);
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

static bool check_metatable(encoder *e, int table, bool *marked)
{
    *marked = false;
    if (!lua_getmetatable(e->L, table)) return true;
    *marked = is_mark(e);
    bool future = !*marked && is_future(e->L);
    lua_pop(e->L, 1);
    return !future || refuse(e, "a future: did you forget await?");
}

static bool encode_value(encoder *e);

static bool encode_member(encoder *e)
{
    lua_State *L = e->L;
    if (lua_type(L, -2) != LUA_TSTRING) return refuse(e, "a table with mixed keys");
    step here = {e->path, string_at(L, -2), 0};
    if (!write_string(e->out, here.key)) return refuse(e, "a key that is invalid UTF-8");
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
    bool marked;
    if (e->depth == FL_JSON_DEPTH) return refuse(e, "nested deeper than 96 levels, or a cycle");
    if (!lua_checkstack(L, 8)) return refuse(e, "the Lua stack is full");
    int table = lua_gettop(L);
    if (!check_metatable(e, table, &marked)) return false;
    lua_pushnil(L);
    if (!lua_next(L, table)) {
        fl_buffer_append(e->out, marked ? "[]" : "{}", 2);
        return true;
    }
    e->depth++;
    bool encoded = encode_filled(e, table, marked);
    e->depth--;
    return encoded;
}

static bool refuse_userdata(encoder *e)
{
    if (lua_checkstack(e->L, 4) && lua_getmetatable(e->L, -1) && is_future(e->L))
        return refuse(e, "a future: did you forget await?");
    return refuse(e, "a userdata");
}

/* The value on top of the stack, which stays there; after a failure more may lie above it. */
static bool encode_value(encoder *e)
{
    lua_State *L = e->L;
    switch (lua_type(L, -1)) {
    case LUA_TNIL: FL_BUFFER_LITERAL(e->out, "null"); return true;
    case LUA_TBOOLEAN:
        if (lua_toboolean(L, -1))
            FL_BUFFER_LITERAL(e->out, "true");
        else
            FL_BUFFER_LITERAL(e->out, "false");
        return true;
    case LUA_TNUMBER: return encode_number(e, lua_tonumber(L, -1));
    case LUA_TSTRING: return write_string(e->out, string_at(L, -1)) || refuse(e, "invalid UTF-8");
    case LUA_TTABLE: return encode_table(e);
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, -1)) return refuse(e, "a light userdata");
        FL_BUFFER_LITERAL(e->out, "null");
        return true;
    case LUA_TUSERDATA: return refuse_userdata(e);
    case LUA_TCDATA: return encode_cdata(e);
    case LUA_TFUNCTION: return refuse(e, "a function");
    case LUA_TTHREAD: return refuse(e, "a thread");
    default: return refuse(e, "a value of unknown type");
    }
}

int fl_json_encode(lua_State *L, int index, fl_buffer *out)
{
    encoder e;
    e.L = L;
    e.out = out;
    e.path = NULL;
    e.mark = NULL;
    e.depth = 0;
    int top = lua_gettop(L);
    size_t size = out->size;
    luaL_checkstack(L, 8, "to encode JSON");
    lua_pushvalue(L, index);
    int error = encode_value(&e) ? 0 : UV_EINVAL;
    if (!error && out->failed) {
        (void)refuse(&e, "not enough memory");
        error = UV_ENOMEM;
    }
    lua_settop(L, top);
    if (!error) return 0;
    out->size = size;
    lua_pushlstring(L, e.message, e.said);
    return error;
}

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

typedef struct decimal {
    uint64_t mantissa; /* the first KEPT_DIGITS significant digits */
    int64_t exponent;  /* value = mantissa × 10^exponent, if nothing was dropped */
    unsigned digits;
    bool negative;
    bool whole; /* neither fraction nor exponent */
    bool dropped;
} decimal;

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

static bool at_digit(const decoder *d)
{
    return d->at < d->end && *d->at >= '0' && *d->at <= '9';
}

static void read_digits(decoder *d, decimal *n, bool decimals)
{
    for (; at_digit(d); d->at++) {
        if (n->digits == KEPT_DIGITS) {
            n->dropped = true;
            n->exponent += !decimals;
            continue;
        }
        n->mantissa = n->mantissa * 10 + (uint64_t)(*d->at - '0');
        n->digits += n->mantissa != 0;
        n->exponent -= decimals;
    }
}

static bool read_exponent(decoder *d, decimal *n)
{
    d->at++;
    bool negative = d->at < d->end && *d->at == '-';
    if (negative || (d->at < d->end && *d->at == '+')) d->at++;
    if (!at_digit(d)) return expected(d, "expected a digit of the exponent");
    int64_t exponent = 0;
    for (; at_digit(d); d->at++) /* stops growing far beyond any range, far before it overflows */
        if (exponent < INT64_C(1000000000000000)) exponent = exponent * 10 + (*d->at - '0');
    n->exponent += negative ? -exponent : exponent;
    return true;
}

/* RFC 8259 section 6 */
static bool read_decimal(decoder *d, decimal *n)
{
    if (*d->at == '-') {
        n->negative = true;
        d->at++;
    }
    if (!at_digit(d)) return expected(d, "expected a digit");
    if (*d->at == '0') {
        d->at++;
        if (at_digit(d)) return expected(d, "a number cannot start with 0");
    } else {
        read_digits(d, n, false);
    }
    n->whole = true;
    if (d->at < d->end && *d->at == '.') {
        d->at++;
        n->whole = false;
        if (!at_digit(d)) return expected(d, "expected a digit after the point");
        read_digits(d, n, true);
    }
    if (d->at == d->end || (*d->at | 0x20) != 'e') return true;
    n->whole = false;
    return read_exponent(d, n);
}

/* Significant digits of the number's text, at most MOST_DIGITS; when there are more, the last one
 * only says whether anything but zeros followed, which is all that rounding asks. */
static size_t copy_digits(const uint8_t *at, const uint8_t *end, char *digits)
{
    size_t size = 0;
    for (; at < end && (*at | 0x20) != 'e'; at++) {
        bool digit = *at >= '0' && *at <= '9';
        if (!digit || (size == 0 && *at == '0')) continue;
        if (size < MOST_DIGITS)
            digits[size++] = (char)*at;
        else if (*at != '0')
            digits[size - 1] = '1';
    }
    return size;
}

static double read_slowly(const decimal *n, const uint8_t *from, const uint8_t *to)
{
    char text[MOST_DIGITS + 32];
    int64_t magnitude = n->exponent + n->digits;
    if (magnitude < -400) return 0;
    if (magnitude > 400) return HUGE_VAL;
    size_t size = copy_digits(from, to, text);
    (void)snprintf(text + size, 32, "e%d", (int)(magnitude - (int64_t)size));
    locale_t former = enter_c_locale();
    double value = strtod(text, NULL);
    leave_c_locale(former);
    return value;
}

/* mantissa / 10^places, rounded once: a quotient of at least 62 bits whose last bit also stands for
 * the remainder is as good as the endless one. */
static double divide(uint64_t mantissa, int64_t places)
{
    int zeros = __builtin_clzll(mantissa);
    wide dividend = (wide)(mantissa << zeros) << 63;
    wide quotient = dividend / powers[places];
    if (quotient * powers[places] != dividend) quotient |= 1;
    return ldexp((double)quotient, -63 - zeros);
}

static double decimal_value(const decimal *n, const uint8_t *from, const uint8_t *to)
{
    if (n->mantissa == 0) return 0;
    bool exact = n->mantissa <= (uint64_t)EXACT_INTEGER; /* so one rounding operation is right */
    bool in_table = n->exponent >= -19 && n->exponent <= 19 && !n->dropped;
    if (in_table && exact && n->exponent >= 0)
        return (double)n->mantissa * (double)powers[n->exponent];
    if (in_table && exact) return (double)n->mantissa / (double)powers[-n->exponent];
    if (in_table && n->exponent < 0) return divide(n->mantissa, -n->exponent);
    return read_slowly(n, from, to);
}

static bool is_int64(const decimal *n)
{
    if (!n->whole || n->dropped || n->mantissa <= (uint64_t)EXACT_INTEGER) return false;
    return n->mantissa <= (uint64_t)INT64_MAX + n->negative;
}

static bool push_int64(lua_State *L, int64_t number)
{
    lua_getfield(L, LUA_REGISTRYINDEX, INT64_TYPE);
    assert(lua_type(L, -1) == LUA_TCDATA); /* else fl_json_open was not called */
    lua_call(L, 0, 1);                     /* always a fresh object, so it can be written */
    memcpy((void *)(uintptr_t)lua_topointer(L, -1), &number, sizeof(number));
    return true;
}

void fl_json_push_integer(lua_State *L, int64_t number)
{
    const int64_t exact = INT64_C(1) << 53;
    if (number >= -exact && number <= exact)
        lua_pushnumber(L, (lua_Number)number);
    else
        push_int64(L, number);
}

static bool read_number(decoder *d)
{
    const uint8_t *from = d->at;
    decimal n = {0};
    if (!read_decimal(d, &n)) return false;
    if (is_int64(&n)) return push_int64(d->L, (int64_t)(n.negative ? -n.mantissa : n.mantissa));
    double value = decimal_value(&n, from, d->at);
    if (isinf(value)) return broken(d, from, "number out of range");
    lua_pushnumber(d->L, n.negative ? -value : value);
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

static uint8_t *put_utf8(uint8_t *out, uint32_t code)
{
    if (code < 0x80) {
        *out++ = (uint8_t)code;
        return out;
    }
    if (code < 0x800) {
        *out++ = (uint8_t)(0xc0 | code >> 6);
    } else if (code < 0x10000) {
        *out++ = (uint8_t)(0xe0 | code >> 12);
        *out++ = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    } else {
        *out++ = (uint8_t)(0xf0 | code >> 18);
        *out++ = (uint8_t)(0x80 | (code >> 12 & 0x3f));
        *out++ = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    }
    *out++ = (uint8_t)(0x80 | (code & 0x3f));
    return out;
}

/* "\uXXXX" or a surrogate pair of two (RFC 8259 section 7); moves d->at behind it. */
static bool read_unicode(decoder *d, const uint8_t *end, uint8_t **out)
{
    int32_t high = code_unit(d->at, end);
    if (high < 0) return broken(d, d->at, "expected four hexadecimal digits after \\u");
    if (high < 0xd800 || high > 0xdfff) {
        *out = put_utf8(*out, (uint32_t)high);
        d->at += 6;
        return true;
    }
    int32_t low = code_unit(d->at + 6, end);
    if (high > 0xdbff || low < 0xdc00 || low > 0xdfff) return broken(d, d->at, "lone surrogate");
    uint32_t code = 0x10000 + ((uint32_t)(high - 0xd800) << 10) + (uint32_t)(low - 0xdc00);
    *out = put_utf8(*out, code);
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
        at = clean_end(at + (at[1] == '"' || at[1] == '\\' ? 2 : 1), d->end);
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
    const uint8_t *stop = clean_end(from, d->end);
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
    if (*d->at == '-' || at_digit(d)) return read_number(d);
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

static int buffer_collect(lua_State *L)
{
    fl_buffer_close(lua_touserdata(L, 1));
    return 0;
}

/* encode(value) -> string   [-0, +1, e] */
static int module_encode(lua_State *L)
{
    luaL_checkany(L, 1);
    fl_buffer *out = lua_touserdata(L, lua_upvalueindex(1));
    fl_buffer_reset(out, MODULE_KEEP);
    if (fl_json_encode(L, 1, out) != 0) return luaL_error(L, "%s", lua_tostring(L, -1));
    lua_pushlstring(L, out->data, out->size);
    fl_buffer_reset(out, MODULE_KEEP);
    return 1;
}

/* decode(text) -> value   [-0, +1, e] */
static int module_decode(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TSTRING);
    if (fl_json_decode(L, string_at(L, 1), FL_JSON_DEPTH, MODULE_NODES) != 0)
        return luaL_error(L, "%s", lua_tostring(L, -1));
    return 1;
}

/* array(table|nil) -> the same table, marked as a list   [-0, +1, e] */
static int module_array(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    luaL_getmetatable(L, FL_JSON_ARRAY);
    if (lua_getmetatable(L, 1) && !lua_rawequal(L, -1, 2))
        return luaL_argerror(L, 1, "the table already has another metatable");
    lua_settop(L, 2);
    lua_setmetatable(L, 1);
    return 1;
}

/* is_array(value) -> boolean: is it a table marked as a list?   [-0, +1, e] */
static int module_is_array(lua_State *L)
{
    luaL_checkany(L, 1);
    bool marked = false;
    if (lua_istable(L, 1) && lua_getmetatable(L, 1)) {
        luaL_getmetatable(L, FL_JSON_ARRAY);
        marked = lua_rawequal(L, -1, -2);
    }
    lua_pushboolean(L, marked);
    return 1;
}

/* One buffer per state, reused, owned by the closure of `encode`. */
static void push_encode(lua_State *L)
{
    fl_buffer_init(lua_newuserdata(L, sizeof(fl_buffer)));
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, buffer_collect);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_pushcclosure(L, module_encode, 1);
}

void fl_json_open(lua_State *L)
{
    static const char types[] = "local ffi = require('ffi')\n"
                                "return ffi.istype, ffi.typeof('int64_t'), ffi.typeof('uint64_t')";
    if (luaL_newmetatable(L, FL_JSON_ARRAY)) {
        lua_pushliteral(L, FL_JSON_ARRAY);
        lua_setfield(L, -2, "__name");
    }
    lua_pop(L, 1);
    if (luaL_loadbuffer(L, types, sizeof(types) - 1, "=json") != 0) lua_error(L);
    lua_call(L, 0, 3);
    lua_setfield(L, LUA_REGISTRYINDEX, UINT64_TYPE);
    lua_setfield(L, LUA_REGISTRYINDEX, INT64_TYPE);
    lua_setfield(L, LUA_REGISTRYINDEX, IS_TYPE);
}

int fl_json_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"decode", module_decode},
        {"array", module_array},
        {"is_array", module_is_array},
        {NULL, NULL},
    };
    lua_createtable(L, 0, 5);
    luaL_setfuncs(L, functions, 0);
    push_encode(L);
    lua_setfield(L, -2, "encode");
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    return 1;
}

bool fl_utf8_valid(fl_slice text)
{
    const uint8_t *at = (const uint8_t *)text.data, *end = at + text.size;
    while (at < end) {
        if (end - at >= 8 && (eight_bytes(at) & EACH_BYTE(0x80)) == 0) {
            at += 8;
            continue;
        }
        size_t length = utf8_length(at, end);
        if (length == 0) return false;
        at += length;
    }
    return true;
}
