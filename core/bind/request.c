#include "bind/request.h"

#include <arpa/inet.h>
#include <lauxlib.h>

#include "connection.h"
#include "fields.h"
#include "handler.h"
#include "json.h"
#include "proxy.h"
#include "response.h"
#include "thread.h"

#define METATABLE "fasterlua.request"

typedef enum {
    FIELD_METHOD = 1,
    FIELD_URL,
    FIELD_PATH,
    FIELD_QUERY,
    FIELD_QUERY_STRING,
    FIELD_HEADERS,
    FIELD_COOKIES,
    FIELD_CLIENT,
    FIELD_ID,
    FIELD_STATE,
    FIELD_HOST,
    FIELD_SCHEME,
    FIELD_VERSION,
    FIELD_ROUTE,
    FIELD_PARAMS,
    FIELD_TRAILERS
} fl_request_field;

static const char *const field_names[] = {
    "method", "url",   "path", "query",  "query_string", "headers", "cookies", "client",
    "id",     "state", "host", "scheme", "version",      "route",   "params",  "trailers"};

static fl_request *find(lua_State *L, int index)
{
    fl_state *state = fl_state_of(L);
    if (!state || !lua_istable(L, index)) return NULL;
    lua_rawgeti(L, index, 1);
    fl_request *request = fl_request_find(state->thread, lua_tonumber(L, -1));
    lua_pop(L, 1);
    return request;
}

static fl_request *check(lua_State *L, int index)
{
    fl_request *request = find(L, index);
    if (!request) luaL_error(L, "the request is over: read what you need of it before it ends");
    return request;
}

static void push_slice(lua_State *L, fl_slice text)
{
    lua_pushlstring(L, text.data ? text.data : "", text.size);
}

static void push_lower(lua_State *L, fl_slice name)
{
    char text[256];
    size_t size = name.size < sizeof(text) ? name.size : sizeof(text);
    for (size_t i = 0; i < size; i++) text[i] = fl_lower(name.data[i]);
    lua_pushlstring(L, text, size);
}

/* Repeated fields are joined as RFC 9110 section 5.3 says; cookies by "; " (RFC 9113 8.2.3). */
static void join_header(lua_State *L, fl_slice name, fl_slice value)
{
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        push_slice(L, value);
    } else {
        bool cookie = fl_slice_equal_nocase(name, FL_SLICE("cookie"));
        lua_pushstring(L, cookie ? "; " : ", ");
        push_slice(L, value);
        lua_concat(L, 3);
    }
    lua_rawset(L, -3);
}

static void push_headers(lua_State *L, const fl_request *request)
{
    lua_createtable(L, 0, request->header_count);
    for (unsigned i = 0; i < request->header_count; i++) {
        const fl_header *header = &request->headers[i];
        fl_slice name = fl_request_text(request, header->name, header->name_size);
        push_lower(L, name);
        join_header(L, name, fl_request_text(request, header->value, header->value_size));
    }
}

static void push_trailers(lua_State *L, const fl_request *request)
{
    const char *at = request->trailers.data;
    const char *end = at ? at + request->trailers.size : at;
    lua_newtable(L);
    while (at && at < end) {
        fl_slice name = {at, strnlen(at, (size_t)(end - at))};
        at += name.size + 1;
        if (at > end) break;
        fl_slice value = {at, strnlen(at, (size_t)(end - at))};
        at += value.size + 1;
        push_lower(L, name);
        join_header(L, name, value);
    }
}

static void push_cookies(lua_State *L, const fl_request *request)
{
    const fl_settings *settings = request->thread->settings;
    size_t count = 0, bytes = 0;
    lua_newtable(L);
    for (unsigned i = 0; i < request->header_count; i++) {
        const fl_header *header = &request->headers[i];
        fl_slice name = fl_request_text(request, header->name, header->name_size);
        if (!fl_slice_equal_nocase(name, FL_SLICE("cookie"))) continue;
        bytes += header->value_size;
        if (bytes > settings->cookie_bytes) fl_fields_refuse(L, 400, "cookies are too large");
        count += fl_fields_cookies(L, fl_request_text(request, header->value, header->value_size));
        if (count > settings->cookie_fields) fl_fields_refuse(L, 400, "too many cookies");
    }
}

static void push_client(lua_State *L, const fl_request *request)
{
    char address[64] = "";
    fl_slice text = {0};
    uint16_t port = 0;
    if (request->peer.family) {
        text = fl_proxy_client(request, address);
        port = request->peer.port;
    }
    lua_createtable(L, 0, 2);
    push_slice(L, text);
    lua_setfield(L, -2, "host");
    lua_pushinteger(L, port);
    lua_setfield(L, -2, "port");
}

static void push_id(lua_State *L, const fl_request *request)
{
    char id[40];
    push_slice(L, fl_request_shown_id(request, id));
}

/* [-0, +1, e] */
static void push_field(lua_State *L, fl_request *request, fl_request_field field)
{
    switch (field) {
    case FIELD_METHOD: lua_pushstring(L, fl_request_method(request)); return;
    case FIELD_URL: push_slice(L, fl_request_target(request)); return;
    case FIELD_PATH: push_slice(L, fl_request_path(request)); return;
    case FIELD_QUERY:
        fl_fields_form(L, fl_request_text(request, request->query, request->query_size),
                       request->thread->settings->form_fields, NULL);
        return;
    case FIELD_QUERY_STRING:
        push_slice(L, fl_request_text(request, request->query, request->query_size));
        return;
    case FIELD_HEADERS: push_headers(L, request); return;
    case FIELD_COOKIES: push_cookies(L, request); return;
    case FIELD_CLIENT: push_client(L, request); return;
    case FIELD_ID: push_id(L, request); return;
    case FIELD_STATE: lua_newtable(L); return;
    case FIELD_HOST: push_slice(L, fl_proxy_host(request)); return;
    case FIELD_SCHEME: push_slice(L, fl_proxy_scheme(request)); return;
    case FIELD_VERSION: lua_pushfstring(L, "1.%d", request->minor); return;
    case FIELD_ROUTE:
        if (request->route)
            lua_pushstring(L, request->route->pattern);
        else
            lua_pushnil(L);
        return;
    case FIELD_PARAMS: lua_newtable(L); return;
    case FIELD_TRAILERS: push_trailers(L, request); return;
    }
    lua_pushnil(L);
}

/* request[name] -> value, kept from then on   [-0, +1, e]
 * upvalues: methods, field numbers */
static int request_index(lua_State *L)
{
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    if (!lua_isnil(L, -1)) return 1;
    lua_pop(L, 1);
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(2));
    if (lua_isnil(L, -1)) return 1;
    fl_request_field field = (fl_request_field)lua_tointeger(L, -1);
    push_field(L, check(L, 1), field);
    if (field == FIELD_TRAILERS && !find(L, 1)->complete) return 1; /* not all there yet */
    lua_pushvalue(L, 2);
    lua_pushvalue(L, -2);
    lua_rawset(L, 1);
    return 1;
}

static void push_params(fl_request *request, lua_State *co)
{
    const fl_match *match = &request->thread->match;
    lua_createtable(co, 0, (int)match->count);
    for (unsigned i = 0; i < match->count; i++) {
        const fl_param *param = &match->params[i];
        lua_rawgeti(co, LUA_REGISTRYINDEX, request->route->names[i]);
        if (param->kind == FL_PARAM_INT)
            fl_json_push_integer(co, param->integer);
        else if (param->kind == FL_PARAM_NUMBER)
            lua_pushnumber(co, param->number);
        else
            lua_pushlstring(co, param->text.data, param->text.size);
        lua_rawset(co, -3);
    }
}

void fl_request_push(fl_request *request, lua_State *co)
{
    bool params = request->route && request->thread->match.count;
    lua_createtable(co, 1, params ? 1 : 0);
    lua_pushnumber(co, fl_request_handle(request));
    lua_rawseti(co, -2, 1);
    if (params) {
        lua_rawgeti(co, LUA_REGISTRYINDEX, request->state->params_key);
        push_params(request, co);
        lua_rawset(co, -3);
    }
    lua_rawgeti(co, LUA_REGISTRYINDEX, request->state->request_metatable);
    lua_setmetatable(co, -2);
}

/* request:header(name) -> string|nil: the first of that name   [-0, +1, e] */
static int request_header(lua_State *L)
{
    size_t size;
    const char *name = luaL_checklstring(L, 2, &size);
    fl_slice value = fl_request_header(check(L, 1), fl_slice_of(name, size));
    if (value.data)
        push_slice(L, value);
    else
        lua_pushnil(L);
    return 1;
}

/* request:header_values(name) -> list   [-0, +1, e] */
static int request_header_values(lua_State *L)
{
    size_t size;
    const char *name = luaL_checklstring(L, 2, &size);
    const fl_request *request = check(L, 1);
    int count = 0;
    lua_newtable(L);
    for (unsigned i = 0; i < request->header_count; i++) {
        const fl_header *header = &request->headers[i];
        fl_slice field = fl_request_text(request, header->name, header->name_size);
        if (!fl_slice_equal_nocase(field, fl_slice_of(name, size))) continue;
        push_slice(L, fl_request_text(request, header->value, header->value_size));
        lua_rawseti(L, -2, ++count);
    }
    return 1;
}

/* request:query_values(name) -> list   [-0, +1, e] */
static int request_query_values(lua_State *L)
{
    fl_slice name;
    name.data = luaL_checklstring(L, 2, &name.size);
    const fl_request *request = check(L, 1);
    fl_fields_form(L, fl_request_text(request, request->query, request->query_size),
                   request->thread->settings->form_fields, &name);
    return 1;
}

/* add_header(request, line): "Name: value\r\n", checked by the caller, sent with whatever answer
 * [-0, +0, e] */
static int add_header(lua_State *L)
{
    fl_request *request = check(L, 1);
    size_t size;
    const char *line = luaL_checklstring(L, 2, &size);
    if (request->answered) return luaL_error(L, "the response's head has been sent");
    fl_buffer_append(&request->extra, line, size);
    if (request->extra.failed) return luaL_error(L, "not enough memory");
    return 0;
}

/* parse_form(text[, name]) -> table   [-0, +1, e] */
static int parse_form(lua_State *L)
{
    fl_slice text, name;
    text.data = luaL_checklstring(L, 1, &text.size);
    name.data = luaL_optlstring(L, 2, NULL, &name.size);
    fl_state *state = fl_state_of(L);
    size_t most = state ? state->thread->settings->form_fields : 1000;
    fl_fields_form(L, text, most, name.data ? &name : NULL);
    return 1;
}

/* What nobody had read when the request was answered is gone.  [-0, +0, e] */
static void check_not_dropped(lua_State *L, const fl_request *request)
{
    if (request->body_use == FL_BODY_DISCARD && request->body_size > 0)
        luaL_error(L, "the request is over: its body was dropped when it was answered");
}

/* body(request) -> string | nil (wait) | false, status   [-0, +1|2, e] */
static int body(lua_State *L)
{
    fl_request *request = check(L, 1);
    check_not_dropped(L, request);
    if (request->refused || (request->gone && !request->complete)) {
        lua_pushboolean(L, 0);
        lua_pushinteger(L, request->refused ? request->refused : 499);
        return 2;
    }
    if (!request->complete) {
        lua_pushnil(L);
        return 1;
    }
    push_slice(L, fl_request_body(request));
    return 1;
}

/* chunk(request) -> string | nil (wait) | true (the end) | false, status   [-0, +1|2, e] */
static int chunk(lua_State *L)
{
    fl_request *request = check(L, 1);
    check_not_dropped(L, request);
    fl_slice text = fl_request_body(request);
    if (text.size) {
        push_slice(L, text);
        fl_claim_take(&request->thread->claim);
        request->body = (fl_slice){0};
        fl_buffer_reset(&request->body_kept, request->thread->settings->read_ahead * 2);
        fl_claim_give(&request->thread->claim);
        return 1;
    }
    if (request->refused || (request->gone && !request->complete)) {
        lua_pushboolean(L, 0);
        lua_pushinteger(L, request->refused ? request->refused : 499);
        return 2;
    }
    if (request->complete)
        lua_pushboolean(L, 1);
    else
        lua_pushnil(L);
    return 1;
}

/* want_body(request, ticket, whole): wakes the ticket when there is more of the body, or all of it
 * [-0, +0, e] */
static int want_body(lua_State *L)
{
    fl_request *request = check(L, 1);
    double ticket = luaL_checknumber(L, 2);
    fl_claim_take(&request->thread->claim);
    request->body_use = lua_toboolean(L, 3) ? FL_BODY_WHOLE : FL_BODY_CHUNKS;
    request->body_ticket = ticket;
    if (request->connection) fl_connection_want_body(request->connection);
    fl_claim_give(&request->thread->claim);
    return 0;
}

/* One piece of a stream, framed. 0, 1: wait for the socket, or a negative uv code. */
static int write_piece(fl_request *request, fl_slice piece)
{
    fl_connection *connection = request->connection;
    if (!connection || request->gone || request->ended) return UV_ECANCELED;
    char size[24];
    fl_slice prefix = {0}, suffix = {0};
    if (request->stream_chunked) {
        int digits = snprintf(size, sizeof(size), "%zx\r\n", piece.size);
        prefix = fl_slice_of(size, (size_t)digits);
        suffix = FL_SLICE("\r\n");
    }
    request->bytes_out += piece.size;
    int status = fl_connection_write(connection, prefix, piece, suffix);
    if (status < 0) {
        fl_handler_client_left(request);
        return status;
    }
    return fl_connection_queued(connection) >= request->thread->settings->write_buffer ? 1 : 0;
}

/* write(handle, piece) -> true | false (wait for the socket) | nil (the client has left)
 * [-0, +1, e] */
static int write_stream(lua_State *L)
{
    double handle = luaL_checknumber(L, 1);
    fl_slice piece;
    piece.data = luaL_checklstring(L, 2, &piece.size);
    fl_state *state = fl_state_of(L);
    fl_claim_take(&state->thread->claim);
    fl_request *request = fl_request_find(state->thread, handle);
    int status = UV_ECANCELED;
    if (request && request->streaming) {
        fl_thread_tick(state->thread);
        status = piece.size ? write_piece(request, piece) : 0;
    }
    fl_claim_give(&state->thread->claim);
    if (status < 0)
        lua_pushnil(L);
    else
        lua_pushboolean(L, status == 0);
    return 1;
}

/* drained(handle, ticket): wakes the ticket when the socket has taken all   [-0, +0, e] */
static int drained(lua_State *L)
{
    double handle = luaL_checknumber(L, 1), ticket = luaL_checknumber(L, 2);
    fl_state *state = fl_state_of(L);
    fl_claim_take(&state->thread->claim);
    fl_request *request = fl_request_find(state->thread, handle);
    bool wait = request && request->connection && fl_connection_queued(request->connection) > 0;
    if (wait)
        request->drain_ticket = ticket;
    else
        fl_task_wake(state, ticket);
    fl_claim_give(&state->thread->claim);
    return 0;
}

/* decode_json(text) -> true, value | false, message   [-0, +2, e] */
static int decode_json(lua_State *L)
{
    fl_slice text;
    text.data = luaL_checklstring(L, 1, &text.size);
    fl_state *state = fl_state_of(L);
    const fl_settings *settings = state->thread->settings;
    int status = fl_json_decode(L, text, (unsigned)settings->json_depth, settings->json_nodes);
    lua_pushboolean(L, status == 0);
    lua_insert(L, -2);
    return 2;
}

static void push_field_numbers(lua_State *L)
{
    lua_newtable(L);
    for (size_t i = 0; i < sizeof(field_names) / sizeof(*field_names); i++) {
        lua_pushinteger(L, (lua_Integer)(i + 1));
        lua_setfield(L, -2, field_names[i]);
    }
}

int fl_request_module(lua_State *L)
{
    static const luaL_Reg methods[] = {{"header", request_header},
                                       {"header_values", request_header_values},
                                       {"query_values", request_query_values},
                                       {NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"add_header", add_header}, {"parse_form", parse_form},   {"body", body},
        {"chunk", chunk},           {"want_body", want_body},     {"write", write_stream},
        {"drained", drained},       {"decode_json", decode_json}, {NULL, NULL}};
    lua_newtable(L);
    fl_state_functions(L, functions);
    lua_newtable(L);
    fl_state_functions(L, methods);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "methods");
    luaL_newmetatable(L, METATABLE);
    lua_pushvalue(L, -2);
    push_field_numbers(L);
    lua_pushcclosure(L, request_index, 2);
    lua_setfield(L, -2, "__index");
    fl_state *state = fl_state_of(L);
    if (state) {
        lua_pushvalue(L, -1);
        state->request_metatable = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_setfield(L, -3, "metatable");
    lua_pop(L, 1);
    return 1;
}
