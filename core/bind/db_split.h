/* bind/db_split: texts of many statements (sql_split.h) for Lua.
 *
 * Stateless. The thread of L; pure. */
#ifndef FL_BIND_DB_SPLIT_H
#define FL_BIND_DB_SPLIT_H

#include <lua.h>

/* split(dialect, text) -> list of { text, line, verb, is_schema } | nil, problem, line
 * [-0, +1|3, e] */
int fl_db_split(lua_State *L);

#endif
