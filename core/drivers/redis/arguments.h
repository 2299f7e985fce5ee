/* arguments: a command in Lua, and as the bytes that a server reads.
 *
 * Stateless; the thread of L. */
#ifndef FL_REDIS_ARGUMENTS_H
#define FL_REDIS_ARGUMENTS_H

#include <lua.h>
#include <stddef.h>

#include "slice.h"

/* Checks the command's words from `first` to the top, the name first, and makes strings of them in
 * their place: strings stay, integers are exact, int64 too. Raises what names a word that is
 * something else. Returns how many bytes they are as a command.  [-0, +0, e] */
size_t fl_redis_arguments_check(lua_State *L, int first);
/* Writes so many bytes.  [-0, +0, -] */
void fl_redis_arguments_write(lua_State *L, int first, char *to);

/* The name of the command that these bytes begin with; `*next`: the one behind it. They were
 * written by fl_redis_arguments_write. */
fl_slice fl_redis_arguments_name(const char *bytes, const char **next);

#endif
