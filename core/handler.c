#include "handler.h"

#include <lauxlib.h>
#include <llhttp.h>

#include "batch.h"
#include "pool_thread.h"
#include "proxy.h"
#include "remote.h"
#include "response.h"
#include "server.h"
#include "web.h"

#define GRACE_MS 100 /* from a timeout's cancellation until the server answers by itself */
#define RETRY_LINE FL_SLICE("Retry-After: 1\r\n")
#define LOCATION_BYTES 2048

static void timed_out(fl_deadline *deadline);

static void account(fl_request *request)
{
    fl_thread *thread = request->thread;
    fl_metric_subtract(&thread->metrics->in_flight, 1);
    if (!thread->timing) return;
    uint64_t now = uv_hrtime();
    uint64_t duration = now > request->started ? now - request->started : 0;
    if (request->route) fl_metrics_request(request->route->metrics, request->status, duration);
    if (!thread->settings->access_log) return;
    char id[40], address[64];
    fl_slice client = FL_SLICE("-");
    if (request->connection) client = fl_proxy_client(request, address);
    fl_access access = {.client = client,
                        .method = fl_slice_from_string(fl_request_method(request)),
                        .target = fl_request_target(request),
                        .request_id = fl_request_shown_id(request, id),
                        .status = request->status,
                        .bytes = request->bytes_out,
                        .duration = duration,
                        .state = thread->number};
    if (request->state) access.app = fl_slice_from_string(request->state->app->name);
    fl_log_access(thread->log, &access);
}

void fl_handler_end(fl_request *request)
{
    if (request->ended) return;
    if (request->job) {
        fl_pool_thread_answered(request);
        return;
    }
    account(request);
    fl_request_end(request);
    if (request->connection) {
        fl_batch_answered(request->connection);
    } else {
        fl_request_written(request); /* the client has gone: background tasks run all the same */
    }
}

/* Somebody may get its answer: the client, or the web thread that sent it here. */
static bool has_client(const fl_request *request)
{
    return request->connection || request->job;
}

void fl_handler_fail(fl_request *request, int status)
{
    fl_slice lines = status == 503 ? RETRY_LINE : (fl_slice){0};
    if (has_client(request) && !request->answered)
        fl_response_error(request, status, (fl_slice){0}, lines);
    fl_handler_end(request);
}

static void end_of_stream(fl_request *request)
{
    fl_connection *connection = request->connection;
    if (request->stream_chunked && connection &&
        fl_connection_write(connection, FL_SLICE("0\r\n\r\n"), (fl_slice){0}, (fl_slice){0}) < 0)
        fl_connection_close(connection); /* it left unnoticed: the request ends all the same */
    fl_handler_end(request);
}

/* Cut without the last chunk, so that the client sees it is not all (RFC 9112 section 8). */
static void cut_stream(fl_request *request)
{
    request->keep_alive = false;
    fl_request_hold(request);
    if (request->connection) fl_connection_close(request->connection);
    fl_handler_end(request);
    fl_request_release(request);
}

static void stream_ended(fl_task *task, int status, int results)
{
    (void)results;
    fl_request *request = task->request;
    if (status != 0 && !fl_task_was_cancelled(task))
        fl_task_log_error(task, "unhandled error in a stream");
    if (request->ended) return;
    if (status == 0 && !request->gone)
        end_of_stream(request);
    else if (request->connection)
        cut_stream(request);
    else
        fl_handler_end(request);
}

/* The function of fl.stream runs in a task of its own, after what its handler answered. */
static void run_stream(fl_request *request)
{
    fl_state *state = request->state;
    fl_task *task = fl_task_new(state, request, stream_ended);
    if (!task) {
        cut_stream(request);
        return;
    }
    lua_rawgeti(task->co, LUA_REGISTRYINDEX, state->stream);
    lua_pushnumber(task->co, fl_request_handle(request));
    lua_rawgeti(task->co, LUA_REGISTRYINDEX, request->stream_fn);
    luaL_unref(state->L, LUA_REGISTRYINDEX, request->stream_fn);
    request->stream_fn = LUA_NOREF;
    fl_task_ready(task, 2);
}

static void answer_returned(fl_request *request, fl_task *task, int results)
{
    size_t out = request->thread->out.size;
    int kind = fl_response_from_lua(request, task->co, results);
    if (kind == 0) {
        fl_handler_end(request);
    } else if (kind == 1) {
        fl_connection *connection = request->connection;
        if (!connection->processing) fl_connection_flush(connection); /* the head goes first */
        if (request->connection)
            run_stream(request);
        else
            fl_handler_end(request); /* the head could not be sent */
    } else {
        request->thread->out.size = out;
        request->answered = false;
        fl_task_log_error(task, "unhandled error: the handler's answer cannot be sent");
        fl_handler_fail(request, 500);
    }
}

/* The status that an error table asks for by itself, as timeouts and full queues do. */
static int status_of_error(lua_State *co)
{
    double status = 0;
    if (lua_istable(co, -1)) {
        lua_pushliteral(co, "status");
        lua_rawget(co, -2);
        if (lua_type(co, -1) == LUA_TNUMBER) status = lua_tonumber(co, -1);
        lua_pop(co, 1);
    }
    return status >= 400 && status <= 599 ? (int)status : 500;
}

static void answer_raised(fl_request *request, fl_task *task)
{
    if (fl_response_is_error(task->co, -1)) {
        answer_returned(request, task, 1);
    } else if (task->cancelled && request->timed_out) {
        fl_handler_fail(request, 504);
    } else if (task->cancelled) {
        fl_handler_fail(request, 503);
    } else {
        fl_task_log_error(task, "unhandled error");
        fl_handler_fail(request, status_of_error(task->co));
    }
}

static void handler_ended(fl_task *task, int status, int results)
{
    fl_request *request = task->request;
    if (request->ended || request->answered) return; /* a timeout's answer was quicker */
    if (!has_client(request)) {
        if (status != 0 && !fl_task_was_cancelled(task) && !fl_response_is_error(task->co, -1))
            fl_task_log_error(task, "unhandled error");
        request->status = 499; /* nobody to tell */
        fl_handler_end(request);
    } else if (status == 0) {
        answer_returned(request, task, results);
    } else {
        answer_raised(request, task);
    }
}

/* Milliseconds until the handler has to have answered. */
static uint64_t timeout_of(const fl_request *request)
{
    if (request->route) return request->route->timeout;
    return request->thread->settings->handler_timeout / 1000000;
}

static void start_timeout(fl_request *request)
{
    uint64_t timeout = timeout_of(request);
    if (!timeout || fl_deadline_started(&request->deadline)) return;
    /* the loop's clock stands since the turn began: from now, and never a moment too early */
    fl_thread *thread = request->thread;
    uint64_t now = (uv_hrtime() + 999999) / 1000000;
    request->deadline.state = request->state;
    fl_thread_start_deadline(thread, &request->deadline, timeout + now - uv_now(&thread->loop),
                             timed_out);
}

/* Runs a task whose function and `arguments` are pushed; what suspends gets its deadline. */
static void run(fl_request *request, fl_task *task, int arguments)
{
    fl_request_hold(request);
    fl_task_run(task, arguments);
    if (!request->job && !request->ended && !request->answered) start_timeout(request);
    fl_request_release(request);
}

/* With its handler and its argument pushed; NULL: the request has been answered without it. */
static fl_task *handler_task(fl_request *request)
{
    fl_task *task = fl_task_new(request->state, request, handler_ended);
    if (!task) {
        fl_handler_fail(request, 503);
        return NULL;
    }
    lua_rawgeti(task->co, LUA_REGISTRYINDEX, request->route->handler);
    fl_request_push(request, task->co);
    return task;
}

void fl_handler_run(fl_request *request)
{
    fl_task *task = handler_task(request);
    if (task) run(request, task, 1);
}

/* The deadline has passed: the handler is told at its await; when it does not end then, the server
 * answers without it. */
static void timed_out(fl_deadline *deadline)
{
    fl_request *request = (fl_request *)((char *)deadline - offsetof(fl_request, deadline));
    if (request->ended || request->streaming) return;
    fl_thread_tick(request->thread);
    if (request->away) {
        fl_remote_give_up(request, "timeout");
    } else if (!request->timed_out) {
        request->timed_out = true;
        fl_task_cancel_list(request->tasks, "timeout");
        fl_thread_start_deadline(request->thread, deadline, GRACE_MS, timed_out);
        return;
    }
    fl_request_hold(request);
    fl_handler_fail(request, 504);
    fl_request_release(request);
}

void fl_handler_hurry(fl_request *request, uint64_t milliseconds)
{
    fl_thread *thread = request->thread;
    uint64_t at = uv_now(&thread->loop) + milliseconds;
    if (fl_deadline_started(&request->deadline) && request->deadline.at <= at) return;
    fl_deadline_stop(&request->deadline);
    request->deadline.state = request->state;
    fl_thread_start_deadline(thread, &request->deadline, milliseconds, timed_out);
}

typedef struct fl_refusal { /* what the server says by itself */
    int status;
    fl_slice lines, body, type;
    char text[LOCATION_BYTES + 64];
} fl_refusal;

static void redirect(fl_request *request, fl_refusal *refusal)
{
    const char *prefix = request->state->app->prefix;
    const fl_match *match = &request->thread->match;
    bool root = fl_request_path(request).size == strlen(prefix);
    fl_slice location = root ? FL_SLICE("/") : match->location;
    fl_slice query = fl_request_text(request, request->query, request->query_size);
    int size = snprintf(refusal->text, sizeof(refusal->text), "Location: %s%s%.*s%s%.*s\r\n",
                        request->thread->settings->root_path, prefix, (int)location.size,
                        location.data, query.size ? "?" : "", (int)query.size, query.data);
    if (size > 0 && (size_t)size < sizeof(refusal->text))
        refusal->lines = fl_slice_of(refusal->text, (size_t)size);
    else
        refusal->status = 404;
}

static const char *const param_types[] = {"string", "int", "float", "uuid", "string"};
static const char *const param_messages[] = {
    "Input should be a valid string",
    "Input should be a valid integer, unable to parse string as an integer",
    "Input should be a valid number, unable to parse string as a number",
    "Input should be a valid UUID",
    "Input should be a valid string",
};

/* FastAPI's envelope, as a Lua value so that the encoder escapes what the client sent. */
static void push_bad_param(const fl_param *param, lua_State *L)
{
    lua_createtable(L, 1, 0);
    lua_createtable(L, 0, 4);
    lua_pushfstring(L, "%s_parsing", param_types[param->kind]);
    lua_setfield(L, -2, "type");
    lua_createtable(L, 2, 0);
    lua_pushliteral(L, "path");
    lua_rawseti(L, -2, 1);
    lua_pushlstring(L, param->name.data, param->name.size);
    lua_rawseti(L, -2, 2);
    lua_setfield(L, -2, "loc");
    lua_pushstring(L, param_messages[param->kind]);
    lua_setfield(L, -2, "msg");
    lua_pushlstring(L, param->text.data, param->text.size);
    lua_setfield(L, -2, "input");
    lua_rawseti(L, -2, 1);
}

/* fallback(req, status, detail, headers): the app's middleware sees the server's own answers too.
 */
static void run_fallback(fl_request *request, const fl_refusal *refusal)
{
    fl_state *state = request->state;
    fl_task *task = fl_task_new(state, request, handler_ended);
    if (!task) {
        fl_handler_fail(request, 503);
        return;
    }
    lua_State *co = task->co;
    lua_rawgeti(co, LUA_REGISTRYINDEX, state->fallback);
    fl_request_push(request, co);
    lua_pushinteger(co, refusal->status);
    if (refusal->status == 422)
        push_bad_param(&request->thread->match.params[0], co);
    else
        lua_pushnil(co);
    const char *colon =
        memchr(refusal->lines.data ? refusal->lines.data : "", ':', refusal->lines.size);
    if (colon) { /* one line: "Name: value\r\n" */
        lua_createtable(co, 0, 1);
        lua_pushlstring(co, refusal->lines.data, (size_t)(colon - refusal->lines.data));
        const char *end = refusal->lines.data + refusal->lines.size - 2;
        lua_pushlstring(co, colon + 2, (size_t)(end - colon - 2));
        lua_rawset(co, -3);
    } else {
        lua_pushnil(co);
    }
    run(request, task, 4);
}

/* {"detail": [ … ]} for a path parameter of the wrong type. */
static void answer_bad_param(fl_request *request)
{
    lua_State *L = request->state->L;
    int top = lua_gettop(L);
    luaL_getmetatable(L, FL_HTTP_ERROR);
    lua_createtable(L, 0, 2);
    lua_insert(L, -2);
    lua_setmetatable(L, -2);
    lua_pushinteger(L, 422);
    lua_setfield(L, -2, "status");
    push_bad_param(&request->thread->match.params[0], L);
    lua_setfield(L, -2, "detail");
    if (fl_response_from_lua(request, L, 1) < 0)
        fl_response_error(request, 422, (fl_slice){0}, (fl_slice){0});
    lua_settop(L, top);
    fl_handler_end(request);
}

void fl_handler_refuse(fl_request *request, int status)
{
    fl_thread *thread = request->thread;
    fl_refusal refusal = {.status = status};
    if (status == 307) redirect(request, &refusal);
    if (status == 405 || (status == 204 && request->state)) {
        int size =
            snprintf(refusal.text, sizeof(refusal.text), "Allow: %s\r\n", thread->match.allow);
        refusal.lines = fl_slice_of(refusal.text, (size_t)size);
    }
    if (status == 503) refusal.lines = RETRY_LINE;
    if (request->state && request->state->fallback != LUA_NOREF) {
        run_fallback(request, &refusal);
        return;
    }
    if (refusal.status == 422) {
        answer_bad_param(request);
        return;
    }
    fl_response_error(request, refusal.status, (fl_slice){0}, refusal.lines);
    fl_handler_end(request);
}

static bool too_many(fl_thread *thread)
{
    uint64_t limit = thread->settings->limit_requests;
    if (!limit) return false;
    return fl_server_in_flight(thread->server) > limit;
}

static bool is_exiled(const fl_request *request)
{
    const fl_thread *thread = request->thread;
    return fl_exile_has(thread->exile, request->route->ledger, thread->now);
}

/* Request and answer cross as bytes, as a whole. */
static void run_in_pool(fl_request *request)
{
    request->in_pool = true;
    start_timeout(request);
    if (request->complete) {
        fl_remote_submit(request);
        return;
    }
    request->body_use = FL_BODY_WHOLE;
    fl_connection_want_body(request->connection);
}

void fl_handler_body_complete(fl_request *request)
{
    if (!request->ended && !request->away && request->in_pool) fl_remote_submit(request);
}

static bool runs_in_pool(const fl_request *request)
{
    return request->route->pool || is_exiled(request);
}

void fl_handler_run_again(fl_request *request)
{
    if (runs_in_pool(request)) {
        run_in_pool(request);
        return;
    }
    fl_task *task = handler_task(request);
    if (!task) return;
    fl_task_ready(task, 1);
    start_timeout(request);
}

void fl_handler_dispatch(fl_request *request)
{
    fl_thread *thread = request->thread;
    request->dispatched = true;
    fl_metric_add(&thread->metrics->requests, 1);
    fl_metric_add(&thread->metrics->in_flight, 1);
    if (fl_web_overloaded(request->connection->web) || too_many(thread)) {
        fl_metric_add(&thread->metrics->shed, 1);
        fl_handler_fail(request, 503);
    } else if (request->refused) {
        fl_handler_refuse(request, request->refused);
    } else if (runs_in_pool(request)) {
        run_in_pool(request);
    } else {
        fl_handler_run(request);
    }
}

void fl_handler_client_left(fl_request *request)
{
    fl_state *state = request->state;
    request->gone = true;
    if (state && request->drain_ticket != 0) fl_task_wake(state, request->drain_ticket);
    if (state && request->body_ticket != 0) fl_task_wake(state, request->body_ticket);
    request->drain_ticket = request->body_ticket = 0;
    if (request->away && request->route->cancel) fl_remote_give_up(request, "client left");
    if (request->streaming || (request->route && request->route->cancel))
        fl_task_cancel_list(request->tasks, "client left");
}

void fl_handler_detached(fl_request *request)
{
    if (request->gone && !request->ended && !request->tasks && !request->away)
        fl_handler_end(request);
}
