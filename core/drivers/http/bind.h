/* bind: what the Lua modules fasterlua.http and fasterlua.mail need of C. */
#ifndef FL_HTTP_BIND_H
#define FL_HTTP_BIND_H

#include <lua.h>

int fl_http_module(lua_State *L); /* pushes the table of functions  [-0, +1, e] */

#endif
