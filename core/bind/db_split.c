#include "bind/db_split.h"

#include <lauxlib.h>
#include <string.h>

#include "sql_split.h"

static fl_sql_dialect check_dialect(lua_State *L, int index)
{
    static const char *const names[] = {"postgres", "sqlite", "mariadb", NULL};
    static const fl_sql_dialect dialects[] = {FL_SQL_POSTGRES, FL_SQL_SQLITE, FL_SQL_MARIADB};
    return dialects[luaL_checkoption(L, index, NULL, names)];
}

static void push_part(lua_State *L, const fl_sql_part *part)
{
    lua_createtable(L, 0, 4);
    lua_pushlstring(L, part->text.data, part->text.size);
    lua_setfield(L, -2, "text");
    lua_pushnumber(L, (lua_Number)part->line);
    lua_setfield(L, -2, "line");
    lua_pushstring(L, part->verb);
    lua_setfield(L, -2, "verb");
    lua_pushboolean(L, part->kind == FL_SQL_SCHEMA);
    lua_setfield(L, -2, "is_schema");
}

static int push_split_problem(lua_State *L, const char *problem, const char *hint, size_t line)
{
    lua_pushnil(L);
    lua_pushfstring(L, "%s%s", problem, hint);
    lua_pushnumber(L, (lua_Number)line);
    return 3;
}

int fl_db_split(lua_State *L)
{
    fl_slice text;
    fl_sql_dialect dialect = check_dialect(L, 1);
    text.data = luaL_checklstring(L, 2, &text.size);
    if (memchr(text.data, '\0', text.size)) return push_split_problem(L, "a NUL byte", "", 1);
    fl_sql_split split;
    fl_sql_part part;
    int status;
    fl_sql_split_init(&split, dialect, text);
    lua_newtable(L);
    for (int i = 1; (status = fl_sql_split_next(&split, &part)) == 1; i++) {
        push_part(L, &part);
        lua_rawseti(L, -2, i);
    }
    if (status == 0) return 1;
    return push_split_problem(L, split.problem, split.hint, split.wrong_line);
}
