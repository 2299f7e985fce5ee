#include <pthread.h>

#include <mysql.h>

#include "driver.h"
#include "mariadb.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void begin(void)
{
    (void)mysql_server_init(0, NULL, NULL);
}

/* fl_driver_open() -> lightuserdata: the fl_db_driver   [-0, +1, -] */
int fl_driver_open(lua_State *L)
{
    (void)pthread_once(&once, begin); /* the library guards nothing itself */
    lua_pushlightuserdata(L, (void *)(uintptr_t)&fl_mariadb_driver);
    return 1;
}
