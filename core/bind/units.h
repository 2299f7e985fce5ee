/* bind/units: times and sizes as people write them, for functions that Lua calls.
 *
 * Stateless; lua/fasterlua/units.lua reads the texts. Called before the claim is taken. */
#ifndef FL_BIND_UNITS_H
#define FL_BIND_UNITS_H

#include <lua.h>

/* A number, or what a text such as "500ms" or "64KB" means; NAN when it is neither.
 * [-0, +0, e] */
lua_Number fl_units_seconds(lua_State *L, int index);
lua_Number fl_units_bytes(lua_State *L, int index);

#endif
