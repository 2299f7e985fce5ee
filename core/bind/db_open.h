/* bind/db_open: opening a database: its driver is asked, its settings are copied from Lua's.
 *
 * Owner of what is made: the state, until it ends. *owning*, from functions called from Lua. */
#ifndef FL_BIND_DB_OPEN_H
#define FL_BIND_DB_OPEN_H

#include <lua.h>

/* open(driver, settings) -> handle: settings has the members of fl_db by name, all numbers, and
 * `options`, all texts   [-0, +1, e] */
int fl_db_open(lua_State *L);

#endif
