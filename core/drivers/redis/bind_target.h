/* bind_target: targets (target.h) for Lua, which made their settings.
 *
 * Owner: Lua's collector. The thread of L; pure. */
#ifndef FL_REDIS_BIND_TARGET_H
#define FL_REDIS_BIND_TARGET_H

#include <lua.h>

#include "target.h"

void fl_redis_target_open(lua_State *L); /* once per state  [-0, +0, e] */

/* target(fields) -> target: the members of fl_redis_target by name, `tls` a boolean, `ca` a path
 * or nil   [-0, +1, e] */
int fl_redis_target_new(lua_State *L);
const fl_redis_target *fl_redis_target_check(lua_State *L, int index); /* [-0, +0, e] */

#endif
