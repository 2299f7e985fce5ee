#include "request.h"

#include <assert.h>
#include <lauxlib.h>
#include <llhttp.h>
#include <stdlib.h>

#include "connection.h"
#include "proxy.h"
#include "router_path.h"
#include "server.h"
#include "web.h"

#define KEEP_BYTES 4096 /* of a pooled request's buffers */
#define KEEP_POOLED 256

static fl_request *request_make(fl_thread *thread)
{
    size_t headers = thread->settings->header_fields * sizeof(fl_header);
    fl_request *request = calloc(1, sizeof(*request) + headers);
    if (!request) return NULL;
    request->headers = (fl_header *)(request + 1);
    return request;
}

static void request_reset(fl_request *request, fl_thread *thread)
{
    memset(request, 0, offsetof(fl_request, head));
    request->thread = thread;
    request->holds = 1;
    request->stream_fn = request->at_end = request->background = LUA_NOREF;
}

static void note_in_ledger(fl_request *request)
{
    fl_thread *thread = request->thread;
    if (request->slot >= thread->slot_count) return;
    fl_ledger_note_request(&thread->slots[request->slot], request->number);
}

fl_request *fl_request_new(fl_thread *thread, fl_connection *connection)
{
    fl_request *request = thread->free_requests;
    if (request) {
        thread->free_requests = request->next;
        thread->free_request_count--;
    } else {
        request = request_make(thread);
        if (!request) return NULL;
    }
    request_reset(request, thread);
    if (fl_slots_take(&thread->request_slots, request, &request->slot) < 0) {
        free(request);
        return NULL;
    }
    request->connection = connection;
    if (connection) request->peer = connection->peer;
    request->started = thread->now;
    request->number = (uint64_t)thread->number << 48 | ++thread->next_number;
    request->max_body = thread->settings->max_body;
    thread->requests_alive++;
    note_in_ledger(request);
    return request;
}

void fl_request_hold(fl_request *request)
{
    request->holds++;
}

static void unref(fl_request *request, int *reference)
{
    if (*reference == LUA_NOREF) return;
    luaL_unref(request->state->L, LUA_REGISTRYINDEX, *reference);
    *reference = LUA_NOREF;
}

static void request_free(fl_request *request)
{
    fl_thread *thread = request->thread;
    assert(!request->tasks);
    fl_deadline_stop(&request->deadline);
    unref(request, &request->stream_fn);
    unref(request, &request->at_end);
    unref(request, &request->background);
    if (request->slot < thread->slot_count)
        fl_ledger_note_request(&thread->slots[request->slot], 0);
    fl_slots_give(&thread->request_slots, request->slot);
    thread->requests_alive--;
    bool keep = thread->free_request_count < KEEP_POOLED;
    size_t bytes = keep ? KEEP_BYTES : 0;
    fl_buffer_reset(&request->head, bytes);
    fl_buffer_reset(&request->body_kept, bytes);
    fl_buffer_reset(&request->trailers, bytes);
    fl_buffer_reset(&request->extra, bytes);
    if (!keep) {
        free(request);
    } else {
        request->next = thread->free_requests;
        thread->free_requests = request;
        thread->free_request_count++;
    }
    if (thread->draining) thread->ended(thread);
}

void fl_request_free_pooled(fl_thread *thread)
{
    while (thread->free_requests) {
        fl_request *request = thread->free_requests;
        thread->free_requests = request->next;
        fl_buffer_close(&request->head);
        fl_buffer_close(&request->body_kept);
        fl_buffer_close(&request->trailers);
        fl_buffer_close(&request->extra);
        free(request);
    }
    fl_slots_close(&thread->request_slots);
}

void fl_request_release(fl_request *request)
{
    assert(request->holds > 0);
    if (--request->holds == 0) request_free(request);
}

bool fl_request_keep(fl_request *request)
{
    if (request->base && request->base != request->head.data) {
        const char *from = request->base;
        fl_buffer_append(&request->head, from, request->head_size);
        if (request->head.failed) return false;
        request->base = request->head.data;
        if (request->host.data) request->host.data = request->base + (request->host.data - from);
    }
    if (request->body.size) {
        fl_buffer_slice(&request->body_kept, request->body);
        request->body = (fl_slice){0};
    }
    return !request->body_kept.failed;
}

void fl_request_copy_head(fl_request *to, const fl_request *from)
{
    to->number = from->number;
    to->peer = from->peer;
    to->head_size = to->head_available = from->head_size;
    to->method_gap = from->method_gap;
    to->target_size = from->target_size;
    to->path = from->path;
    to->path_size = from->path_size;
    to->query = from->query;
    to->query_size = from->query_size;
    to->method = from->method;
    to->minor = from->minor;
    to->header_count = from->header_count;
    to->content_length = from->content_length;
    to->chunked = from->chunked;
    to->has_length = from->has_length;
    to->keep_alive = from->keep_alive;
    to->is_head = from->is_head;
    memcpy(to->headers, from->headers, from->header_count * sizeof(*to->headers));
}

void fl_request_forget(fl_request *request)
{
    request->base = "";
    request->host = request->body = (fl_slice){0};
    request->target_size = request->path = request->path_size = 0;
    request->query = request->query_size = request->header_count = 0;
}

fl_request *fl_request_find(fl_thread *thread, double handle)
{
    return fl_slots_find(&thread->request_slots, handle);
}

double fl_request_handle(const fl_request *request)
{
    return fl_slots_handle(&request->thread->request_slots, request->slot);
}

fl_slice fl_request_header(const fl_request *request, fl_slice name)
{
    for (unsigned i = 0; i < request->header_count; i++) {
        const fl_header *header = &request->headers[i];
        if (header->name_size != name.size) continue;
        if (fl_slice_equal_nocase(fl_request_text(request, header->name, header->name_size), name))
            return fl_request_text(request, header->value, header->value_size);
    }
    return (fl_slice){0};
}

fl_slice fl_request_path(const fl_request *request)
{
    if (request->path_size == 0) return FL_SLICE("/"); /* absolute-form without a path */
    return fl_request_text(request, request->path, request->path_size);
}

fl_slice fl_request_target(const fl_request *request)
{
    return fl_slice_of(request->base, request->target_size);
}

fl_slice fl_request_body(const fl_request *request)
{
    if (request->body.size) return request->body;
    return fl_slice_of(request->body_kept.data, request->body_kept.size);
}

const char *fl_request_method(const fl_request *request)
{
    return llhttp_method_name((llhttp_method_t)request->method);
}

fl_slice fl_request_shown_id(const fl_request *request, char id[40])
{
    fl_slice given = fl_proxy_request_id(request);
    if (given.size) return given;
    return fl_slice_of(id,
                       fl_request_id(id, fl_ledger_boot(request->thread->ledger), request->number));
}

static void take_route(fl_request *request, const fl_route *route)
{
    fl_thread *thread = request->thread;
    request->route = route;
    request->max_body = route->max_body;
    if (request->slot < thread->slot_count)
        fl_ledger_note_route(&thread->slots[request->slot], route->ledger);
}

static bool has_prefix(fl_slice path, fl_slice prefix, fl_slice *rest)
{
    size_t size = prefix.size;
    if (path.size < size || (size && memcmp(path.data, prefix.data, size) != 0)) return false;
    if (path.size > size && path.data[size] != '/') return false;
    *rest = fl_slice_of(path.data + size, path.size - size);
    return true;
}

/* The path with its dot segments resolved and its escapes in one form, in the scratch buffer; room
 * is made so that what the router appends does not move it. */
static fl_slice resolve(fl_thread *thread, fl_slice path)
{
    fl_router_path split;
    fl_buffer_reset(&thread->scratch, SIZE_MAX);
    if (!fl_buffer_room(&thread->scratch, 8 * path.size + 64)) return path;
    if (fl_router_path_split(&split, path, &thread->scratch) != FL_ROUTE_FOUND) return path;
    fl_slice resolved = fl_router_path_write(&split, path.size, &thread->scratch);
    return resolved.size ? resolved : path;
}

static bool is_plain(fl_slice path)
{
    for (size_t i = 0; i < path.size; i++)
        if (path.data[i] == '%' ||
            (path.data[i] == '/' && i + 1 < path.size && path.data[i + 1] == '.'))
            return false;
    return true;
}

/* The app under whose prefix the path lies, and the rest of the path; NULL: none. */
static fl_state *mount(const fl_request *request, fl_slice *rest)
{
    fl_thread *thread = request->thread;
    fl_slice path = fl_request_path(request);
    fl_buffer_reset(&thread->scratch, SIZE_MAX);
    if (thread->state_count && fl_server_app(thread->server, 0)->prefix[0] && !is_plain(path))
        path = resolve(thread, path);
    if (request->state)
        return has_prefix(path, request->state->prefix, rest) ? request->state : NULL;
    for (unsigned i = 0; i < thread->state_count; i++) /* longest prefix first */
        if (has_prefix(path, thread->states[i]->prefix, rest)) return thread->states[i];
    return NULL;
}

/* Statuses of an answer that no route gives. */
static int status_of(fl_route_result result, uint8_t method)
{
    switch (result) {
    case FL_ROUTE_FOUND: return 0;
    case FL_ROUTE_NOT_FOUND: return 404;
    case FL_ROUTE_BAD_METHOD: return method == HTTP_OPTIONS ? 204 : 405;
    case FL_ROUTE_BAD_PARAM: return 422;
    case FL_ROUTE_REDIRECT: return 307;
    case FL_ROUTE_BAD_PATH: return 400;
    }
    return 500;
}

void fl_request_route(fl_request *request)
{
    fl_thread *thread = request->thread;
    fl_slice rest;
    bool asterisk = request->method == HTTP_OPTIONS && request->base[0] == '*';
    request->state = asterisk ? NULL : mount(request, &rest);
    if (asterisk) {
        request->refused = 204;
    } else if (!request->state) {
        request->refused = 404;
    } else if (rest.size == 0) {
        request->refused = 307; /* the app's root without its slash */
    } else {
        fl_slice method = fl_slice_from_string(fl_request_method(request));
        fl_route_result result =
            fl_router_match(request->state->router, method, rest, &thread->scratch, &thread->match);
        request->refused = status_of(result, request->method);
        if (result == FL_ROUTE_FOUND)
            take_route(request, &request->state->routes[thread->match.route]);
    }
    if (!request->refused && request->content_length > request->max_body) request->refused = 413;
}

/* The functions of a list { { fn, … }, … } each get a task of their own, which holds the request.
 */
static void start_list(fl_request *request, int *reference)
{
    if (*reference == LUA_NOREF) return;
    lua_State *L = request->state->L;
    lua_rawgeti(L, LUA_REGISTRYINDEX, *reference);
    unref(request, reference);
    size_t count = lua_objlen(L, -1);
    for (size_t i = 1; i <= count; i++) {
        fl_task *task = fl_task_new(request->state, request, fl_task_ended_alone);
        if (!task) break;
        lua_rawgeti(L, -1, (int)i);
        int values = (int)lua_objlen(L, -1);
        for (int n = 1; n <= values; n++) {
            lua_rawgeti(L, -1, n);
            lua_xmove(L, task->co, 1);
        }
        lua_pop(L, 1);
        fl_task_ready(task, values - 1);
    }
    lua_pop(L, 1);
}

void fl_request_end(fl_request *request)
{
    request->ended = true;
    fl_deadline_stop(&request->deadline);
    fl_task_cancel_list(request->tasks, "request ended");
    start_list(request, &request->at_end);
}

void fl_request_written(fl_request *request)
{
    start_list(request, &request->background);
}
