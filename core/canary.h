/* canary: refuses a LuaJIT whose compiler computes wrong results.
 *
 * Debian 12's libluajit-5.1 is one, and it shares its soname with the good libluajit2-5.1, so that
 * what was linked against may not be what is loaded. Takes milliseconds. *boot* */
#ifndef FL_CANARY_H
#define FL_CANARY_H

#include <lua.h>

/* Needs the standard library open. Returns 0, or UV_ENOTSUP with `why` naming the package to
 * install (static text), or UV_ENOMEM.   [-0, +0, m] */
int fl_canary_check(lua_State *L, const char **why);

/* Runs a canary's source: 0 when it returns true, UV_ENOTSUP when not.   [-0, +0, m] */
int fl_canary_run(lua_State *L, const char *source);

#endif
