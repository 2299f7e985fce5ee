#include "driver.h"

#include "postgres.h"

/* fl_driver_open() -> lightuserdata   [-0, +1, e] */
int fl_driver_open(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)&fl_pg_driver);
    return 1;
}
