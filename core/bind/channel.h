/* bind/channel: channels, whose puts and takes are ops: Lua module "fasterlua.core.channel", which
 * lua/fasterlua/channel.lua completes.
 *
 * A state without a server (`fasterlua routes`, `fasterlua run`), or in a child process of a pool,
 * can open channels, so that an app loads there, and do nothing else with them. */
#ifndef FL_BIND_CHANNEL_H
#define FL_BIND_CHANNEL_H

#include <lua.h>

int fl_channel_module(lua_State *L);

#endif
