/* driver: what speaks to a database or to another server, in a shared object beside the program,
 * loaded at its first use: so the program runs without the libraries of drivers that nobody uses.
 *
 * A driver NAME is made of core/drivers/NAME/, and is NAME.so in `drivers` beside the program or in
 * ../lib/fasterlua. It exports fl_driver_open, a Lua function of no arguments that returns what the
 * Lua module of that driver needs. What is loaded stays. */
#ifndef FL_DRIVER_H
#define FL_DRIVER_H

#include <lua.h>

int fl_driver_open(lua_State *L); /* each driver's own */

/* Lua module "fasterlua.core.driver": load(name) -> what fl_driver_open returned; raises a message
 * that names the missing package. */
int fl_driver_module(lua_State *L);

#endif
