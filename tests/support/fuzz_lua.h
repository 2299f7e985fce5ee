/* fuzz_lua: the Lua state of a fuzzer, which serves all its inputs.
 *
 *     static lua_State *L;
 *     if (!L) L = fuzz_lua_new();
 *     …
 *     fuzz_lua_collect(L);
 */
#ifndef FL_FUZZ_LUA_H
#define FL_FUZZ_LUA_H

#include <lauxlib.h>
#include <lualib.h>
#include <sanitizer/lsan_interface.h>

#include "fuzz.h"
#include "json.h"

#define FUZZ_COLLECT_EVERY 256 /* inputs */

/* The C library's, so that a sanitizer sees what the state's memory refers to. The state's own
 * blocks refer to each other by tagged pointers, which LeakSanitizer does not follow: they count as
 * in use, and what they refer to plainly does, too. */
static inline void *fuzz_lua_allocate(void *data, void *block, size_t old_size, size_t size)
{
    (void)data;
    (void)old_size;
    __lsan_disable();
    void *result = size ? realloc(block, size) : NULL;
    __lsan_enable();
    if (size == 0) free(block);
    return result;
}

/* With the standard libraries and JSON. */
static inline lua_State *fuzz_lua_new(void)
{
    lua_State *L = lua_newstate(fuzz_lua_allocate, NULL);
    demand(L != NULL);
    luaL_openlibs(L);
    fl_json_open(L);
    return L;
}

/* Once for each input: now and then, so that a run's memory stays flat. */
static inline void fuzz_lua_collect(lua_State *L)
{
    static unsigned inputs;
    if (++inputs % FUZZ_COLLECT_EVERY == 0) lua_gc(L, LUA_GCCOLLECT, 0);
}

#endif
