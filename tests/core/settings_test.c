#include "settings.h"
#include "test.h"

#include <lauxlib.h>
#include <lualib.h>
#include <uv.h>

/* Leaves the values of conf/default.lua on the stack, merged as at a start, and changed by
 * `change`: Lua that finds them in `values`. */
static lua_State *merged(const char *change)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    bool is_made = luaL_dostring(L, "package.path = 'lua/?.lua;' .. package.path\n"
                                    "local settings = require 'fasterlua.settings'\n"
                                    "local input = { home = '.', environment = {}, flags = {} }\n"
                                    "values = settings.merge(input).values\n"
                                    "values.home = '.'\n") == 0 &&
                   luaL_dostring(L, change) == 0;
    if (!is_made) printf("# %s\n", lua_tostring(L, -1));
    lua_settop(L, 0);
    lua_getglobal(L, "values");
    return L;
}

TEST(the_defaults_are_read_in_our_units)
{
    lua_State *L = merged("");
    fl_settings settings;
    CHECK_EQUAL_INT(fl_settings_read(&settings, L, -1), 0);
    CHECK_EQUAL_INT(lua_gettop(L), 1);
    lua_close(L);
    CHECK(strcmp(settings.host, "127.0.0.1") == 0);
    CHECK(strcmp(settings.home, ".") == 0);
    CHECK_EQUAL_INT(settings.port, 8000);
    CHECK_EQUAL_INT(settings.fd, -1);
    CHECK_EQUAL_INT(settings.max_body, 1 << 20);
    CHECK_EQUAL_INT(settings.slow_handler, 50000000);
    CHECK_EQUAL_INT(settings.keep_alive, 60000000000);
    CHECK(settings.access_log && !settings.proxy_headers);
    CHECK_EQUAL_INT(settings.app_count, 0);
    fl_settings_close(&settings);
}

TEST(the_apps_are_read)
{
    lua_State *L =
        merged("values.apps = {\n"
               "  { name = 'all', prefix = '', file = 'a/app.lua', folder = 'a' },\n"
               "  { name = 'shop', prefix = '/s', file = 'a/s/app.lua', folder = 'a/s' },\n"
               "}");
    fl_settings settings;
    CHECK_EQUAL_INT(fl_settings_read(&settings, L, -1), 0);
    lua_close(L);
    CHECK_EQUAL_INT(settings.app_count, 2);
    CHECK(strcmp(settings.apps[0].prefix, "") == 0);
    CHECK(strcmp(settings.apps[1].name, "shop") == 0);
    CHECK(strcmp(settings.apps[1].file, "a/s/app.lua") == 0);
    CHECK(strcmp(settings.apps[1].folder, "a/s") == 0);
    fl_settings_close(&settings);
}

/* The struct and conf/default.lua name the same keys; `mounts` ends in `apps`. */
TEST(every_default_has_a_member_and_every_member_a_default)
{
    lua_State *L = merged("values.home, values.mounts = nil, nil");
    size_t members = 0, defaults = 0;
    for (const char *name; (name = fl_settings_name(members)); members++) {
        lua_getfield(L, 1, name);
        if (lua_isnil(L, -1)) printf("# conf/default.lua does not name %s\n", name);
        CHECK(!lua_isnil(L, -1));
        lua_pop(L, 1);
    }
    for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) defaults++;
    CHECK_EQUAL_INT(defaults, members);
    lua_close(L);
}

static bool refuses(const char *change, const char *expected)
{
    lua_State *L = merged(change);
    fl_settings settings;
    bool is_refused = fl_settings_read(&settings, L, -1) == UV_EINVAL && lua_gettop(L) == 2 &&
                      strcmp(lua_tostring(L, -1), expected) == 0;
    if (!is_refused) printf("# got %s\n", lua_tostring(L, -1));
    lua_close(L);
    return is_refused && !settings.home && !settings.host && !settings.apps;
}

TEST(a_wrong_value_is_refused_with_its_name)
{
    CHECK(refuses("values.port = nil", "setting \"port\": expected an integer from 0, got nil"));
    CHECK(refuses("values.port = -1", "setting \"port\": expected an integer from 0, got number"));
    CHECK(refuses("values.fd = 1.5", "setting \"fd\": expected an integer, got number"));
    CHECK(refuses("values.host = 5", "setting \"host\": expected a string, got number"));
    CHECK(refuses("values.host = 'a\\0b'",
                  "setting \"host\": expected a string without NUL, got string"));
    CHECK(
        refuses("values.drain = 0/0", "setting \"drain\": expected a time in seconds, got number"));
    CHECK(refuses("values.drain = '1s'",
                  "setting \"drain\": expected a time in seconds, got string"));
    CHECK(
        refuses("values.access_log = 1", "setting \"access_log\": expected a boolean, got number"));
    CHECK(refuses("values.apps = 1", "setting \"apps\": expected a list, got number"));
    CHECK(
        refuses("values.apps = { 1 }", "setting \"apps\": expected a list of tables, got number"));
    CHECK(refuses("values.apps = { { name = 'a' } }",
                  "setting \"prefix\": expected a string, got nil"));
}

TEST_MAIN
