#include "state.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>
#include <sys/random.h>

#include "bind/channel.h"
#include "bind/compress.h"
#include "bind/db.h"
#include "bind/digest.h"
#include "bind/exec.h"
#include "bind/fs.h"
#include "bind/log.h"
#include "bind/pool.h"
#include "bind/request.h"
#include "bind/shared.h"
#include "bind/text.h"
#include "bind/topic.h"
#include "border.h"
#include "database.h"
#include "driver.h"
#include "json.h"
#include "modules.h"
#include "pools.h"
#include "profile.h"
#include "response.h"
#include "server.h"
#include "thread.h"
#include "version.h"

#define HIGH_SHARE 6 / 10     /* of the cap: collect beyond it */
#define STACK_MOST (1u << 16) /* bytes of a Lua stack that may always grow */
#define SMALL (1u << 12)
#define RESERVE (1u << 18) /* bytes beyond the cap, for either */
#define LARGE_HEAP (16u << 20)

fl_state *fl_state_of(lua_State *L)
{
    return lua_getexdata(L);
}

void fl_state_functions(lua_State *L, const luaL_Reg *functions)
{
    for (; functions->name; functions++) {
        lua_pushcfunction(L, functions->func);
        lua_setfield(L, -2, functions->name);
    }
}

void fl_state_preload(lua_State *L)
{
    static const luaL_Reg modules[] = {{"fasterlua.core.task", fl_task_module},
                                       {"fasterlua.core.request", fl_request_module},
                                       {"fasterlua.core.response", fl_response_module},
                                       {"fasterlua.core.log", fl_log_module},
                                       {"fasterlua.core.text", fl_text_module},
                                       {"fasterlua.core.fs", fl_fs_module},
                                       {"fasterlua.core.exec", fl_exec_module},
                                       {"fasterlua.core.driver", fl_driver_module},
                                       {"fasterlua.core.db", fl_db_module},
                                       {"fasterlua.core.pool", fl_pool_module},
                                       {"fasterlua.core.shared", fl_shared_module},
                                       {"fasterlua.core.channel", fl_channel_module},
                                       {"fasterlua.core.topic", fl_topic_module},
                                       {"fasterlua.json", fl_json_module},
                                       {"fasterlua.digest", fl_digest_module},
                                       {"fasterlua.compress", fl_compress_module},
                                       {NULL, NULL}};
    const fl_state *state = fl_state_of(L);
    fl_json_open(L);
    if (state) fl_json_limit(L, (size_t)state->thread->settings->json_bytes);
    fl_border_open(L);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    fl_state_functions(L, modules);
    lua_pop(L, 2);
}

/* LuaJIT writes past the end of a Lua stack when it may not grow on entry to a function: what is
 * small and enlarged, as the stacks of most tasks are, may take a little more than the cap. And who
 * has caught the error needs a few small things before the collector has run: they may, too. */
static bool is_beyond_cap(fl_memory *memory, const void *block, size_t size, size_t used)
{
    if (used <= memory->cap) {
        memory->refused = false;
        return false;
    }
    bool is_stack = block && size <= STACK_MOST, is_small = memory->refused && size <= SMALL;
    if ((is_stack || is_small) && used <= memory->cap + RESERVE) return false;
    memory->refused = true;
    return true;
}

/* The account is exact while LuaJIT keeps telling the true old size, which it does. */
static void *counted_allocate(void *data, void *block, size_t old_size, size_t size)
{
    fl_memory *memory = data;
    if (size > old_size) {
        size_t used = memory->used + (size - old_size);
        if (memory->enforced && is_beyond_cap(memory, block, size, used)) return NULL;
        if (used > memory->high) memory->collect = true;
    }
    void *result = memory->allocate(memory->data, block, old_size, size);
    if (result || size == 0) memory->used = memory->used - old_size + size;
    return result;
}

static void count_memory(fl_state *state, size_t cap)
{
    fl_memory *memory = &state->memory;
    memory->allocate = lua_getallocf(state->L, &memory->data);
    memory->used = (size_t)lua_gc(state->L, LUA_GCCOUNT, 0) * 1024;
    memory->cap = cap;
    memory->high = memory->cap * HIGH_SHARE;
    lua_setallocf(state->L, counted_allocate, memory);
    memory->large = true; /* the collector's own default until the first safe point */
}

/* A small heap may grow to several times its live size before a collection begins: that is a few
 * megabytes, and saves most of the collector's work. A large one may not. */
static void tune_collector(fl_state *state)
{
    bool large = state->memory.used > LARGE_HEAP;
    if (large == state->memory.large) return;
    state->memory.large = large;
    lua_gc(state->L, LUA_GCSETPAUSE, large ? 200 : 400);
}

/* Once a millisecond of the loop's clock is enough; what is missed is seen after a later turn. */
static void count_flushes(fl_state *state)
{
    uint64_t now = uv_now(&state->thread->loop);
    if (now == state->jit_asked) return;
    state->jit_asked = now;
    if (fl_jit_has_flushed(&state->jit, state->L))
        fl_metric_add(&state->thread->metrics->jit_flushes, 1);
}

/* Collects at most once until memory has grown again by half: not at every turn when it is full. */
static void collect_high(fl_memory *memory, lua_State *L)
{
    lua_gc(L, LUA_GCCOLLECT, 0);
    memory->collect = false;
    size_t wanted = memory->used + memory->used / 2;
    memory->high = memory->cap * HIGH_SHARE;
    if (memory->high < wanted) memory->high = wanted;
}

void fl_state_safe_point(fl_state *state)
{
    tune_collector(state);
    count_flushes(state);
    if (state->memory.collect) collect_high(&state->memory, state->L);
}

static int traceback(lua_State *L)
{
    const char *message = lua_tostring(L, 1);
    luaL_traceback(L, L, message ? message : "(error object)", 1);
    return 1;
}

static int fail(fl_state *state, char *error, size_t size)
{
    const char *message = lua_tostring(state->L, -1);
    (void)snprintf(error, size, "app \"%s\": %s", state->app->name, message ? message : "?");
    return UV_EINVAL;
}

static void set_paths(lua_State *L, const fl_settings *settings, const fl_app_place *app)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    lua_pushfstring(L,
                    "%s/lua/?.lua;%s/lua/?/init.lua;%s/?.lua;%s/?/init.lua;"
                    "%s/lua_modules/share/lua/5.1/?.lua;%s/lua_modules/share/lua/5.1/?/init.lua;%s",
                    settings->home, settings->home, app->folder, app->folder, app->folder,
                    app->folder, lua_tostring(L, -1));
    lua_setfield(L, -3, "path");
    lua_pop(L, 1);
    lua_getfield(L, -1, "cpath");
    lua_pushfstring(L, "%s/?.so;%s/lua_modules/lib/lua/5.1/?.so;%s", app->folder, app->folder,
                    lua_tostring(L, -1));
    lua_setfield(L, -3, "cpath");
    lua_pop(L, 2);
}

static void set_field(lua_State *L, const char *name, const char *value)
{
    lua_pushstring(L, value);
    lua_setfield(L, -2, name);
}

static int keep_function(lua_State *L, int index, const char *field)
{
    lua_getfield(L, index, field);
    if (lua_isfunction(L, -1)) return luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pop(L, 1);
    return LUA_NOREF;
}

static char *copy_field(lua_State *L, int index, const char *field)
{
    lua_getfield(L, index, field);
    char *copy = strdup(luaL_checkstring(L, -1));
    if (!copy) luaL_error(L, "not enough memory");
    lua_pop(L, 1);
    return copy;
}

static double number_field(lua_State *L, int index, const char *field, double otherwise)
{
    lua_getfield(L, index, field);
    double number = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : otherwise;
    lua_pop(L, 1);
    return number;
}

/* Seconds, or false for never. */
static uint64_t patience_field(lua_State *L, int index, const char *field, uint64_t otherwise)
{
    lua_getfield(L, index, field);
    uint64_t value = otherwise;
    if (lua_isboolean(L, -1)) value = lua_toboolean(L, -1) ? otherwise : 0;
    if (lua_isnumber(L, -1)) value = (uint64_t)(lua_tonumber(L, -1) * 1e9);
    lua_pop(L, 1);
    return value;
}

/* Interned once, so that no request has to: the names between "{" and ":" or "}". */
static void keep_names(lua_State *L, fl_route *route)
{
    const char *at = route->pattern;
    for (unsigned i = 0; i < FL_ROUTER_PARAMETERS && (at = strchr(at, '{')) != NULL; i++) {
        size_t size = strcspn(++at, ":}");
        lua_pushlstring(L, at, size);
        route->names[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
}

/* The option run_in: "cpu", "blocking", or the number of a pool. */
static void read_pool(fl_state *state, lua_State *L, int index, fl_route *route)
{
    lua_getfield(L, index, "run_in");
    if (lua_type(L, -1) == LUA_TSTRING)
        route->pool = fl_server_pool(state->thread->server, lua_tostring(L, -1));
    else if (lua_isnumber(L, -1))
        route->pool =
            fl_pools_at(fl_server_pools(state->thread->server), (unsigned)lua_tointeger(L, -1));
    lua_pop(L, 1);
    if (route->pool && fl_pool_options_of(route->pool)->process)
        luaL_error(L,
                   "route \"%s %s\": pool \"%s\" has isolation = \"process\", which runs "
                   "functions and no whole handlers",
                   route->method, route->pattern, fl_pool_options_of(route->pool)->name);
}

static void read_route(fl_state *state, lua_State *L, int index, fl_route *route)
{
    const fl_settings *settings = state->thread->settings;
    route->method = copy_field(L, index, "method");
    route->pattern = copy_field(L, index, "pattern");
    route->handler = keep_function(L, index, "handler");
    keep_names(L, route);
    double seconds = number_field(L, index, "timeout", (double)settings->handler_timeout / 1e9);
    route->timeout = (uint64_t)(seconds * 1000);
    route->max_body = (uint64_t)number_field(L, index, "max_body", (double)settings->max_body);
    route->stuck = patience_field(L, index, "stuck", settings->stuck_handler);
    route->blocked = patience_field(L, index, "blocked", settings->blocked_handler);
    lua_getfield(L, index, "cancel");
    bool safe = strcmp(route->method, "GET") == 0 || strcmp(route->method, "HEAD") == 0;
    route->cancel = lua_isnil(L, -1) ? safe : lua_toboolean(L, -1);
    lua_pop(L, 1);
    lua_getfield(L, index, "replay");
    route->replay = lua_isnil(L, -1) ? safe : lua_toboolean(L, -1);
    lua_pop(L, 1);
    read_pool(state, L, index, route);
    size_t size = strlen(route->method) + strlen(state->app->prefix) + strlen(route->pattern) + 2;
    route->title = malloc(size);
    if (!route->title) luaL_error(L, "not enough memory");
    (void)snprintf(route->title, size, "%s %s%s", route->method, state->app->prefix,
                   route->pattern);
}

static void add_route(fl_state *state, lua_State *L, uint32_t number)
{
    char error[512];
    fl_route *route = &state->routes[number];
    if (fl_router_add(state->router, fl_slice_from_string(route->method),
                      fl_slice_from_string(route->pattern), number, error, sizeof(error)) < 0)
        luaL_error(L, "%s", error);
}

int fl_state_register_routes(fl_state *state)
{
    fl_thread *thread = state->thread;
    for (uint32_t i = 0; i < state->route_count; i++) {
        fl_route *route = &state->routes[i];
        fl_slice method = fl_slice_from_string(route->method);
        fl_slice full = fl_slice_from_string(route->title + method.size + 1);
        route->ledger = fl_ledger_route(thread->ledger, method, full);
        route->metrics = fl_metrics_route(thread->all_metrics, thread->number,
                                          fl_slice_from_string(state->app->name), method, full);
        if (!route->metrics) return UV_ENOMEM;
    }
    return 0;
}

static void read_routes(fl_state *state, lua_State *L, int compiled)
{
    lua_getfield(L, compiled, "routes");
    int routes = lua_gettop(L);
    uint32_t count = (uint32_t)lua_objlen(L, routes);
    state->routes = calloc(count ? count : 1, sizeof(*state->routes));
    if (!state->routes || fl_router_new(&state->router) < 0) luaL_error(L, "not enough memory");
    for (uint32_t i = 0; i < count; i++) {
        lua_rawgeti(L, routes, (int)i + 1);
        state->route_count = i + 1;
        read_route(state, L, lua_gettop(L), &state->routes[i]);
        add_route(state, L, i);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    bool counted = !state->is_pooled && !state->thread->is_spare;
    if (counted && fl_state_register_routes(state) < 0) luaL_error(L, "not enough memory");
}

static void push_settings(fl_state *state, lua_State *L)
{
    const fl_settings *settings = state->thread->settings;
    lua_createtable(L, 0, 4);
    set_field(L, "environment", settings->environment);
    set_field(L, "root_path", settings->root_path);
    set_field(L, "prefix", state->app->prefix);
    set_field(L, "folder", state->app->folder);
}

static void require(lua_State *L, const char *module)
{
    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    lua_call(L, 1, 1);
}

static int keep_module_function(lua_State *L, const char *module, const char *field)
{
    require(L, module);
    int reference = keep_function(L, lua_gettop(L), field);
    lua_pop(L, 1);
    return reference;
}

/* LuaJIT begins every state with the same numbers. */
static void seed_random(lua_State *L)
{
    uint32_t seed = 0;
    if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != sizeof(seed)) seed = (uint32_t)uv_hrtime();
    lua_getglobal(L, "math");
    lua_getfield(L, -1, "randomseed");
    lua_pushnumber(L, seed);
    lua_call(L, 1, 0);
    lua_pop(L, 1);
}

/* Everything but the app. Runs protected. */
static int load_framework(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    fl_modules *modules = fl_server_modules(state->thread->server);
    luaL_openlibs(L);
    seed_random(L);
    fl_jit_open(&state->jit, L);
    set_paths(L, state->thread->settings, state->app);
    fl_modules_install(modules, L);
    fl_state_preload(L);
    require(L, "fasterlua.request");
    lua_pushliteral(L, "params");
    state->params_key = luaL_ref(L, LUA_REGISTRYINDEX);
    state->explain = keep_module_function(L, "fasterlua.report", "explain");
    state->stream = keep_module_function(L, "fasterlua.stream", "run");
    if (state->is_pooled) {
        state->describe = keep_module_function(L, "fasterlua.jobs", "describe");
        state->run_map = keep_module_function(L, "fasterlua.jobs", "map");
        state->run_stream = keep_module_function(L, "fasterlua.jobs", "stream");
    }
    require(L, "fasterlua.guards");
    lua_getfield(L, -1, "install");
    lua_call(L, 0, 0);
    return 0;
}

/* boot.load(chunk, name, settings) -> what the app consists of. Runs protected. */
static int load_app(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    fl_modules *modules = fl_server_modules(state->thread->server);
    require(L, "fasterlua.boot");
    lua_getfield(L, -1, "load");
    if (fl_modules_load(modules, L, state->app->file)) return lua_error(L);
    lua_pushstring(L, state->app->name);
    push_settings(state, L);
    lua_call(L, 3, 1);
    int compiled = lua_gettop(L);
    state->fallback = keep_function(L, compiled, "fallback");
    state->start = keep_function(L, compiled, "start");
    state->stop = keep_function(L, compiled, "stop");
    read_routes(state, L, compiled);
    return 0;
}

static int run_protected(fl_state *state, lua_CFunction function, char *error, size_t error_size)
{
    int top = lua_gettop(state->L);
    lua_pushcfunction(state->L, traceback);
    lua_pushcfunction(state->L, function);
    state->memory.enforced = true;
    fl_claim_enter_lua(&state->thread->claim); /* stuck_after is 0: loading may take its time */
    int status = lua_pcall(state->L, 0, 0, -2);
    fl_claim_leave_lua(&state->thread->claim);
    state->memory.enforced = false;
    if (status) status = fail(state, error, error_size);
    lua_settop(state->L, top);
    return status;
}

static int open_state(fl_state *state, size_t cap, char *error, size_t error_size)
{
    state->L = luaL_newstate();
    if (!state->L) {
        (void)snprintf(error, error_size, "app \"%s\": not enough memory", state->app->name);
        return UV_ENOMEM;
    }
    lua_setexdata(state->L, state);
    count_memory(state, cap);
    return run_protected(state, load_framework, error, error_size);
}

static fl_state *state_make(fl_thread *thread, const fl_app_place *app)
{
    fl_state *state = calloc(1, sizeof(*state));
    if (!state) return NULL;
    state->thread = thread;
    state->app = app;
    state->number = fl_server_app_number(thread->server, app);
    state->prefix = fl_slice_from_string(app->prefix);
    state->fallback = state->start = state->stop = LUA_NOREF;
    state->explain = state->stream = state->request_metatable = LUA_NOREF;
    state->ready_last = &state->ready;
    if (fl_address_new(&state->address, thread->mailbox, state) == 0) return state;
    free(state);
    return NULL;
}

int fl_state_load(fl_state *state, char *error, size_t error_size)
{
    if (state->is_loaded) return 0;
    int status = run_protected(state, load_app, error, error_size);
    state->is_loaded = status == 0;
    return status;
}

int fl_state_new(fl_state **out, fl_thread *thread, const fl_app_place *app, char *error,
                 size_t error_size)
{
    fl_state *state = *out = state_make(thread, app);
    if (!state) return UV_ENOMEM;
    int status = open_state(state, thread->settings->lua_memory, error, error_size);
    return status < 0 ? status : fl_state_load(state, error, error_size);
}

int fl_state_new_pooled(fl_state **out, fl_thread *thread, const fl_app_place *app, size_t cap,
                        char *error, size_t error_size)
{
    fl_state *state = *out = state_make(thread, app);
    if (!state) return UV_ENOMEM;
    state->is_pooled = true;
    return open_state(state, cap, error, error_size);
}

static void free_routes(fl_state *state)
{
    for (uint32_t i = 0; i < state->route_count; i++) {
        free(state->routes[i].method);
        free(state->routes[i].pattern);
        free(state->routes[i].title);
    }
    free(state->routes);
}

void fl_state_free(fl_state *state)
{
    fl_profiler_state_closes(fl_server_profiler(state->thread->server), state);
    if (state->address) fl_address_close(state->address);
    if (state->L) {
        fl_task_free_all(state);
        /* its own allocator again: only to that one does it give back the pages as a whole */
        if (state->memory.allocate)
            lua_setallocf(state->L, state->memory.allocate, state->memory.data);
        lua_close(state->L);
        fl_db_close_all(state);
    }
    fl_job_free_kept(state);
    if (state->address) fl_address_release(state->address); /* leases of databases know it */
    fl_router_free(state->router);
    free_routes(state);
    free(state);
}
