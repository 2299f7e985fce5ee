/* pool: the Lua module "fasterlua.core.pool": jobs for pools, as ops.
 *
 * open(options) -> number, default(name) -> number, run(number, kind, fn, …) -> op | nil, error,
 * stats(number) -> table, close(number), here() -> name of the pool that this state belongs to */
#ifndef FL_BIND_POOL_H
#define FL_BIND_POOL_H

#include <lua.h>

int fl_pool_module(lua_State *L);

#endif
