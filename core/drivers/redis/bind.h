/* bind: what lua/fasterlua/redis.lua is given: targets, links, and ops for commands and messages.
 *
 * A target or link is userdata; a link's environment table keeps its target, an op's its link. */
#ifndef FL_REDIS_BIND_H
#define FL_REDIS_BIND_H

#include <lua.h>

int fl_redis_module(lua_State *L); /* [-0, +1, e] */

#endif
