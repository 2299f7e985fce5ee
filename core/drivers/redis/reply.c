#include "reply.h"

#include <hiredis/hiredis.h>
#include <lauxlib.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "json.h"
#include "number.h"

/* Of records, beside REDIS_REPLY_…, which hiredis before 1.0 has not all of. */
typedef enum tag {
    NIL = 'n',
    INTEGER = 'i',
    DOUBLE = 'd',
    BOOLEAN = 'b',
    STRING = 's',
    ERROR = 'e',
    LIST = 'l',
    MAP = 'm', /* its count is of keys and values */
    PUSH = 'p'
} tag;

#define HEADER (1 + sizeof(uint64_t)) /* of every record: the tag, and a number or a size */

/* reading */

/* The object of a reply that hiredis is told of: nobody looks at it. */
static void *add(const redisReadTask *task, tag which, uint64_t number)
{
    fl_redis_reader *self = task->privdata;
    fl_buffer_byte(&self->record, (char)which);
    fl_buffer_append(&self->record, (const char *)&number, sizeof(number));
    if (self->record.failed) self->problem = "there is no memory for a reply";
    return self->problem ? NULL : self;
}

static void *add_string(const redisReadTask *task, char *data, size_t size)
{
    fl_redis_reader *self = task->privdata;
#if HIREDIS_MAJOR >= 1
    if (task->type == REDIS_REPLY_VERB && size >= 4) { /* "txt:" */
        data += 4;
        size -= 4;
    }
#endif
    if (!add(task, task->type == REDIS_REPLY_ERROR ? ERROR : STRING, size)) return NULL;
    fl_buffer_append(&self->record, data, size);
    if (self->record.failed) self->problem = "there is no memory for a reply";
    return self->problem ? NULL : self;
}

static tag list_tag(const redisReadTask *task)
{
#if HIREDIS_MAJOR >= 1
    if (task->type == REDIS_REPLY_MAP) return MAP;
    if (task->type == REDIS_REPLY_PUSH) return PUSH;
#endif
    (void)task;
    return LIST;
}

static bool is_understood(const redisReadTask *task)
{
#if HIREDIS_MAJOR >= 1
    return task->type != REDIS_REPLY_ATTR;
#else
    (void)task;
    return true;
#endif
}

static void *add_list_of(const redisReadTask *task, uint64_t count)
{
    fl_redis_reader *self = task->privdata;
    unsigned depth = 0;
    for (const redisReadTask *outer = task->parent; outer; outer = outer->parent) depth++;
    if (depth >= FL_REDIS_DEPTH) self->problem = "a reply has too many lists in each other";
    if (!is_understood(task)) self->problem = "a reply has attributes, which nobody asked for";
    if (self->problem) return NULL;
    return add(task, list_tag(task), count);
}

#if HIREDIS_MAJOR >= 1
static void *add_list(const redisReadTask *task, size_t count)
{
    return add_list_of(task, count);
}

static void *add_double(const redisReadTask *task, double value, char *text, size_t size)
{
    uint64_t bits;
    (void)text;
    (void)size;
    memcpy(&bits, &value, sizeof(bits));
    return add(task, DOUBLE, bits);
}

static void *add_boolean(const redisReadTask *task, int value)
{
    return add(task, BOOLEAN, value != 0);
}
#else
static void *add_list(const redisReadTask *task, int count)
{
    return add_list_of(task, (uint64_t)count);
}
#endif

static void *add_integer(const redisReadTask *task, long long number)
{
    return add(task, INTEGER, (uint64_t)number);
}

static void *add_nil(const redisReadTask *task)
{
    return add(task, NIL, 0);
}

static void free_object(void *object)
{
    (void)object;
}

static redisReplyObjectFunctions functions = {.createString = add_string,
                                              .createArray = add_list,
                                              .createInteger = add_integer,
#if HIREDIS_MAJOR >= 1
                                              .createDouble = add_double,
                                              .createBool = add_boolean,
#endif
                                              .createNil = add_nil,
                                              .freeObject = free_object};

int fl_redis_reader_open(fl_redis_reader *self, size_t most)
{
    *self = (fl_redis_reader){.most = most, .reader = redisReaderCreateWithFunctions(&functions)};
    if (!self->reader) return UV_ENOMEM;
    self->reader->privdata = self;
    return 0;
}

void fl_redis_reader_close(fl_redis_reader *self)
{
    if (self->reader) redisReaderFree(self->reader);
    fl_buffer_close(&self->record);
    *self = (fl_redis_reader){0};
}

bool fl_redis_reader_feed(fl_redis_reader *self, fl_slice data)
{
    if (self->fed > self->most)
        self->problem = "a reply is larger than max_reply";
    else if (redisReaderFeed(self->reader, data.data, data.size) != REDIS_OK)
        self->problem = "there is no memory for a reply";
    self->fed += data.size;
    return !self->problem;
}

int fl_redis_reader_next(fl_redis_reader *self)
{
    void *reply = NULL;
    if (self->problem) return -1;
    int status = redisReaderGetReply(self->reader, &reply);
    if (status != REDIS_OK && !self->problem) self->problem = self->reader->errstr;
    if (self->problem) return -1;
    if (!reply) return 0;
    self->fed = self->reader->len - self->reader->pos;
    return 1;
}

/* looking */

static uint64_t number_of(const char *record)
{
    uint64_t number;
    memcpy(&number, record + 1, sizeof(number));
    return number;
}

static bool has_elements(const char *record)
{
    return *record == LIST || *record == MAP || *record == PUSH;
}

bool fl_redis_reply_is_error(const char *record)
{
    return *record == ERROR;
}

bool fl_redis_reply_is_error_of(const char *record, const char *code)
{
    fl_slice text = fl_redis_reply_text(record);
    size_t size = strlen(code);
    return *record == ERROR && text.size >= size && memcmp(text.data, code, size) == 0;
}

bool fl_redis_reply_is_nil(const char *record)
{
    return *record == NIL;
}

bool fl_redis_reply_is_push(const char *record)
{
    return *record == PUSH;
}

bool fl_redis_reply_is_list(const char *record, size_t *count)
{
    if (!has_elements(record)) return false;
    *count = (size_t)number_of(record);
    return true;
}

fl_slice fl_redis_reply_text(const char *record)
{
    if (*record != STRING && *record != ERROR) return (fl_slice){"", 0};
    return fl_slice_of(record + HEADER, (size_t)number_of(record));
}

const char *fl_redis_reply_elements(const char *record)
{
    return record + HEADER;
}

const char *fl_redis_reply_skip(const char *record)
{
    for (uint64_t left = 1; left; left--) {
        uint64_t number = number_of(record);
        if (has_elements(record)) left += number;
        if (*record == STRING || *record == ERROR) record += number;
        record += HEADER;
    }
    return record;
}

/* to Lua */

static const char *push(lua_State *L, const char *record, fl_redis_kind kind, fl_slice command);

static double double_of(const char *record)
{
    uint64_t bits = number_of(record);
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* An element nil is fl.null, so that the list has its length. */
static const char *push_element(lua_State *L, const char *record, fl_redis_kind kind,
                                fl_slice command)
{
    record = push(L, record, kind, command);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushlightuserdata(L, NULL);
    }
    return record;
}

static void mark_list(lua_State *L)
{
    luaL_getmetatable(L, FL_JSON_ARRAY);
    lua_setmetatable(L, -2);
}

static const char *push_list(lua_State *L, const char *record, uint64_t count, fl_redis_kind inner,
                             fl_slice command)
{
    lua_createtable(L, (int)count, 0);
    mark_list(L);
    for (uint64_t i = 1; i <= count; i++) {
        record = push_element(L, record, inner, command);
        lua_rawseti(L, -2, (int)i);
    }
    return record;
}

/* What no table takes as a key is written as text. */
static void make_key(lua_State *L)
{
    if (lua_type(L, -1) == LUA_TNUMBER && isnan(lua_tonumber(L, -1))) {
        lua_pop(L, 1);
        lua_pushliteral(L, "nan");
    }
}

static const char *push_map(lua_State *L, const char *record, uint64_t count, fl_slice command)
{
    lua_createtable(L, 0, (int)(count / 2));
    for (uint64_t i = 0; i + 1 < count; i += 2) {
        record = push_element(L, record, FL_REDIS_AS_IT_IS, command);
        make_key(L);
        record = push_element(L, record, FL_REDIS_AS_IT_IS, command);
        lua_rawset(L, -3);
    }
    return record;
}

/* RESP2 sends member, score, member, score; RESP3 sends pairs. */
static const char *push_pairs(lua_State *L, const char *record, uint64_t count, fl_redis_kind value,
                              fl_slice command)
{
    if (count == 0 || count % 2 || has_elements(record))
        return push_list(L, record, count, FL_REDIS_AS_IT_IS, command);
    lua_createtable(L, (int)(count / 2), 0);
    mark_list(L);
    for (uint64_t i = 1; i <= count / 2; i++) {
        lua_createtable(L, 2, 0);
        mark_list(L);
        record = push_element(L, record, FL_REDIS_AS_IT_IS, command);
        lua_rawseti(L, -2, 1);
        record = push_element(L, record, value, command);
        lua_rawseti(L, -2, 2);
        lua_rawseti(L, -2, (int)i);
    }
    return record;
}

static const char *push_elements(lua_State *L, const char *record, fl_redis_kind kind,
                                 fl_slice command)
{
    uint64_t count = number_of(record);
    bool is_map = kind == FL_REDIS_PAIRS ? false : *record == MAP;
    luaL_checkstack(L, 8, "a reply has too many lists in each other");
    record += HEADER;
    if (is_map || (kind == FL_REDIS_MAP && count % 2 == 0))
        return push_map(L, record, count, command);
    switch (kind) {
    case FL_REDIS_SCORES: return push_pairs(L, record, count, FL_REDIS_NUMBER, command);
    case FL_REDIS_PAIRS: return push_pairs(L, record, count, FL_REDIS_AS_IT_IS, command);
    case FL_REDIS_MAPS: return push_list(L, record, count, FL_REDIS_MAP, command);
    case FL_REDIS_NUMBER: return push_list(L, record, count, FL_REDIS_NUMBER, command);
    case FL_REDIS_AS_IT_IS:
    case FL_REDIS_MAP: break;
    }
    return push_list(L, record, count, FL_REDIS_AS_IT_IS, command);
}

static bool push_number(lua_State *L, fl_slice text)
{
    fl_number number;
    if (fl_slice_equal_nocase(text, FL_SLICE("inf"))) {
        lua_pushnumber(L, INFINITY);
    } else if (fl_slice_equal_nocase(text, FL_SLICE("-inf"))) {
        lua_pushnumber(L, -INFINITY);
    } else if (fl_number_read(text, &number) && number.end == text.data + text.size) {
        lua_pushnumber(L, number.is_int64 ? (double)number.integer : number.value);
    } else {
        return false;
    }
    return true;
}

static void push_string(lua_State *L, fl_slice text, fl_redis_kind kind)
{
    if (kind == FL_REDIS_NUMBER && push_number(L, text)) return;
    lua_pushlstring(L, text.data, text.size);
}

static const char *push(lua_State *L, const char *record, fl_redis_kind kind, fl_slice command)
{
    if (has_elements(record)) return push_elements(L, record, kind, command);
    switch ((tag)*record) {
    case NIL: lua_pushnil(L); break;
    case INTEGER: fl_json_push_integer(L, (int64_t)number_of(record)); break;
    case DOUBLE: lua_pushnumber(L, double_of(record)); break;
    case BOOLEAN: lua_pushboolean(L, number_of(record) != 0); break;
    case STRING: push_string(L, fl_redis_reply_text(record), kind); break;
    case ERROR: fl_redis_error_push(L, fl_redis_reply_text(record), command); break;
    case LIST:
    case MAP:
    case PUSH: break;
    }
    return fl_redis_reply_skip(record);
}

void fl_redis_reply_push(lua_State *L, const char *record, fl_redis_kind kind, fl_slice command)
{
    (void)push(L, record, kind, command);
}

/* errors */

/* Those that say that the server, not the command, is the cause: it may be tried again later. */
static bool is_unavailable(fl_slice code)
{
    static const char *const codes[] = {"CONNECTION", "TIMEOUT",  "QUEUE_FULL", "LOADING",
                                        "BUSY",       "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN"};
    for (size_t i = 0; i < sizeof(codes) / sizeof(*codes); i++)
        if (fl_slice_equal(code, fl_slice_from_string(codes[i]))) return true;
    return false;
}

static void push_error(lua_State *L, fl_slice code, fl_slice text, fl_slice command)
{
    lua_createtable(L, 0, 5);
    lua_pushliteral(L, "redis");
    lua_setfield(L, -2, "kind");
    lua_pushlstring(L, code.data, code.size);
    lua_setfield(L, -2, "code");
    lua_pushlstring(L, command.data, command.size);
    lua_pushlstring(L, command.data, command.size);
    lua_setfield(L, -3, "command");
    lua_pushstring(L, command.size ? ": " : "");
    lua_pushlstring(L, text.data, text.size);
    lua_concat(L, 3);
    lua_setfield(L, -2, "message");
    if (is_unavailable(code)) {
        lua_pushinteger(L, 503);
        lua_setfield(L, -2, "status");
    }
    luaL_getmetatable(L, FL_REDIS_ERROR);
    lua_setmetatable(L, -2);
}

void fl_redis_error_push(lua_State *L, fl_slice text, fl_slice command)
{
    fl_slice code = {text.data, 0};
    while (code.size < text.size && ((text.data[code.size] >= 'A' && text.data[code.size] <= 'Z') ||
                                     (text.data[code.size] >= '0' && text.data[code.size] <= '9')))
        code.size++;
    if (code.size == 0 || (code.size < text.size && text.data[code.size] != ' '))
        code = FL_SLICE("ERR");
    push_error(L, code, text, command);
}

void fl_redis_failure_push(lua_State *L, const char *code, const char *text, fl_slice command)
{
    push_error(L, fl_slice_from_string(code), fl_slice_from_string(text), command);
}
