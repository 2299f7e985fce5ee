/* bind/db_place: what a query is asked of, as Lua has it: a handle of a database, or of a session
 * of it.
 *
 * Owner: Lua's collector, which gives a forgotten session back; a handle of a database owns nothing
 * (the database is its state's). *loop* of the state's thread, from functions called from Lua. */
#ifndef FL_BIND_DB_PLACE_H
#define FL_BIND_DB_PLACE_H

#include <stdint.h>

#include <lua.h>

#include "database.h"

typedef struct fl_db_place {
    fl_db *db;
    fl_session *session; /* NULL: none */
} fl_db_place;

typedef struct fl_db_handle {
    fl_db *db; /* NULL: opened where there is no server */
} fl_db_handle;

/* Registers the metatables: fields `metatable` and `session` of the table on top.  [-0, +0, e] */
void fl_db_place_open(lua_State *L);

/* Pushes an empty handle.  [-0, +1, e] */
fl_db_handle *fl_db_place_new(lua_State *L);

/* Pushes the handle of a new session of that database, which nobody has acquired yet.
 * [-0, +1, e] */
fl_session *fl_db_place_new_session(lua_State *L, fl_db *db);

/* The argument must be one that can be used.  [-0, +0, e] */
fl_db_place fl_db_place_check(lua_State *L, int index);
void fl_db_place_check_held(lua_State *L, const fl_session *session); /* [-0, +0, e] */

/* The argument: of a call, in ms; 0: none; without one the database's own.  [-0, +0, e] */
uint64_t fl_db_place_timeout(lua_State *L, int index, fl_db_place where);

/* *owning*. Gives the session back whose handle must be there; once.  [-0, +0, e] */
void fl_db_place_release(lua_State *L, int index);

#endif
