#include "bind/log.h"

#include <lauxlib.h>

#include "thread.h"

#define FIELDS_MOST 24

static fl_slice string_at(lua_State *L, int index)
{
    size_t size = 0;
    const char *text = lua_tolstring(L, index, &size);
    return fl_slice_of(text ? text : "", size);
}

typedef struct fl_line {
    fl_log_field fields[FIELDS_MOST];
    size_t count;
    char id[40];
} fl_line;

static void add(fl_line *line, fl_log_field field)
{
    if (line->count < FIELDS_MOST) line->fields[line->count++] = field;
}

static void add_context(fl_line *line, fl_state *state)
{
    if (!state) return;
    add(line, fl_field_text("app", fl_slice_from_string(state->app->name)));
    const fl_request *request = state->running ? state->running->request : NULL;
    if (!request) return;
    add(line, fl_field_text("request_id", fl_request_shown_id(request, line->id)));
}

/* Values that are no string, number or boolean are written as tostring gives them; the strings stay
 * on the stack, and so alive, until the line is written. */
static void add_fields(lua_State *L, int index, fl_line *line)
{
    lua_pushnil(L);
    while (lua_next(L, index)) {
        if (lua_type(L, -2) != LUA_TSTRING || line->count >= FIELDS_MOST) {
            lua_pop(L, 1);
            continue;
        }
        const char *name = lua_tostring(L, -2);
        int type = lua_type(L, -1);
        if (type == LUA_TNUMBER) {
            add(line, fl_field_number(name, lua_tonumber(L, -1)));
        } else if (type == LUA_TBOOLEAN) {
            add(line, fl_field_boolean(name, lua_toboolean(L, -1)));
        } else {
            lua_getglobal(L, "tostring");
            lua_insert(L, -2);
            lua_call(L, 1, 1);
            add(line, fl_field_text(name, string_at(L, -1)));
            lua_insert(L, -2); /* value below the key: kept until the end */
            continue;
        }
        lua_pop(L, 1);
    }
}

static fl_log *log_of(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    return state ? state->thread->log : NULL;
}

/* line(level, message[, fields])   [-0, +0, e] */
static int log_line(lua_State *L)
{
    static const char *const levels[] = {"debug", "info", "warn", "error", NULL};
    fl_log_level level = (fl_log_level)luaL_checkoption(L, 1, NULL, levels);
    luaL_checkstring(L, 2);
    fl_log *log = log_of(L);
    if (!log) {
        (void)fprintf(stderr, "%s\n", lua_tostring(L, 2));
        return 0;
    }
    if (!fl_log_enabled(log, level)) return 0;
    luaL_checkstack(L, FIELDS_MOST + 8, "too many log fields");
    fl_line line = {.count = 0};
    add_context(&line, fl_state_of(L));
    if (lua_istable(L, 3)) add_fields(L, 3, &line);
    fl_log_line(log, level, string_at(L, 2), line.fields, line.count);
    return 0;
}

/* unhandled(error, traceback)   [-0, +0, e] */
static int log_unhandled(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    if (!state) return 0;
    fl_line line = {.count = 0};
    add_context(&line, state);
    const fl_request *request = state->running ? state->running->request : NULL;
    if (request && request->route)
        add(&line, fl_field_text("route", fl_slice_from_string(request->route->title)));
    lua_settop(L, 2);
    lua_rawgeti(L, LUA_REGISTRYINDEX, state->explain);
    lua_insert(L, 1);
    lua_call(L, 2, 1);
    add(&line, fl_field_block("error", string_at(L, -1)));
    fl_log_line(state->thread->log, FL_LOG_ERROR, FL_SLICE("unhandled error"), line.fields,
                line.count);
    return 0;
}

int fl_log_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"line", log_line}, {"unhandled", log_unhandled}, {NULL, NULL}};
    lua_newtable(L);
    fl_state_functions(L, functions);
    return 1;
}
