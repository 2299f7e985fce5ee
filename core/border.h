/* border: what one Lua state keeps for the parcels that it sends and receives.
 *
 * Owner: the Lua state; the state's thread. */
#ifndef FL_BORDER_H
#define FL_BORDER_H

#include <lua.h>

#include "functions.h"
#include "names.h"

typedef struct fl_border {
    fl_names names;
    fl_functions functions;
} fl_border;

/* Once per state, after fl_json_open, when nothing but the standard library is loaded: what is
 * there now is what a name in it can mean. The module "fasterlua" and all others are found when
 * they are loaded.  [-0, +0, e] */
void fl_border_open(lua_State *L);

/* Of any coroutine of such a state.  [-0, +0, -] */
fl_border *fl_border_of(lua_State *L);

#endif
