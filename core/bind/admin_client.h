/* bind/admin_client: a client of the admin listener, for commands: Lua module
 * "fasterlua.core.admin_client". It waits without a loop, so that only the boot state has it. */
#ifndef FL_BIND_ADMIN_CLIENT_H
#define FL_BIND_ADMIN_CLIENT_H

#include <lua.h>

int fl_admin_client_module(lua_State *L);

#endif
