#include "pool_thread.h"

#include <assert.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "condition.h"
#include "handler.h"
#include "pieces.h"
#include "pools.h"
#include "remote.h"
#include "server.h"
#include "task.h"

#define LAST_TURNS                                                                                 \
    1000 /* of a millisecond, that what jobs left behind may take to end, and stop hooks */

static void run_loop(fl_pool_thread *self, uv_run_mode mode)
{
    self->looping = true;
    uv_run(&self->thread.loop, mode);
    self->looping = false;
}

/* A connection that a job has opened is looked after until it has been closed as idle. */
static bool waits_for_sockets(const fl_pool_thread *self)
{
    for (unsigned i = 0; i < self->thread.state_count; i++)
        if (self->thread.states[i] && self->thread.states[i]->readiness) return true;
    return false;
}

/* A process may end while it has nothing to do. */
static bool may_sleep(const fl_pool_thread *self)
{
    return !self->process && fl_thread_is_quiet(&self->thread) && !waits_for_sockets(self);
}

/* A loop that does not run must not be stopped: its next run would end before it begins. */
static void stop_loop(fl_pool_thread *self)
{
    if (self->looping) uv_stop(&self->thread.loop);
}

/* cancelling */

static fl_job *job_of_cancel(fl_message *message)
{
    return (fl_job *)((char *)message - offsetof(fl_job, cancel));
}

static bool is_timeout(const char *reason)
{
    return strcmp(reason, "timeout") == 0;
}

static void cancel_request(fl_pool_thread *self, const char *reason)
{
    fl_request *request = self->request;
    request->timed_out = is_timeout(reason);
    if (self->waiting) {
        self->waiting = false;
        fl_handler_fail(request, request->timed_out ? 504 : 503);
    } else {
        fl_task_cancel_list(request->tasks, reason);
    }
}

static void deliver_cancel(fl_message *message, void *owner)
{
    fl_pool_thread *self = owner;
    fl_job *job = job_of_cancel(message);
    const char *reason = atomic_load(&job->cancelled);
    if (self->running == job && self->process)
        fl_pool_process_cancel(self->process, reason);
    else if (self->running == job && self->request)
        cancel_request(self, reason);
    fl_job_release(job);
}

static void drop_cancel(fl_message *message)
{
    fl_job_release(job_of_cancel(message));
}

/* Its waiter's patience is at an end: so is the job's time, however late it began. */
static void end_its_time(fl_pool_thread *thread)
{
    uint64_t now = uv_hrtime();
    if (thread->retired || (thread->deadline && now >= thread->deadline)) return;
    thread->deadline = now;
}

void fl_pool_thread_cancel(fl_pool_thread *thread, const char *reason)
{
    fl_job *job = thread->job;
    if (is_timeout(reason)) end_its_time(thread);
    if (atomic_load(&job->cancelled)) return;
    atomic_store(&job->cancelled, reason);
    job->cancel = (fl_message){.deliver = deliver_cancel, .drop = drop_cancel};
    fl_job_hold(job);
    if (fl_mailbox_post(thread->thread.mailbox, &job->cancel) < 0) fl_job_release(job);
}

void fl_pool_thread_summon(fl_pool_thread *thread)
{
    thread->wanted = true;
    if (thread->place == FL_POOL_ASLEEP)
        pthread_cond_signal(&thread->wake);
    else
        uv_async_send(&thread->summons);
}

bool fl_pool_thread_wait(fl_pool_thread *self, pthread_mutex_t *lock, uint64_t patience)
{
    bool awaited = true;
    self->wanted = false;
    if (may_sleep(self)) {
        self->place = FL_POOL_ASLEEP;
        uint64_t until = patience ? uv_hrtime() + patience : 0;
        while (!self->wanted && awaited) awaited = fl_condition_wait(&self->wake, lock, until);
    } else {
        self->place = FL_POOL_IN_LOOP;
        pthread_mutex_unlock(lock);
        run_loop(self, UV_RUN_DEFAULT);
        pthread_mutex_lock(lock);
    }
    self->place = FL_POOL_BUSY;
    return awaited;
}

static void summoned(uv_async_t *summons)
{
    uv_stop(summons->loop);
}

/* What a job has left behind has ended: the loop need not run for it. */
static void something_ended(fl_thread *thread)
{
    fl_pool_thread *self = (fl_pool_thread *)thread;
    if (!self->running && fl_thread_is_quiet(thread)) stop_loop(self);
}

/* outcomes */

/* The results on top of the job's coroutine, as a call on that coroutine: what raises in here is
 * caught there.  (values…, job) -> message | nothing */
static int pack_results(lua_State *co)
{
    fl_job *job = lua_touserdata(co, -1);
    lua_pop(co, 1);
    int count = lua_gettop(co);
    return fl_parcel_pack(&job->result, co, 1, count, "result") < 0 ? 1 : 0;
}

static int call_on_top(lua_State *co, lua_CFunction function, fl_job *job, int values)
{
    if (!lua_checkstack(co, 3)) return LUA_ERRMEM;
    lua_pushcfunction(co, function);
    lua_insert(co, -values - 1);
    lua_pushlightuserdata(co, job);
    return lua_pcall(co, values + 1, LUA_MULTRET, 0);
}

static void keep_text(fl_job *job, fl_job_outcome outcome, const char *text)
{
    job->outcome = outcome;
    (void)snprintf(job->text, sizeof(job->text), "%.*s", (int)sizeof(job->text) - 1,
                   text ? text : "an error that is no text");
}

/* jobs.describe(error, traceback) -> error that can cross, text of the traceback, message */
static void keep_raised(fl_job *job, fl_task *task)
{
    fl_state *state = task->state;
    lua_State *L = state->L;
    fl_parcel_reset(&job->result);
    lua_rawgeti(L, LUA_REGISTRYINDEX, state->describe);
    lua_pushvalue(task->co, -1);
    lua_xmove(task->co, L, 1);
    luaL_traceback(L, task->co, NULL, 0);
    if (lua_pcall(L, 2, 3, 0) != 0 || fl_parcel_pack(&job->result, L, -3, 2, "error") < 0)
        keep_text(job, FL_JOB_LOST, lua_tostring(L, -1));
    else
        keep_text(job, FL_JOB_RAISED, lua_tostring(L, -1));
    lua_settop(L, 0);
}

static bool is_memory_error(const fl_task *task, int status)
{
    if (status == LUA_ERRMEM) return true;
    return lua_type(task->co, -1) == LUA_TSTRING &&
           strcmp(lua_tostring(task->co, -1), "not enough memory") == 0;
}

static void keep_out_of_memory(fl_pool_thread *self, fl_job *job)
{
    job->outcome = FL_JOB_OUT_OF_MEMORY;
    self->places[job->app].broken = true;
}

/* Stopped by a signal, its error is not that of a cancelled task. */
static void keep_failure(fl_pool_thread *self, fl_job *job, fl_task *task, int status)
{
    const char *cancelled = atomic_load(&job->cancelled);
    if (is_memory_error(task, status)) {
        keep_out_of_memory(self, job);
    } else if (cancelled && is_timeout(cancelled)) {
        job->outcome = FL_JOB_TIMED_OUT;
    } else if (cancelled && fl_task_was_cancelled(task)) {
        job->outcome = FL_JOB_CANCELLED;
    } else {
        keep_raised(job, task);
    }
}

static void keep_results(fl_pool_thread *self, fl_job *job, fl_task *task, int results)
{
    int status = call_on_top(task->co, pack_results, job, results);
    if (status == 0 && lua_gettop(task->co) == 0) {
        job->outcome = FL_JOB_RETURNED;
    } else if (is_memory_error(task, status)) {
        keep_out_of_memory(self, job);
    } else {
        keep_raised(job, task); /* what cannot cross, with its path */
    }
}

static void end_job(fl_pool_thread *self)
{
    fl_request *request = self->request;
    self->running = NULL;
    self->request = NULL;
    request->job = NULL; /* which tasks that go on may outlive */
    fl_request_end(request);
    fl_request_written(request);
    fl_request_release(request);
    stop_loop(self);
}

static void job_ended(fl_task *task, int status, int results)
{
    fl_pool_thread *self = (fl_pool_thread *)task->state->thread;
    fl_job *job = self->running;
    self->ran = uv_hrtime() - self->entered;
    if (status == 0)
        keep_results(self, job, task, results);
    else
        keep_failure(self, job, task, status);
    end_job(self);
}

/* The answer of a route's handler is complete (remote.h). */
void fl_pool_thread_answered(fl_request *request)
{
    fl_pool_thread *self = (fl_pool_thread *)request->thread;
    self->ran = uv_hrtime() - self->entered;
    self->running->outcome = FL_JOB_RETURNED;
    end_job(self);
}

/* an app's hooks */

static void fail_unstarted(fl_pool_thread *self)
{
    self->waiting = false;
    (void)fl_remote_recall(self->request, "belongs to an app whose start hook fails there");
    fl_handler_fail(self->request, 500);
}

static void app_started(fl_task *task, int status, int results)
{
    (void)results;
    fl_state *state = task->state;
    fl_pool_thread *self = (fl_pool_thread *)state->thread;
    fl_pool_place *place = &self->places[state->number];
    bool waiting = self->waiting && self->request->state == state;
    place->app = status == 0 ? FL_POOL_STARTED : FL_POOL_NOT_STARTED;
    place->broken |= status != 0;
    if (status != 0 && !fl_task_was_cancelled(task))
        fl_task_log_error(task, "a start hook failed in a pool");
    if (!waiting) return;
    if (status != 0) {
        fail_unstarted(self);
        return;
    }
    self->waiting = false;
    fl_handler_run(self->request);
}

static bool run_hook(fl_state *state, int hook, fl_task_ended ended)
{
    fl_task *task = fl_task_new(state, NULL, ended);
    if (!task) return false;
    lua_rawgeti(task->co, LUA_REGISTRYINDEX, hook);
    fl_task_run(task, 0);
    return true;
}

void fl_pool_thread_handle(fl_request *request)
{
    fl_pool_thread *self = (fl_pool_thread *)request->thread;
    fl_state *state = request->state;
    fl_pool_place *place = &self->places[state->number];
    if (place->app == FL_POOL_STARTED || state->start == LUA_NOREF) {
        place->app = FL_POOL_STARTED;
        fl_handler_run(request);
        return;
    }
    self->waiting = true;
    if (place->app == FL_POOL_STARTING) return;
    place->app = FL_POOL_STARTING;
    if (run_hook(state, state->start, app_started)) return;
    place->app = FL_POOL_NOT_STARTED;
    fail_unstarted(self);
}

bool fl_pool_thread_is_starting(const fl_state *state)
{
    const fl_pool_thread *self = (fl_pool_thread *)state->thread;
    return self->places[state->number].app == FL_POOL_STARTING;
}

void fl_pool_thread_broken(fl_request *request)
{
    ((fl_pool_thread *)request->thread)->places[request->state->number].broken = true;
}

static void app_stopped(fl_task *task, int status, int results)
{
    (void)results;
    ((fl_pool_thread *)task->state->thread)->hook_ended = true;
    if (status != 0 && !fl_task_was_cancelled(task))
        fl_task_log_error(task, "a stop hook failed in a pool");
}

static void stop_app(fl_pool_thread *self, fl_state *state)
{
    self->hook_ended = false;
    if (!run_hook(state, state->stop, app_stopped)) return;
    for (int i = 0; i < LAST_TURNS && !self->hook_ended; i++) {
        run_loop(self, UV_RUN_NOWAIT);
        if (!self->hook_ended) uv_sleep(1);
    }
}

/* states */

static void end_tasks(fl_pool_thread *self, fl_state *state)
{
    const fl_slots *tasks = &state->task_slots;
    for (uint32_t i = 0; i < tasks->count; i++)
        if (tasks->entries[i].object) fl_task_cancel(tasks->entries[i].object, "shutdown");
    for (int i = 0; i < LAST_TURNS && state->live_tasks; i++) {
        run_loop(self, UV_RUN_NOWAIT);
        if (state->live_tasks) uv_sleep(1);
    }
}

static void close_state(fl_pool_thread *self, unsigned app)
{
    fl_state *state = self->thread.states[app];
    if (!state) return;
    end_tasks(self, state);
    if (self->places[app].app == FL_POOL_STARTED && state->stop != LUA_NOREF) stop_app(self, state);
    fl_thread_close_state(&self->thread, app);
    self->places[app] = (fl_pool_place){0};
}

/* running */

/* (job) -> function, arguments…, on the job's own coroutine */
static int unpack_call(lua_State *co)
{
    fl_job *job = lua_touserdata(co, 1);
    lua_settop(co, 0);
    if (job->kind != FL_JOB_CALL) {
        fl_state *state = fl_state_of(co);
        lua_rawgeti(co, LUA_REGISTRYINDEX,
                    job->kind == FL_JOB_MAP ? state->run_map : state->run_stream);
    }
    int count = fl_parcel_unpack(&job->call, co);
    if (count < 0) return lua_error(co);
    return lua_gettop(co);
}

/* As a turn of Lua's: modules that the function names may have to be loaded. */
static int enter_unpack(fl_pool_thread *self, fl_task *task, fl_job *job)
{
    fl_state *state = task->state;
    fl_interruption *interruption = &self->thread.interruption;
    state->memory.enforced = true;
    atomic_store_explicit(&interruption->inside, state->L, memory_order_relaxed);
    fl_claim_enter_lua(&self->thread.claim);
    int status = call_on_top(task->co, unpack_call, job, 0);
    fl_claim_leave_lua(&self->thread.claim);
    if (atomic_load_explicit(&interruption->hooked, memory_order_relaxed))
        fl_interruption_clear(&self->thread, state->L);
    state->memory.enforced = false;
    fl_parcel_reset(&job->call); /* which may hold much */
    return status;
}

static void run_call(fl_pool_thread *self, fl_state *state, fl_job *job)
{
    fl_task *task = fl_task_new(state, self->request, job_ended);
    if (!task) {
        keep_text(job, FL_JOB_LOST, "not enough memory for a task");
        end_job(self);
        return;
    }
    if (job->pieces) fl_pieces_begin(job->pieces, state->address);
    int status = enter_unpack(self, task, job);
    self->entered = uv_hrtime();
    if (status == 0)
        fl_task_run(task, lua_gettop(task->co) - 1);
    else
        fl_task_fail(task, status);
}

static fl_state *state_for(fl_pool_thread *self, fl_job *job)
{
    fl_thread *thread = &self->thread;
    fl_state **place = &thread->states[job->app];
    if (*place) return *place;
    char error[sizeof(job->text)] = "not enough memory for a state";
    const fl_app_place *app = fl_server_app(thread->server, job->app);
    int status = fl_state_new_pooled(place, thread, app, fl_pool_options_of(self->pool)->max_memory,
                                     error, sizeof(error));
    if (status == 0) return *place;
    keep_text(job, FL_JOB_LOST, error);
    if (*place) fl_thread_close_state(thread, job->app);
    return NULL;
}

static fl_request *request_for(fl_pool_thread *self, fl_state *state, fl_job *job)
{
    fl_request *request = fl_request_new(&self->thread, NULL);
    if (!request) return NULL;
    request->base = "";
    request->state = state;
    request->job = job;
    if (job->request_number) request->number = job->request_number;
    return request;
}

static void process_answered(fl_thread *thread, uint64_t ran)
{
    fl_pool_thread *self = (fl_pool_thread *)thread;
    self->running = NULL;
    self->ran = ran;
    stop_loop(self);
}

static void start_job(fl_pool_thread *self, fl_job *job)
{
    if (self->process) {
        self->running = job;
        fl_pool_process_run(self->process, job);
        return;
    }
    if (self->places[job->app].broken) close_state(self, job->app);
    fl_state *state = state_for(self, job);
    if (!state) return;
    self->request = request_for(self, state, job);
    if (!self->request) {
        keep_text(job, FL_JOB_LOST, "not enough memory for a job");
        return;
    }
    self->running = job;
    self->places[job->app].jobs++;
    if (job->kind == FL_JOB_REQUEST) {
        self->entered = uv_hrtime();
        fl_remote_run(self->request, job);
    } else {
        run_call(self, state, job);
    }
}

static void maybe_replace_state(fl_pool_thread *self, unsigned app)
{
    uint64_t most = fl_pool_options_of(self->pool)->recycle_after;
    fl_pool_place *place = &self->places[app];
    fl_state *state = self->thread.states[app];
    if (!state) return;
    fl_state_safe_point(state);
    if (!place->broken && (!most || place->jobs < most)) return;
    if (place->broken) fl_pool_state_replaced(self->pool);
    close_state(self, app);
}

/* What a job has left behind gets a turn, however many jobs wait; what others have sent is taken
 * even if no job ever waits for anything. */
static void tidy(fl_pool_thread *self)
{
    if (fl_thread_is_quiet(&self->thread))
        fl_mailbox_rise(self->thread.mailbox);
    else
        run_loop(self, UV_RUN_NOWAIT);
}

/* false: it was retired meanwhile. */
static bool run_job(fl_pool_thread *self, fl_job *job)
{
    unsigned app = job->app;
    uint64_t begun = job->begun;
    self->ran = 0;
    if (begun / 1000000 > uv_now(&self->thread.loop)) uv_update_time(&self->thread.loop);
    start_job(self, job);
    while (self->running) run_loop(self, UV_RUN_DEFAULT);
    self->now = uv_hrtime();
    uint64_t took = self->now - begun;
    uint64_t crossed = took > self->ran ? took - self->ran : 0;
    bool kept = fl_pool_finish(self->pool, self, job, self->ran, crossed);
    if (!kept) return false;
    if (self->process) {
        if (fl_pool_process_settle(self->process)) fl_pool_state_replaced(self->pool);
        return true;
    }
    tidy(self);
    maybe_replace_state(self, app);
    return true;
}

static void set_nice(int nice)
{
    if (nice) (void)setpriority(PRIO_PROCESS, (id_t)gettid(), nice); /* of this thread alone */
}

static void *run(void *data)
{
    fl_pool_thread *self = data;
    fl_pool *pool = self->pool;
    fl_pools *pools = fl_server_pools(self->thread.server);
    fl_job *job;
    fl_thread_begin(&self->thread);
    if (!self->process) set_nice(fl_pool_options_of(pool)->nice);
    while ((job = fl_pool_take(pool, self)) != NULL)
        if (!run_job(self, job)) break;
    for (unsigned i = 0; i < self->thread.state_count; i++) close_state(self, i);
    if (self->process) fl_pool_process_free(self->process);
    fl_thread_end_loop(&self->thread);
    fl_pool_left(pool, self);
    fl_thread_close(&self->thread);
    pthread_cond_destroy(&self->wake);
    free(self->places);
    free(self);
    fl_pools_thread_ended(pools); /* the server may end from here on */
    return NULL;
}

static int init(fl_pool_thread *self, fl_pool *pool)
{
    fl_server *server = fl_pool_server(pool);
    fl_thread *thread = &self->thread;
    fl_server_prepare_thread(server, thread);
    unsigned apps = (unsigned)thread->settings->app_count;
    self->pool = pool;
    thread->number = fl_pools_new_number(fl_server_pools(server));
    thread->metrics = &self->metrics;
    thread->draining = true; /* so that it is told when tasks have ended */
    thread->ended = something_ended;
    thread->states = calloc(apps ? apps : 1, sizeof(*thread->states));
    thread->state_count = apps;
    self->places = calloc(apps ? apps : 1, sizeof(*self->places));
    if (!thread->states || !self->places) return UV_ENOMEM;
    return fl_thread_init(thread, self);
}

static int launch(fl_pool_thread *self)
{
    fl_thread *thread = &self->thread;
    fl_condition_init(&self->wake);
    int status = uv_async_init(&thread->loop, &self->summons, summoned);
    if (status == 0 && fl_pool_options_of(self->pool)->process)
        status = fl_pool_process_new(&self->process, self->pool, thread, process_answered);
    if (status == 0) status = fl_thread_start(&self->thread, run, self);
    if (status == 0) return 0;
    if (self->process) fl_pool_process_free(self->process);
    fl_thread_end_loop(&self->thread);
    fl_thread_close(&self->thread); /* frees the states' table too */
    self->thread.states = NULL;
    pthread_cond_destroy(&self->wake);
    return status;
}

int fl_pool_thread_start(fl_pool_thread **out, fl_pool *pool)
{
    fl_pool_thread *self = calloc(1, sizeof(*self));
    if (!self) return UV_ENOMEM;
    int status = init(self, pool);
    if (status == 0) status = launch(self);
    if (status == 0) {
        *out = self;
        return 0;
    }
    free(self->thread.states);
    free(self->places);
    free(self);
    return status;
}
