#include "bind/db_open.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "bind/db_error.h"
#include "bind/db_place.h"
#include "query_op.h"
#include "state.h"
#include "thread.h"

#define ERROR_SIZE 512

static char *copy_field(lua_State *L, int table, const char *name)
{
    lua_getfield(L, table, name);
    const char *text = lua_tostring(L, -1);
    char *copy = strdup(text ? text : "");
    lua_pop(L, 1);
    return copy;
}

static uint64_t number_field(lua_State *L, int table, const char *name, uint64_t otherwise)
{
    lua_getfield(L, table, name);
    double value = lua_isnil(L, -1) ? (double)otherwise : lua_tonumber(L, -1);
    lua_pop(L, 1);
    return value > 0 ? (uint64_t)value : 0;
}

/* Milliseconds; the settings have nanoseconds. */
static uint64_t time_field(lua_State *L, int table, const char *name, uint64_t otherwise)
{
    return number_field(L, table, name, otherwise / 1000000);
}

/* The table of options on top: names and texts. */
static bool copy_options(lua_State *L, fl_db *db)
{
    unsigned count = 0;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) count++;
    db->options = calloc(count ? count : 1, sizeof(*db->options));
    if (!db->options) return false;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        fl_db_option *option = &db->options[db->option_count++];
        option->name = strdup(lua_tostring(L, -2));
        option->value = strdup(lua_tostring(L, -1));
        if (!option->name || !option->value) return false;
    }
    return true;
}

/* read(db, settings): raises whenever memory runs out  [-0, +0, e] */
static int read_settings(lua_State *L)
{
    fl_db *db = lua_touserdata(L, 1);
    const fl_settings *settings = db->state->thread->settings;
    db->url = copy_field(L, 2, "url");
    db->name = copy_field(L, 2, "name");
    db->pool = (unsigned)number_field(L, 2, "pool", settings->db_pool);
    db->timeout = time_field(L, 2, "timeout", settings->db_timeout);
    db->connect_timeout = time_field(L, 2, "connect_timeout", settings->db_connect_timeout);
    db->pool_timeout = time_field(L, 2, "pool_timeout", settings->db_pool_timeout);
    db->idle_timeout = time_field(L, 2, "idle_timeout", settings->db_idle);
    db->most_bytes = number_field(L, 2, "max_result", settings->db_result);
    db->pending_most = number_field(L, 2, "queue", settings->db_queue);
    lua_getfield(L, 2, "options");
    bool copied = copy_options(L, db);
    lua_pop(L, 1);
    if (!copied || !db->url || !db->name) return luaL_error(L, "not enough memory");
    if (fl_statements_new(&db->statements, db->driver->dialect) == 0) return 0;
    return luaL_error(L, "not enough memory");
}

static int open_driver(fl_db *db, char *why, size_t why_size)
{
    fl_state *state = db->state;
    int status = db->driver->open(db, why, why_size);
    if (status < 0) return status;
    db->next = state->databases;
    state->databases = db;
    return 0;
}

/* Protected, for nothing frees it yet. The settings are at 2.  [-0, +0, e] */
static fl_db *new_db(lua_State *L, const fl_db_driver *driver, fl_state *state)
{
    lua_pushcfunction(L, read_settings);
    fl_db *db = calloc(1, driver->db_size);
    if (!db) luaL_error(L, "not enough memory");
    db->driver = driver;
    db->state = state;
    lua_pushlightuserdata(L, db);
    lua_pushvalue(L, 2);
    if (lua_pcall(L, 2, 0, 0) == 0) return db;
    fl_db_free(db);
    lua_error(L);
    return NULL;
}

int fl_db_open(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TLIGHTUSERDATA);
    luaL_checktype(L, 2, LUA_TTABLE);
    char why[ERROR_SIZE] = "";
    fl_state *state = fl_state_of(L);
    fl_db_handle *self = fl_db_place_new(L);
    if (!state) return 1;
    fl_db *db = new_db(L, lua_touserdata(L, 1), state);
    fl_claim_take(&state->thread->claim);
    int status = open_driver(db, why, sizeof(why));
    fl_claim_give(&state->thread->claim);
    if (status == 0) {
        self->db = db;
        return 1;
    }
    fl_db_free(db);
    lua_pushstring(L, why[0] ? why : uv_strerror(status));
    return fl_db_error_raise(L, "argument", 0);
}
