#include "driver.h"

#include <dlfcn.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "state.h"

/* {"postgres", "libpq5"}, …: the packages of the libraries that this build's drivers stand on. */
#ifndef FL_DRIVER_PACKAGES
#define FL_DRIVER_PACKAGES
#endif

static const char *const packages[][2] = {FL_DRIVER_PACKAGES{NULL, NULL}};

typedef struct known_driver {
    const char *name, *development;
} known_driver;

static const known_driver known[] = {{"postgres", "libpq-dev"},
                                     {"sqlite", "libsqlite3-dev"},
                                     {"mariadb", "libmariadb-dev"},
                                     {"redis", "libhiredis-dev"},
                                     {"http", "libcurl4-openssl-dev"}};

static const known_driver *find_known(const char *name)
{
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (strcmp(known[i].name, name) == 0) return &known[i];
    return NULL;
}

static bool is_there(char path[PATH_MAX], const char *folder, const char *relative,
                     const char *name)
{
    int size = snprintf(path, PATH_MAX, "%s/%s/%s.so", folder, relative, name);
    return size > 0 && size < PATH_MAX && access(path, R_OK) == 0;
}

static bool find_object(char path[PATH_MAX], const char *name)
{
    char folder[PATH_MAX];
    size_t size = sizeof(folder);
    if (uv_exepath(folder, &size) < 0) return false;
    char *slash = strrchr(folder, '/');
    if (slash) *slash = '\0';
    return is_there(path, folder, "drivers", name) ||
           is_there(path, folder, "../lib/fasterlua", name);
}

/* The package that a driver's library is in; else the one that depends on it. */
static const char *package_of(const known_driver *driver)
{
    for (size_t i = 0; packages[i][0]; i++)
        if (strcmp(packages[i][0], driver->name) == 0 && *packages[i][1]) return packages[i][1];
    return driver->development;
}

/* load(name) -> any   [-0, +1, e] */
static int load(lua_State *L)
{
    const known_driver *driver = find_known(luaL_checkstring(L, 1));
    char path[PATH_MAX];
    if (!driver) return luaL_error(L, "there is no driver \"%s\"", lua_tostring(L, 1));
    if (!find_object(path, driver->name))
        return luaL_error(L, "the driver %s has not been built: install %s and build again",
                          driver->name, driver->development);
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!object)
        return luaL_error(L, "the driver %s needs the package %s: %s", driver->name,
                          package_of(driver), dlerror());
    lua_CFunction open;
    *(void **)&open = dlsym(object, "fl_driver_open");
    if (!open) return luaL_error(L, "%s is no driver of this program", path);
    lua_pushcfunction(L, open);
    lua_call(L, 0, 1);
    return 1;
}

int fl_driver_module(lua_State *L)
{
    static const luaL_Reg functions[] = {{"load", load}, {NULL, NULL}};
    lua_newtable(L);
    fl_state_functions(L, functions);
    return 1;
}
