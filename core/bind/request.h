/* bind/request: what handlers see of a request. The table that a handler gets holds a handle in [1]
 * and the path parameters; its metatable fetches every other field from C when it is first asked
 * for, and keeps it. Fields are *pure*: they read the request's immutable bytes. */
#ifndef FL_BIND_REQUEST_H
#define FL_BIND_REQUEST_H

#include <lua.h>

/* Lua module "fasterlua.core.request": `methods`, the table of req:… functions for Lua to add to,
 * and the primitives beneath them. */
int fl_request_module(lua_State *L);

#endif
