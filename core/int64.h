/* int64: LuaJIT's 64-bit integers (cdata), which its C API neither makes nor reads.
 *
 * Stateless; the thread of L. */
#ifndef FL_INT64_H
#define FL_INT64_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#define FL_LUA_TCDATA 10 /* LuaJIT's own type, which no header names */

/* Keeps the types in the registry. Once per state, before app code runs, after Lua's libraries were
 * opened: it requires `ffi`, which may be hidden afterwards.  [-0, +0, e] */
void fl_int64_open(lua_State *L);

/* Pushes int64 cdata.  [-0, +1, m] */
void fl_int64_push(lua_State *L, int64_t number);

/* The int64 or uint64 on top of the stack as sign and magnitude; false for any other cdata. Needs
 * room for 4 more values.  [-0, +0, m] */
bool fl_int64_read(lua_State *L, uint64_t *magnitude, bool *negative);

/* For who keeps the two types apart: their 64 bits as they are. Pushes uint64 or int64 cdata.
 * [-0, +1, m] */
void fl_int64_push_bits(lua_State *L, uint64_t bits, bool is_unsigned);

/* The reverse, of what is on top of the stack; as fl_int64_read.  [-0, +0, m] */
bool fl_int64_read_bits(lua_State *L, uint64_t *bits, bool *is_unsigned);

#endif
