#include "bind/console.h"

#include <lauxlib.h>
#include <uv.h>

#include "../console.h"
#include "server.h"
#include "settings.h"
#include "state.h"

#define WHY_SIZE 512

/* What the function returned is pushed; what went wrong is, as one text.  [-0, +n, e] */
static bool push_outcome(lua_State *L, const fl_console *console)
{
    switch (console->outcome) {
    case FL_JOB_RETURNED: return fl_parcel_unpack(&console->result, L) >= 0;
    case FL_JOB_RAISED: /* the error value and a traceback */
        if (fl_parcel_unpack(&console->result, L) < 0) return false;
        if (lua_istable(L, -2)) {
            lua_getfield(L, -2, "message");
            lua_replace(L, -3);
        }
        lua_pushfstring(L, "%s\n%s", luaL_optstring(L, -2, "an error that is no text"),
                        luaL_optstring(L, -1, ""));
        return false;
    case FL_JOB_OUT_OF_MEMORY: lua_pushliteral(L, "not enough memory: see lua_memory"); break;
    case FL_JOB_TIMED_OUT:
    case FL_JOB_CANCELLED:
    case FL_JOB_EXHAUSTED: lua_pushliteral(L, "it was cancelled"); break;
    case FL_JOB_LOST: lua_pushstring(L, console->text); break;
    }
    return false;
}

static int pack(lua_State *L, fl_console *console)
{
    int status = fl_parcel_pack_function(&console->call, L, 2, "the function");
    if (status < 0) return status;
    return fl_parcel_pack(&console->call, L, 3, lua_gettop(L) - 2, "argument");
}

static int run(lua_State *L, const fl_settings *settings, fl_console *console)
{
    char why[WHY_SIZE] = "";
    int status = pack(L, console);
    if (status < 0) return status;
    status = fl_server_run_console(settings, console, why, sizeof(why));
    if (status < 0) lua_pushstring(L, why);
    return status;
}

/* run(settings, "module:function", …) -> …: settings as for `serve`; the arguments and results are
 * those that can cross between states; raises texts   [-0, +n, e] */
static int console_run(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checkstring(L, 2);
    fl_settings settings;
    int status = fl_settings_read(&settings, L, 1);
    if (status < 0) return status == UV_EINVAL ? lua_error(L) : luaL_error(L, "not enough memory");
    fl_console console = {.outcome = FL_JOB_LOST};
    fl_parcel_init(&console.call);
    fl_parcel_init(&console.result);
    bool done = run(L, &settings, &console) == 0;
    fl_settings_close(&settings);
    fl_parcel_close(&console.call);
    if (!done) return lua_error(L);
    int top = lua_gettop(L);
    done = push_outcome(L, &console);
    fl_parcel_close(&console.result);
    return done ? lua_gettop(L) - top : lua_error(L);
}

int fl_console_module(lua_State *L)
{
    static const luaL_Reg functions[] = {{"run", console_run}, {NULL, NULL}};
    lua_newtable(L);
    fl_state_functions(L, functions);
    return 1;
}
