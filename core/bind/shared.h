/* bind/shared: dictionaries that all states share: Lua module "fasterlua.core.shared", which
 * lua/fasterlua/shared.lua completes.
 *
 * Its functions are pure in the sense of claim.h: they touch nothing of the thread's. They lie in
 * the server's segment; a state without a server (`fasterlua routes`, `fasterlua run`) has a
 * segment of its own. */
#ifndef FL_BIND_SHARED_H
#define FL_BIND_SHARED_H

#include <lua.h>

int fl_shared_module(lua_State *L);

#endif
