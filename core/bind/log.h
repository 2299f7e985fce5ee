/* bind/log: what Lua logs: Lua module "fasterlua.core.log". Lines carry the current request's id.
 */
#ifndef FL_BIND_LOG_H
#define FL_BIND_LOG_H

#include <lua.h>

int fl_log_module(lua_State *L);

#endif
