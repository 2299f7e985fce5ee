#include "settings.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>
#include <uv.h>

#define NS_PER_SECOND 1e9
#define LARGEST_INTEGER 9007199254740992.0 /* 2^53: beyond it a double is no longer exact */
#define LONGEST_TIME 1e9                   /* seconds, thirty years */

typedef enum { TEXT, BOOLEAN, COUNT, INTEGER, TIME } kind;

typedef struct field {
    kind kind;
    const char *name;
    size_t offset;
} field;

#define MEMBER(name) #name, offsetof(fl_settings, name)

static const field fields[] = {
    {TEXT, MEMBER(path)},
    {TEXT, MEMBER(host)},
    {COUNT, MEMBER(port)},
    {TEXT, MEMBER(uds)},
    {INTEGER, MEMBER(fd)},
    {COUNT, MEMBER(backlog)},
    {COUNT, MEMBER(workers)},
    {COUNT, MEMBER(threads)},
    {COUNT, MEMBER(cpu_states)},
    {COUNT, MEMBER(blocking_threads)},
    {COUNT, MEMBER(pool_queue)},
    {TIME, MEMBER(pool_timeout)},
    {TIME, MEMBER(pool_idle)},
    {COUNT, MEMBER(retire_rate)},
    {TEXT, MEMBER(environment)},
    {TEXT, MEMBER(root_path)},
    {BOOLEAN, MEMBER(proxy_headers)},
    {TEXT, MEMBER(forwarded_allow_ips)},
    {TEXT, MEMBER(admin)},
    {TEXT, MEMBER(user)},
    {TEXT, MEMBER(group)},
    {TEXT, MEMBER(log_level)},
    {TEXT, MEMBER(log_format)},
    {BOOLEAN, MEMBER(access_log)},
    {COUNT, MEMBER(log_buffer)},
    {COUNT, MEMBER(request_line)},
    {COUNT, MEMBER(header_block)},
    {COUNT, MEMBER(header_fields)},
    {COUNT, MEMBER(chunk_extensions)},
    {COUNT, MEMBER(trailer_block)},
    {COUNT, MEMBER(trailer_fields)},
    {COUNT, MEMBER(max_body)},
    {COUNT, MEMBER(form_fields)},
    {COUNT, MEMBER(cookie_fields)},
    {COUNT, MEMBER(cookie_bytes)},
    {COUNT, MEMBER(json_depth)},
    {COUNT, MEMBER(json_nodes)},
    {COUNT, MEMBER(json_bytes)},
    {TIME, MEMBER(head_timeout)},
    {COUNT, MEMBER(body_rate)},
    {TIME, MEMBER(body_grace)},
    {TIME, MEMBER(keep_alive)},
    {TIME, MEMBER(handler_timeout)},
    {TIME, MEMBER(write_stall)},
    {COUNT, MEMBER(requests_per_connection)},
    {COUNT, MEMBER(connections)},
    {COUNT, MEMBER(limit_requests)},
    {COUNT, MEMBER(write_buffer)},
    {COUNT, MEMBER(read_ahead)},
    {TIME, MEMBER(slow_handler)},
    {TIME, MEMBER(stuck_handler)},
    {TIME, MEMBER(blocked_handler)},
    {TIME, MEMBER(exile)},
    {TIME, MEMBER(queue_delay)},
    {COUNT, MEMBER(lua_memory)},
    {COUNT, MEMBER(shared_memory)},
    {COUNT, MEMBER(topic_ring)},
    {COUNT, MEMBER(channels)},
    {COUNT, MEMBER(channel_bytes)},
    {COUNT, MEMBER(topic_bytes)},
    {TIME, MEMBER(drain)},
    {COUNT, MEMBER(file_threads)},
    {COUNT, MEMBER(db_connections)},
    {COUNT, MEMBER(db_pool)},
    {TIME, MEMBER(db_timeout)},
    {TIME, MEMBER(db_connect_timeout)},
    {TIME, MEMBER(db_pool_timeout)},
    {TIME, MEMBER(db_idle)},
    {COUNT, MEMBER(db_result)},
    {COUNT, MEMBER(db_queue)},
    {COUNT, MEMBER(exec_output)},
};

#define FIELD_COUNT (sizeof(fields) / sizeof(*fields))

/* What is wrong with the value on top of the stack is said by a message in its place. */
static int refuse(lua_State *L, const char *name, const char *expected)
{
    const char *got = luaL_typename(L, -1);
    lua_pop(L, 1);
    lua_pushfstring(L, "setting \"%s\": expected %s, got %s", name, expected, got);
    return UV_EINVAL;
}

static int read_text(lua_State *L, const char *name, char **out)
{
    if (lua_type(L, -1) != LUA_TSTRING) return refuse(L, name, "a string");
    size_t size;
    const char *text = lua_tolstring(L, -1, &size);
    if (strlen(text) != size) return refuse(L, name, "a string without NUL");
    *out = strdup(text);
    lua_pop(L, 1);
    return *out ? 0 : UV_ENOMEM;
}

static int read_boolean(lua_State *L, const char *name, bool *out)
{
    if (!lua_isboolean(L, -1)) return refuse(L, name, "a boolean");
    *out = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return 0;
}

static int read_integer(lua_State *L, const char *name, double smallest, int64_t *out)
{
    double number = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : NAN;
    if (!(number >= smallest && number <= LARGEST_INTEGER) || floor(number) != number)
        return refuse(L, name, smallest < 0 ? "an integer" : "an integer from 0");
    *out = (int64_t)number;
    lua_pop(L, 1);
    return 0;
}

static int read_count(lua_State *L, const char *name, uint64_t *out)
{
    int64_t integer;
    int error = read_integer(L, name, 0, &integer);
    if (error == 0) *out = (uint64_t)integer;
    return error;
}

static int read_time(lua_State *L, const char *name, uint64_t *out)
{
    double seconds = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : NAN;
    if (!(seconds >= 0 && seconds <= LONGEST_TIME)) return refuse(L, name, "a time in seconds");
    *out = (uint64_t)(seconds * NS_PER_SECOND + 0.5);
    lua_pop(L, 1);
    return 0;
}

/* Takes the value on top of the stack. */
static int read_field(fl_settings *settings, lua_State *L, const field *each)
{
    void *member = (char *)settings + each->offset;
    switch (each->kind) {
    case TEXT: return read_text(L, each->name, member);
    case BOOLEAN: return read_boolean(L, each->name, member);
    case COUNT: return read_count(L, each->name, member);
    case INTEGER: return read_integer(L, each->name, -LARGEST_INTEGER, member);
    case TIME: return read_time(L, each->name, member);
    }
    return UV_EINVAL;
}

static int read_place(fl_app_place *place, lua_State *L)
{
    if (!lua_istable(L, -1)) return refuse(L, "apps", "a list of tables");
    const struct {
        const char *name;
        char **out;
    } members[] = {
        {"name", &place->name},
        {"prefix", &place->prefix},
        {"file", &place->file},
        {"folder", &place->folder},
    };
    int error = 0;
    for (size_t i = 0; error == 0 && i < sizeof(members) / sizeof(*members); i++) {
        lua_getfield(L, -1, members[i].name);
        error = read_text(L, members[i].name, members[i].out);
    }
    lua_remove(L, error == UV_EINVAL ? -2 : -1);
    return error;
}

/* Takes the list on top of the stack; nil is an empty one: only a server needs apps. */
static int read_apps(fl_settings *settings, lua_State *L)
{
    size_t count = lua_istable(L, -1) ? lua_objlen(L, -1) : 0;
    if (!lua_istable(L, -1) && !lua_isnil(L, -1)) return refuse(L, "apps", "a list");
    if (count > 0) settings->apps = calloc(count, sizeof(*settings->apps));
    int error = count > 0 && !settings->apps ? UV_ENOMEM : 0;
    while (error == 0 && settings->app_count < count) {
        lua_rawgeti(L, -1, (int)settings->app_count + 1);
        error = read_place(&settings->apps[settings->app_count++], L);
    }
    lua_remove(L, error == UV_EINVAL ? -2 : -1);
    return error;
}

int fl_settings_read(fl_settings *settings, lua_State *L, int index)
{
    *settings = (fl_settings){.fd = -1};
    lua_pushvalue(L, index);
    lua_getfield(L, -1, "home");
    int error = read_text(L, "home", &settings->home);
    for (size_t i = 0; error == 0 && i < FIELD_COUNT; i++) {
        lua_getfield(L, -1, fields[i].name);
        error = read_field(settings, L, &fields[i]);
    }
    if (error == 0) {
        lua_getfield(L, -1, "apps");
        error = read_apps(settings, L);
    }
    lua_remove(L, error == UV_EINVAL ? -2 : -1);
    if (error != 0) fl_settings_close(settings);
    return error;
}

void fl_settings_close(fl_settings *settings)
{
    for (size_t i = 0; i < FIELD_COUNT; i++)
        if (fields[i].kind == TEXT) free(*(char **)((char *)settings + fields[i].offset));
    for (size_t i = 0; i < settings->app_count; i++) {
        free(settings->apps[i].name);
        free(settings->apps[i].prefix);
        free(settings->apps[i].file);
        free(settings->apps[i].folder);
    }
    free(settings->apps);
    free(settings->home);
    *settings = (fl_settings){.fd = -1};
}

const char *fl_settings_name(size_t index)
{
    return index < FIELD_COUNT ? fields[index].name : NULL;
}
