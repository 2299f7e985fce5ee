/* A message is packed before the claim is taken, and unpacked after it was given up; it stays with
 * its op until Lua has said that it received it. */
#include "bind/topic.h"

#include <lauxlib.h>
#include <stdio.h>

#include "../topic.h"
#include "op.h"
#include "server.h"
#include "thread.h"

#define METATABLE "fasterlua.topic"
#define SUBSCRIPTION "fasterlua.subscription"
#define OWN_TOPICS "fasterlua.core.topic.own" /* in the registry of a state without a server */

typedef struct handle {
    fl_topic *topic;
} handle;

typedef struct subscription {
    fl_subscriber *subscriber;
} subscription;

typedef struct next_op {
    fl_op op;
    fl_fanout_wait wait;
    fl_subscriber *subscriber; /* held */
} next_op;

static fl_topic *check_topic(lua_State *L, int index)
{
    return ((handle *)luaL_checkudata(L, index, METATABLE))->topic;
}

static subscription *check_subscription(lua_State *L, int index)
{
    return luaL_checkudata(L, index, SUBSCRIPTION);
}

/* errors: tables with kind and message */

static void push_failure(lua_State *L, const char *kind, const char *message)
{
    lua_createtable(L, 0, 2);
    lua_pushstring(L, kind);
    lua_setfield(L, -2, "kind");
    lua_pushstring(L, message);
    lua_setfield(L, -2, "message");
}

static void push_closed(lua_State *L, fl_subscriber *subscriber)
{
    push_failure(L, "closed",
                 fl_subscriber_overflowed(subscriber)
                     ? "the subscription is closed: its buffer was full"
                     : "the subscription is closed");
}

/* next */

/* true, value… | false, error */
static int take_result(fl_op *op, lua_State *L)
{
    next_op *self = (next_op *)op;
    int top = lua_gettop(L);
    lua_pushboolean(L, !op->cancelled && self->wait.message);
    if (op->cancelled) {
        push_failure(L, "cancelled", "cancelled");
    } else if (!self->wait.message) {
        push_closed(L, self->subscriber);
    } else if (fl_parcel_unpack(&self->wait.message->parcel, L) < 0) {
        const char *problem = lua_tostring(L, -1);
        lua_pushboolean(L, false);
        push_failure(L, "message", problem);
        return 2;
    }
    return lua_gettop(L) - top;
}

static void next_ended(fl_fanout_wait *wait)
{
    fl_op_done((fl_op *)((char *)wait - offsetof(next_op, wait)));
}

static void cancel(fl_op *op)
{
    next_op *self = (next_op *)op;
    fl_subscriber_cancel(self->subscriber, &self->wait);
    fl_op_done(op);
}

static void close_op(fl_op *op)
{
    next_op *self = (next_op *)op;
    if (self->wait.message) fl_fanout_message_release(self->wait.message);
    if (self->subscriber) fl_subscriber_release(self->subscriber);
    self->wait.message = NULL;
    self->subscriber = NULL;
}

static const fl_op_kind next_kind = {"a message", take_result, cancel, close_op, false};

static int next(next_op *self, bool waits)
{
    fl_claim *claim = &self->op.state->thread->claim;
    fl_claim_take(claim);
    int status = fl_subscriber_next(self->subscriber, &self->wait, waits);
    if (status != UV_EAGAIN && waits) fl_op_done(&self->op);
    fl_claim_give(claim);
    return status;
}

/* next(subscription) -> op | nil, error   [-0, +1|2, e] */
static int subscription_next(lua_State *L)
{
    fl_subscriber *subscriber = check_subscription(L, 1)->subscriber;
    next_op *self = (next_op *)fl_op_prepare(L, sizeof(*self), &next_kind);
    fl_subscriber_hold(subscriber);
    self->subscriber = subscriber;
    self->wait.ended = next_ended;
    int status = next(self, false);
    if (status == UV_EAGAIN) {
        fl_op_begin(L, &self->op);
        status = next(self, true);
    }
    if (status != UV_EOF) return 1;
    lua_pushnil(L);
    push_closed(L, subscriber);
    return 2;
}

static next_op *check_next(lua_State *L)
{
    next_op *self = (next_op *)fl_op_check(L, 1);
    luaL_argcheck(L, self->op.kind == &next_kind, 1, "a message expected");
    return self;
}

/* received(op): its message has reached somebody   [-0, +0, e] */
static int next_received(lua_State *L)
{
    next_op *self = check_next(L);
    if (self->wait.message) fl_fanout_message_release(self->wait.message);
    self->wait.message = NULL;
    return 0;
}

/* put_back(op): its message has reached nobody   [-0, +0, e] */
static int next_put_back(lua_State *L)
{
    next_op *self = check_next(L);
    fl_fanout_message *message = self->wait.message;
    if (!message) return 0;
    fl_claim *claim = &self->op.state->thread->claim;
    fl_claim_take(claim);
    self->wait.message = NULL;
    fl_subscriber_put_back(self->subscriber, message);
    fl_claim_give(claim);
    return 0;
}

/* subscriptions */

/* subscribe(topic, buffer, policy) -> subscription: checked by the caller   [-0, +1, e] */
static int topic_subscribe(lua_State *L)
{
    static const char *const policies[] = {"drop_oldest", "drop_newest", "close", NULL};
    fl_topic *topic = check_topic(L, 1);
    size_t buffer = (size_t)luaL_checkinteger(L, 2);
    fl_fanout_policy policy = (fl_fanout_policy)luaL_checkoption(L, 3, NULL, policies);
    fl_state *state = fl_state_of(L);
    if (!state) return luaL_error(L, "topic \"%s\": there is no server here", fl_topic_name(topic));
    subscription *self = lua_newuserdata(L, sizeof(*self));
    *self = (subscription){0};
    luaL_getmetatable(L, SUBSCRIPTION);
    lua_setmetatable(L, -2);
    fl_claim_take(&state->thread->claim);
    int status = fl_topic_subscribe(&self->subscriber, topic, state->address, buffer, policy);
    fl_claim_give(&state->thread->claim);
    if (status == 0) return 1;
    self->subscriber = NULL;
    return luaL_error(L, "topic \"%s\": %s", fl_topic_name(topic), uv_strerror(status));
}

static void close_subscription(lua_State *L, subscription *self)
{
    fl_claim *claim = &fl_state_of(L)->thread->claim;
    fl_claim_take(claim);
    fl_subscriber_close(self->subscriber);
    fl_claim_give(claim);
}

/* [-0, +0, -] */
static int subscription_collect(lua_State *L)
{
    subscription *self = lua_touserdata(L, 1);
    if (!self->subscriber) return 0;
    close_subscription(L, self);
    fl_subscriber_release(self->subscriber);
    self->subscriber = NULL;
    return 0;
}

/* subscription:close()   [-0, +0, e] */
static int subscription_close(lua_State *L)
{
    close_subscription(L, check_subscription(L, 1));
    return 0;
}

/* subscription:dropped() -> integer   [-0, +1, e] */
static int subscription_dropped(lua_State *L)
{
    uint64_t dropped = fl_subscriber_dropped(check_subscription(L, 1)->subscriber);
    lua_pushnumber(L, (lua_Number)dropped);
    return 1;
}

/* has_request() -> boolean: something that runs now will end   [-0, +1, -] */
static int topic_has_request(lua_State *L)
{
    const fl_state *state = fl_state_of(L);
    const fl_request *request = state && state->running ? state->running->request : NULL;
    lua_pushboolean(L, request && !request->ended);
    return 1;
}

/* topics */

/* A userdatum in which a message is while it is packed.   [-0, +1, e] */
static fl_fanout_message **new_message(lua_State *L)
{
    fl_fanout_message **message = lua_newuserdata(L, sizeof(fl_fanout_message *));
    *message = NULL;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_setmetatable(L, -2);
    *message = fl_fanout_message_new();
    if (!*message) luaL_error(L, "not enough memory for a message");
    return message;
}

/* __gc of such a userdatum   [-0, +0, -] */
static int message_collect(lua_State *L)
{
    fl_fanout_message **message = lua_touserdata(L, 1);
    if (*message) fl_fanout_message_release(*message);
    *message = NULL;
    return 0;
}

static int publish(lua_State *L, fl_topic *topic, fl_fanout_message *message, size_t *subscribers)
{
    fl_state *state = fl_state_of(L);
    if (!state) return fl_topic_publish(topic, message, subscribers);
    fl_claim_take(&state->thread->claim);
    int status = fl_topic_publish(topic, message, subscribers);
    fl_claim_give(&state->thread->claim);
    return status;
}

/* publish(topic, value…) -> integer | nil, error   [-0, +1|2, e] */
static int topic_publish(lua_State *L)
{
    fl_topic *topic = check_topic(L, 1);
    int count = lua_gettop(L) - 1;
    size_t subscribers = 0;
    fl_fanout_message **message = new_message(L);
    if (fl_parcel_pack(&(*message)->parcel, L, 2, count, "value") < 0)
        return luaL_error(L, "topic \"%s\": %s", fl_topic_name(topic), lua_tostring(L, -1));
    int status = publish(L, topic, *message, &subscribers);
    size_t bytes = (*message)->bytes;
    fl_fanout_message_release(*message);
    *message = NULL;
    lua_pushnumber(L, (lua_Number)subscribers);
    if (status == 0) return 1;
    char text[FL_TOPIC_NAME_MOST + 200];
    if (status == UV_E2BIG)
        (void)snprintf(text, sizeof(text),
                       "topic \"%s\": a message of %zu bytes is more than the %zu that reach other "
                       "server processes (a quarter of the setting topic_ring)",
                       fl_topic_name(topic), bytes, fl_topic_message_most(topic));
    else
        (void)snprintf(text, sizeof(text), "topic \"%s\": %s", fl_topic_name(topic),
                       uv_strerror(status));
    lua_pushnil(L);
    push_failure(L, status == UV_E2BIG ? "too_large" : "topic", text);
    return 2;
}

/* [-0, +0, -] */
static int collect_topics(lua_State *L)
{
    fl_topics_free(*(fl_topics **)lua_touserdata(L, 1));
    return 0;
}

/* Those of a state without a server. */
static fl_topics *own_topics(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, OWN_TOPICS);
    fl_topics **own = lua_touserdata(L, -1);
    if (!own) {
        const fl_topic_options options = {.processes = 1};
        own = lua_newuserdata(L, sizeof(*own));
        *own = NULL;
        lua_createtable(L, 0, 1);
        lua_pushcfunction(L, collect_topics);
        lua_setfield(L, -2, "__gc");
        lua_setmetatable(L, -2);
        if (fl_topics_new(own, &options) < 0) luaL_error(L, "not enough memory");
        lua_setfield(L, LUA_REGISTRYINDEX, OWN_TOPICS);
    }
    lua_pop(L, 1);
    return *own;
}

/* open(name) -> topic: checked by the caller   [-0, +1, e] */
static int topic_open(lua_State *L)
{
    size_t length;
    const char *name = luaL_checklstring(L, 1, &length);
    luaL_argcheck(L, length <= FL_TOPIC_NAME_MOST && strlen(name) == length, 1, "a short name");
    const fl_state *state = fl_state_of(L);
    fl_topics *topics = state ? fl_server_topics(state->thread->server) : own_topics(L);
    handle *self = lua_newuserdata(L, sizeof(*self)); /* closed before the topics are */
    self->topic = NULL;
    luaL_getmetatable(L, METATABLE);
    lua_setmetatable(L, -2);
    fl_slice app = fl_slice_from_string(state ? state->app->name : "");
    self->topic = fl_topic_open(topics, app, fl_slice_of(name, length));
    return self->topic ? 1 : luaL_error(L, "not enough memory for a topic");
}

/* [-0, +0, -] */
static int topic_collect(lua_State *L)
{
    handle *self = lua_touserdata(L, 1);
    if (self->topic) fl_topic_close(self->topic);
    self->topic = NULL;
    return 0;
}

/* topic:name() -> string   [-0, +1, e] */
static int topic_name(lua_State *L)
{
    lua_pushstring(L, fl_topic_name(check_topic(L, 1)));
    return 1;
}

static void set_metatable(lua_State *L, const char *name, lua_CFunction collect,
                          const luaL_Reg *methods, const char *field)
{
    luaL_newmetatable(L, name);
    lua_pushcfunction(L, collect);
    lua_setfield(L, -2, "__gc");
    lua_createtable(L, 0, 4);
    fl_state_functions(L, methods);
    lua_setfield(L, -2, "__index");
    lua_setfield(L, -2, field);
}

int fl_topic_module(lua_State *L)
{
    static const luaL_Reg topic_methods[] = {{"name", topic_name}, {NULL, NULL}};
    static const luaL_Reg methods[] = {
        {"close", subscription_close}, {"dropped", subscription_dropped}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"open", topic_open},
                                         {"subscribe", topic_subscribe},
                                         {"next", subscription_next},
                                         {"received", next_received},
                                         {"put_back", next_put_back},
                                         {"has_request", topic_has_request},
                                         {NULL, NULL}};
    lua_newtable(L);
    fl_state_functions(L, functions);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, message_collect);
    lua_setfield(L, -2, "__gc");
    lua_pushcclosure(L, topic_publish, 1);
    lua_setfield(L, -2, "publish");
    set_metatable(L, METATABLE, topic_collect, topic_methods, "metatable");
    set_metatable(L, SUBSCRIPTION, subscription_collect, methods, "subscription");
    return 1;
}
