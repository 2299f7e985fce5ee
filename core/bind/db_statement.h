/* bind/db_statement: the statement of a call that is being made, looked up by its text, checked,
 * and given its arguments.
 *
 * Stateless. *owning*, from functions called from Lua. `text` is where the text lies on the
 * stack. */
#ifndef FL_BIND_DB_STATEMENT_H
#define FL_BIND_DB_STATEMENT_H

#include <lua.h>

#include "bind/db_place.h"
#include "database.h"

/* An app's statement, with arguments from `first` to `last`.  [-0, +0, e] */
void fl_db_statement_fill(lua_State *L, fl_query *query, fl_call *call, fl_db_place where, int text,
                          int first, int last);

/* A text of the framework's own, which begins or ends a transaction.  [-0, +0, e] */
void fl_db_statement_fill_command(lua_State *L, fl_query *query, fl_db_place where, int text);

/* An app's COPY.  [-0, +0, e] */
void fl_db_statement_fill_copy(lua_State *L, fl_query *query, fl_db_place where, int text);

#endif
