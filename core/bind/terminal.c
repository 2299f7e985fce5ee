#include "bind/terminal.h"

#include <errno.h>
#include <lauxlib.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>
#include <uv.h>

#include "slice.h"
#include "state.h"

#define METATABLE "fasterlua.core.terminal"

/* The alternate screen, no cursor, no wrapping of long lines; and the way back. */
static const char enter[] = "\033[?1049h\033[?25l\033[?7l\033[2J";
static const char leave[] = "\033[?7h\033[?25h\033[?1049l";

typedef struct terminal {
    bool is_open, has_keys; /* has_keys: stdin is a terminal */
    struct termios before;
    sigset_t mask_before;
    int signals;
} terminal;

/* A terminal that has gone takes nothing, which is all right. */
static void put(fl_slice text)
{
    while (text.size > 0) {
        ssize_t size = write(STDOUT_FILENO, text.data, text.size);
        if (size < 0 && errno == EINTR) continue;
        struct pollfd poller = {.fd = STDOUT_FILENO, .events = POLLOUT};
        if (size < 0 && (errno != EAGAIN || poll(&poller, 1, 1000) <= 0)) return;
        text.data += size > 0 ? size : 0;
        text.size -= size > 0 ? (size_t)size : 0;
    }
}

/* Keys come one by one, unseen; Ctrl-C as well. */
static void take_keys(const terminal *self)
{
    struct termios raw = self->before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    if (self->has_keys) (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw);
}

static int open_signals(terminal *self)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) sigaddset(&set, numbers[i]);
    self->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (self->signals < 0) return -errno;
    (void)sigprocmask(SIG_BLOCK, &set, &self->mask_before);
    return 0;
}

static void close_terminal(terminal *self)
{
    if (!self->is_open) return;
    self->is_open = false;
    put(FL_SLICE(leave));
    if (self->has_keys) (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &self->before);
    (void)close(self->signals);
    (void)sigprocmask(SIG_SETMASK, &self->mask_before, NULL);
}

static terminal *check_terminal(lua_State *L)
{
    terminal *self = luaL_checkudata(L, 1, METATABLE);
    luaL_argcheck(L, self->is_open, 1, "the terminal is closed");
    return self;
}

/* open() -> terminal, or nil, message; until it is closed the screen is its own   [-0, +n, e] */
static int terminal_open(lua_State *L)
{
    terminal *self = lua_newuserdata(L, sizeof(*self));
    *self = (terminal){0};
    luaL_getmetatable(L, METATABLE);
    lua_setmetatable(L, -2);
    int status = open_signals(self);
    if (status < 0) {
        lua_pushnil(L);
        lua_pushstring(L, uv_strerror(status));
        return 2;
    }
    self->is_open = true;
    self->has_keys = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &self->before) == 0;
    take_keys(self);
    put(FL_SLICE(enter));
    return 1;
}

/* terminal:close(): as it was before; may be called again   [-0, +0, e] */
static int terminal_close(lua_State *L)
{
    close_terminal(luaL_checkudata(L, 1, METATABLE));
    return 0;
}

/* terminal:write(text)   [-0, +0, e] */
static int terminal_write(lua_State *L)
{
    size_t size;
    (void)check_terminal(L);
    const char *text = luaL_checklstring(L, 2, &size);
    put(fl_slice_of(text, size));
    return 0;
}

/* terminal:size() -> columns, rows   [-0, +2, e] */
static int terminal_size(lua_State *L)
{
    struct winsize size = {0};
    (void)check_terminal(L);
    (void)ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    lua_pushinteger(L, size.ws_col ? size.ws_col : 80);
    lua_pushinteger(L, size.ws_row ? size.ws_row : 24);
    return 2;
}

static const char *read_signal(const terminal *self)
{
    struct signalfd_siginfo signal;
    if (read(self->signals, &signal, sizeof(signal)) != sizeof(signal)) return "nothing";
    if (signal.ssi_signo == SIGCONT) take_keys(self);
    return signal.ssi_signo == SIGWINCH || signal.ssi_signo == SIGCONT ? "resize" : "quit";
}

/* Ctrl-C, Ctrl-D and the end of the input are the wish to leave. */
static int push_key(lua_State *L)
{
    char key;
    ssize_t size = read(STDIN_FILENO, &key, 1);
    if (size <= 0 || key == 3 || key == 4) {
        lua_pushliteral(L, "quit");
        return 1;
    }
    lua_pushliteral(L, "key");
    lua_pushlstring(L, &key, 1);
    return 2;
}

/* terminal:wait(seconds) -> "nothing" | "resize" | "quit" | "key", key   [-0, +n, e] */
static int terminal_wait(lua_State *L)
{
    const terminal *self = check_terminal(L);
    double seconds = luaL_checknumber(L, 2);
    luaL_argcheck(L, seconds >= 0 && seconds < 1e6, 2, "expected a time in seconds");
    struct pollfd pollers[] = {{.fd = self->signals, .events = POLLIN},
                               {.fd = self->has_keys ? STDIN_FILENO : -1, .events = POLLIN}};
    int ready = poll(pollers, 2, (int)(seconds * 1000));
    if (ready > 0 && pollers[1].revents) return push_key(L);
    lua_pushstring(L, ready > 0 ? read_signal(self) : "nothing");
    return 1;
}

/* is_terminal() -> boolean: does stdout go to one?   [-0, +1, -] */
static int terminal_is_terminal(lua_State *L)
{
    lua_pushboolean(L, isatty(STDOUT_FILENO));
    return 1;
}

/* now() -> seconds of a clock that never jumps   [-0, +1, -] */
static int terminal_now(lua_State *L)
{
    lua_pushnumber(L, (double)uv_hrtime() / 1e9);
    return 1;
}

/* sleep(seconds)   [-0, +0, e] */
static int terminal_sleep(lua_State *L)
{
    double seconds = luaL_checknumber(L, 1);
    luaL_argcheck(L, seconds >= 0 && seconds < 1e6, 1, "expected a time in seconds");
    uv_sleep((unsigned)(seconds * 1000));
    return 0;
}

int fl_terminal_module(lua_State *L)
{
    static const luaL_Reg methods[] = {{"close", terminal_close}, {"__gc", terminal_close},
                                       {"write", terminal_write}, {"size", terminal_size},
                                       {"wait", terminal_wait},   {NULL, NULL}};
    static const luaL_Reg functions[] = {{"open", terminal_open},
                                         {"is_terminal", terminal_is_terminal},
                                         {"now", terminal_now},
                                         {"sleep", terminal_sleep},
                                         {NULL, NULL}};
    luaL_newmetatable(L, METATABLE);
    fl_state_functions(L, methods);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    lua_newtable(L);
    fl_state_functions(L, functions);
    return 1;
}
