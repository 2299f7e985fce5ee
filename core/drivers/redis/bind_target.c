#include "bind_target.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "transport.h"

#define METATABLE "fasterlua.redis.target"

static char *copy_field(lua_State *L, const char *name, const char *otherwise)
{
    lua_getfield(L, 1, name);
    const char *text = lua_tostring(L, -1);
    if (!text) text = otherwise;
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy) luaL_error(L, "not enough memory");
    lua_pop(L, 1);
    return copy;
}

static double number_field(lua_State *L, const char *name)
{
    lua_getfield(L, 1, name);
    double number = luaL_checknumber(L, -1);
    lua_pop(L, 1);
    return number;
}

static void close_target(fl_redis_target *target)
{
    free(target->host);
    free(target->path);
    free(target->label);
    free(target->user);
    free(target->password);
    free(target->name);
    free(target->tls_name);
    if (target->tls) SSL_CTX_free(target->tls);
    *target = (fl_redis_target){0};
}

/* [-1, +0, -] */
static int collect_target(lua_State *L)
{
    close_target(luaL_checkudata(L, 1, METATABLE));
    return 0;
}

static void open_tls(lua_State *L, fl_redis_target *target)
{
    char problem[256];
    lua_getfield(L, 1, "tls");
    bool wanted = lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (!wanted) return;
    lua_getfield(L, 1, "ca");
    const char *ca = lua_tostring(L, -1);
    target->tls = fl_transport_context(ca, problem, sizeof(problem));
    if (!target->tls) {
        const char *what = ca ? ca : "the system's certificates";
        luaL_error(L, "redis: cannot use %s for TLS: %s", what, problem);
    }
    lua_pop(L, 1);
}

void fl_redis_target_open(lua_State *L)
{
    if (luaL_newmetatable(L, METATABLE)) {
        lua_pushcfunction(L, collect_target);
        lua_setfield(L, -2, "__gc");
    }
    lua_pop(L, 1);
}

int fl_redis_target_new(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    fl_redis_target *target = lua_newuserdata(L, sizeof(*target));
    *target = (fl_redis_target){0};
    luaL_getmetatable(L, METATABLE);
    lua_setmetatable(L, -2);
    target->port = (uint16_t)number_field(L, "port");
    target->database = (unsigned)number_field(L, "database");
    target->connect_timeout = (uint64_t)number_field(L, "connect_timeout");
    target->commands_most = (size_t)number_field(L, "max_commands");
    target->bytes_most = (size_t)number_field(L, "max_bytes");
    target->reply_most = (size_t)number_field(L, "max_reply");
    target->host = copy_field(L, "host", "");
    target->path = copy_field(L, "path", "");
    target->label = copy_field(L, "label", "");
    target->tls_name = copy_field(L, "tls_name", "");
    target->user = copy_field(L, "user", NULL);
    target->password = copy_field(L, "password", NULL);
    target->name = copy_field(L, "name", NULL);
    open_tls(L, target);
    return 1;
}

const fl_redis_target *fl_redis_target_check(lua_State *L, int index)
{
    return luaL_checkudata(L, index, METATABLE);
}
