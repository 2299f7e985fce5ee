/* bind/console: Lua functions that wait, run for commands (console.h): Lua module
 * "fasterlua.core.console". Only the boot state has it. */
#ifndef FL_BIND_CONSOLE_H
#define FL_BIND_CONSOLE_H

#include <lua.h>

int fl_console_module(lua_State *L);

#endif
