/* bind/terminal: the whole screen and single keys, for commands: Lua module
 * "fasterlua.core.terminal". Of the boot state: it blocks signals of the process while it is open.
 */
#ifndef FL_BIND_TERMINAL_H
#define FL_BIND_TERMINAL_H

#include <lua.h>

int fl_terminal_module(lua_State *L);

#endif
