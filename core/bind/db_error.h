/* bind/db_error: errors of databases for Lua: tables of kind "db", raised or what an op ends with.
 *
 * Stateless. The thread of L. */
#ifndef FL_BIND_DB_ERROR_H
#define FL_BIND_DB_ERROR_H

#include <lua.h>

#include "database.h"

#define FL_DB_SQL_SHOWN 300 /* bytes of a statement in errors and logs */

/* Raises one. Its message lies on top; the statement, if there is one, at `sql`.  [-1, +0, e] */
int fl_db_error_raise(lua_State *L, const char *code, int sql);
int fl_db_error_raise_text(lua_State *L, const char *code, const char *message); /* [-0, +0, e] */

/* false and the error with which a query ended, or for which nobody waited for its end ("timeout",
 * "cancelled"). Returns 2.  [-0, +2, e] */
int fl_db_error_push(lua_State *L, const fl_query *query);
int fl_db_error_push_given_up(lua_State *L, const fl_query *query, const char *reason);

/* Its metatable, for Lua to add to.  [-0, +1, e] */
void fl_db_error_open(lua_State *L);

#endif
