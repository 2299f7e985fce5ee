#include "json.h"

#include <uv.h>

#include "../support/scarcity.h"
#include "../support/written.h"

static int encode(lua_State *L, size_t most, fl_buffer *out)
{
    return fl_json_encode(L, -1, out, most);
}

/* What encoding the Lua expression gives: the JSON text, or the message. */
static const char *encoded_within(const char *expression, size_t most)
{
    static char result[4096];
    lua_State *L = written_state();
    fl_buffer out;
    fl_buffer_init(&out);
    const char *problem = written_problem(L, expression, encode, most, &out);
    fl_slice text = problem ? fl_slice_from_string(problem) : written_bytes(&out);
    (void)snprintf(result, sizeof(result), "%.*s", (int)text.size, text.data);
    fl_buffer_close(&out);
    lua_close(L);
    return result;
}

static const char *encoded(const char *expression)
{
    return encoded_within(expression, FL_JSON_BYTES);
}

/* The text decoded and encoded again, or the message. */
static const char *again_of(fl_slice text, unsigned depth, size_t nodes)
{
    static char result[4096];
    lua_State *L = written_state();
    fl_buffer out;
    fl_buffer_init(&out);
    char *copy = written_copy(text);
    int error = fl_json_decode(L, fl_slice_of(copy, text.size), depth, nodes);
    free(copy);
    if (lua_gettop(L) != 1)
        (void)snprintf(result, sizeof(result), "left-overs");
    else if (error)
        (void)snprintf(result, sizeof(result), "%s", lua_tostring(L, -1));
    else if (fl_json_encode(L, -1, &out, FL_JSON_BYTES) != 0)
        (void)snprintf(result, sizeof(result), "%s", lua_tostring(L, -1));
    else
        (void)snprintf(result, sizeof(result), "%.*s", (int)out.size, out.data);
    fl_buffer_close(&out);
    lua_close(L);
    return result;
}

static const char *again(const char *text)
{
    return again_of(fl_slice_from_string(text), FL_JSON_DEPTH, 1000);
}

/* The byte that is wrong, 0 when none is. */
static int refused_at(fl_slice text)
{
    int offset = 0;
    (void)sscanf(again_of(text, FL_JSON_DEPTH, 1000), "invalid JSON at byte %d: ", &offset);
    return offset;
}

#define CHECK_SAME(text) CHECK_STRING(again(text), text)
#define CHECK_REFUSED(text, offset) CHECK_EQUAL_INT(refused_at(FL_SLICE(text)), offset)

TEST(scalars_are_written_as_they_are)
{
    CHECK_STRING(encoded("nil"), "null");
    CHECK_STRING(encoded("json.null"), "null");
    CHECK_STRING(encoded("true"), "true");
    CHECK_STRING(encoded("false"), "false");
    CHECK_STRING(encoded("\"text\""), "\"text\"");
    CHECK_STRING(encoded("\"\""), "\"\"");
}

TEST(numbers_are_written_and_read)
{
    CHECK_STRING(encoded("-0"), "-0");
    CHECK_STRING(encoded("-2^53"), "-9007199254740992");
    CHECK_STRING(encoded("2^53 + 2"), "9007199254740994.0");
    CHECK_STRING(encoded("0.1 + 0.2"), "0.30000000000000004");
    CHECK_SAME("[0,-17,12.5,9007199254740993,-9223372036854775808]");
    CHECK_STRING(again("[1E+2, 1.0]"), "[100,1]");
}

TEST(int64_and_uint64_are_exact)
{
    CHECK_STRING(encoded("9223372036854775807LL"), "9223372036854775807");
    CHECK_STRING(encoded("-9223372036854775807LL - 1"), "-9223372036854775808");
    CHECK_STRING(encoded("18446744073709551615ULL"), "18446744073709551615");
    CHECK_STRING(encoded("{1LL, 2ULL}"), "[1,2]");
    CHECK_STRING(encoded("require('ffi').new('int[2]')"),
                 "cannot encode a cdata that is neither int64 nor uint64");
    CHECK_STRING(encoded("{a = 1i}"), "cannot encode a: a cdata that is neither int64 nor uint64");
}

TEST(numbers_json_has_no_word_for_are_refused)
{
    CHECK_STRING(encoded("0/0"), "cannot encode not a number (NaN)");
    CHECK_STRING(encoded("{1/0}"), "cannot encode [1]: an infinite number");
    CHECK_STRING(encoded("{-1/0}"), "cannot encode [1]: an infinite number");
}

TEST(strings_are_escaped_where_they_must_be)
{
    CHECK_STRING(encoded("\"a\\\"b\\\\c/\\n\\r\\t\\b\\f\\0\\31\\127\""),
                 "\"a\\\"b\\\\c/\\n\\r\\t\\b\\f\\u0000\\u001f\x7f\"");
    CHECK_STRING(encoded("('x'):rep(40) .. '\"' .. ('y'):rep(20) .. '\\n'"),
                 "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\\\"yyyyyyyyyyyyyyyyyyyy\\n\"");
    CHECK_STRING(encoded("'grün 🙂'"), "\"grün 🙂\"");
}

TEST(every_byte_is_found_at_every_place_of_a_string)
{
    lua_State *L = written_state();
    fl_buffer out;
    fl_buffer_init(&out);
    for (size_t size = 1; size < 40; size++) {
        for (size_t place = 0; place < size; place++) {
            for (int byte = 0; byte < 256; byte++) {
                char text[40];
                memset(text, 'a', size);
                text[place] = (char)byte;
                lua_pushlstring(L, text, size);
                out.size = 0;
                int error = fl_json_encode(L, -1, &out, FL_JSON_BYTES);
                CHECK_EQUAL_INT(error, byte < 0x80 ? 0 : UV_EINVAL);
                size_t grown = byte == '"' || byte == '\\' || (byte >= 8 && byte <= 13) ? 1 : 0;
                if (byte < 0x20 && (!grown || byte == 11)) grown = 5;
                if (!error) CHECK_EQUAL_INT(out.size, size + 2 + grown);
                lua_settop(L, 0);
            }
        }
    }
    fl_buffer_close(&out);
    lua_close(L);
}

TEST(tables_are_lists_or_objects)
{
    CHECK_STRING(encoded("{}"), "{}");
    CHECK_STRING(encoded("json.array({})"), "[]");
    CHECK_STRING(encoded("json.array()"), "[]");
    CHECK_STRING(encoded("json.array({1, 2})"), "[1,2]");
    CHECK_STRING(encoded("{1, {2, {}}, 'x'}"), "[1,[2,{}],\"x\"]");
    CHECK_STRING(encoded("{[3] = 'c', [1] = 'a', [2] = 'b'}"), "[\"a\",\"b\",\"c\"]");
    CHECK_STRING(encoded("{a = {b = {true}}}"), "{\"a\":{\"b\":[true]}}");
    CHECK_STRING(encoded("{[''] = json.null}"), "{\"\":null}");
    CHECK_STRING(encoded("{['\\n'] = 1}"), "{\"\\n\":1}");
    CHECK_STRING(encoded("{['1'] = 1}"), "{\"1\":1}");
}

TEST(tables_with_other_keys_are_refused)
{
    CHECK_STRING(encoded("{1, a = 2}"), "cannot encode a table with mixed keys");
    CHECK_STRING(encoded("{x = {a = 2, [7] = 1}}"), "cannot encode x: a table with mixed keys");
    CHECK_STRING(encoded("{1, nil, 3}"), "cannot encode a list with holes");
    CHECK_STRING(encoded("{[2] = 1}"), "cannot encode a list with holes");
    CHECK_STRING(encoded("{[0] = 1}"),
                 "cannot encode a table with a number as key that is no list index");
    CHECK_STRING(encoded("{[1.5] = 1}"),
                 "cannot encode a table with a number as key that is no list index");
    CHECK_STRING(encoded("{[1e300] = 1}"),
                 "cannot encode a table with a number as key that is no list index");
    CHECK_STRING(encoded("{[true] = 1}"),
                 "cannot encode a table whose keys are neither strings nor 1 to n");
    CHECK_STRING(encoded("json.array({a = 1})"),
                 "cannot encode a table marked as a list that has string keys");
}

TEST(a_refusal_names_the_path)
{
    CHECK_STRING(encoded("print"), "cannot encode a function");
    CHECK_STRING(encoded("{items = {1, 2, {name = print}}}"),
                 "cannot encode items[3].name: a function");
    CHECK_STRING(encoded("{{a = coroutine.create(print)}}"), "cannot encode [1].a: a thread");
    CHECK_STRING(encoded("{f = io.stdout}"), "cannot encode f: a userdata");
    CHECK_STRING(encoded("{['a b'] = {['c\\n'] = print}}"),
                 "cannot encode [\"a b\"][\"c?\"]: a function");
    CHECK_STRING(encoded("{user = {name = 'a\\255'}}"), "cannot encode user.name: invalid UTF-8");
    CHECK_STRING(encoded("{user = {['\\255'] = 1}}"),
                 "cannot encode user: a key that is invalid UTF-8");
}

TEST(a_future_asks_for_await)
{
    CHECK_STRING(encoded("{row = setmetatable({}, {__name = 'fasterlua.future'})}"),
                 "cannot encode row: a future: did you forget await?");
    CHECK_STRING(encoded("(function() local u = newproxy(true) "
                         "getmetatable(u).__name = 'fasterlua.future' return {u} end)()"),
                 "cannot encode [1]: a future: did you forget await?");
    CHECK_STRING(encoded("newproxy()"), "cannot encode a userdata");
}

TEST(metamethods_do_not_run)
{
    CHECK_STRING(encoded("setmetatable({a = 1}, {__index = error, __len = error, __pairs = error, "
                         "__tostring = error, __metatable = 1})"),
                 "{\"a\":1}");
}

TEST(nesting_ends_at_96_levels_both_ways)
{
    CHECK_SAME(written_nested("[]", FL_JSON_DEPTH));
    CHECK_STRING(again(written_nested("[]", FL_JSON_DEPTH + 1)),
                 "invalid JSON at byte 97: nested too deeply");
    CHECK_STRING(again_of(FL_SLICE("[[]]"), 1, 9), "invalid JSON at byte 2: nested too deeply");
    CHECK_STRING(again_of(FL_SLICE("[[],{}]"), 2, 9), "[[],{}]");
    CHECK_STRING(again_of(FL_SLICE("[]"), 0, 9), "invalid JSON at byte 1: nested too deeply");
    CHECK_STRING(again_of(FL_SLICE("1"), 0, 9), "1");
    const char *text = encoded("(function() local t = {} t.next = {t} return {first = t} end)()");
    CHECK(strstr(text, "cannot encode first.next[1].next[1].next") == text);
    CHECK(strstr(text, "...: nested deeper than 96 levels, or a cycle"));
}

TEST(values_are_counted)
{
    CHECK_STRING(again_of(FL_SLICE("[1,2]"), 9, 3), "[1,2]");
    CHECK_STRING(again_of(FL_SLICE("[1,2]"), 9, 2), "invalid JSON at byte 4: too many values");
    CHECK_STRING(again_of(FL_SLICE("1"), 9, 0), "invalid JSON at byte 1: too many values");
}

TEST(valid_texts_are_accepted)
{
    CHECK_SAME("null");
    CHECK_SAME("[null]");
    CHECK_SAME("[]");
    CHECK_SAME("{}");
    CHECK_SAME("[[],{},\"\",0,true,false,null]");
    CHECK_STRING(again(" \t\r\n[ 1 , { \"a\" : [ ] } ] \n"), "[1,{\"a\":[]}]");
    CHECK_STRING(again("{\"a\":1,\"a\":2}"), "{\"a\":2}");
    CHECK_STRING(again("{\"a\":{\"b\":1},\"a\":null}"), "{\"a\":null}");
    CHECK_SAME("\"\x7f\"");
}

TEST(numbers_out_of_range_are_refused)
{
    CHECK_STRING(again("1E400"), "invalid JSON at byte 1: number out of range");
    CHECK_STRING(again("[-1e309]"), "invalid JSON at byte 2: number out of range");
    CHECK_STRING(again("1e99999999999999999999999"), "invalid JSON at byte 1: number out of range");
    CHECK_REFUSED("1.7976931348623159e308", 1);
}

TEST(malformed_numbers_are_refused)
{
    CHECK_REFUSED("01", 2);
    CHECK_REFUSED("-01", 3);
    CHECK_REFUSED("00", 2);
    CHECK_REFUSED("1.", 3);
    CHECK_REFUSED("1.e1", 3);
    CHECK_REFUSED(".5", 1);
    CHECK_REFUSED("+1", 1);
    CHECK_REFUSED("-", 2);
    CHECK_REFUSED("--1", 2);
    CHECK_REFUSED("- 1", 2);
    CHECK_REFUSED("1e", 3);
    CHECK_REFUSED("1e+", 4);
    CHECK_REFUSED("1e+-1", 4);
    CHECK_REFUSED("1e1.5", 4);
    CHECK_REFUSED("0x10", 2);
    CHECK_REFUSED("1_000", 2);
    CHECK_REFUSED("[1 2]", 4);
    CHECK_REFUSED("NaN", 1);
    CHECK_REFUSED("Infinity", 1);
    CHECK_REFUSED("-Infinity", 2);
    CHECK_REFUSED("1,5", 2);
    CHECK_REFUSED("\xef\xbc\x91", 1); /* a full-width 1 */
}

TEST(malformed_lists_and_objects_are_refused)
{
    CHECK_REFUSED("[", 2);
    CHECK_REFUSED("]", 1);
    CHECK_REFUSED("[1", 3);
    CHECK_REFUSED("[1,", 4);
    CHECK_REFUSED("[1,]", 4);
    CHECK_REFUSED("[,1]", 2);
    CHECK_REFUSED("[,]", 2);
    CHECK_REFUSED("[1,,2]", 4);
    CHECK_REFUSED("[1}", 3);
    CHECK_REFUSED("[1:2]", 3);
    CHECK_REFUSED("[]]", 3);
    CHECK_REFUSED("{", 2);
    CHECK_REFUSED("{\"a\"", 5);
    CHECK_REFUSED("{\"a\":", 6);
    CHECK_REFUSED("{\"a\":1", 7);
    CHECK_REFUSED("{\"a\":1,", 8);
    CHECK_REFUSED("{\"a\":1,}", 8);
    CHECK_REFUSED("{\"a\" 1}", 6);
    CHECK_REFUSED("{\"a\",1}", 5);
    CHECK_REFUSED("{a:1}", 2);
    CHECK_REFUSED("{'a':1}", 2);
    CHECK_REFUSED("{1:1}", 2);
    CHECK_REFUSED("{null:1}", 2);
    CHECK_REFUSED("{\"a\":1]", 7);
    CHECK_REFUSED("{\"a\":1 \"b\":2}", 8);
    CHECK_REFUSED("{,}", 2);
}

TEST(malformed_texts_are_refused)
{
    CHECK_REFUSED("", 1);
    CHECK_REFUSED("  ", 3);
    CHECK_REFUSED("nul", 1);
    CHECK_REFUSED("nulll", 5);
    CHECK_REFUSED("True", 1);
    CHECK_REFUSED("truE", 1);
    CHECK_REFUSED("fals", 1);
    CHECK_REFUSED("1 2", 3);
    CHECK_REFUSED("{}{}", 3);
    CHECK_REFUSED("{\"a\":1}\0x", 8);
    CHECK_REFUSED("1\0", 2);
    CHECK_REFUSED("\0", 1);
    CHECK_REFUSED("[1,\0]", 4);
    CHECK_REFUSED("\xef\xbb\xbf{}", 1);
    CHECK_REFUSED("\xff\xfe{\0}\0", 1);
    CHECK_REFUSED("\xef", 1);
    CHECK_REFUSED("\f1", 1);
    CHECK_REFUSED("\v1", 1);
    CHECK_REFUSED("\xc2\xa0"
                  "1",
                  1);
    CHECK_REFUSED("\xe2\x81\xa0"
                  "1",
                  1);
    CHECK_REFUSED("1 // comment", 3);
    CHECK_REFUSED("/* comment */ 1", 1);
    CHECK_REFUSED("# comment", 1);
}

TEST(escapes_are_read)
{
    CHECK_STRING(again("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""), "\"\\\"\\\\/\\b\\f\\n\\r\\t\"");
    CHECK_STRING(again("\"\\u0041\\u00e4\\u20AC\\ud83d\\ude42\""), "\"Aä€🙂\"");
    CHECK_STRING(again("\"\\uDBFF\\uDFFF\""), "\"\xf4\x8f\xbf\xbf\"");
    CHECK_STRING(again("\"\\ud800\\udc00\""), "\"\xf0\x90\x80\x80\"");
    CHECK_STRING(again("\"\\uFFFF\\uFFFE\\uD7FF\\uE000\""),
                 "\"\xef\xbf\xbf\xef\xbf\xbe\xed\x9f\xbf\xee\x80\x80\"");
    CHECK_STRING(again("\"a\\u0000b\""), "\"a\\u0000b\"");
    CHECK_STRING(again("{\"\\u0061\":1}"), "{\"a\":1}");
    CHECK_STRING(again("\"\\\\u0041\""), "\"\\\\u0041\"");
    CHECK_STRING(again("\"\\\\\\\"\""), "\"\\\\\\\"\"");
}

TEST(long_strings_with_escapes_are_read)
{
    static char text[3000], expected[3000];
    memset(text, 'x', 2500);
    memset(expected, 'x', 2499);
    memcpy(text, "\"\\u0041", 7);
    memcpy(expected, "\"A", 2);
    memcpy(text + 2000, "\\u0042", 6);
    memcpy(expected + 1995, "B", 1);
    text[2499] = '"', text[2500] = '\0';
    expected[2489] = '"', expected[2490] = '\0';
    CHECK(strcmp(again(text), expected) == 0);
}

TEST(malformed_escapes_are_refused)
{
    CHECK_REFUSED("\"\\a\"", 2);
    CHECK_REFUSED("\"\\'\"", 2);
    CHECK_REFUSED("\"\\x41\"", 2);
    CHECK_REFUSED("\"ab\\0\"", 4);
    CHECK_REFUSED("\"\\U0041\"", 2);
    CHECK_REFUSED("\"\\u\"", 2);
    CHECK_REFUSED("\"\\u004\"", 2);
    CHECK_REFUSED("\"\\u004g\"", 2);
    CHECK_REFUSED("\"\\u+041\"", 2);
    CHECK_REFUSED("\"\\u 041\"", 2);
    CHECK_REFUSED("\"\\\xc3\xa4\"", 2);
    CHECK_REFUSED("\"\\\n\"", 3);
    CHECK_REFUSED("\"\\\0\"", 3);
}

TEST(lone_surrogates_are_refused)
{
    CHECK_STRING(again("\"\\ud800\""), "invalid JSON at byte 2: lone surrogate");
    CHECK_STRING(again("\"a\\udc00\""), "invalid JSON at byte 3: lone surrogate");
    CHECK_STRING(again("\"\\udfff\\ud800\""), "invalid JSON at byte 2: lone surrogate");
    CHECK_STRING(again("\"\\ud800\\u0041\""), "invalid JSON at byte 2: lone surrogate");
    CHECK_STRING(again("\"\\ud800\\ud800\""), "invalid JSON at byte 2: lone surrogate");
    CHECK_STRING(again("\"\\ud800\\n\""), "invalid JSON at byte 2: lone surrogate");
    CHECK_STRING(again("\"\\ud800x\""), "invalid JSON at byte 2: lone surrogate");
    CHECK_STRING(again("{\"\\ud800\":1}"), "invalid JSON at byte 3: lone surrogate");
}

TEST(malformed_strings_are_refused)
{
    CHECK_REFUSED("\"", 2);
    CHECK_REFUSED("\"abc", 5);
    CHECK_REFUSED("\"abc\\", 6);
    CHECK_REFUSED("\"abc\\\"", 7);
    CHECK_REFUSED("\"\\u0041", 8);
    CHECK_REFUSED("'a'", 1);
    CHECK_REFUSED("\"a\nb\"", 3);
    CHECK_REFUSED("\"a\tb\"", 3);
    CHECK_REFUSED("\"\x1f\"", 2);
    CHECK_REFUSED("\"a\0b\"", 3);
    CHECK_REFUSED("\"\\n\x01\"", 4);
}

TEST(invalid_utf8_is_refused_in_strings)
{
    CHECK_REFUSED("\"a\x80\"", 3);
    CHECK_REFUSED("\"\xff\"", 2);
    CHECK_REFUSED("\"\xc3\"", 2);
    CHECK_REFUSED("\"\xc0\xaf\"", 2);
    CHECK_REFUSED("\"\xed\xa0\x80\"", 2);
    CHECK_REFUSED("\"\xf4\x90\x80\x80\"", 2);
    CHECK_REFUSED("\"\\n\xe2\x82\"", 4);
    CHECK_REFUSED("{\"\xff\":1}", 3);
    CHECK_REFUSED("\"\xe2\x82", 2);
}

TEST(types_survive_decoding)
{
    lua_State *L = written_state();
    CHECK_EQUAL_INT(fl_json_decode(L, FL_SLICE("null"), 1, 1), 0);
    CHECK(lua_islightuserdata(L, -1) && !lua_touserdata(L, -1));
    CHECK_EQUAL_INT(fl_json_decode(L, FL_SLICE("9007199254740992"), 1, 1), 0);
    CHECK_EQUAL_INT(lua_type(L, -1), LUA_TNUMBER);
    CHECK_EQUAL_INT(fl_json_decode(L, FL_SLICE("-9007199254740993"), 1, 1), 0);
    lua_setglobal(L, "big");
    CHECK_EQUAL_INT(fl_json_decode(L, FL_SLICE("9007199254740995"), 1, 1), 0);
    lua_setglobal(L, "bigger");
    CHECK_EQUAL_INT(luaL_dostring(L, "assert(big == -9007199254740993LL)\n"
                                     "assert(bigger == 9007199254740995LL)\n"
                                     "assert(require('ffi').istype('int64_t', big))\n"),
                    0);
    lua_close(L);
}

static int decode_twice(lua_State *L)
{
    fl_slice text = FL_SLICE("[{\"a\":\"\\n\"},[1,2,3,4,5,6,7,8,9,10],\"\\u0041\"]");
    (void)fl_json_decode(L, text, 9, 99);
    return 1;
}

TEST(what_is_written_is_bounded)
{
    CHECK_STRING(encoded_within("{1,2,3}", 7), "[1,2,3]");
    CHECK_STRING(encoded_within("{1,2,3}", 6),
                 "cannot encode more than 6 bytes of JSON (json_bytes)");
    CHECK_STRING(encoded_within("{1,2,{3,4}}", 6),
                 "cannot encode [3][1]: more than 6 bytes of JSON (json_bytes)");
    CHECK_STRING(encoded_within("'12345'", 7), "\"12345\"");
    CHECK_STRING(encoded_within("'123456'", 7),
                 "cannot encode more than 7 bytes of JSON (json_bytes)");
    CHECK_STRING(encoded_within("'1\\n'", 4),
                 "cannot encode more than 4 bytes of JSON (json_bytes)");
    CHECK_STRING(encoded_within("{items = {('x'):rep(90)}}", 64),
                 "cannot encode items[1]: more than 64 bytes of JSON (json_bytes)");
    CHECK_STRING(encoded_within("{[('k'):rep(60)] = 1}", 32),
                 "cannot encode more than 32 bytes of JSON (json_bytes)");
    CHECK_STRING(encoded_within("12345", 4),
                 "cannot encode more than 4 bytes of JSON (json_bytes)");
}

TEST(the_module_has_a_bound_of_its_own)
{
    lua_State *L = written_state();
    fl_json_limit(L, 8);
    lua_pushcfunction(L, fl_json_module);
    lua_call(L, 0, 1);
    lua_setglobal(L, "json");
    CHECK_EQUAL_INT(luaL_dostring(L, "assert(json.encode{1,2,3} == '[1,2,3]')"), 0);
    CHECK_EQUAL_INT(luaL_dostring(L, "json.encode{1,2,3,4}"), 1);
    CHECK(strstr(lua_tostring(L, -1), "more than 8 bytes of JSON (json_bytes)") != NULL);
    lua_close(L);
}

typedef struct heap {
    size_t used, limit;
} heap;

static void *limited(void *context, void *memory, size_t old_size, size_t size)
{
    heap *h = context;
    if (size > old_size && h->used + size - old_size > h->limit) return NULL;
    h->used = h->used + size - old_size;
    if (size) return realloc(memory, size);
    free(memory);
    return NULL;
}

TEST(decoding_survives_a_full_heap)
{
    heap h = {0, SIZE_MAX / 2};
    lua_State *L = lua_newstate(limited, &h);
    if (!L) return; /* a LuaJIT without custom allocators */
    luaL_openlibs(L);
    fl_json_open(L);
    bool failed = true;
    for (size_t room = 0; failed && room < 100000; room += 64) {
        lua_gc(L, LUA_GCCOLLECT, 0);
        lua_pushcfunction(L, decode_twice);
        h.limit = h.used + room;
        failed = lua_pcall(L, 0, 1, 0) != 0;
        h.limit = SIZE_MAX / 2;
        lua_settop(L, 0);
    }
    CHECK(!failed);
    lua_close(L);
    CHECK_EQUAL_INT(h.used, 0);
}

static lua_State *scarce;

static int encode_scarcely(void)
{
    return written_scarcely(scarce, encode, FL_JSON_BYTES);
}

TEST(without_memory_a_value_is_not_encoded)
{
    scarce = written_state();
    CHECK_EQUAL_INT(luaL_dostring(scarce, "local t = {} for i = 1, 300 do t[i] = {id = i, "
                                          "name = 'n' .. i, at = i / 7} end return t"),
                    0);
    CHECK_SCARCITY(encode_scarcely);
    lua_close(scarce);
}

TEST_MAIN
