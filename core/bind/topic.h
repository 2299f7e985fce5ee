/* bind/topic: topics, whose messages are waited for as ops: Lua module "fasterlua.core.topic",
 * which lua/fasterlua/topic.lua completes.
 *
 * In a state without a server (`fasterlua routes`, `fasterlua run`) topics have no subscribers. */
#ifndef FL_BIND_TOPIC_H
#define FL_BIND_TOPIC_H

#include <lua.h>

int fl_topic_module(lua_State *L);

#endif
