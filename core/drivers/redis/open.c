#include "bind.h"
#include "driver.h"

/* fl_driver_open() -> table   [-0, +1, e] */
int fl_driver_open(lua_State *L)
{
    return fl_redis_module(L);
}
