#include "op.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>

#include "bind/exec.h"
#include "bind/fs.h"
#include "test.h"
#include "thread.h"

#define LARGE 8192 /* bytes: no op needs that, but the registry does when it grows */

typedef struct place { /* as much of a state as its ops need */
    fl_thread thread;
    fl_settings settings;
    fl_app_place app;
    fl_state state;
    lua_State *L;
    lua_Alloc allocate;
    void *data;
    bool is_scarce; /* nothing large can be had */
} place;

typedef struct watched { /* what the collector saw */
    fl_op op;
    bool *was_closed, *was_lost;
} watched;

static void *allocate_small(void *data, void *block, size_t old_size, size_t size)
{
    place *it = data;
    if (it->is_scarce && size > old_size && size > LARGE) return NULL;
    return it->allocate(it->data, block, old_size, size);
}

static place *place_open(void)
{
    static char folder[] = "/";
    place *it = calloc(1, sizeof(*it));
    if (!it) abort();
    lua_State *L = it->L = it->state.L = luaL_newstate();
    it->thread.settings = &it->settings;
    it->app.folder = folder;
    it->state.thread = &it->thread;
    it->state.app = &it->app;
    it->allocate = lua_getallocf(L, &it->data);
    lua_setallocf(L, allocate_small, it);
    lua_setexdata(L, &it->state);
    luaL_openlibs(L);
    lua_newtable(L);
    fl_op_functions(L);
    lua_setglobal(L, "task");
    return it;
}

static void place_close(place *it)
{
    lua_close(it->L);
    free(it);
}

static int refer(lua_State *L)
{
    lua_pushboolean(L, 1);
    (void)luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

/* From now on no op can begin. */
static void fill_registry(place *it)
{
    it->is_scarce = true;
    while (lua_cpcall(it->L, refer, NULL) == 0) {
    }
    lua_settop(it->L, 0);
}

static void collect(place *it)
{
    lua_settop(it->L, 0);
    (void)lua_gc(it->L, LUA_GCCOLLECT, 0);
    (void)lua_gc(it->L, LUA_GCCOLLECT, 0);
}

static int take_nothing(fl_op *op, lua_State *L)
{
    (void)op;
    lua_pushboolean(L, 1);
    return 1;
}

static void cancel(fl_op *op)
{
    fl_op_done(op);
}

static void look(fl_op *op)
{
    watched *self = (watched *)op;
    *self->was_closed = true;
    *self->was_lost = fl_op_is_lost(op);
}

static const fl_op_kind kind = {"watched", take_nothing, cancel, look, false};
static bool was_closed, was_lost;

static watched *prepare(lua_State *L)
{
    watched *self = (watched *)fl_op_prepare(L, sizeof(*self), &kind);
    was_closed = was_lost = false;
    self->was_closed = &was_closed;
    self->was_lost = &was_lost;
    return self;
}

static fl_op *begin(lua_State *L)
{
    watched *self = prepare(L);
    fl_op_begin(L, &self->op);
    return &self->op;
}

/* Calls task[name] with the op on top, which stays. */
static void call_with_op(lua_State *L, const char *name)
{
    lua_getglobal(L, "task");
    lua_getfield(L, -1, name);
    lua_remove(L, -2);
    lua_pushvalue(L, -2);
    lua_call(L, 1, 0);
}

TEST(what_has_ended_and_nobody_took_is_lost)
{
    place *it = place_open();
    fl_op_done(begin(it->L));
    collect(it);
    CHECK(was_closed && was_lost);
    place_close(it);
}

TEST(what_was_taken_or_cancelled_is_not_lost)
{
    place *it = place_open();
    fl_op_done(begin(it->L));
    call_with_op(it->L, "op_take");
    collect(it);
    CHECK(was_closed && !was_lost);
    (void)begin(it->L);
    call_with_op(it->L, "op_cancel");
    collect(it);
    CHECK(was_closed && !was_lost);
    place_close(it);
}

static int try_to_begin(lua_State *L)
{
    (void)begin(L);
    return 0;
}

TEST(what_never_began_is_not_lost)
{
    place *it = place_open();
    (void)prepare(it->L);
    collect(it);
    CHECK(was_closed && !was_lost);
    fill_registry(it);
    CHECK_EQUAL_INT(lua_cpcall(it->L, try_to_begin, NULL), LUA_ERRMEM);
    CHECK(!was_closed);
    collect(it);
    CHECK(was_closed && !was_lost);
    place_close(it);
}

/* Whether it raises for want of memory. */
static bool is_refused(place *it, const char *source)
{
    if (luaL_loadstring(it->L, source) != 0) return false;
    return lua_pcall(it->L, 0, 0, 0) == LUA_ERRMEM;
}

TEST(files_and_programs_without_memory_to_begin_are_closed)
{
    place *it = place_open();
    (void)fl_fs_module(it->L);
    lua_setglobal(it->L, "fs");
    (void)fl_exec_module(it->L);
    lua_setglobal(it->L, "exec");
    fill_registry(it);
    CHECK(is_refused(it, "fs.read '/missing'"));
    CHECK(is_refused(it, "fs.rename('/missing', '/there')"));
    CHECK(is_refused(it, "exec.run { 'true' }"));
    collect(it);
    CHECK(!it->state.ops);
    place_close(it);
}

TEST_MAIN
