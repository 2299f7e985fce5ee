/* modules: the Lua source files that the process has compiled, as bytecode by path: each is read
 * once, and every state that comes later gets the same version of it, whatever has become of the
 * file. New code comes with a new process.
 *
 * Owner: the server, from before its threads start until after they have ended. Everything here may
 * be called by *any* thread, each with its own state. What is kept never changes and never goes;
 * beyond FL_MODULES_MOST names or FL_MODULES_BYTES a file is compiled by each state for itself.
 *
 * Only text is compiled. A file that does not compile is not kept, nor is one that is missing: it
 * is loaded as if there was no cache, for its message. */
#ifndef FL_MODULES_H
#define FL_MODULES_H

#include <stddef.h>
#include <stdint.h>

#include <lua.h>

#define FL_MODULES_MOST 10000
#define FL_MODULES_BYTES (64u << 20)

typedef struct fl_modules fl_modules;

typedef struct fl_modules_counts {
    uint64_t compiled, hits; /* files; loads that found theirs compiled */
    size_t names, bytes;     /* what is kept: paths, names under which one is required; bytecode */
} fl_modules_counts;

/* *boot*. 0 or UV_ENOMEM. */
int fl_modules_new(fl_modules **modules);
void fl_modules_free(fl_modules *modules);

/* Pushes the file as a function and returns 0, or a message and a status, as luaL_loadfile.
 * [-0, +1, m] */
int fl_modules_load(fl_modules *modules, lua_State *L, const char *path);

/* Makes `require` find modules written in Lua here: replaces the searcher of package.path, whose
 * messages stay. The state must end before `modules`.  [-0, +0, e] */
void fl_modules_install(fl_modules *modules, lua_State *L);

fl_modules_counts fl_modules_count(fl_modules *modules);

#endif
