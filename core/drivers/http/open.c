#include "driver.h"

#include "bind.h"

/* [-0, +1, e] */
__attribute__((visibility("default"))) int fl_driver_open(lua_State *L)
{
    return fl_http_module(L);
}
