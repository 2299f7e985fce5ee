#include "pack.h"

#include <lauxlib.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <uv.h>

#include "int64.h"
#include "json.h"
#include "rows.h"

#define FUTURE_NAME "fasterlua.future"
#define PATH_LIMIT 320
#define KEY_LIMIT 64
#define SHORT_SIZE 63
#define MOST_VARINT 10           /* bytes */
#define EXACT 9007199254740992.0 /* 2^53 */
#define MOST_AHEAD (1u << 24)    /* elements or pairs a table gets room for at once */

/* Messages. */

__attribute__((format(printf, 2, 3))) static void say(fl_packer *p, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = sizeof(p->message) - p->said;
    int length = vsnprintf(p->message + p->said, room, format, arguments);
    va_end(arguments);
    if (length > 0) p->said += (size_t)length < room ? (size_t)length : room - 1;
}

static void say_string_key(fl_packer *p, fl_slice key)
{
    if (key.size <= KEY_LIMIT && fl_slice_is_name(key)) {
        say(p, ".%.*s", (int)key.size, key.data);
        return;
    }
    say(p, "[\"");
    for (size_t i = 0; i < key.size && i < KEY_LIMIT; i++) {
        char c = key.data[i];
        say(p, "%c", c >= ' ' && c < 0x7f && c != '"' && c != '\\' ? c : '?');
    }
    say(p, key.size > KEY_LIMIT ? "...\"]" : "\"]");
}

static fl_slice string_at(lua_State *L, int index)
{
    fl_slice text;
    text.data = lua_tolstring(L, index, &text.size);
    return text;
}

static void say_key(fl_packer *p, int index)
{
    lua_State *L = p->L;
    switch (lua_type(L, index)) {
    case LUA_TSTRING: say_string_key(p, string_at(L, index)); break;
    case LUA_TNUMBER: say(p, "[%.14g]", lua_tonumber(L, index)); break;
    case LUA_TBOOLEAN: say(p, "[%s]", lua_toboolean(L, index) ? "true" : "false"); break;
    default: say(p, "[null]"); break;
    }
}

/* A path begins at the innermost upvalue. */
static void say_path(fl_packer *p, const fl_pack_step *at)
{
    if (at && at->upvalue) {
        say(p, "upvalue \"%.64s\"", at->upvalue);
        return;
    }
    if (!at) {
        say(p, "%s", p->name);
        if (p->number) say(p, " %d", p->number);
        return;
    }
    say_path(p, at->up);
    if (p->said > PATH_LIMIT) return;
    say_key(p, at->index);
    if (p->said > PATH_LIMIT) say(p, "...");
}

static void say_place(fl_packer *p, const fl_pack_step *at)
{
    lua_Debug info;
    if (!lua_checkstack(p->L, 1)) return;
    lua_pushvalue(p->L, at->index);
    if (lua_getinfo(p->L, ">S", &info))
        say(p, "function at %s:%d", info.short_src, info.linedefined);
}

bool fl_packer_refuse(fl_packer *p, const char *what)
{
    const fl_pack_step *place = p->path;
    say_path(p, place);
    while (place && !place->upvalue) place = place->up;
    if (place && place == p->path) {
        say(p, " of ");
        say_place(p, place);
    }
    say(p, "%s", what);
    if (place && place != p->path) {
        say(p, " (");
        say_place(p, place);
        say(p, ")");
    }
    p->error = UV_EINVAL;
    return false;
}

/* Packing. */

static inline void pack_bytes(fl_buffer *out, uint8_t tag, const void *bytes, size_t size)
{
    if (!fl_buffer_room(out, size + 1)) return;
    out->data[out->size] = (char)tag;
    memcpy(out->data + out->size + 1, bytes, size);
    out->size += size + 1;
}

static size_t write_varint(char *to, uint64_t number)
{
    size_t size = 0;
    for (; number >= 0x80; number >>= 7) to[size++] = (char)(uint8_t)(number | 0x80);
    to[size++] = (char)number;
    return size;
}

static void pack_varint(fl_buffer *out, uint8_t tag, uint64_t number)
{
    if (!fl_buffer_room(out, 1 + MOST_VARINT)) return;
    out->data[out->size] = (char)tag;
    out->size += 1 + write_varint(out->data + out->size + 1, number);
}

void fl_pack_size(fl_buffer *out, uint64_t size)
{
    if (fl_buffer_room(out, MOST_VARINT)) out->size += write_varint(out->data + out->size, size);
}

void fl_pack_string(fl_buffer *out, fl_slice text)
{
    if (text.size <= SHORT_SIZE)
        fl_buffer_byte(out, (char)(FL_PACK_SHORT + text.size));
    else
        pack_varint(out, FL_PACK_STRING, text.size);
    fl_buffer_slice(out, text);
}

static void pack_number(fl_buffer *out, double number)
{
    if (number >= -EXACT && number <= EXACT) {
        int64_t integer = (int64_t)number;
        if ((double)integer == number && (integer != 0 || !signbit(number))) {
            if (integer >= 0 && integer < 0x80)
                fl_buffer_byte(out, (char)integer);
            else if (integer > 0)
                pack_varint(out, FL_PACK_POSITIVE, (uint64_t)integer);
            else
                pack_varint(out, FL_PACK_NEGATIVE, (uint64_t)-integer);
            return;
        }
    }
    pack_bytes(out, FL_PACK_DOUBLE, &number, sizeof(number));
}

/* The cdata on top of the stack. */
static bool pack_cdata(fl_packer *p)
{
    uint64_t bits;
    bool is_unsigned;
    if (!lua_checkstack(p->L, 8)) return fl_packer_refuse(p, ": the Lua stack is full");
    if (!fl_int64_read_bits(p->L, &bits, &is_unsigned))
        return fl_packer_refuse(p, " is a cdata that is neither int64 nor uint64");
    pack_bytes(p->out, is_unsigned ? FL_PACK_UINT64 : FL_PACK_INT64, &bits, sizeof(bits));
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

static bool is_mark(fl_packer *p)
{
    if (!p->mark) {
        luaL_getmetatable(p->L, FL_JSON_ARRAY);
        p->mark = lua_topointer(p->L, -1);
        lua_pop(p->L, 1);
    }
    return lua_topointer(p->L, -1) == p->mark;
}

static bool check_metatable(fl_packer *p, int table, bool *marked)
{
    *marked = false;
    if (!lua_getmetatable(p->L, table)) return true;
    *marked = is_mark(p);
    bool is_row = !*marked && fl_rows_is_metatable(p->L);
    if (!*marked && !is_row && is_future(p->L))
        return fl_packer_refuse(p, " is a future: did you forget await?");
    lua_pop(p->L, 1);
    return *marked || is_row || fl_packer_refuse(p, ": a table with a metatable cannot cross");
}

static bool check_cycle(fl_packer *p, const void *table)
{
    for (const fl_pack_step *at = p->path; at; at = at->up)
        if (at->table == table) return fl_packer_refuse(p, " is a cycle");
    return true;
}

static bool pack_string(fl_packer *p, int index)
{
    fl_slice text = string_at(p->L, index);
    if (text.size > p->large && p->special) {
        lua_pushvalue(p->L, index);
        fl_pack_verdict verdict = p->special(p, LUA_TSTRING);
        lua_pop(p->L, 1);
        if (verdict != FL_PACK_PLAIN) return verdict == FL_PACK_DONE;
    }
    fl_pack_string(p->out, text);
    return true;
}

static bool refuse_key(fl_packer *p, const char *type)
{
    char what[64];
    (void)snprintf(what, sizeof(what), " is a %s", type);
    say(p, "a key of ");
    p->path = p->path->up;
    return fl_packer_refuse(p, what);
}

static bool pack_key(fl_packer *p, int index)
{
    lua_State *L = p->L;
    switch (lua_type(L, index)) {
    case LUA_TSTRING: return pack_string(p, index);
    case LUA_TNUMBER: pack_number(p->out, lua_tonumber(L, index)); return true;
    case LUA_TBOOLEAN:
        fl_buffer_byte(p->out, (char)(lua_toboolean(L, index) ? FL_PACK_TRUE : FL_PACK_FALSE));
        return true;
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, index)) return refuse_key(p, "light userdata");
        fl_buffer_byte(p->out, (char)FL_PACK_NULL);
        return true;
    case LUA_TTHREAD: return refuse_key(p, "coroutine");
    case FL_LUA_TCDATA: return refuse_key(p, "cdata");
    default: return refuse_key(p, luaL_typename(L, index));
    }
}

/* The counts of a table, which are known when it was walked: in one byte each while they fit. */
typedef struct counts {
    size_t at; /* of the tag */
    uint32_t list, pairs;
} counts;

static void begin_counts(fl_buffer *out, bool marked, counts *c)
{
    char header[3] = {(char)(marked ? FL_PACK_MARKED : FL_PACK_TABLE), 0, 0};
    *c = (counts){out->size, 0, 0};
    fl_buffer_append(out, header, sizeof(header));
}

static void write_large_counts(fl_buffer *out, const counts *c)
{
    const size_t more = 6;
    if (!fl_buffer_room(out, more)) return;
    char *header = out->data + c->at;
    memmove(header + 3 + more, header + 3, out->size - c->at - 3);
    out->size += more;
    header[0] =
        (char)((uint8_t)header[0] == FL_PACK_MARKED ? FL_PACK_LARGE_MARKED : FL_PACK_LARGE_TABLE);
    memcpy(header + 1, &c->list, 4);
    memcpy(header + 5, &c->pairs, 4);
}

static void end_counts(fl_buffer *out, const counts *c)
{
    if (out->failed) return;
    if (c->list > UINT8_MAX || c->pairs > UINT8_MAX) {
        write_large_counts(out, c);
        return;
    }
    out->data[c->at + 1] = (char)c->list;
    out->data[c->at + 2] = (char)c->pairs;
}

/* Elements of a list come first and in order, if they lie in the table's array part; others travel
 * as pairs. */
static bool pack_pairs(fl_packer *p, int table, counts *c)
{
    lua_State *L = p->L;
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
        bool next = c->pairs == 0 && lua_type(L, -2) == LUA_TNUMBER &&
                    lua_tonumber(L, -2) == (double)c->list + 1;
        if (next) {
            c->list++;
        } else {
            if (!pack_key(p, table + 1)) return false;
            c->pairs++;
        }
        if (!fl_packer_value(p, table + 2)) return false;
        if (p->out->failed) break;
    }
    return true;
}

static bool pack_table(fl_packer *p, int table)
{
    counts c;
    bool marked;
    if (!check_metatable(p, table, &marked)) return false;
    fl_pack_step here = {p->path, lua_topointer(p->L, table), NULL, table + 1};
    if (!check_cycle(p, here.table)) return false;
    if (p->depth == FL_PACK_DEPTH) return fl_packer_refuse(p, " is nested deeper than 96 levels");
    begin_counts(p->out, marked, &c);
    p->path = &here;
    p->depth++;
    if (!pack_pairs(p, table, &c)) return false;
    lua_settop(p->L, table);
    p->depth--;
    p->path = here.up;
    end_counts(p->out, &c);
    return true;
}

static bool pack_userdata(fl_packer *p)
{
    if (lua_getmetatable(p->L, -1) && is_future(p->L))
        return fl_packer_refuse(p, " is a future: did you forget await?");
    return fl_packer_refuse(p, " is a userdata");
}

/* The table, function or userdata on top. */
static bool pack_top(fl_packer *p, int top, int type)
{
    if (p->special) {
        fl_pack_verdict verdict = p->special(p, type);
        if (verdict != FL_PACK_PLAIN) return verdict == FL_PACK_DONE;
    }
    if (type == LUA_TFUNCTION) return fl_packer_refuse(p, " is a function");
    if (type == LUA_TUSERDATA) return pack_userdata(p);
    return pack_table(p, top);
}

/* The table, function or userdata at `index`. */
static bool pack_object(fl_packer *p, int index, int type)
{
    lua_State *L = p->L;
    if (!lua_checkstack(L, 8)) return fl_packer_refuse(p, ": the Lua stack is full");
    int top = lua_gettop(L);
    if (index == top) return pack_top(p, top, type);
    lua_pushvalue(L, index);
    if (!pack_top(p, top + 1, type)) return false;
    lua_settop(L, top);
    return true;
}

/* The message is left as it is: this is on the path of every call. */
void fl_packer_init(fl_packer *p, lua_State *L, const char *name, fl_buffer *out)
{
    p->L = L;
    p->out = out;
    p->name = name;
    p->number = 0;
    p->special = NULL;
    p->large = 0;
    p->path = NULL;
    p->mark = NULL;
    p->depth = 0;
    p->error = 0;
    p->said = 0;
}

/* All that is not refused leaves the stack as it was. */
bool fl_packer_value(fl_packer *p, int index)
{
    lua_State *L = p->L;
    int type = lua_type(L, index);
    switch (type) {
    case LUA_TNUMBER: pack_number(p->out, lua_tonumber(L, index)); return true;
    case LUA_TSTRING: return pack_string(p, index);
    case LUA_TNIL: fl_buffer_byte(p->out, (char)FL_PACK_NIL); return true;
    case LUA_TBOOLEAN:
        fl_buffer_byte(p->out, (char)(lua_toboolean(L, index) ? FL_PACK_TRUE : FL_PACK_FALSE));
        return true;
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, index)) return fl_packer_refuse(p, " is a light userdata");
        fl_buffer_byte(p->out, (char)FL_PACK_NULL);
        return true;
    case FL_LUA_TCDATA: {
        lua_pushvalue(L, index);
        bool packed = pack_cdata(p);
        if (packed) lua_pop(L, 1);
        return packed;
    }
    case LUA_TTHREAD: return fl_packer_refuse(p, " is a coroutine");
    case LUA_TTABLE:
    case LUA_TFUNCTION:
    case LUA_TUSERDATA: return pack_object(p, index, type);
    default: return fl_packer_refuse(p, " is a value of unknown type");
    }
}

bool fl_packer_inner(fl_packer *p, fl_pack_step *here)
{
    here->up = p->path;
    p->path = here;
    if (p->depth == FL_PACK_DEPTH) return fl_packer_refuse(p, " is nested deeper than 96 levels");
    p->depth++;
    if (!fl_packer_value(p, lua_gettop(p->L))) return false;
    p->depth--;
    p->path = here->up;
    return true;
}

static int finish_packing(fl_packer *p, bool packed, size_t size, int top)
{
    lua_settop(p->L, top);
    if (packed && !p->out->failed) return 0;
    if (packed) {
        p->said = 0;
        say(p, "%s: not enough memory", p->name);
        p->error = UV_ENOMEM;
    }
    p->out->size = size;
    lua_pushlstring(p->L, p->message, p->said);
    return p->error;
}

int fl_pack_value(lua_State *L, int index, const char *name, fl_buffer *out)
{
    fl_packer p;
    fl_packer_init(&p, L, name, out);
    size_t size = out->size;
    int top = lua_gettop(L);
    luaL_checkstack(L, 8, "to pack a value");
    if (index < 0 && index > LUA_REGISTRYINDEX) index = top + 1 + index;
    return finish_packing(&p, fl_packer_value(&p, index), size, top);
}

/* Unpacking. */

void fl_unpacker_init(fl_unpacker *u, lua_State *L, fl_slice bytes)
{
    u->L = L;
    u->start = u->at = bytes.data;
    u->end = bytes.size ? bytes.data + bytes.size : bytes.data; /* which may be NULL */
    u->promised = 0;
    u->depth = 0;
    u->special = NULL;
    u->error = 0;
}

static size_t left(const fl_unpacker *u)
{
    return (size_t)(u->end - u->at);
}

bool fl_unpacker_malformed(fl_unpacker *u)
{
    (void)snprintf(u->message, sizeof(u->message), "malformed packed value at byte %zu",
                   (size_t)(u->at - u->start) + 1);
    u->error = UV_EINVAL;
    return false;
}

static inline bool take(fl_unpacker *u, void *to, size_t size)
{
    if (left(u) < size) return fl_unpacker_malformed(u);
    memcpy(to, u->at, size);
    u->at += size;
    return true;
}

bool fl_unpacker_byte(fl_unpacker *u, uint8_t *byte)
{
    return take(u, byte, 1);
}

bool fl_unpacker_size(fl_unpacker *u, uint64_t *size)
{
    uint64_t number = 0;
    for (unsigned shift = 0; shift < 63 && u->at < u->end; shift += 7) {
        uint8_t byte = (uint8_t)*u->at++;
        number |= (uint64_t)(byte & 0x7f) << shift;
        if (byte & 0x80) continue;
        *size = number;
        return true;
    }
    return fl_unpacker_malformed(u);
}

bool fl_unpacker_bytes(fl_unpacker *u, uint64_t size, fl_slice *text)
{
    if (size > left(u)) return fl_unpacker_malformed(u);
    *text = fl_slice_of(u->at, (size_t)size);
    u->at += size;
    return true;
}

bool fl_unpacker_string(fl_unpacker *u, fl_slice *text)
{
    uint8_t tag;
    uint64_t size;
    if (!take(u, &tag, 1)) return false;
    if (tag >= FL_PACK_SHORT && tag < FL_PACK_NIL)
        return fl_unpacker_bytes(u, tag - FL_PACK_SHORT, text);
    if (tag != FL_PACK_STRING) return fl_unpacker_malformed(u);
    return fl_unpacker_size(u, &size) && fl_unpacker_bytes(u, size, text);
}

static bool push_string(fl_unpacker *u, uint64_t size)
{
    fl_slice text;
    if (!fl_unpacker_bytes(u, size, &text)) return false;
    lua_pushlstring(u->L, text.data, text.size);
    return true;
}

static bool push_varint(fl_unpacker *u, bool negative)
{
    uint64_t number;
    if (!fl_unpacker_size(u, &number)) return false;
    lua_pushnumber(u->L, negative ? -(double)number : (double)number);
    return true;
}

static bool push_wide(fl_unpacker *u, uint8_t tag)
{
    uint64_t bits;
    double number;
    if (!take(u, &bits, sizeof(bits))) return false;
    if (tag == FL_PACK_DOUBLE) {
        memcpy(&number, &bits, sizeof(number));
        lua_pushnumber(u->L, number);
    } else {
        fl_int64_push_bits(u->L, bits, tag == FL_PACK_UINT64);
    }
    return true;
}

static bool take_counts(fl_unpacker *u, bool large, uint32_t *list, uint32_t *pairs)
{
    uint8_t small[2];
    if (large) return take(u, list, 4) && take(u, pairs, 4);
    if (!take(u, small, 2)) return false;
    *list = small[0];
    *pairs = small[1];
    return true;
}

/* A table may take room for what its bytes can hold, after those that others were promised. */
static bool promise(fl_unpacker *u, uint32_t list, uint32_t pairs)
{
    uint64_t least = (uint64_t)list + 2 * (uint64_t)pairs;
    if (list > INT32_MAX || pairs > INT32_MAX || left(u) < u->promised ||
        least > left(u) - u->promised)
        return fl_unpacker_malformed(u);
    u->promised += (size_t)least;
    return true;
}

static int ahead(uint32_t count)
{
    return (int)(count < MOST_AHEAD ? count : MOST_AHEAD);
}

static bool is_key(lua_State *L)
{
    switch (lua_type(L, -1)) {
    case LUA_TSTRING:
    case LUA_TBOOLEAN:
    case LUA_TLIGHTUSERDATA: return true;
    case LUA_TNUMBER: return !isnan(lua_tonumber(L, -1));
    default: return false;
    }
}

static bool fill_table(fl_unpacker *u, uint32_t list, uint32_t pairs)
{
    lua_State *L = u->L;
    for (uint32_t i = 1; i <= list; i++) {
        u->promised--;
        if (!fl_unpacker_value(u)) return false;
        lua_rawseti(L, -2, (int)i);
    }
    for (uint32_t i = 0; i < pairs; i++) {
        u->promised -= 2;
        if (!fl_unpacker_value(u)) return false;
        if (!is_key(L)) return fl_unpacker_malformed(u);
        if (!fl_unpacker_value(u)) return false;
        lua_rawset(L, -3);
    }
    return true;
}

static bool push_table(fl_unpacker *u, bool marked, bool large)
{
    uint32_t list, pairs;
    if (u->depth == FL_PACK_DEPTH || !lua_checkstack(u->L, 8)) return fl_unpacker_malformed(u);
    if (!take_counts(u, large, &list, &pairs) || !promise(u, list, pairs)) return false;
    lua_createtable(u->L, ahead(list), ahead(pairs));
    u->depth++;
    if (!fill_table(u, list, pairs)) return false;
    u->depth--;
    if (!marked) return true;
    luaL_getmetatable(u->L, FL_JSON_ARRAY);
    lua_setmetatable(u->L, -2);
    return true;
}

static bool push_tagged(fl_unpacker *u, uint8_t tag)
{
    lua_State *L = u->L;
    uint64_t size;
    switch (tag) {
    case FL_PACK_NIL: lua_pushnil(L); return true;
    case FL_PACK_FALSE: lua_pushboolean(L, 0); return true;
    case FL_PACK_TRUE: lua_pushboolean(L, 1); return true;
    case FL_PACK_NULL: lua_pushlightuserdata(L, NULL); return true;
    case FL_PACK_POSITIVE: return push_varint(u, false);
    case FL_PACK_NEGATIVE: return push_varint(u, true);
    case FL_PACK_DOUBLE:
    case FL_PACK_INT64:
    case FL_PACK_UINT64: return push_wide(u, tag);
    case FL_PACK_STRING: return fl_unpacker_size(u, &size) && push_string(u, size);
    case FL_PACK_TABLE: return push_table(u, false, false);
    case FL_PACK_MARKED: return push_table(u, true, false);
    case FL_PACK_LARGE_TABLE: return push_table(u, false, true);
    case FL_PACK_LARGE_MARKED: return push_table(u, true, true);
    default: break;
    }
    if (tag < FL_PACK_SPECIAL || !u->special) return fl_unpacker_malformed(u);
    return u->special(u, tag);
}

bool fl_unpacker_value(fl_unpacker *u)
{
    uint8_t tag;
    if (!take(u, &tag, 1)) return false;
    if (tag < FL_PACK_SHORT) {
        lua_pushinteger(u->L, tag);
        return true;
    }
    if (tag < FL_PACK_NIL) return push_string(u, tag - FL_PACK_SHORT);
    return push_tagged(u, tag);
}

int fl_unpack_value(lua_State *L, fl_slice bytes, size_t *used)
{
    fl_unpacker u;
    fl_unpacker_init(&u, L, bytes);
    int top = lua_gettop(L);
    luaL_checkstack(L, 8, "to unpack a value");
    if (fl_unpacker_value(&u)) {
        *used = (size_t)(u.at - bytes.data);
        return 0;
    }
    lua_settop(L, top);
    lua_pushstring(L, u.message);
    return u.error;
}
