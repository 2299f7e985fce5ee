#include "bind/pool.h"

#include <lauxlib.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>

#include "../pool.h"
#include "../pool_thread.h"
#include "op.h"
#include "server.h"
#include "thread.h"

typedef struct pool_op {
    fl_op op;
    fl_job *job;          /* NULL: not made */
    fl_deadline deadline; /* of the wait */
    bool timed_out;
} pool_op;

/* errors: tables with kind, status and message */

static void push_failure(lua_State *L, const char *kind, int status, const char *message)
{
    lua_createtable(L, 0, 3);
    lua_pushstring(L, kind);
    lua_setfield(L, -2, "kind");
    lua_pushinteger(L, status);
    lua_setfield(L, -2, "status");
    lua_pushstring(L, message);
    lua_setfield(L, -2, "message");
}

static int take_failure(lua_State *L, const char *kind, int status, const char *message)
{
    lua_pushboolean(L, false);
    push_failure(L, kind, status, message);
    return 2;
}

static int take_timeout(const fl_job *job, lua_State *L)
{
    char text[160];
    (void)snprintf(text, sizeof(text), "timed out after %g s in pool \"%s\"",
                   (double)job->timeout / 1e9, fl_pool_options_of(job->pool)->name);
    return take_failure(L, "timeout", 504, text);
}

static int take_memory(const fl_job *job, lua_State *L)
{
    char text[160];
    const fl_pool_options *options = fl_pool_options_of(job->pool);
    (void)snprintf(text, sizeof(text),
                   "not enough memory: a state of pool \"%s\" may have %.0f bytes", options->name,
                   (double)options->max_memory);
    return take_failure(L, "memory", 500, text);
}

/* true, values… | false, error, traceback */
static int take_parcel(const fl_job *job, lua_State *L, bool returned)
{
    int top = lua_gettop(L);
    lua_pushboolean(L, returned);
    if (fl_parcel_unpack(&job->result, L) < 0) return lua_error(L);
    return lua_gettop(L) - top;
}

static int take(fl_op *op, lua_State *L)
{
    const pool_op *self = (pool_op *)op;
    const fl_job *job = self->job;
    if (self->timed_out) return take_timeout(job, L);
    if (op->cancelled) return take_failure(L, "cancelled", 503, "cancelled");
    switch (job->outcome) {
    case FL_JOB_RETURNED: return take_parcel(job, L, true);
    case FL_JOB_RAISED: return take_parcel(job, L, false);
    case FL_JOB_OUT_OF_MEMORY: return take_memory(job, L);
    case FL_JOB_TIMED_OUT: return take_timeout(job, L);
    case FL_JOB_CANCELLED: return take_failure(L, "cancelled", 503, "the job was cancelled");
    case FL_JOB_LOST: return take_failure(L, "lost", 500, job->text);
    }
    return 0;
}

static void job_ended(fl_job *job)
{
    pool_op *self = job->waiter;
    job->waiter = NULL;
    fl_deadline_stop(&self->deadline);
    fl_op_done(&self->op);
}

static void give_up(pool_op *self, const char *reason)
{
    self->job->waiter = NULL;
    fl_deadline_stop(&self->deadline);
    fl_pool_cancel(self->job->pool, self->job, reason);
    fl_op_done(&self->op);
}

static void waited_too_long(fl_deadline *deadline)
{
    pool_op *self = (pool_op *)((char *)deadline - offsetof(pool_op, deadline));
    self->timed_out = true;
    give_up(self, "timeout");
}

static void cancel(fl_op *op)
{
    give_up((pool_op *)op, "cancelled");
}

static void close_op(fl_op *op)
{
    pool_op *self = (pool_op *)op;
    if (self->job) fl_job_release(self->job);
    self->job = NULL;
}

static const fl_op_kind job_kind = {"a job", take, cancel, close_op};

/* run */

static fl_pool *check_pool(lua_State *L, int index)
{
    fl_state *state = fl_state_of(L);
    if (!state) luaL_error(L, "there are no pools here");
    lua_Integer number = luaL_checkinteger(L, index);
    fl_pool *pool = fl_pools_at(fl_server_pools(state->thread->server), (unsigned)number);
    if (!pool) luaL_error(L, "there is no such pool");
    return pool;
}

static uint64_t bit(const fl_pool *pool)
{
    return (uint64_t)1 << fl_pool_number(pool);
}

/* The pools whose jobs wait for what runs now. */
static uint64_t chain_of(const fl_state *state)
{
    const fl_request *request = state->running ? state->running->request : NULL;
    const fl_job *job = request ? request->job : NULL;
    return job ? job->chain | bit(job->pool) : 0;
}

/* nil, error */
static int refuse_cycle(lua_State *L, const fl_pool *pool, uint64_t chain)
{
    fl_pools *pools = fl_server_pools(fl_pool_server(pool));
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    luaL_addstring(&text,
                   "a job cannot call its own pool, which might wait for itself for ever: \"");
    luaL_addstring(&text, fl_pool_options_of(pool)->name);
    luaL_addstring(&text, "\" is called by a job of");
    for (unsigned i = 0; i < FL_POOLS_MOST; i++) {
        if (!(chain & (uint64_t)1 << i)) continue;
        luaL_addstring(&text, " \"");
        luaL_addstring(&text, fl_pool_options_of(fl_pools_at(pools, i))->name);
        luaL_addstring(&text, "\"");
    }
    luaL_pushresult(&text);
    lua_pushnil(L);
    push_failure(L, "pool_cycle", 500, lua_tostring(L, -2));
    return 2;
}

static int refuse(lua_State *L, const fl_pool *pool, int status)
{
    const fl_pool_options *options = fl_pool_options_of(pool);
    char text[200];
    lua_pushnil(L);
    if (status == UV_ENOBUFS) {
        (void)snprintf(text, sizeof(text), "the queue of pool \"%s\" is full (%u jobs)",
                       options->name, options->queue);
        push_failure(L, "queue_full", 503, text);
    } else if (status == UV_EAGAIN) {
        (void)snprintf(text, sizeof(text), "pool \"%s\" has no thread left: too many were retired",
                       options->name);
        push_failure(L, "pool_exhausted", 503, text);
    } else {
        (void)snprintf(text, sizeof(text), "pool \"%s\" is closed", options->name);
        push_failure(L, "pool_closed", 503, text);
    }
    return 2;
}

enum { POOL = 1, KIND, SECONDS, FUNCTION, FIRST };

static uint64_t check_timeout(lua_State *L, const fl_pool *pool)
{
    if (lua_isnil(L, SECONDS)) return fl_pool_options_of(pool)->timeout;
    double seconds = luaL_checknumber(L, SECONDS);
    luaL_argcheck(L, seconds >= 0 && seconds < 4e9, SECONDS, "seconds, 0 for none, expected");
    return (uint64_t)(seconds * 1e9);
}

/* What raises in here leaves the op to the collector.  [-0, +0, e] */
static void fill_job(lua_State *L, fl_job *job, int count)
{
    if (fl_parcel_pack_function(&job->call, L, FUNCTION, "the function") < 0) lua_error(L);
    if (fl_parcel_pack(&job->call, L, FIRST, count, "argument") < 0) lua_error(L);
}

static int submit(pool_op *self)
{
    fl_state *state = self->op.state;
    fl_thread *thread = state->thread;
    fl_claim_take(&thread->claim);
    self->job->waiter = self;
    int status = fl_pool_submit(self->job->pool, self->job);
    if (status < 0) {
        self->job->waiter = NULL;
        fl_op_done(&self->op);
    } else if (self->job->timeout) {
        self->deadline.state = state;
        fl_thread_start_deadline(thread, &self->deadline, (self->job->timeout + 999999) / 1000000,
                                 waited_too_long);
    }
    fl_claim_give(&thread->claim);
    return status;
}

/* run(pool, kind, seconds | nil, fn, …) -> op | nil, error   [-0, +1|2, e] */
static int pool_run(lua_State *L)
{
    static const char *const kinds[] = {"call", "map", "stream", NULL};
    fl_pool *pool = check_pool(L, POOL);
    fl_job_kind kind = (fl_job_kind)luaL_checkoption(L, KIND, NULL, kinds);
    uint64_t timeout = check_timeout(L, pool);
    luaL_checkany(L, FUNCTION);
    int count = lua_gettop(L) - FUNCTION;
    fl_state *state = fl_state_of(L);
    uint64_t chain = chain_of(state);
    if (chain & bit(pool)) return refuse_cycle(L, pool, chain);
    pool_op *self = (pool_op *)fl_op_prepare(L, sizeof(*self), &job_kind);
    fl_job *job = self->job = fl_job_new(pool, kind, state->address);
    if (!job) return luaL_error(L, "not enough memory for a job");
    job->app = state->number;
    job->chain = chain;
    job->timeout = timeout;
    job->ended = job_ended;
    if (state->running && state->running->request)
        job->request_number = state->running->request->number;
    fill_job(L, job, count);
    fl_op_begin(L, &self->op);
    int status = submit(self);
    return status < 0 ? refuse(L, pool, status) : 1;
}

/* open, stats, close */

static uint64_t option(lua_State *L, const char *name, uint64_t otherwise, double unit)
{
    lua_getfield(L, 1, name);
    double value = lua_isnil(L, -1) ? -1 : luaL_checknumber(L, -1);
    lua_pop(L, 1);
    return value < 0 ? otherwise : (uint64_t)(value * unit);
}

/* open({ name =, size =, queue =, timeout =, max_memory =, recycle_after =, retire_rate =,
 * process = }) -> number: checked by the caller   [-0, +1, e] */
static int pool_open(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    if (!state) return luaL_error(L, "there are no pools here");
    fl_server *server = state->thread->server;
    fl_pool_options options = *fl_pool_options_of(fl_server_pool(server, "cpu"));
    lua_getfield(L, 1, "name");
    (void)snprintf(options.name, sizeof(options.name), "%s", luaL_checkstring(L, -1));
    options.size = (unsigned)option(L, "size", options.size, 1);
    options.queue = (unsigned)option(L, "queue", options.queue, 1);
    options.timeout = option(L, "timeout", options.timeout, 1e9);
    options.max_memory = option(L, "max_memory", options.max_memory, 1);
    options.recycle_after = option(L, "recycle_after", 0, 1);
    options.retire_rate = (unsigned)option(L, "retire_rate", options.retire_rate, 1);
    lua_getfield(L, 1, "process");
    options.process = lua_toboolean(L, -1);
    fl_pool *pool;
    char error[200];
    int status =
        fl_pool_open(&pool, fl_server_pools(server), state->number, &options, error, sizeof(error));
    if (status < 0) return luaL_error(L, "%s", error);
    lua_pushinteger(L, (lua_Integer)fl_pool_number(pool));
    return 1;
}

/* default("cpu" | "blocking") -> number   [-0, +1, e] */
static int pool_default(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    if (!state) return luaL_error(L, "there are no pools here");
    fl_pool *pool = fl_server_pool(state->thread->server, luaL_checkstring(L, 1));
    if (!pool) return luaL_error(L, "there is no such pool");
    lua_pushinteger(L, (lua_Integer)fl_pool_number(pool));
    return 1;
}

static void set_number(lua_State *L, const char *name, double value)
{
    lua_pushnumber(L, value);
    lua_setfield(L, -2, name);
}

static void set_histogram(lua_State *L, const char *name, const uint64_t *buckets)
{
    lua_createtable(L, FL_POOL_BUCKETS, 0);
    for (int i = 0; i < FL_POOL_BUCKETS; i++) {
        lua_pushnumber(L, (double)buckets[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, name);
}

/* stats(pool) -> table; histograms: [n] jobs of less than 2^(n-1) µs   [-0, +1, e] */
static int pool_stats(lua_State *L)
{
    fl_pool *pool = check_pool(L, 1);
    fl_pool_stats stats;
    fl_pool_get_stats(pool, &stats);
    lua_createtable(L, 0, 20);
    set_number(L, "size", fl_pool_options_of(pool)->size);
    set_number(L, "threads", stats.threads);
    set_number(L, "busy", stats.busy);
    set_number(L, "idle", stats.idle);
    set_number(L, "queued", stats.queued);
    set_number(L, "retired", stats.retired);
    set_number(L, "submitted", (double)stats.submitted);
    set_number(L, "completed", (double)stats.completed);
    set_number(L, "failed", (double)stats.failed);
    set_number(L, "timed_out", (double)stats.timed_out);
    set_number(L, "cancelled", (double)stats.cancelled);
    set_number(L, "refused", (double)stats.refused);
    set_number(L, "retirements", (double)stats.retirements);
    set_number(L, "states_replaced", (double)stats.states_replaced);
    set_number(L, "running", (double)stats.running / 1e9);
    set_number(L, "crossing", (double)stats.crossing / 1e9);
    set_histogram(L, "waits", stats.waits);
    set_histogram(L, "runs", stats.runs);
    return 1;
}

/* close(pool)   [-0, +0, e] */
static int pool_close(lua_State *L)
{
    fl_pool_close(check_pool(L, 1));
    return 0;
}

/* here() -> name of the pool that this state's thread belongs to | nil   [-0, +1, -] */
static int pool_here(lua_State *L)
{
    const fl_state *state = fl_state_of(L);
    if (state && state->is_pooled)
        lua_pushstring(L, fl_pool_options_of(((fl_pool_thread *)state->thread)->pool)->name);
    else
        lua_pushnil(L);
    return 1;
}

int fl_pool_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"open", pool_open},   {"default", pool_default}, {"run", pool_run}, {"stats", pool_stats},
        {"close", pool_close}, {"here", pool_here},       {NULL, NULL}};
    lua_createtable(L, 0, 6);
    fl_state_functions(L, functions);
    return 1;
}
