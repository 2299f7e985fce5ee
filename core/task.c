/* The run queue is FIFO per state and drained between socket events, never from inside Lua: a task
 * started by another runs when that one suspends or ends, so lua_resume does not nest. */
#include "task.h"

#include <assert.h>
#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>

#include "connection.h"
#include "thread.h"
#include "version.h"

#define STACK_ROOM 400 /* slots kept free for conversions after the coroutine has stopped */
#define KEEP_POOLED 256
#define FAIR_SHARE 256   /* resumes per turn of a state's queue */
#define SHIELD_MOST 5000 /* ms after a cancellation */

static const char await_mark; /* its address is the value of AWAIT */

static void list_insert(fl_task **head, fl_task *task)
{
    task->sibling = *head;
    if (task->sibling) task->sibling->sibling_link = &task->sibling;
    task->sibling_link = head;
    *head = task;
}

static void list_remove(fl_task *task)
{
    *task->sibling_link = task->sibling;
    if (task->sibling) task->sibling->sibling_link = task->sibling_link;
}

/* Nothing leaks when Lua raises in here: the thread is made and anchored first. */
static fl_task *task_make(fl_state *state)
{
    lua_State *co = lua_newthread(state->L);
    int anchor = luaL_ref(state->L, LUA_REGISTRYINDEX);
    fl_task *task = calloc(1, sizeof(*task));
    if (!task) {
        luaL_unref(state->L, LUA_REGISTRYINDEX, anchor);
        return NULL;
    }
    task->state = state;
    task->co = co;
    task->anchor = anchor;
    return task;
}

static void task_destroy(fl_task *task)
{
    luaL_unref(task->state->L, LUA_REGISTRYINDEX, task->anchor);
    free(task);
}

/* From the pool, or new; in no list yet. */
static fl_task *task_take(fl_state *state)
{
    fl_task *task = state->free_tasks;
    if (task) {
        state->free_tasks = task->next;
        state->free_count--;
    } else {
        task = task_make(state);
    }
    if (!task) return NULL;
    if (lua_checkstack(task->co, STACK_ROOM)) return task;
    task_destroy(task);
    return NULL;
}

/* Gives it its place among the state's and the request's tasks; calls no Lua API. */
static bool task_begin(fl_task *task, fl_request *request, fl_task_ended ended)
{
    fl_state *state = task->state;
    if (fl_slots_take(&state->task_slots, task, &task->slot) < 0) return false;
    task->next = NULL;
    task->request = request;
    task->cancelled = NULL;
    task->shields = 0;
    task->seen = task->woken = false;
    task->ended = ended;
    task->status = FL_TASK_READY;
    list_insert(request ? &request->tasks : &state->own_tasks, task);
    if (request) fl_request_hold(request);
    state->live_tasks++;
    fl_metric_add(&state->thread->metrics->tasks, 1);
    return true;
}

fl_task *fl_task_new(fl_state *state, fl_request *request, fl_task_ended ended)
{
    fl_task *task = task_take(state);
    if (task && !task_begin(task, request, ended)) {
        task_destroy(task);
        return NULL;
    }
    return task;
}

/* `clean`: its function returned, so the coroutine can run another one. */
static void task_free(fl_task *task, bool clean)
{
    fl_state *state = task->state;
    fl_request *request = task->request;
    list_remove(task);
    fl_slots_give(&state->task_slots, task->slot);
    task->status = FL_TASK_FREE;
    task->request = NULL;
    state->live_tasks--;
    fl_metric_subtract(&state->thread->metrics->tasks, 1);
    if (!clean || task->seen || state->free_count >= KEEP_POOLED) {
        task_destroy(task);
    } else {
        lua_settop(task->co, 0);
        task->next = state->free_tasks;
        state->free_tasks = task;
        state->free_count++;
    }
    if (request)
        fl_request_release(request);
    else if (state->thread->draining)
        state->thread->ended(state->thread);
}

static fl_ledger_slot *ledger_slot(const fl_task *task)
{
    const fl_request *request = task->request;
    fl_thread *thread = task->state->thread;
    if (!request || request->slot >= thread->slot_count) return NULL;
    return &thread->slots[request->slot];
}

/* How long this turn may take before the watch thread finds it stuck; 0: as long as it likes. */
static void set_patience(fl_thread *thread, const fl_task *task)
{
    const fl_route *route = task->request ? task->request->route : NULL;
    uint64_t stuck = route ? route->stuck : thread->settings->stuck_handler;
    uint64_t blocked = route ? route->blocked : thread->settings->blocked_handler;
    if (thread->starting) stuck = blocked = 0; /* start and stop hooks */
    atomic_store_explicit(&thread->stuck_after, stuck, memory_order_relaxed);
    atomic_store_explicit(&thread->blocked_after, blocked, memory_order_relaxed);
}

static int enter_lua(fl_task *task, int arguments)
{
    fl_state *state = task->state;
    fl_thread *thread = state->thread;
    fl_ledger_slot *slot = ledger_slot(task);
    if (slot) fl_ledger_note_running(slot, 1);
    state->running = task;
    set_patience(thread, task);
    atomic_store_explicit(&thread->running, task->request ? task->request->slot + 1 : 0,
                          memory_order_relaxed);
    state->memory.enforced = true;
    atomic_store_explicit(&thread->interruption.inside, state->L, memory_order_relaxed);
    atomic_store_explicit(&thread->interruption.app, state->number, memory_order_relaxed);
    fl_claim_enter_lua(&thread->claim);
    int status = lua_resume(task->co, arguments);
    fl_claim_leave_lua(&thread->claim);
    if (atomic_load_explicit(&thread->interruption.hooked, memory_order_relaxed))
        fl_interruption_clear(thread, state->L);
    atomic_store_explicit(&thread->interruption.inside, NULL, memory_order_relaxed);
    state->memory.enforced = false;
    state->running = NULL;
    if (slot) fl_ledger_note_running(slot, 0);
    return status;
}

static void queue(fl_task *task)
{
    fl_state *state = task->state;
    task->status = FL_TASK_READY;
    task->next = NULL;
    *state->ready_last = task;
    state->ready_last = &task->next;
    fl_thread_task_ready(state->thread);
}

static void finish(fl_task *task, int status)
{
    task->ended(task, status, status == 0 ? lua_gettop(task->co) : 1);
    task_free(task, status == 0);
}

void fl_task_fail(fl_task *task, int status)
{
    finish(task, status);
}

/* A yield that is not an await: coroutine.yield outside a coroutine of the app's own. */
static void stray_yield(fl_task *task)
{
    lua_settop(task->co, 0);
    lua_pushliteral(task->co, "attempt to yield from outside a coroutine");
    task->seen = true; /* it cannot be resumed with another function */
    task->ended(task, LUA_ERRRUN, 1);
    task_free(task, false);
}

static bool interrupted(const fl_task *task)
{
    if (!task->cancelled) return false;
    return task->shields == 0 || uv_now(&task->state->thread->loop) >= task->shield_until;
}

void fl_task_run(fl_task *task, int arguments)
{
    assert(!task->state->running);
    task->status = FL_TASK_RUNNING;
    int status = enter_lua(task, arguments);
    if (status != LUA_YIELD) {
        finish(task, status);
        return;
    }
    if (lua_touserdata(task->co, 1) != (void *)&await_mark) {
        stray_yield(task);
        return;
    }
    lua_settop(task->co, 0);
    task->status = FL_TASK_WAITING;
    if (task->woken || interrupted(task)) {
        task->arguments = 0;
        queue(task);
    }
}

void fl_task_ready(fl_task *task, int arguments)
{
    task->arguments = arguments;
    queue(task);
}

/* What a suspended task is resumed with: nothing, or why it was cancelled. */
static void resume_waiting(fl_task *task)
{
    int arguments = task->arguments;
    if (lua_status(task->co) == LUA_YIELD && interrupted(task)) {
        lua_pushstring(task->co, task->cancelled);
        arguments = 1;
    }
    task->woken = false;
    fl_task_run(task, arguments);
}

bool fl_task_run_ready(fl_state *state)
{
    for (unsigned i = 0; i < FAIR_SHARE && state->ready; i++) {
        fl_task *task = state->ready;
        state->ready = task->next;
        if (!state->ready) state->ready_last = &state->ready;
        resume_waiting(task);
    }
    return state->ready != NULL;
}

static void interrupt(fl_task *task)
{
    if (task->status != FL_TASK_WAITING || task->woken) return;
    task->suspension++; /* whoever holds the ticket is too late */
    task->arguments = 0;
    queue(task);
}

bool fl_task_wake(fl_state *state, double ticket)
{
    uint64_t number = (uint64_t)ticket;
    uint32_t slot = (uint32_t)(number % FL_SLOTS_MOST);
    if (slot >= state->task_slots.count) return false;
    fl_task *task = state->task_slots.entries[slot].object;
    if (!task || task->suspension != number / FL_SLOTS_MOST) return false;
    task->suspension++;
    task->woken = true;
    if (task->status == FL_TASK_WAITING) {
        task->arguments = 0;
        queue(task);
    }
    return true;
}

void fl_task_cancel(fl_task *task, const char *reason)
{
    if (task->cancelled) return;
    task->cancelled = reason;
    task->shield_until = uv_now(&task->state->thread->loop) + SHIELD_MOST;
    if (task->shields == 0) interrupt(task);
}

void fl_task_cancel_list(fl_task *first, const char *reason)
{
    for (fl_task *task = first; task; task = task->sibling) fl_task_cancel(task, reason);
}

double fl_task_handle(const fl_task *task)
{
    return fl_slots_handle(&task->state->task_slots, task->slot);
}

bool fl_task_was_cancelled(const fl_task *task)
{
    lua_State *co = task->co;
    if (task->cancelled) return true;
    if (!lua_istable(co, -1)) return false;
    lua_pushliteral(co, "kind");
    lua_rawget(co, -2);
    const char *kind = lua_type(co, -1) == LUA_TSTRING ? lua_tostring(co, -1) : "";
    bool cancelled = strcmp(kind, "cancelled") == 0;
    lua_pop(co, 1);
    return cancelled;
}

void fl_task_log_error(fl_task *task, const char *message)
{
    fl_state *state = task->state;
    lua_State *L = state->L;
    lua_rawgeti(L, LUA_REGISTRYINDEX, state->explain);
    lua_pushvalue(task->co, -1);
    lua_xmove(task->co, L, 1);
    luaL_traceback(L, task->co, NULL, 0);
    size_t size = 0;
    const char *text = NULL;
    if (lua_pcall(L, 2, 1, 0) == 0) text = lua_tolstring(L, -1, &size);
    fl_log_field fields[4];
    size_t count = 0;
    char id[40];
    fields[count++] = fl_field_text("app", fl_slice_from_string(state->app->name));
    if (task->request) {
        fields[count++] = fl_field_text("request_id", fl_request_shown_id(task->request, id));
        if (task->request->route)
            fields[count++] =
                fl_field_text("route", fl_slice_from_string(task->request->route->title));
    }
    fields[count++] = fl_field_block("error", text ? fl_slice_of(text, size) : FL_SLICE("?"));
    fl_log_line(state->thread->log, FL_LOG_ERROR, fl_slice_from_string(message), fields, count);
    lua_pop(L, 1);
}

void fl_task_ended_alone(fl_task *task, int status, int results)
{
    (void)results;
    if (status == 0 || fl_task_was_cancelled(task)) return;
    fl_task_log_error(task, "unhandled error in a task");
}

void fl_task_free_all(fl_state *state)
{
    while (state->free_tasks) {
        fl_task *task = state->free_tasks;
        state->free_tasks = task->next;
        task_destroy(task);
    }
    while (state->own_tasks) task_free(state->own_tasks, false);
    for (uint32_t i = 0; state->is_pooled && i < state->task_slots.count; i++)
        if (state->task_slots.entries[i].object)
            task_free(state->task_slots.entries[i].object, false);
    fl_slots_close(&state->task_slots);
}

/* The functions below run inside Lua. Starting and waking tasks touches only the state's own lists,
 * which nobody takes over while the state is stuck: they are pure but for the loop's idle handle,
 * which the claim guards. */

static fl_task *running_task(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    if (!state || !state->running)
        luaL_error(L, "await outside of a task: at a module's top level nothing can wait");
    return state->running;
}

static int start_in(lua_State *L, fl_request *request)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    fl_state *state = fl_state_of(L);
    if (!state) return fl_op_refuse(L, "a task");
    int values = lua_gettop(L);
    fl_task *task = task_take(state);
    if (!task) return luaL_error(L, "not enough memory for a task");
    if (!lua_checkstack(task->co, values)) return luaL_error(L, "too many arguments for a task");
    lua_xmove(L, task->co, values);
    fl_claim_take(&state->thread->claim);
    bool begun = task_begin(task, request, fl_task_ended_alone);
    if (begun) fl_task_ready(task, values - 1);
    fl_claim_give(&state->thread->claim);
    if (!begun) {
        task_destroy(task);
        return luaL_error(L, "too many tasks");
    }
    lua_pushnumber(L, fl_task_handle(task));
    return 1;
}

/* start(fn, …) -> handle   [-0, +1, e] */
static int task_start(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    return start_in(L, state && state->running ? state->running->request : NULL);
}

/* detach(fn, …) -> handle   [-0, +1, e] */
static int task_detach(lua_State *L)
{
    return start_in(L, NULL);
}

/* Appends the arguments as a list to the list that *reference names.  [-n, +0, e] */
static void append_call(lua_State *L, int *reference)
{
    int values = lua_gettop(L);
    lua_createtable(L, values, 0);
    lua_insert(L, 1);
    for (int i = values; i >= 1; i--) lua_rawseti(L, 1, i);
    if (*reference == LUA_NOREF) {
        lua_newtable(L);
        lua_pushvalue(L, -1);
        *reference = luaL_ref(L, LUA_REGISTRYINDEX);
    } else {
        lua_rawgeti(L, LUA_REGISTRYINDEX, *reference);
    }
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
    lua_settop(L, 0);
}

/* background(fn, …): after the last byte of the response   [-0, +0, e] */
static int task_background(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    fl_task *task = running_task(L);
    if (!task->request || task->request->ended) return start_in(L, task->request);
    append_call(L, &task->request->background);
    return 0;
}

/* at_end(fn, …): when the response is complete   [-0, +0, e] */
static int task_at_end(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    fl_task *task = running_task(L);
    if (!task->request || task->request->ended) return start_in(L, task->request);
    append_call(L, &task->request->at_end);
    return 0;
}

double fl_task_prepare_wait(lua_State *L, const char **reason)
{
    fl_task *task = running_task(L);
    *reason = task->cancelled;
    if (interrupted(task)) return 0;
    task->woken = false;
    task->suspension++; /* what an earlier ticket registered cannot end this suspension */
    return (double)(task->suspension * FL_SLOTS_MOST + task->slot);
}

int fl_task_wait(lua_State *L)
{
    lua_settop(L, 0);
    lua_pushlightuserdata(L, (void *)(uintptr_t)&await_mark);
    return lua_yield(L, 1);
}

/* ticket() -> number | nil, reason   [-0, +1|2, e] */
static int task_ticket(lua_State *L)
{
    const char *reason;
    double ticket = fl_task_prepare_wait(L, &reason);
    if (ticket == 0) {
        lua_pushnil(L);
        lua_pushstring(L, reason);
        return 2;
    }
    lua_pushnumber(L, ticket);
    return 1;
}

/* wake(ticket) -> boolean   [-0, +1, e] */
static int task_wake(lua_State *L)
{
    double ticket = luaL_checknumber(L, 1);
    fl_state *state = fl_state_of(L);
    fl_claim_take(&state->thread->claim);
    bool woken = fl_task_wake(state, ticket);
    fl_claim_give(&state->thread->claim);
    lua_pushboolean(L, woken);
    return 1;
}

/* Lua's reasons must outlive the task: these are the ones there are. */
static const char *static_reason(lua_State *L, int index)
{
    static const char *const reasons[] = {"cancelled", "timeout",       "client left",
                                          "shutdown",  "request ended", NULL};
    return reasons[luaL_checkoption(L, index, "cancelled", reasons)];
}

/* cancel(handle[, reason]) -> boolean   [-0, +1, e] */
static int task_cancel(lua_State *L)
{
    double handle = luaL_checknumber(L, 1);
    const char *reason = static_reason(L, 2);
    fl_state *state = fl_state_of(L);
    fl_claim_take(&state->thread->claim);
    fl_task *task = fl_slots_find(&state->task_slots, handle);
    if (task) fl_task_cancel(task, reason);
    fl_claim_give(&state->thread->claim);
    lua_pushboolean(L, task != NULL);
    return 1;
}

/* shield(on)   [-0, +0, e] */
static int task_shield(lua_State *L)
{
    fl_task *task = running_task(L);
    if (lua_toboolean(L, 1))
        task->shields++;
    else if (task->shields > 0)
        task->shields--;
    return 0;
}

/* current() -> handle | nil   [-0, +1, -] */
static int task_current(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    if (state && state->running)
        lua_pushnumber(L, fl_task_handle(state->running));
    else
        lua_pushnil(L);
    return 1;
}

/* seen(): app code holds the running task's coroutine   [-0, +0, -] */
static int task_seen(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    if (state && state->running) state->running->seen = true;
    return 0;
}

typedef struct fl_sleep {
    fl_op op;
    fl_deadline deadline;
} fl_sleep;

static int sleep_take(fl_op *op, lua_State *L)
{
    lua_pushboolean(L, !op->cancelled);
    if (!op->cancelled) return 1;
    lua_pushliteral(L, "cancelled");
    return 2;
}

static void sleep_over(fl_deadline *deadline)
{
    fl_op_done((fl_op *)((char *)deadline - offsetof(fl_sleep, deadline)));
}

static void sleep_cancel(fl_op *op)
{
    fl_deadline_stop(&((fl_sleep *)op)->deadline);
    fl_op_done(op);
}

static const fl_op_kind sleep_kind = {"sleep", sleep_take, sleep_cancel, NULL, true};

/* sleep(seconds) -> op   [-0, +1, e] */
static int task_sleep(lua_State *L)
{
    double seconds = luaL_checknumber(L, 1);
    luaL_argcheck(L, seconds >= 0 && seconds < 4e9, 1, "seconds, 0 or more, expected");
    fl_state *state = fl_state_of(L);
    fl_sleep *sleep = (fl_sleep *)fl_op_new(L, sizeof(*sleep), &sleep_kind);
    sleep->deadline.state = state;
    fl_claim_take(&state->thread->claim);
    /* the loop's clock stands since the turn began: from now, and never a moment too early */
    double since = (double)uv_hrtime() / 1e6 - (double)uv_now(&state->thread->loop);
    fl_thread_start_deadline(state->thread, &sleep->deadline,
                             (uint64_t)ceil(seconds * 1000 + since), sleep_over);
    fl_claim_give(&state->thread->claim);
    return 1;
}

int fl_task_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"start", task_start},   {"detach", task_detach}, {"background", task_background},
        {"at_end", task_at_end}, {"ticket", task_ticket}, {"wake", task_wake},
        {"cancel", task_cancel}, {"shield", task_shield}, {"current", task_current},
        {"seen", task_seen},     {"sleep", task_sleep},   {NULL, NULL}};
    lua_newtable(L);
    fl_state_functions(L, functions);
    fl_op_functions(L);
    lua_pushlightuserdata(L, (void *)(uintptr_t)&await_mark);
    lua_setfield(L, -2, "AWAIT");
    lua_pushliteral(L, FL_VERSION);
    lua_setfield(L, -2, "VERSION");
    return 1;
}
