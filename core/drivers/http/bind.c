/* A state's client is a userdata in its registry, made when the first transfer is. A transfer's
 * handle is a userdata of its own; ops that wait for it hold it too. Bytes become Lua strings only
 * outside of the claim, from buffers that only these functions touch then. */
#include "bind.h"

#include <lauxlib.h>
#include <stdlib.h>

#include "client.h"
#include "order.h"
#include "thread.h"
#include "transfer.h"
#include "url.h"

#define TRANSFER "fasterlua.http.transfer"
#define CLIENT "fasterlua.http.client"

typedef struct handle {
    fl_http_transfer *transfer; /* NULL: not made */
} handle;

typedef struct wait_op {
    fl_op op;
    fl_http_transfer *transfer;
    fl_http_what what;
} wait_op;

static fl_http_transfer *check_transfer(lua_State *L)
{
    return ((handle *)luaL_checkudata(L, 1, TRANSFER))->transfer;
}

static fl_claim *claim_of(lua_State *L)
{
    return &fl_state_of(L)->thread->claim;
}

/* the client */

/* [-0, +0, -] */
static int client_collect(lua_State *L)
{
    fl_http_client *client = lua_touserdata(L, 1);
    if (!client->multi) return 0;
    fl_claim *claim = &client->state->thread->claim;
    fl_claim_take(claim);
    fl_http_client_close(client);
    fl_claim_give(claim);
    return 0;
}

/* Pushes a closed one.  [-0, +1, e] */
static fl_http_client *push_client(lua_State *L)
{
    fl_http_client *client = lua_newuserdata(L, sizeof(*client));
    *client = (fl_http_client){0};
    if (luaL_newmetatable(L, CLIENT ".metatable")) {
        lua_pushcfunction(L, client_collect);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return client;
}

/* The state's, made if need be.  [-0, +0, e] */
static fl_http_client *check_client(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    if (!state) fl_op_refuse(L, "http");
    lua_getfield(L, LUA_REGISTRYINDEX, CLIENT);
    fl_http_client *client = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (client) return client;
    client = push_client(L);
    fl_claim_take(&state->thread->claim);
    int status = fl_http_client_open(client, state);
    fl_claim_give(&state->thread->claim);
    if (status < 0) luaL_error(L, "not enough memory");
    lua_setfield(L, LUA_REGISTRYINDEX, CLIENT);
    return client;
}

static unsigned check_count(lua_State *L, int index, unsigned least)
{
    lua_Number value = luaL_checknumber(L, index);
    luaL_argcheck(L, value >= least && value <= 1000000, index, "a count expected");
    return (unsigned)value;
}

/* limit(running, waiting, per_host, total, keep in seconds)   [-0, +0, e] */
static int http_limit(lua_State *L)
{
    unsigned running = check_count(L, 1, 1), waiting = check_count(L, 2, 0);
    unsigned per_host = check_count(L, 3, 0), total = check_count(L, 4, 0);
    lua_Number keep = luaL_checknumber(L, 5);
    luaL_argcheck(L, keep >= 0 && keep <= 1000000, 5, "seconds expected");
    fl_http_client *client = check_client(L);
    fl_claim_take(claim_of(L));
    client->running_most = running;
    client->waiting_most = waiting;
    client->per_host = per_host;
    client->total = total;
    client->keep = (uint64_t)(keep * 1000);
    fl_http_client_limit(client);
    fl_claim_give(claim_of(L));
    return 0;
}

/* counts() -> running, waiting   [-0, +2, e] */
static int http_counts(lua_State *L)
{
    const fl_http_client *client = check_client(L);
    lua_pushinteger(L, (lua_Integer)client->running_count);
    lua_pushinteger(L, (lua_Integer)client->waiting_count);
    return 2;
}

/* a transfer's life */

/* [-0, +0, -] */
static int transfer_collect(lua_State *L)
{
    handle *self = lua_touserdata(L, 1);
    fl_http_transfer *transfer = self->transfer;
    if (!transfer) return 0;
    self->transfer = NULL;
    if (transfer->client) {
        fl_claim *claim = &transfer->client->state->thread->claim;
        fl_claim_take(claim);
        fl_http_transfer_cancel(transfer);
        fl_claim_give(claim);
    }
    fl_http_transfer_release(transfer);
    return 0;
}

/* Pushes the handle of a new one.  [-0, +1, e] */
static fl_http_transfer *push_transfer(lua_State *L)
{
    handle *self = lua_newuserdata(L, sizeof(*self));
    self->transfer = NULL;
    luaL_getmetatable(L, TRANSFER);
    lua_setmetatable(L, -2);
    self->transfer = fl_http_transfer_new();
    if (!self->transfer) luaL_error(L, "not enough memory");
    return self->transfer;
}

/* start(order) -> transfer | nil: too many wait   [-0, +1, e] */
static int http_start(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    fl_http_client *client = check_client(L);
    fl_http_transfer *transfer = push_transfer(L);
    fl_http_order_read(L, 1, client->state->app->folder, transfer);
    fl_claim_take(claim_of(L));
    int status = fl_http_transfer_start(transfer, client);
    fl_claim_give(claim_of(L));
    if (status == UV_ENOMEM) return luaL_error(L, "not enough memory");
    if (status < 0) lua_pushnil(L);
    return 1;
}

/* close(transfer): it ends at once, unless it has   [-0, +0, e] */
static int http_close(lua_State *L)
{
    fl_http_transfer *transfer = check_transfer(L);
    if (!transfer->client) return 0;
    fl_claim_take(claim_of(L));
    fl_http_transfer_cancel(transfer);
    fl_claim_give(claim_of(L));
    return 0;
}

/* waiting */

static int take_nothing(fl_op *op, lua_State *L)
{
    (void)op;
    lua_pushboolean(L, true);
    return 1;
}

static void cancel_wait(fl_op *op)
{
    wait_op *self = (wait_op *)op;
    self->transfer->waits[self->what] = NULL;
    fl_op_done(op);
}

static void close_wait(fl_op *op)
{
    wait_op *self = (wait_op *)op;
    if (self->transfer) fl_http_transfer_release(self->transfer);
    self->transfer = NULL;
}

static const fl_op_kind wait_kind = {"http", take_nothing, cancel_wait, close_wait, true};

/* wait(transfer, "head"|"body"|"room"|"end") -> op | nil: it has come   [-0, +1, e] */
static int http_wait(lua_State *L)
{
    static const char *const names[] = {"head", "body", "room", "end", NULL};
    fl_http_transfer *transfer = check_transfer(L);
    fl_http_what what = (fl_http_what)luaL_checkoption(L, 2, NULL, names);
    if (fl_http_transfer_has(transfer, what)) return 0;
    if (transfer->waits[what]) return luaL_error(L, "two tasks wait for the same response");
    wait_op *self = (wait_op *)fl_op_prepare(L, sizeof(*self), &wait_kind);
    self->transfer = transfer;
    self->what = what;
    fl_http_transfer_hold(transfer);
    fl_op_begin(L, &self->op);
    fl_claim_take(claim_of(L));
    fl_http_transfer_wait(transfer, what, &self->op);
    fl_claim_give(claim_of(L));
    return 1;
}

/* the request's body */

/* send(transfer, piece) -> boolean: there is room for more   [-0, +1, e] */
static int http_send(lua_State *L)
{
    size_t size;
    fl_http_transfer *transfer = check_transfer(L);
    const char *piece = luaL_checklstring(L, 2, &size);
    fl_claim_take(claim_of(L));
    bool has_room = fl_http_transfer_send(transfer, piece, size);
    fl_claim_give(claim_of(L));
    lua_pushboolean(L, has_room);
    return 1;
}

/* finish(transfer): all has been sent   [-0, +0, e] */
static int http_finish(lua_State *L)
{
    fl_http_transfer *transfer = check_transfer(L);
    fl_claim_take(claim_of(L));
    fl_http_transfer_finish(transfer);
    fl_claim_give(claim_of(L));
    return 0;
}

/* the answer */

/* head(transfer) -> status, lines | nothing: it has not come   [-0, +2, e] */
static int http_head(lua_State *L)
{
    const fl_http_transfer *transfer = check_transfer(L);
    if (!transfer->has_head) return 0;
    lua_pushinteger(L, (lua_Integer)transfer->status);
    lua_pushlstring(L, transfer->head.size ? transfer->head.data : "", transfer->head.size);
    return 2;
}

/* take(transfer) -> string: what has come of the body, "" for nothing   [-0, +1, e] */
static int http_take(lua_State *L)
{
    fl_http_transfer *transfer = check_transfer(L);
    fl_claim_take(claim_of(L));
    fl_http_transfer_take(transfer);
    fl_claim_give(claim_of(L));
    fl_buffer *taken = &transfer->taken;
    lua_pushlstring(L, taken->size ? taken->data : "", taken->size);
    fl_buffer_reset(taken, transfer->streams ? FL_HTTP_STREAM_HIGH * 2 : 0);
    return 1;
}

/* ended(transfer) -> boolean[, code, message, reply]: with the latter when it failed
 * [-0, +4, e] */
static int http_ended(lua_State *L)
{
    const fl_http_transfer *transfer = check_transfer(L);
    lua_pushboolean(L, transfer->phase == FL_HTTP_ENDED);
    if (!transfer->failure) return 1;
    lua_pushstring(L, transfer->failure);
    lua_pushstring(L, transfer->message);
    lua_pushinteger(L, (lua_Integer)transfer->reply);
    return 4;
}

static const char *version_name(long version)
{
    switch (version) {
    case CURL_HTTP_VERSION_1_0: return "1.0";
    case CURL_HTTP_VERSION_1_1: return "1.1";
    case CURL_HTTP_VERSION_2_0: return "2";
    default: return "3";
    }
}

/* about(transfer) -> version, timings   [-0, +2, e] */
static int http_about(lua_State *L)
{
    static const char *const names[FL_HTTP_TIMES] = {"resolve", "connect", "tls", "first_byte",
                                                     "total"};
    fl_http_transfer *transfer = check_transfer(L);
    fl_claim_take(claim_of(L));
    fl_http_transfer_look(transfer);
    fl_claim_give(claim_of(L));
    lua_pushstring(L, version_name(transfer->version));
    lua_createtable(L, 0, FL_HTTP_TIMES);
    for (int i = 0; i < FL_HTTP_TIMES; i++) {
        lua_pushnumber(L, transfer->times[i]);
        lua_setfield(L, -2, names[i]);
    }
    return 2;
}

/* now() -> seconds of a clock that nobody puts   [-0, +1, -] */
static int http_now(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)uv_hrtime() / 1e9);
    return 1;
}

int fl_http_module(lua_State *L)
{
    static const luaL_Reg functions[] = {{"start", http_start},   {"close", http_close},
                                         {"wait", http_wait},     {"send", http_send},
                                         {"finish", http_finish}, {"head", http_head},
                                         {"take", http_take},     {"ended", http_ended},
                                         {"about", http_about},   {"limit", http_limit},
                                         {"counts", http_counts}, {"url", fl_http_url},
                                         {"now", http_now},       {NULL, NULL}};
    if (luaL_newmetatable(L, TRANSFER)) {
        lua_pushcfunction(L, transfer_collect);
        lua_setfield(L, -2, "__gc");
    }
    lua_pop(L, 1);
    lua_newtable(L);
    fl_state_functions(L, functions);
    return 1;
}
