#include "bind/db_error.h"

#include <lauxlib.h>
#include <string.h>

#define METATABLE "fasterlua.db.error"

static void set_text(lua_State *L, const char *name, const char *text)
{
    if (!text) return;
    lua_pushstring(L, text);
    lua_setfield(L, -2, name);
}

static void push_error(lua_State *L, const char *code, const char *message)
{
    lua_createtable(L, 0, 8);
    set_text(L, "kind", "db");
    set_text(L, "code", code);
    set_text(L, "message", message);
}

static void set_sql(lua_State *L, fl_slice sql)
{
    lua_pushlstring(L, sql.data, sql.size < FL_DB_SQL_SHOWN ? sql.size : FL_DB_SQL_SHOWN);
    lua_setfield(L, -2, "sql");
}

static void set_status(lua_State *L, int status)
{
    lua_pushinteger(L, status);
    lua_setfield(L, -2, "status");
}

static void set_statement(lua_State *L, const fl_query *query)
{
    const fl_statement *statement = query->call_count ? query->calls[0].statement : NULL;
    if (statement) set_sql(L, fl_slice_of(statement->text, statement->size));
}

static const char *words_of(const char *reason)
{
    if (strcmp(reason, "timeout") == 0) return "it took longer than its timeout";
    return "cancelled";
}

int fl_db_error_raise(lua_State *L, const char *code, int sql)
{
    push_error(L, code, lua_tostring(L, -1));
    if (sql && lua_type(L, sql) == LUA_TSTRING) {
        fl_slice text;
        text.data = lua_tolstring(L, sql, &text.size);
        set_sql(L, text);
    }
    luaL_getmetatable(L, METATABLE);
    lua_setmetatable(L, -2);
    return lua_error(L);
}

int fl_db_error_raise_text(lua_State *L, const char *code, const char *message)
{
    lua_pushstring(L, message);
    return fl_db_error_raise(L, code, 0);
}

int fl_db_error_push(lua_State *L, const fl_query *query)
{
    const fl_db_error *error = &query->error;
    lua_pushboolean(L, 0);
    push_error(L, error->code, error->message);
    set_text(L, "detail", error->detail);
    set_text(L, "hint", error->hint);
    set_text(L, "constraint", error->constraint);
    set_text(L, "table", error->table);
    set_text(L, "column", error->column);
    if (error->status) set_status(L, error->status);
    set_statement(L, query);
    return 2;
}

int fl_db_error_push_given_up(lua_State *L, const fl_query *query, const char *reason)
{
    bool late = strcmp(reason, "timeout") == 0;
    lua_pushboolean(L, 0);
    push_error(L, late ? "timeout" : "cancelled", words_of(reason));
    if (late) set_status(L, 503);
    set_statement(L, query);
    return 2;
}

void fl_db_error_open(lua_State *L)
{
    luaL_newmetatable(L, METATABLE);
    lua_pushliteral(L, METATABLE);
    lua_setfield(L, -2, "__name");
    lua_newtable(L);
    lua_setfield(L, -2, "__index");
}
