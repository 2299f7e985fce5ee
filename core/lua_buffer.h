/* lua_buffer: the buffer in which a Lua module's C functions build their strings, one per state and
 * reused by all of them.
 *
 * Owner: the closures that have it as first upvalue; closed with the last of them. The thread of
 * L. */
#ifndef FL_LUA_BUFFER_H
#define FL_LUA_BUFFER_H

#include <lua.h>

#include "buffer.h"

/* Pushes one, to become the first upvalue of functions.  [-0, +1, m] */
void fl_lua_buffer_new(lua_State *L);

/* The running function's, emptied.  [-0, +0, -] */
fl_buffer *fl_lua_buffer_take(lua_State *L);

/* Pushes what is in it as a string and gives much memory back. Returns 1, the number of results;
 * raises "not enough memory" when the buffer failed.  [-0, +1, e] */
int fl_lua_buffer_push(lua_State *L, fl_buffer *buffer);

#endif
