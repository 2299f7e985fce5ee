/* prototype: the floor with its answers made by LuaJIT, one reused coroutine and a small request
 * table per request. See floor.c. */
#define LUA
#include "floor.c"
