/* bind/db_result: what a query has brought, as Lua's values.
 *
 * Stateless. The thread of L; pure. */
#ifndef FL_BIND_DB_RESULT_H
#define FL_BIND_DB_RESULT_H

#include <lua.h>

#include "op.h"

/* `take` of a query's op (query_op.h): true, value… | false, error   [-0, +n, e] */
int fl_db_result_take(fl_op *op, lua_State *L);

/* Keeps the session on top for the op below it, and pops it; pushes that of an op.
 * [-1, +0, e] [-0, +1, -] */
void fl_db_result_keep_session(lua_State *L);
void fl_db_result_push_session(lua_State *L, int op);

#endif
