#include "bind/pool.h"

#include <lauxlib.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include "../pool.h"
#include "../pool_thread.h"
#include "../pools.h"
#include "op.h"
#include "pack.h"
#include "pieces.h"
#include "remote.h"
#include "server.h"
#include "thread.h"

typedef struct pool_op {
    fl_op op;
    fl_job *job;          /* NULL: not made */
    fl_deadline deadline; /* of the wait */
    bool timed_out;
    bool taken;      /* a stream's result */
    double ticket;   /* the task that waits for a piece; 0: none */
    fl_piece *piece; /* the last one that was taken */
} pool_op;

#define GUARD "fasterlua.pool_guard"

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

/* true, values… | false, error, traceback: they may be large, and are kept no longer */
static int take_parcel(pool_op *self, lua_State *L, bool returned)
{
    int top = lua_gettop(L);
    fl_job *job = self->job;
    lua_pushboolean(L, returned);
    if (fl_parcel_unpack(&job->result, L) < 0) return lua_error(L);
    self->taken = true;
    if (job->pieces) { /* those that are left can still be taken */
        fl_parcel_close(&job->result);
    } else {
        self->job = NULL;
        fl_job_recycle(self->op.state, job);
    }
    return lua_gettop(L) - top;
}

static int take_exhausted(const fl_job *job, lua_State *L)
{
    char text[160];
    (void)snprintf(text, sizeof(text), "pool \"%s\" has no thread left: too many were retired",
                   fl_pool_options_of(job->pool)->name);
    return take_failure(L, "pool_exhausted", 503, text);
}

static uint64_t bit(const fl_pool *pool)
{
    return (uint64_t)1 << fl_pool_number(pool);
}

/* What runs now has called `pools` though their jobs wait for it, or a job of its has. A handler
 * that is in its pool by exile would not have been waited for at home. */
static void note_cycle(const fl_state *state, uint64_t pools)
{
    fl_request *request = state->running ? state->running->request : NULL;
    fl_job *job = request ? request->job : NULL;
    if (!job || !pools) return;
    fl_claim_take(&state->thread->claim);
    job->cycle |= pools;
    if (pools & bit(job->pool)) (void)fl_remote_send_home(request, "calls the cpu pool itself");
    fl_claim_give(&state->thread->claim);
}

static int take(fl_op *op, lua_State *L)
{
    pool_op *self = (pool_op *)op;
    const fl_job *job = self->job;
    if (self->taken) return take_failure(L, "taken", 500, "the job's results have been taken");
    if (self->timed_out) return take_timeout(job, L);
    if (op->cancelled) return take_failure(L, "cancelled", 503, "cancelled");
    note_cycle(op->state, job->cycle);
    switch (job->outcome) {
    case FL_JOB_RETURNED: return take_parcel(self, L, true);
    case FL_JOB_RAISED: return take_parcel(self, L, false);
    case FL_JOB_OUT_OF_MEMORY: return take_memory(job, L);
    case FL_JOB_TIMED_OUT: return take_timeout(job, L);
    case FL_JOB_CANCELLED: return take_failure(L, "cancelled", 503, "the job was cancelled");
    case FL_JOB_EXHAUSTED: return take_exhausted(job, L);
    case FL_JOB_LOST: return take_failure(L, "lost", 500, job->text);
    }
    return 0;
}

static void wake_consumer(pool_op *self)
{
    double ticket = self->ticket;
    self->ticket = 0;
    if (ticket != 0) (void)fl_task_wake(self->op.state, ticket);
}

static void piece_arrived(fl_job *job)
{
    wake_consumer(job->waiter);
}

static void end_wait(pool_op *self)
{
    self->job->waiter = NULL;
    fl_deadline_stop(&self->deadline);
    fl_op_done(&self->op);
    wake_consumer(self);
}

static void job_ended(fl_job *job)
{
    end_wait(job->waiter);
}

static void give_up(pool_op *self, const char *reason)
{
    if (self->job->pieces) fl_pieces_close(self->job->pieces);
    fl_pool_cancel(self->job->pool, self->job, reason);
    end_wait(self);
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

/* The error that the job has raised, when it is a text: only Lua reads others. */
static fl_slice raised_text(const fl_job *job)
{
    fl_unpacker unpacker;
    fl_slice text;
    fl_unpacker_init(&unpacker, NULL, fl_slice_of(job->result.bytes.data, job->result.bytes.size));
    return fl_unpacker_string(&unpacker, &text) ? text : fl_slice_from_string(job->text);
}

/* What the job says is the waiter's only when the wait has ended with it. */
static bool has_failed(const pool_op *self, fl_op_failure *failure)
{
    const fl_job *job = self->job;
    bool timed_out = self->timed_out || job->outcome == FL_JOB_TIMED_OUT;
    *failure = (fl_op_failure){.subject = "pool"};
    failure->text = fl_slice_from_string(fl_pool_options_of(job->pool)->name);
    switch (timed_out ? FL_JOB_TIMED_OUT : job->outcome) {
    case FL_JOB_RETURNED:
    case FL_JOB_CANCELLED: return false;
    case FL_JOB_TIMED_OUT:
        failure->code = FL_SLICE("timeout");
        failure->error = FL_SLICE("it took longer than it may");
        return true;
    case FL_JOB_RAISED:
        failure->code = FL_SLICE("raised");
        failure->error = raised_text(job);
        return true;
    case FL_JOB_OUT_OF_MEMORY:
        failure->code = FL_SLICE("memory");
        failure->error = FL_SLICE("it needs more memory than a state of the pool may have");
        return true;
    case FL_JOB_EXHAUSTED:
        failure->code = FL_SLICE("pool_exhausted");
        failure->error = FL_SLICE("too many threads were retired");
        return true;
    case FL_JOB_LOST:
        failure->code = FL_SLICE("lost");
        failure->error = fl_slice_from_string(job->text);
        return true;
    }
    return false;
}

static void close_op(fl_op *op)
{
    pool_op *self = (pool_op *)op;
    fl_op_failure failure;
    if (self->job && fl_op_is_lost(op) && has_failed(self, &failure)) fl_op_tell_lost(op, &failure);
    if (self->piece) fl_piece_free(self->piece);
    if (self->job) fl_job_release(self->job);
    self->piece = NULL;
    self->job = NULL;
}

static const fl_op_kind job_kind = {"a job", take, cancel, close_op, true};
static const fl_op_kind stream_kind = {"a stream", take, cancel, close_op, false}; /* pieces */

/* run */

/* The pools that a handle means are those of the process that has sent the job. */
static void check_not_in_process(lua_State *L, const fl_state *state)
{
    if (!fl_server_is_pool(state->thread->server)) return;
    push_failure(L, "pool_unavailable", 500,
                 "a job of a pool with isolation = \"process\" cannot use pools");
    lua_error(L);
}

static fl_pool *check_pool(lua_State *L, int index)
{
    fl_state *state = fl_state_of(L);
    if (!state) luaL_error(L, "there are no pools here");
    check_not_in_process(L, state);
    lua_Integer number = luaL_checkinteger(L, index);
    fl_pool *pool = fl_pools_at(fl_server_pools(state->thread->server), (unsigned)number);
    if (!pool) luaL_error(L, "there is no such pool");
    return pool;
}

/* The pools whose jobs wait for what runs now. */
static uint64_t chain_of(const fl_state *state)
{
    const fl_request *request = state->running ? state->running->request : NULL;
    const fl_job *job = request ? request->job : NULL;
    if (job) return job->chain | bit(job->pool);
    /* a start hook: its state's thread takes no job meanwhile */
    bool starting = !request && state->is_pooled && fl_pool_thread_is_starting(state);
    return starting ? bit(((fl_pool_thread *)state->thread)->pool) : 0;
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
        (void)snprintf(text, sizeof(text),
                       "pool \"%s\" has no thread: too many were retired, or none can be started",
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

/* The loop's clock stands since the turn began: from now, and never a moment too early. */
static void start_deadline(pool_op *self)
{
    fl_state *state = self->op.state;
    uint64_t end = self->job->submitted + self->job->timeout + 999999;
    self->deadline.state = state;
    fl_thread_start_deadline(state->thread, &self->deadline,
                             end / 1000000 - uv_now(&state->thread->loop), waited_too_long);
}

static void call_pool(void *pool)
{
    fl_pool_call(pool);
}

static int submit(pool_op *self)
{
    fl_thread *thread = self->op.state->thread;
    fl_claim_take(&thread->claim);
    self->job->waiter = self;
    bool more = self->op.state->ready != NULL; /* tasks which may well send jobs, too */
    int status = fl_pool_submit(self->job->pool, self->job, more);
    if (status == 0 && more) fl_thread_owe(thread, call_pool, self->job->pool);
    if (status < 0) {
        self->job->waiter = NULL;
        fl_op_done(&self->op);
    } else if (self->job->timeout) {
        start_deadline(self);
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
    if (kind == FL_JOB_STREAM && fl_pool_options_of(pool)->process)
        return luaL_error(L, "pool \"%s\" has isolation = \"process\", which streams nothing yet",
                          fl_pool_options_of(pool)->name);
    fl_state *state = fl_state_of(L);
    uint64_t chain = chain_of(state);
    if (chain & bit(pool)) {
        note_cycle(state, bit(pool));
        return refuse_cycle(L, pool, chain);
    }
    pool_op *self = (pool_op *)fl_op_prepare(L, sizeof(*self),
                                             kind == FL_JOB_STREAM ? &stream_kind : &job_kind);
    fl_job *job = self->job = fl_job_reuse(state, pool, kind);
    if (!job) return luaL_error(L, "not enough memory for a job");
    job->app = state->number;
    job->chain = chain;
    job->timeout = timeout;
    job->ended = job_ended;
    job->arrived = piece_arrived;
    if (kind == FL_JOB_STREAM && fl_pieces_new(job) < 0)
        return luaL_error(L, "not enough memory for a stream");
    if (state->running && state->running->request)
        job->request_number = state->running->request->number;
    fill_job(L, job, count);
    fl_op_begin(L, &self->op);
    int status = submit(self);
    return status < 0 ? refuse(L, pool, status) : 1;
}

/* streams: the job's side */

static fl_pieces *check_pieces(lua_State *L)
{
    const fl_state *state = fl_state_of(L);
    const fl_request *request = state && state->running ? state->running->request : NULL;
    const fl_job *job = request ? request->job : NULL;
    if (!job || !job->pieces) luaL_error(L, "nobody takes what is yielded here");
    return job->pieces;
}

/* has_room() -> boolean: whether the next piece may be emitted   [-0, +1, e] */
static int pool_has_room(lua_State *L)
{
    lua_pushboolean(L, fl_pieces_has_room(check_pieces(L)));
    return 1;
}

static void wake_now(fl_state *state, double ticket)
{
    fl_claim_take(&state->thread->claim);
    (void)fl_task_wake(state, ticket);
    fl_claim_give(&state->thread->claim);
}

/* wait_room(_, ticket)   [-0, +0, e] */
static int pool_wait_room(lua_State *L)
{
    double ticket = luaL_checknumber(L, 2);
    if (!fl_pieces_wait(check_pieces(L), ticket)) wake_now(fl_state_of(L), ticket);
    return 0;
}

/* emit(…): to be called when there is room   [-0, +0, e] */
static int pool_emit(lua_State *L)
{
    fl_pieces *pieces = check_pieces(L);
    fl_parcel_reset(&pieces->draft);
    if (fl_parcel_pack(&pieces->draft, L, 1, lua_gettop(L), "value") < 0) return lua_error(L);
    if (fl_pieces_put(pieces) < 0) return luaL_error(L, "not enough memory for a piece");
    return 0;
}

/* streams: the waiter's side */

static pool_op *check_stream(lua_State *L)
{
    pool_op *self = luaL_checkudata(L, 1, "fasterlua.op");
    bool is_stream = self->op.kind == &stream_kind && self->job;
    luaL_argcheck(L, is_stream, 1, "a stream expected");
    return self;
}

/* piece(op) -> true, values… | false   [-0, +n, e] */
static int pool_piece(lua_State *L)
{
    pool_op *self = check_stream(L);
    if (self->piece) fl_piece_free(self->piece);
    self->piece = fl_pieces_take(self->job->pieces);
    lua_pushboolean(L, self->piece != NULL);
    if (!self->piece) return 1;
    int count = fl_parcel_unpack(&self->piece->values, L);
    if (count < 0) return lua_error(L);
    fl_piece_free(self->piece);
    self->piece = NULL;
    return count + 1;
}

/* wait_piece(op, ticket): until there is one, or the job has ended   [-0, +0, e] */
static int pool_wait_piece(lua_State *L)
{
    pool_op *self = check_stream(L);
    self->ticket = luaL_checknumber(L, 2);
    if (self->op.done || fl_pieces_are_there(self->job->pieces)) {
        fl_claim_take(&self->op.state->thread->claim);
        wake_consumer(self);
        fl_claim_give(&self->op.state->thread->claim);
    }
    return 0;
}

/* Nobody can ask for pieces any more.  [-0, +0, -] */
static int guard_collect(lua_State *L)
{
    fl_job **guard = luaL_checkudata(L, 1, GUARD);
    fl_job *job = *guard;
    fl_state *state = fl_state_of(L);
    *guard = NULL;
    if (!job) return 0;
    if (state && job->waiter) {
        pool_op *self = job->waiter;
        fl_claim_take(&state->thread->claim);
        self->op.cancelled = true;
        give_up(self, "cancelled");
        fl_claim_give(&state->thread->claim);
    }
    fl_job_release(job);
    return 0;
}

/* guard(op) -> userdata: cancels the job when it is collected   [-0, +1, e] */
static int pool_guard(lua_State *L)
{
    const pool_op *self = check_stream(L);
    fl_job **guard = lua_newuserdata(L, sizeof(fl_job *));
    *guard = NULL;
    luaL_getmetatable(L, GUARD);
    lua_setmetatable(L, -2);
    fl_job_hold(self->job);
    *guard = self->job;
    return 1;
}

/* is_in_request() -> boolean: there is a request whose end can be awaited   [-0, +1, -] */
static int pool_is_in_request(lua_State *L)
{
    const fl_state *state = fl_state_of(L);
    const fl_request *request = state && state->running ? state->running->request : NULL;
    lua_pushboolean(L, request && !request->ended);
    return 1;
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
 * retire_window =, process = }) -> number: checked by the caller   [-0, +1, e] */
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
    options.retire_window = option(L, "retire_window", options.retire_window, 1e9);
    options.retire_rate = (unsigned)option(L, "retire_rate", options.retire_rate, 1);
    lua_getfield(L, 1, "process");
    options.process = lua_toboolean(L, -1);
    fl_pool *pool;
    char error[200];
    int status = fl_pools_open(&pool, fl_server_pools(server), state->number, &options, error,
                               sizeof(error));
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
    set_histogram(L, "costs", stats.costs);
    return 1;
}

/* close(pool)   [-0, +0, e] */
static int pool_close(lua_State *L)
{
    fl_pool_close(check_pool(L, 1));
    return 0;
}

/* here() -> id of the process, id of the thread, name of its pool | nil   [-0, +3, -] */
static int pool_here(lua_State *L)
{
    const fl_state *state = fl_state_of(L);
    lua_pushinteger(L, getpid());
    lua_pushinteger(L, state ? atomic_load(&state->thread->tid) : gettid());
    if (state && state->is_pooled)
        lua_pushstring(L, fl_pool_options_of(((fl_pool_thread *)state->thread)->pool)->name);
    else
        lua_pushnil(L);
    return 3;
}

int fl_pool_module(lua_State *L)
{
    static const luaL_Reg functions[] = {{"open", pool_open},
                                         {"default", pool_default},
                                         {"run", pool_run},
                                         {"has_room", pool_has_room},
                                         {"wait_room", pool_wait_room},
                                         {"emit", pool_emit},
                                         {"piece", pool_piece},
                                         {"wait_piece", pool_wait_piece},
                                         {"guard", pool_guard},
                                         {"is_in_request", pool_is_in_request},
                                         {"stats", pool_stats},
                                         {"close", pool_close},
                                         {"here", pool_here},
                                         {NULL, NULL}};
    if (luaL_newmetatable(L, GUARD)) {
        lua_pushcfunction(L, guard_collect);
        lua_setfield(L, -2, "__gc");
    }
    lua_pop(L, 1);
    lua_newtable(L);
    fl_state_functions(L, functions);
    return 1;
}
