/* What a call puts is packed before the claim is taken, and what it takes is unpacked after it was
 * given up: until Lua has said that it received the item, that is lent and its bytes are kept. */
#include "bind/channel.h"

#include <lauxlib.h>
#include <stdio.h>

#include "../channel.h"
#include "op.h"
#include "server.h"
#include "thread.h"

#define METATABLE "fasterlua.channel"
#define OWN_CHANNELS                                                                               \
    "fasterlua.core.channel.own" /* in the registry of a state without a server                    \
                                  */

typedef struct handle {
    fl_channel *channel;
} handle;

typedef struct channel_op {
    fl_op op;
    fl_channel_wait *wait; /* NULL: not made */
    fl_channel_item *seen; /* held while it is unpacked */
} channel_op;

static fl_channel *check_channel(lua_State *L, int index)
{
    return ((handle *)luaL_checkudata(L, index, METATABLE))->channel;
}

/* NULL: there are none that others could reach. */
static fl_channels *channels_of(const fl_state *state)
{
    return state ? fl_server_channels(state->thread->server) : NULL;
}

/* Raises where a channel can be opened, for an app has to load there, and not be used.  [-0, +0, e]
 */
static fl_state *check_reachable(lua_State *L, const fl_channel *channel)
{
    fl_state *state = fl_state_of(L);
    if (!state) luaL_error(L, "channel \"%s\": there is no server here", fl_channel_name(channel));
    if (!channels_of(state))
        luaL_error(L,
                   "channel \"%s\" does not reach into the process of a job (isolation = "
                   "\"process\"): give it the items as arguments",
                   fl_channel_name(channel));
    return state;
}

/* errors: tables with kind and message */

static void push_failure(lua_State *L, const char *kind, const char *format, const char *name)
{
    lua_createtable(L, 0, 2);
    lua_pushstring(L, kind);
    lua_setfield(L, -2, "kind");
    lua_pushfstring(L, format, name);
    lua_setfield(L, -2, "message");
}

static void push_closed(lua_State *L, const fl_channel *channel)
{
    push_failure(L, "closed", "channel \"%s\" is closed", fl_channel_name(channel));
}

static void push_gone(lua_State *L, const fl_channel *channel)
{
    push_failure(L, "cancelled", "channel \"%s\": this state has been given up: others get items",
                 fl_channel_name(channel));
}

/* ops */

/* After `false` or `true`: the values, or the error instead. */
static int push_item(channel_op *self, lua_State *L)
{
    const fl_channel *channel = self->wait->channel;
    int top = lua_gettop(L);
    self->seen = fl_channel_look(self->wait);
    if (!self->seen) {
        lua_pushboolean(L, false);
        push_gone(L, channel);
        return 2;
    }
    lua_pushboolean(L, true);
    int count = fl_parcel_unpack(&self->seen->parcel, L);
    fl_channel_item_release(self->seen);
    self->seen = NULL;
    if (count >= 0) return lua_gettop(L) - top;
    (void)fl_channel_received(self->wait); /* nobody else could unpack it */
    const char *problem = lua_tostring(L, -1);
    lua_pushboolean(L, false);
    push_failure(L, "item", "an item of a channel cannot be unpacked: %s", problem);
    return 2;
}

/* true, values… | false, error */
static int take_result(fl_op *op, lua_State *L)
{
    channel_op *self = (channel_op *)op;
    fl_channel_wait *wait = self->wait;
    if (!op->cancelled && !wait->is_closed && wait->is_taker) return push_item(self, L);
    lua_pushboolean(L, !op->cancelled && !wait->is_closed);
    if (op->cancelled)
        push_failure(L, "cancelled", "%s", "cancelled");
    else if (wait->is_closed)
        push_closed(L, wait->channel);
    else
        return 1;
    return 2;
}

static void wait_ended(fl_channel_wait *wait)
{
    channel_op *self = wait->waiter;
    wait->waiter = NULL;
    fl_op_done(&self->op);
}

static void cancel(fl_op *op)
{
    fl_channel_cancel(((channel_op *)op)->wait);
    fl_op_done(op);
}

static void close_op(fl_op *op)
{
    channel_op *self = (channel_op *)op;
    if (self->seen) fl_channel_item_release(self->seen);
    if (self->wait) {
        if (self->wait->is_taker) fl_channel_give_back(self->wait);
        fl_channel_wait_release(self->wait);
    }
    self->seen = NULL;
    self->wait = NULL;
}

static const fl_op_kind put_kind = {"a put", take_result, cancel, close_op, false};
static const fl_op_kind take_kind = {"a take", take_result, cancel, close_op, false};

/* Pushes an op with a wait that is in no line yet. */
static channel_op *push_op(lua_State *L, fl_channel *channel, const fl_op_kind *kind)
{
    const fl_state *state = check_reachable(L, channel);
    channel_op *self = (channel_op *)fl_op_prepare(L, sizeof(*self), kind);
    self->wait = fl_channel_wait_new(channel, state->address);
    if (!self->wait) luaL_error(L, "not enough memory for a channel's item");
    return self;
}

static int put_or_take(fl_channel_wait *wait, bool is_put, bool waits)
{
    return is_put ? fl_channel_put(wait, waits) : fl_channel_take(wait, waits);
}

/* At once if that is possible: most are, and need no place among the state's ops. */
static int try(channel_op *self, bool is_put)
{
    fl_claim *claim = &self->op.state->thread->claim;
    fl_claim_take(claim);
    int status = put_or_take(self->wait, is_put, false);
    fl_claim_give(claim);
    return status;
}

/* With the op on top.  [-0, +0, m] */
static int try_or_wait(lua_State *L, channel_op *self, bool is_put)
{
    int status = try(self, is_put);
    if (status != UV_EAGAIN) return status;
    fl_claim *claim = &self->op.state->thread->claim;
    fl_op_begin(L, &self->op);
    fl_claim_take(claim);
    self->wait->ended = wait_ended;
    self->wait->waiter = self;
    status = put_or_take(self->wait, is_put, true);
    if (status != UV_EAGAIN) {
        self->wait->waiter = NULL;
        fl_op_done(&self->op);
    }
    fl_claim_give(claim);
    return status == UV_EAGAIN ? 0 : status;
}

/* put */

/* The arguments above the handle, into an op on top. */
static channel_op *pack(lua_State *L)
{
    fl_channel *channel = check_channel(L, 1);
    int count = lua_gettop(L) - 1;
    channel_op *self = push_op(L, channel, &put_kind);
    fl_channel_item *item = self->wait->item = fl_channel_item_new();
    if (!item) luaL_error(L, "not enough memory for a channel's item");
    if (fl_parcel_pack(&item->parcel, L, 2, count, "value") == 0) return self;
    luaL_error(L, "channel \"%s\": %s", fl_channel_name(channel), lua_tostring(L, -1));
    return NULL;
}

/* nil, error */
static int refuse(lua_State *L, const channel_op *self, int status)
{
    const fl_channel *channel = self->wait->channel;
    lua_pushnil(L);
    if (status == UV_EOF) {
        push_closed(L, channel);
    } else if (status == UV_ECANCELED) {
        push_gone(L, channel);
    } else {
        char text[FL_CHANNEL_NAME_MOST + 160];
        (void)snprintf(
            text, sizeof(text),
            "channel \"%s\": an item of %zu bytes does not fit: all of them together may "
            "have %zu (setting channel_bytes)",
            fl_channel_name(channel), self->wait->item->bytes, fl_channel_bytes_most(channel));
        push_failure(L, "too_large", "%s", text);
    }
    return 2;
}

/* put(channel, value…) -> true | op | nil, error   [-0, +1|2, e] */
static int channel_put(lua_State *L)
{
    channel_op *self = pack(L);
    int status = try_or_wait(L, self, true);
    if (status < 0) return refuse(L, self, status);
    if (self->op.done) lua_pushboolean(L, true);
    return 1;
}

/* try_put(channel, value…) -> boolean | nil, error   [-0, +1|2, e] */
static int channel_try_put(lua_State *L)
{
    channel_op *self = pack(L);
    int status = try(self, true);
    if (status < 0 && status != UV_EAGAIN) return refuse(L, self, status);
    lua_pushboolean(L, status == 0);
    return 1;
}

/* take */

/* take(channel) -> op | nil, error   [-0, +1|2, e] */
static int channel_take(lua_State *L)
{
    channel_op *self = push_op(L, check_channel(L, 1), &take_kind);
    int status = try_or_wait(L, self, false);
    return status < 0 ? refuse(L, self, status) : 1;
}

static void receive(lua_State *L, channel_op *self)
{
    fl_claim *claim = &self->op.state->thread->claim;
    fl_claim_take(claim);
    bool received = fl_channel_received(self->wait);
    fl_claim_give(claim);
    if (received) return;
    push_gone(L, self->wait->channel);
    lua_error(L);
}

/* try_take(channel) -> true, value… | false | nil, error   [-0, +n, e] */
static int channel_try_take(lua_State *L)
{
    channel_op *self = push_op(L, check_channel(L, 1), &take_kind);
    int status = try(self, false);
    if (status == UV_EAGAIN) {
        lua_pushboolean(L, false);
        return 1;
    }
    if (status < 0) return refuse(L, self, status);
    int top = lua_gettop(L);
    int count = push_item(self, L);
    if (lua_toboolean(L, top + 1)) {
        receive(L, self);
    } else {
        lua_pushnil(L);
        lua_replace(L, top + 1);
    }
    return count;
}

static channel_op *check_take(lua_State *L)
{
    channel_op *self = (channel_op *)fl_op_check(L, 1);
    luaL_argcheck(L, self->op.kind == &take_kind, 1, "a take expected");
    return self;
}

/* received(op): its item has reached somebody   [-0, +0, e] */
static int channel_received(lua_State *L)
{
    receive(L, check_take(L));
    return 0;
}

/* give_back(op): its item has reached nobody   [-0, +0, e] */
static int channel_give_back(lua_State *L)
{
    channel_op *self = check_take(L);
    fl_claim *claim = &self->op.state->thread->claim;
    fl_claim_take(claim);
    fl_channel_give_back(self->wait);
    fl_claim_give(claim);
    return 0;
}

/* handles */

/* [-0, +0, -] */
static int collect_channels(lua_State *L)
{
    fl_channels_free(*(fl_channels **)lua_touserdata(L, 1));
    return 0;
}

/* Those of a state that has no others. */
static fl_channels *own_channels(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, OWN_CHANNELS);
    fl_channels **own = lua_touserdata(L, -1);
    if (!own) {
        own = lua_newuserdata(L, sizeof(*own));
        *own = NULL;
        lua_createtable(L, 0, 1);
        lua_pushcfunction(L, collect_channels);
        lua_setfield(L, -2, "__gc");
        lua_setmetatable(L, -2);
        if (fl_channels_new(own, SIZE_MAX, SIZE_MAX) < 0) luaL_error(L, "not enough memory");
        lua_setfield(L, LUA_REGISTRYINDEX, OWN_CHANNELS);
    }
    lua_pop(L, 1);
    return *own;
}

/* open(name[, size]) -> channel: checked by the caller   [-0, +1, e] */
static int channel_open(lua_State *L)
{
    char why[FL_CHANNEL_NAME_MOST + 160];
    size_t length;
    const char *name = luaL_checklstring(L, 1, &length);
    size_t size = (size_t)luaL_optinteger(L, 2, 0);
    const fl_state *state = fl_state_of(L);
    luaL_argcheck(L, length <= FL_CHANNEL_NAME_MOST && strlen(name) == length, 1, "a short name");
    fl_channels *channels = channels_of(state);
    if (!channels) channels = own_channels(L);
    handle *self = lua_newuserdata(L, sizeof(*self)); /* closed before the channels are */
    self->channel = NULL;
    luaL_getmetatable(L, METATABLE);
    lua_setmetatable(L, -2);
    int status = fl_channel_open(&self->channel, channels, state ? state->number : 0,
                                 fl_slice_of(name, length), size, why, sizeof(why));
    if (status == 0) return 1;
    self->channel = NULL;
    return luaL_error(L, "%s", why);
}

/* [-0, +0, -] */
static int channel_collect(lua_State *L)
{
    handle *self = lua_touserdata(L, 1);
    if (self->channel) fl_channel_close_handle(self->channel);
    self->channel = NULL;
    return 0;
}

/* channel:name() -> string   [-0, +1, e] */
static int channel_name(lua_State *L)
{
    lua_pushstring(L, fl_channel_name(check_channel(L, 1)));
    return 1;
}

/* channel:size() -> integer   [-0, +1, e] */
static int channel_size(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)fl_channel_size(check_channel(L, 1)));
    return 1;
}

/* channel:len() -> integer   [-0, +1, e] */
static int channel_len(lua_State *L)
{
    fl_channel *channel = check_channel(L, 1);
    (void)check_reachable(L, channel);
    lua_pushnumber(L, (lua_Number)fl_channel_length(channel));
    return 1;
}

/* channel:close()   [-0, +0, e] */
static int channel_close(lua_State *L)
{
    fl_channel *channel = check_channel(L, 1);
    fl_state *state = check_reachable(L, channel);
    fl_claim_take(&state->thread->claim);
    fl_channel_end(channel);
    fl_claim_give(&state->thread->claim);
    return 0;
}

int fl_channel_module(lua_State *L)
{
    static const luaL_Reg methods[] = {{"name", channel_name},
                                       {"size", channel_size},
                                       {"len", channel_len},
                                       {"close", channel_close},
                                       {NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"open", channel_open},           {"put", channel_put},
        {"try_put", channel_try_put},     {"take", channel_take},
        {"try_take", channel_try_take},   {"received", channel_received},
        {"give_back", channel_give_back}, {NULL, NULL}};
    lua_newtable(L);
    fl_state_functions(L, functions);
    luaL_newmetatable(L, METATABLE);
    lua_pushcfunction(L, channel_collect);
    lua_setfield(L, -2, "__gc");
    lua_createtable(L, 0, 8);
    fl_state_functions(L, methods);
    lua_setfield(L, -2, "__index");
    lua_setfield(L, -2, "metatable");
    return 1;
}
