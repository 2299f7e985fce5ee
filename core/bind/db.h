/* Lua module "fasterlua.core.db": databases (database.h), for lua/fasterlua/db.lua. */
#ifndef FL_BIND_DB_H
#define FL_BIND_DB_H

#include <lua.h>

int fl_db_module(lua_State *L);

#endif
