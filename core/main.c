/* fasterlua: from the command line to a running supervisor or server process.
 *
 * One Lua state lives while the command is understood: it checks LuaJIT, merges the settings, runs
 * every command but `serve` (lua/fasterlua/cli.lua) and is gone before anything is served. The
 * supervisor starts server processes with the same arguments, which start those of their pools so;
 * FASTERLUA_SERVER and FASTERLUA_POOL tell them apart.
 *
 * Exit status: 0, 1 failure, 2 wrong usage, 3 failed start. */
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>
#include <lualib.h>
#include <uv.h>

#include "bind/admin_client.h"
#include "bind/console.h"
#include "bind/terminal.h"
#include "canary.h"
#include "control.h"
#include "pool_child.h"
#include "server.h"
#include "settings.h"
#include "state.h"
#include "supervisor.h"
#include "version.h"

#ifndef FL_DATADIR
#define FL_DATADIR "/usr/local/share/fasterlua" /* where `make install` puts lua/ and conf/ */
#endif

enum { EXIT_START_FAILED = 3 };

typedef struct command {
    char **argv;
    bool is_server;      /* a server process: failures are told to the supervisor, */
    bool is_pool;        /* or of a pool: to its server process */
    char home[PATH_MAX]; /* the installation */
    int status;
    bool serves; /* `settings` is filled and to be served */
    fl_settings settings;
} command;

/* A closed descriptor 0, 1 or 2 would be taken by the next file opened, and then be written to. */
static void occupy_standard_descriptors(void)
{
    int fd;
    do fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) (void)close(fd);
}

static bool is_home(const char *folder)
{
    char path[PATH_MAX];
    int size = snprintf(path, sizeof(path), "%s/lua/fasterlua/cli.lua", folder);
    return size > 0 && (size_t)size < sizeof(path) && access(path, R_OK) == 0;
}

/* Tries a folder relative to the executable's. */
static bool try_home(char *home, const char *executable, const char *relative)
{
    char folder[PATH_MAX];
    int size = snprintf(folder, sizeof(folder), "%s/%s", executable, relative);
    if (size < 0 || (size_t)size >= sizeof(folder) || !is_home(folder)) return false;
    return realpath(folder, home) != NULL;
}

/* FASTERLUA_HOME, the source tree around build/ or build/asan/, the installation around bin/. */
static void find_home(char home[PATH_MAX])
{
    const char *named = getenv("FASTERLUA_HOME");
    char executable[PATH_MAX];
    size_t size = sizeof(executable);
    if (named && *named) {
        if (!realpath(named, home)) (void)snprintf(home, PATH_MAX, "%s", named);
        return;
    }
    if (uv_exepath(executable, &size) == 0) {
        char *slash = strrchr(executable, '/');
        if (slash) *slash = '\0';
        if (try_home(home, executable, "..") || try_home(home, executable, "../..") ||
            try_home(home, executable, "../share/fasterlua"))
            return;
    }
    (void)snprintf(home, PATH_MAX, "%s", FL_DATADIR);
}

static void set_search_path(lua_State *L, const char *home)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    lua_pushfstring(L, "%s/lua/?.lua;%s/lua/?/init.lua;%s", home, home, lua_tostring(L, -1));
    lua_setfield(L, -3, "path");
    lua_pop(L, 2);
}

/* What waits without a loop: for commands alone. */
static void preload_commands_own(lua_State *L)
{
    static const luaL_Reg modules[] = {{"fasterlua.core.admin_client", fl_admin_client_module},
                                       {"fasterlua.core.console", fl_console_module},
                                       {"fasterlua.core.terminal", fl_terminal_module},
                                       {NULL, NULL}};
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    fl_state_functions(L, modules);
    lua_pop(L, 2);
}

static void push_arguments(lua_State *L, char **argv)
{
    lua_newtable(L);
    for (int i = 1; argv[0] && argv[i]; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
}

static void push_host(lua_State *L, const command *self)
{
    lua_newtable(L);
    lua_pushstring(L, self->home);
    lua_setfield(L, -2, "home");
    lua_pushliteral(L, FL_VERSION);
    lua_setfield(L, -2, "version");
    lua_pushfstring(L, "%s, libuv %s", LUAJIT_VERSION, uv_version_string());
    lua_setfield(L, -2, "libraries");
    lua_pushboolean(L, self->is_server || self->is_pool);
    lua_setfield(L, -2, "is_server");
}

/* Pushes what lua/fasterlua/cli.lua returns: status, settings or nil, message or nil. */
static void call_cli(lua_State *L, const command *self)
{
    set_search_path(L, self->home);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "fasterlua.cli");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "main");
    push_arguments(L, self->argv);
    push_host(L, self);
    lua_call(L, 2, 3);
}

/* Runs protected, with the command as its argument; returns a message or nil, and raises what
 * should not happen. */
static int run_command(lua_State *L)
{
    command *self = lua_touserdata(L, 1);
    const char *why;
    luaL_openlibs(L);
    if (fl_canary_check(L, &why) != 0) {
        self->status = EXIT_START_FAILED;
        lua_pushstring(L, why);
        return 1;
    }
    fl_state_preload(L);
    preload_commands_own(L);
    call_cli(L, self);
    self->status = (int)lua_tointeger(L, -3);
    if (!lua_istable(L, -2)) return 1;
    int error = fl_settings_read(&self->settings, L, -2);
    self->serves = error == 0;
    if (error == UV_EINVAL) return lua_error(L);
    return error == 0 ? 0 : luaL_error(L, "%s", uv_strerror(error));
}

static int add_traceback(lua_State *L)
{
    const char *message = lua_tostring(L, 1);
    luaL_traceback(L, L, message ? message : "(error object is no string)", 1);
    return 1;
}

/* To the supervisor, which logs it, or to the user. */
static void tell(const command *self, const char *message)
{
    if (self->is_pool) {
        fl_pool_child_fail(message);
        return;
    }
    bool is_told =
        self->is_server && fl_control_send(FL_CONTROL_FD, FL_CONTROL_FAILED, message, NULL, 0) == 0;
    if (!is_told) (void)fprintf(stderr, "fasterlua: %s\n", message);
}

static void execute(command *self, lua_State *L)
{
    lua_pushcfunction(L, add_traceback);
    lua_pushcfunction(L, run_command);
    lua_pushlightuserdata(L, self);
    if (lua_pcall(L, 1, 1, -3) != 0) self->status = EXIT_START_FAILED;
    const char *message = lua_tostring(L, -1);
    if (message) tell(self, message);
    lua_settop(L, 0);
}

static int fail(command *self, const char *message, const char *detail)
{
    char text[FL_CONTROL_TEXT];
    (void)snprintf(text, sizeof(text), "%s%.3000s", message, detail);
    self->status = EXIT_START_FAILED;
    tell(self, text);
    return self->status;
}

static int understand(command *self)
{
    find_home(self->home);
    if (!is_home(self->home))
        return fail(self, "FASTERLUA_HOME should name the installation; no lua/fasterlua in ",
                    self->home);
    lua_State *L = luaL_newstate();
    if (!L) return fail(self, uv_strerror(UV_ENOMEM), "");
    execute(self, L);
    lua_close(L);
    return self->status;
}

static void warn_about_root(const fl_settings *settings)
{
    if (geteuid() != 0 || settings->user[0] != '\0') return;
    (void)fputs("fasterlua: warning: serving as root; --user NAME gives root up after binding\n",
                stderr);
}

static int serve(const command *self)
{
    if (self->is_pool) return fl_server_run_pool(&self->settings);
    if (self->is_server) return fl_server_run(&self->settings, self->argv);
    warn_about_root(&self->settings);
    return fl_supervisor_run(&self->settings, self->argv, FL_SUPERVISOR_RETRY);
}

int main(int argc, char **argv)
{
    (void)argc;
    command self = {.argv = argv,
                    .is_server = getenv("FASTERLUA_SERVER") != NULL,
                    .is_pool = getenv("FASTERLUA_POOL") != NULL};
    if (self.is_pool) fl_pool_child_begin();
    occupy_standard_descriptors();
    int status = understand(&self);
    if (!self.serves) return status;
    status = serve(&self);
    fl_settings_close(&self.settings);
    return status;
}
