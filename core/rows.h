/* rows: rows of a database (database.h) as Lua tables: one field per column, NULL is nil. A row's
 * metatable remembers the columns, so that JSON has null for what is nil.
 *
 * Stateless but for the registry, where one metatable is kept for each list of columns (the oldest
 * go when there are too many). The thread of L. */
#ifndef FL_ROWS_H
#define FL_ROWS_H

#include <stdbool.h>

#include <lua.h>

#include "database.h"

#define FL_ROWS_NAMES -1 /* in a row's metatable: column by name, the last one of a name */

void fl_rows_open(lua_State *L); /* once per state  [-0, +0, e] */

/* A marked list of all rows; the first row, or nil; its first value, or nil.  [-0, +1, e] */
void fl_rows_push(lua_State *L, const fl_rows *rows);
void fl_rows_push_first(lua_State *L, const fl_rows *rows);
void fl_rows_push_value(lua_State *L, const fl_rows *rows);

/* Whether the metatable on top is a row's: then [i] is the name of column i from 1, and
 * [FL_ROWS_NAMES] has a field for each.  [-0, +0, -] */
bool fl_rows_is_metatable(lua_State *L);

#endif
