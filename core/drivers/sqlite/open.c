#include "driver.h"
#include "sqlite_driver.h"

/* fl_driver_open() -> lightuserdata of an fl_db_driver   [-0, +1, -] */
int fl_driver_open(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)&fl_sqlite_driver);
    return 1;
}
