#include "response.h"

#include <assert.h>
#include <lauxlib.h>
#include <math.h>

#include "connection.h"
#include "json.h"
#include "remote.h"
#include "web.h"

#define RESPONSE "fasterlua.response"
#define HEADERS "fasterlua.headers"
#define DISCARD_MOST (256 * 1024) /* of a body nobody read, to keep the connection */

#define TEXT_TYPE FL_SLICE("text/plain; charset=utf-8")
#define JSON_TYPE FL_SLICE("application/json")

typedef struct fl_reason {
    int status;
    const char *phrase;
} fl_reason;

/* RFC 9110 section 15, RFC 6585, RFC 4918 */
static const fl_reason reasons[] = {
    {200, "OK"},
    {201, "Created"},
    {202, "Accepted"},
    {203, "Non-Authoritative Information"},
    {204, "No Content"},
    {205, "Reset Content"},
    {206, "Partial Content"},
    {207, "Multi-Status"},
    {300, "Multiple Choices"},
    {301, "Moved Permanently"},
    {302, "Found"},
    {303, "See Other"},
    {304, "Not Modified"},
    {307, "Temporary Redirect"},
    {308, "Permanent Redirect"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {402, "Payment Required"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {406, "Not Acceptable"},
    {407, "Proxy Authentication Required"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {410, "Gone"},
    {411, "Length Required"},
    {412, "Precondition Failed"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {416, "Range Not Satisfiable"},
    {417, "Expectation Failed"},
    {418, "I'm a Teapot"},
    {421, "Misdirected Request"},
    {422, "Unprocessable Content"},
    {423, "Locked"},
    {424, "Failed Dependency"},
    {425, "Too Early"},
    {426, "Upgrade Required"},
    {428, "Precondition Required"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {451, "Unavailable For Legal Reasons"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
    {507, "Insufficient Storage"},
    {511, "Network Authentication Required"},
};

fl_slice fl_response_reason(int status)
{
    size_t low = 0, high = sizeof(reasons) / sizeof(*reasons);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (reasons[middle].status == status) return fl_slice_from_string(reasons[middle].phrase);
        if (reasons[middle].status < status)
            low = middle + 1;
        else
            high = middle;
    }
    return (fl_slice){0};
}

/* Whether the connection can carry another request after this one (RFC 9112 section 9.3). */
static bool keeps_alive(const fl_request *request)
{
    const fl_connection *connection = request->connection;
    const fl_web *web = connection->web;
    size_t more = connection->processing ? connection->unread.size : connection->ahead.size;
    if (!request->keep_alive || connection->close_after) return false;
    if (connection->half_closed && more == 0) return false;
    if (web->phase != FL_WEB_SERVING) return false;
    if (connection->served + 1 >= web->thread.settings->requests_per_connection) return false;
    if (request->complete) return true;
    if (request->expects_continue) return false; /* it may send the body or not: RFC 9110 10.1.1 */
    return request->chunked || request->content_length - request->body_size <= DISCARD_MOST;
}

static char *put(char *at, const char *text, size_t size)
{
    memcpy(at, text, size);
    return at + size;
}

#define PUT(at, literal) put((at), (literal), sizeof(literal) - 1)

static char *put_slice(char *at, fl_slice text)
{
    return text.size ? put(at, text.data, text.size) : at;
}

static char *put_number(char *at, uint64_t number)
{
    char digits[20];
    size_t from = sizeof(digits);
    do {
        digits[--from] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    return put(at, digits + from, sizeof(digits) - from);
}

static char *put_status(char *at, int status)
{
    if (status == 200) return PUT(at, "HTTP/1.1 200 OK\r\nDate: ");
    at = PUT(at, "HTTP/1.1 ");
    at = put_number(at, (uint64_t)status);
    at = PUT(at, " ");
    at = put_slice(at, fl_response_reason(status));
    return PUT(at, "\r\nDate: ");
}

static char *put_framing(char *at, fl_request *request, uint64_t length)
{
    if (length == FL_LENGTH_NONE) return at;
    if (length != FL_LENGTH_STREAM) {
        at = PUT(at, "Content-Length: ");
        at = put_number(at, length);
        return PUT(at, "\r\n");
    }
    if (request->minor == 1) {
        request->stream_chunked = true;
        return PUT(at, "Transfer-Encoding: chunked\r\n");
    }
    request->keep_alive = false; /* HTTP/1.0: the end is where the connection ends */
    return at;
}

static char *put_connection(char *at, fl_request *request)
{
    request->keep_alive = keeps_alive(request);
    if (!request->keep_alive) return PUT(at, "Connection: close\r\n");
    return request->minor == 0 ? PUT(at, "Connection: keep-alive\r\n") : at;
}

/* What a client can name to whoever reads the log. */
static char *put_id(char *at, const fl_request *request)
{
    char id[40];
    at = PUT(at, "X-Request-ID: ");
    at = put_slice(at, fl_request_shown_id(request, id));
    return PUT(at, "\r\n");
}

#define FIXED_BYTES 512 /* more than all lines of a head whose length is known beforehand */

void fl_response_head(fl_request *request, int status, fl_slice type, uint64_t length,
                      fl_slice lines)
{
    fl_thread *thread = request->thread;
    fl_buffer *out = &thread->out;
    request->answered = true;
    request->status = status;
    if (!fl_buffer_room(out, FIXED_BYTES + type.size + lines.size + request->extra.size)) return;
    char *at = put_status(out->data + out->size, status);
    at = put(at, fl_thread_date(thread), 29);
    at = PUT(at, "\r\n");
    if (type.size) {
        at = PUT(at, "Content-Type: ");
        at = put_slice(at, type);
        at = PUT(at, "\r\n");
    }
    at = put_framing(at, request, length);
    at = put_connection(at, request);
    if (status >= 500) at = put_id(at, request);
    at = put_slice(at, lines);
    at = put_slice(at, fl_slice_of(request->extra.data, request->extra.size));
    at = PUT(at, "\r\n");
    out->size = (size_t)(at - out->data);
}

static bool has_no_body(int status)
{
    return status == 204 || status == 304 || status < 200;
}

void fl_response_send(fl_request *request, int status, fl_slice type, fl_slice lines, fl_slice body)
{
    if (request->job) {
        fl_remote_answer(request, status, type, lines, body);
        return;
    }
    if (has_no_body(status)) {
        fl_response_head(request, status, (fl_slice){0}, FL_LENGTH_NONE, lines);
        return;
    }
    fl_response_head(request, status, type, body.size, lines);
    request->bytes_out = body.size;
    if (!request->is_head) fl_buffer_slice(&request->thread->out, body);
}

void fl_response_error(fl_request *request, int status, fl_slice detail, fl_slice lines)
{
    if (!detail.size) detail = fl_response_reason(status);
    char body[256];
    int size = snprintf(body, sizeof(body), "{\"detail\":\"%.*s\"}", (int)detail.size, detail.data);
    fl_response_send(request, status, JSON_TYPE, lines, fl_slice_of(body, (size_t)size));
}

static bool has_metatable(lua_State *L, int index, const char *name)
{
    if (!lua_istable(L, index) || !lua_getmetatable(L, index)) return false;
    luaL_getmetatable(L, name);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same;
}

bool fl_response_is_error(lua_State *L, int index)
{
    return has_metatable(L, index, FL_HTTP_ERROR);
}

/* A header being collected: Content-Type is taken aside, framing belongs to the server. */
typedef struct fl_lines {
    fl_buffer *buffer;
    fl_slice type;
    const char *wrong;
} fl_lines;

static bool is_field_name(fl_slice name)
{
    static const char marks[] = "!#$%&'*+-.^_`|~";
    if (name.size == 0) return false;
    for (size_t i = 0; i < name.size; i++) {
        char c = name.data[i];
        bool letter = (fl_lower(c) >= 'a' && fl_lower(c) <= 'z') || (c >= '0' && c <= '9');
        if (!letter && (c == '\0' || !strchr(marks, c))) return false;
    }
    return true;
}

/* What is wrong with a header, or NULL. Nothing is ever stripped silently. */
static const char *header_fault(fl_slice name, fl_slice value)
{
    if (!is_field_name(name)) return "is not a valid header name";
    for (size_t i = 0; i < value.size; i++) {
        unsigned char c = (unsigned char)value.data[i];
        if (c == '\r' || c == '\n') return "has a line break in its value";
        if ((c < 0x20 && c != '\t') || c == 0x7f) return "has a control character in its value";
    }
    static const char *const ours[] = {"content-length", "transfer-encoding", "connection", "date",
                                       "keep-alive",     "upgrade",           "trailer"};
    for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++)
        if (fl_slice_equal_nocase(name, fl_slice_from_string(ours[i])))
            return "is set by the server";
    return NULL;
}

static void add_line(fl_lines *lines, fl_slice name, fl_slice value)
{
    const char *fault = header_fault(name, value);
    if (fault) {
        lines->wrong = fault;
        return;
    }
    if (fl_slice_equal_nocase(name, FL_SLICE("content-type"))) {
        lines->type = value;
        return;
    }
    fl_buffer_slice(lines->buffer, name);
    FL_BUFFER_LITERAL(lines->buffer, ": ");
    fl_buffer_slice(lines->buffer, value);
    FL_BUFFER_LITERAL(lines->buffer, "\r\n");
}

static fl_slice string_at(lua_State *L, int index)
{
    size_t size = 0;
    const char *text = lua_tolstring(L, index, &size);
    return fl_slice_of(text, size);
}

/* One value at `index`: a string or a number. */
static int add_value(lua_State *L, fl_lines *lines, fl_slice name, int index)
{
    char number[32];
    if (lua_type(L, index) == LUA_TNUMBER) { /* not lua_tolstring: it would change the table */
        int size = snprintf(number, sizeof(number), "%.14g", lua_tonumber(L, index));
        add_line(lines, name, fl_slice_of(number, (size_t)size));
    } else if (lua_type(L, index) == LUA_TSTRING) {
        add_line(lines, name, string_at(L, index));
    } else {
        lines->wrong = "must be a string, a number or a list of them";
    }
    if (!lines->wrong) return 0;
    lua_pushfstring(L, "header \"%s\" %s", name.data ? name.data : "?", lines->wrong);
    return UV_EINVAL;
}

/* Headers from a list { name, value, … } at `index`.  [-0, +0|1, m] */
static int add_list(lua_State *L, int index, fl_lines *lines)
{
    int count = (int)lua_objlen(L, index);
    for (int i = 1; i < count; i += 2) {
        lua_rawgeti(L, index, i);
        lua_rawgeti(L, index, i + 1);
        fl_slice name = lua_type(L, -2) == LUA_TSTRING ? string_at(L, -2) : (fl_slice){0};
        int status = add_value(L, lines, name, lua_gettop(L));
        if (status < 0) return status;
        lua_pop(L, 2);
    }
    return 0;
}

/* Headers from a map name -> value or list of values at `index`.  [-0, +0|1, m] */
static int add_map(lua_State *L, int index, fl_lines *lines)
{
    lua_pushnil(L);
    while (lua_next(L, index)) {
        if (lua_type(L, -2) != LUA_TSTRING) {
            lua_pushliteral(L, "headers must be a table of name = value");
            return UV_EINVAL;
        }
        fl_slice name = string_at(L, -2);
        int value = lua_gettop(L);
        int count = lua_istable(L, value) ? (int)lua_objlen(L, value) : 0;
        int status = lua_istable(L, value) ? 0 : add_value(L, lines, name, value);
        for (int i = 1; i <= count && status == 0; i++) {
            lua_rawgeti(L, value, i);
            status = add_value(L, lines, name, lua_gettop(L));
            if (status == 0) lua_pop(L, 1);
        }
        if (status < 0) return status;
        lua_pop(L, 1);
    }
    return 0;
}

static int add_headers(lua_State *L, int index, fl_lines *lines)
{
    if (lua_isnil(L, index)) return 0;
    if (!lua_istable(L, index)) {
        lua_pushfstring(L, "headers must be a table, not a %s", luaL_typename(L, index));
        return UV_EINVAL;
    }
    return has_metatable(L, index, HEADERS) ? add_list(L, index, lines) : add_map(L, index, lines);
}

typedef struct fl_answer { /* stack indices on co */
    int value, headers;
    int status;
    fl_slice type;
} fl_answer;

static void send_json(fl_request *request, int status, fl_slice type, fl_slice lines, fl_slice body)
{
    fl_response_send(request, status, type.size ? type : JSON_TYPE, lines, body);
}

/* Encodes behind what is gathered, because the length stands before it; then moves it into place.
 * The header lines and the JSON text share the scratch buffer. */
static int send_value(fl_request *request, lua_State *co, const fl_answer *answer, fl_slice lines)
{
    int type = lua_type(co, answer->value);
    if (type == LUA_TSTRING) {
        fl_slice text = answer->type.size ? answer->type : TEXT_TYPE;
        fl_response_send(request, answer->status, text, lines, string_at(co, answer->value));
        return 0;
    }
    if (type == LUA_TNIL || type == LUA_TNONE) {
        fl_response_send(request, answer->status, answer->type, lines, (fl_slice){0});
        return 0;
    }
    if (type != LUA_TTABLE && type != LUA_TBOOLEAN && type != LUA_TNUMBER && type < 10 &&
        !(type == LUA_TLIGHTUSERDATA && !lua_touserdata(co, answer->value))) {
        lua_pushfstring(co, "a %s is not a response", lua_typename(co, type));
        return UV_EINVAL;
    }
    fl_buffer *scratch = &request->thread->scratch;
    size_t at = scratch->size;
    size_t lines_at = lines.size ? (size_t)(lines.data - scratch->data) : 0;
    int status =
        fl_json_encode(co, answer->value, scratch, (size_t)request->thread->settings->json_bytes);
    if (status < 0) return status;
    if (lines.size) lines.data = scratch->data + lines_at;
    send_json(request, answer->status, answer->type, lines,
              fl_slice_of(scratch->data + at, scratch->size - at));
    return 0;
}

/* The answer crosses as a whole. What is in exile answers nothing, and comes home. */
static int refuse_stream(fl_request *request, lua_State *co)
{
    if (fl_remote_send_home(request, "streams, which no pool can do")) return 0;
    lua_pushliteral(co, "a route with run_in cannot stream: its answer crosses as a whole");
    return UV_EINVAL;
}

static int start_stream(fl_request *request, lua_State *co, const fl_answer *answer, fl_slice lines)
{
    if (request->job) return refuse_stream(request, co);
    if (request->route) (void)fl_exile_exempt(request->thread->exile, request->route->ledger);
    fl_slice type = answer->type.size ? answer->type : FL_SLICE("application/octet-stream");
    fl_response_head(request, answer->status, type, FL_LENGTH_STREAM, lines);
    if (request->is_head) return 0;
    request->streaming = true;
    request->stream_fn = luaL_ref(co, LUA_REGISTRYINDEX);
    return 1;
}

static int check_status(lua_State *co, int index, int otherwise, int *status)
{
    if (lua_isnoneornil(co, index)) {
        *status = otherwise;
        return 0;
    }
    double number = lua_type(co, index) == LUA_TNUMBER ? lua_tonumber(co, index) : 0;
    if (number < 200 || number > 599 || number != floor(number)) {
        lua_pushfstring(co, "status must be an integer from 200 to 599, not %s",
                        lua_type(co, index) == LUA_TNUMBER ? lua_tostring(co, index)
                                                           : luaL_typename(co, index));
        return UV_EINVAL;
    }
    *status = (int)number;
    return 0;
}

static int send_answer(fl_request *request, lua_State *co, fl_answer *answer, bool stream)
{
    fl_buffer *scratch = &request->thread->scratch;
    fl_buffer_reset(scratch, SIZE_MAX);
    fl_lines lines = {.buffer = scratch};
    if (answer->headers) {
        int status = add_headers(co, answer->headers, &lines);
        if (status < 0) return status;
        if (scratch->failed) { /* half a line may be there */
            lua_pushliteral(co, "not enough memory for the headers");
            return UV_ENOMEM;
        }
    }
    if (lines.type.size) answer->type = lines.type;
    fl_slice text = fl_slice_of(scratch->data, scratch->size);
    int result =
        stream ? start_stream(request, co, answer, text) : send_value(request, co, answer, text);
    if (result < 0) /* the headers that middleware set reach the 500 too */
        fl_buffer_append(&request->extra, scratch->data, text.size);
    fl_buffer_reset(scratch, 65536);
    return result;
}

static void get_raw(lua_State *co, int index, const char *field)
{
    lua_pushstring(co, field);
    lua_rawget(co, index);
}

/* A Response at `index`: { status, headers, body, stream }. */
static int send_response(fl_request *request, lua_State *co, int index)
{
    fl_answer answer = {0};
    get_raw(co, index, "status");
    int status = check_status(co, lua_gettop(co), 200, &answer.status);
    if (status < 0) return status;
    get_raw(co, index, "headers");
    answer.headers = lua_gettop(co);
    get_raw(co, index, "body");
    answer.value = lua_gettop(co);
    get_raw(co, index, "stream");
    bool stream = lua_isfunction(co, -1) && !has_no_body(answer.status);
    return send_answer(request, co, &answer, stream);
}

/* An HttpError at `index`: { status, detail, headers }. */
static int send_http_error(fl_request *request, lua_State *co, int index)
{
    fl_answer answer = {0};
    get_raw(co, index, "status");
    int status = check_status(co, lua_gettop(co), 500, &answer.status);
    if (status < 0) return status;
    get_raw(co, index, "headers");
    answer.headers = lua_gettop(co);
    lua_createtable(co, 0, 1);
    answer.value = lua_gettop(co);
    get_raw(co, index, "detail");
    if (lua_isnil(co, -1)) {
        lua_pop(co, 1);
        fl_slice reason = fl_response_reason(answer.status);
        lua_pushlstring(co, reason.data, reason.size);
    }
    lua_setfield(co, answer.value, "detail");
    return send_answer(request, co, &answer, false);
}

int fl_response_from_lua(fl_request *request, lua_State *co, int results)
{
    int first = lua_gettop(co) - results + 1;
    if (lua_type(co, first) == LUA_TSTRING && results == 1) { /* the shortest way */
        fl_response_send(request, 200, TEXT_TYPE, (fl_slice){0}, string_at(co, first));
        return 0;
    }
    if (has_metatable(co, first, RESPONSE)) return send_response(request, co, first);
    if (fl_response_is_error(co, first)) return send_http_error(request, co, first);
    fl_answer answer = {.value = first};
    bool nothing = results == 0 || lua_isnil(co, first);
    if (results == 0) lua_pushnil(co);
    int status = check_status(co, results > 1 ? first + 1 : lua_gettop(co) + 1, nothing ? 204 : 200,
                              &answer.status);
    if (status < 0) return status;
    if (results > 2) answer.headers = first + 2;
    return send_answer(request, co, &answer, false);
}

/* check_header(name, value): raises what is wrong   [-0, +0, e] */
static int check_header(lua_State *L)
{
    size_t name_size, value_size;
    const char *name = luaL_checklstring(L, 1, &name_size);
    const char *value = luaL_checklstring(L, 2, &value_size);
    const char *fault = header_fault(fl_slice_of(name, name_size), fl_slice_of(value, value_size));
    if (fault) return luaL_error(L, "header \"%s\" %s", name, fault);
    return 0;
}

/* reason(status) -> string   [-0, +1, e] */
static int reason(lua_State *L)
{
    fl_slice text = fl_response_reason((int)luaL_checkinteger(L, 1));
    lua_pushlstring(L, text.data ? text.data : "", text.size);
    return 1;
}

int fl_response_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"check_header", check_header}, {"reason", reason}, {NULL, NULL}};
    static const char *const types[][2] = {
        {"Response", RESPONSE}, {"Headers", HEADERS}, {"HttpError", FL_HTTP_ERROR}};
    lua_newtable(L);
    fl_state_functions(L, functions);
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        luaL_newmetatable(L, types[i][1]);
        lua_setfield(L, -2, types[i][0]);
    }
    return 1;
}
