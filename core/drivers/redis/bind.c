#include "bind.h"

#include <lauxlib.h>
#include <string.h>

#include "arguments.h"
#include "bind_result.h"
#include "bind_target.h"
#include "link.h"
#include "op.h"
#include "reply.h"
#include "slot.h"
#include "state.h"
#include "thread.h"

#define LINK "fasterlua.redis.link"

typedef struct link_handle {
    fl_redis_link *link; /* NULL: where apps are only loaded, or closed by the collector */
} link_handle;

typedef struct command_op {
    fl_op op;
    fl_redis_command *command; /* NULL: the link has it, for nobody */
    fl_redis_answer answer;
} command_op;

typedef struct messages_op {
    fl_op op;
    fl_redis_link *link;
    fl_redis_messages messages;
} messages_op;

/* links */

static link_handle *check_link(lua_State *L, int index)
{
    link_handle *handle = luaL_checkudata(L, index, LINK);
    if (!handle->link) fl_op_refuse(L, "redis");
    return handle;
}

static fl_state *check_state(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    if (!state) fl_op_refuse(L, "redis");
    return state;
}

/* [-1, +0, -] */
static int collect_link(lua_State *L)
{
    link_handle *handle = luaL_checkudata(L, 1, LINK);
    fl_state *state = fl_state_of(L);
    if (!handle->link || !state) return 0;
    fl_claim_take(&state->thread->claim);
    fl_redis_link_free(handle->link);
    handle->link = NULL;
    fl_claim_give(&state->thread->claim);
    return 0;
}

/* link(target, is_subscriber) -> link   [-0, +1, e] */
static int redis_link(lua_State *L)
{
    const fl_redis_target *target = fl_redis_target_check(L, 1);
    bool is_subscriber = lua_toboolean(L, 2);
    fl_state *state = fl_state_of(L);
    link_handle *handle = lua_newuserdata(L, sizeof(*handle));
    handle->link = NULL;
    luaL_getmetatable(L, LINK);
    lua_setmetatable(L, -2);
    lua_createtable(L, 1, 0);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, 1);
    (void)lua_setfenv(L, -2);
    if (!state) return 1;
    handle->link = fl_redis_link_new(state, target, is_subscriber);
    if (!handle->link) return luaL_error(L, "not enough memory");
    return 1;
}

/* commands */

static void command_ended(fl_redis_command *command)
{
    command_op *self = command->data;
    fl_op_done(&self->op);
}

static void cancel_command(fl_op *op)
{
    command_op *self = (command_op *)op;
    if (!fl_redis_link_cancel(self->command)) self->command = NULL;
    fl_op_done(op);
}

static void close_command(fl_op *op)
{
    command_op *self = (command_op *)op;
    fl_op_failure failure;
    if (!self->command) return;
    if (fl_op_is_lost(op) && fl_redis_result_failed(self->command, self->answer, &failure))
        fl_op_tell_lost(op, &failure);
    fl_redis_command_free(self->command);
    self->command = NULL;
}

/* true, value | false, error   [-0, +2, e] */
static int take_command(fl_op *op, lua_State *L)
{
    const command_op *self = (command_op *)op;
    const fl_redis_command *command = self->command;
    if (!command || op->cancelled) {
        lua_pushboolean(L, false);
        fl_redis_failure_push(L, "CANCELLED", "cancelled", FL_SLICE(""));
        return 2;
    }
    return fl_redis_result_push(L, command, self->answer);
}

/* Pushes an op that keeps the link at 1 and has a command with room for so many bytes and kinds. */
static command_op *push_op(lua_State *L, size_t size, size_t replies)
{
    static const fl_op_kind what = {"a command of Redis", take_command, cancel_command,
                                    close_command, true};
    command_op *self = (command_op *)fl_op_prepare(L, sizeof(*self), &what);
    lua_createtable(L, 1, 0);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, 1);
    (void)lua_setfenv(L, -2);
    fl_redis_command *command = fl_redis_command_new(size + replies, replies);
    if (!command) luaL_error(L, "not enough memory for a command of Redis");
    command->ended = command_ended;
    command->data = self;
    command->bytes = fl_slice_of(command->text, size);
    command->kinds = fl_slice_of(command->text + size, replies);
    self->command = command;
    return self;
}

static int begin(lua_State *L, command_op *self, fl_redis_link *link)
{
    fl_claim *claim = &self->op.state->thread->claim;
    fl_op_begin(L, &self->op);
    fl_claim_take(claim);
    fl_redis_link_send(link, self->command);
    fl_claim_give(claim);
    return 1;
}

/* command(link, kind, may_repeat, timeout, name, …) -> op   [-0, +1, e] */
static int redis_command(lua_State *L)
{
    enum { KIND = 2, MAY_REPEAT, TIMEOUT, NAME };
    fl_redis_link *link = check_link(L, 1)->link;
    int kind = (int)luaL_checkinteger(L, KIND);
    uint64_t timeout = (uint64_t)luaL_checknumber(L, TIMEOUT);
    size_t size = fl_redis_arguments_check(L, NAME);
    command_op *self = push_op(L, size, 1);
    fl_redis_command *command = self->command;
    lua_replace(L, 1); /* what is left are the words; the op keeps the link */
    fl_redis_arguments_write(L, NAME, command->text);
    command->text[size] = (char)('0' + kind);
    command->may_repeat = lua_toboolean(L, MAY_REPEAT);
    command->timeout = timeout;
    lua_settop(L, 1);
    return begin(L, self, link);
}

/* encode(name, …) -> string   [-0, +1, e] */
static int redis_encode(lua_State *L)
{
    size_t size = fl_redis_arguments_check(L, 1);
    char *text = lua_newuserdata(L, size);
    lua_insert(L, 1);
    fl_redis_arguments_write(L, 2, text);
    lua_pushlstring(L, text, size);
    return 1;
}

/* batch(link, bytes, kinds, answer, may_repeat, timeout) -> op: commands that were encoded, and a
 * kind for each   [-0, +1, e] */
static int redis_batch(lua_State *L)
{
    enum { BYTES = 2, KINDS, ANSWER, MAY_REPEAT, TIMEOUT };
    fl_slice bytes, kinds;
    fl_redis_link *link = check_link(L, 1)->link;
    bytes.data = luaL_checklstring(L, BYTES, &bytes.size);
    kinds.data = luaL_checklstring(L, KINDS, &kinds.size);
    int answer = (int)luaL_checkinteger(L, ANSWER);
    uint64_t timeout = (uint64_t)luaL_checknumber(L, TIMEOUT);
    command_op *self = push_op(L, bytes.size, kinds.size);
    fl_redis_command *command = self->command;
    memcpy(command->text, bytes.data, bytes.size);
    memcpy(command->text + bytes.size, kinds.data, kinds.size);
    command->may_repeat = lua_toboolean(L, MAY_REPEAT);
    command->timeout = timeout;
    self->answer = (fl_redis_answer)answer;
    return begin(L, self, link);
}

/* write(link, bytes): commands whose replies come as messages   [-0, +0, e] */
static int redis_write(lua_State *L)
{
    size_t size;
    fl_redis_link *link = check_link(L, 1)->link;
    const char *bytes = luaL_checklstring(L, 2, &size);
    fl_state *state = check_state(L);
    fl_redis_command *command = fl_redis_command_new(size, 0);
    if (!command) return luaL_error(L, "not enough memory for a command of Redis");
    memcpy(command->text, bytes, size);
    command->bytes = fl_slice_of(command->text, size);
    fl_claim_take(&state->thread->claim);
    fl_redis_link_send(link, command);
    fl_claim_give(&state->thread->claim);
    return 0;
}

/* messages */

static void messages_came(fl_redis_messages *messages)
{
    messages_op *self = messages->data;
    fl_op_done(&self->op);
}

static void cancel_messages(fl_op *op)
{
    fl_redis_link_ignore(((messages_op *)op)->link);
    fl_op_done(op);
}

static void close_messages(fl_op *op)
{
    fl_buffer_close(&((messages_op *)op)->messages.records);
}

/* true, list of messages | false, error   [-0, +2, e] */
static int take_messages(fl_op *op, lua_State *L)
{
    const fl_redis_messages *messages = &((messages_op *)op)->messages;
    const char *record = messages->records.data;
    lua_pushboolean(L, !messages->lost && !op->cancelled);
    if (messages->lost || op->cancelled) {
        fl_redis_failure_push(L, op->cancelled ? "CANCELLED" : "CONNECTION", messages->problem,
                              FL_SLICE(""));
        return 2;
    }
    lua_createtable(L, (int)messages->count, 0);
    for (int i = 1; i <= (int)messages->count; i++) {
        fl_redis_reply_push(L, record, FL_REDIS_AS_IT_IS, FL_SLICE("SUBSCRIBE"));
        lua_rawseti(L, -2, i);
        record = fl_redis_reply_skip(record);
    }
    return 2;
}

/* next(link) -> op: the messages that have come; one waits at a time   [-0, +1, e] */
static int redis_next(lua_State *L)
{
    static const fl_op_kind what = {"messages of Redis", take_messages, cancel_messages,
                                    close_messages, false};
    fl_redis_link *link = check_link(L, 1)->link;
    if (fl_redis_link_is_heard(link)) return luaL_error(L, "redis: somebody listens already");
    messages_op *self = (messages_op *)fl_op_prepare(L, sizeof(*self), &what);
    lua_createtable(L, 1, 0);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, 1);
    (void)lua_setfenv(L, -2);
    self->link = link;
    self->messages.ended = messages_came;
    self->messages.data = self;
    fl_op_begin(L, &self->op);
    fl_claim *claim = &self->op.state->thread->claim;
    fl_claim_take(claim);
    fl_redis_link_listen(link, &self->messages);
    fl_claim_give(claim);
    return 1;
}

/* pin(link, boolean)   [-0, +0, e] */
static int redis_pin(lua_State *L)
{
    fl_redis_link *link = check_link(L, 1)->link;
    bool pinned = lua_toboolean(L, 2);
    fl_state *state = check_state(L);
    fl_claim_take(&state->thread->claim);
    fl_redis_link_pin(link, pinned);
    fl_claim_give(&state->thread->claim);
    return 0;
}

/* close(link)   [-0, +0, e] */
static int redis_close(lua_State *L)
{
    fl_redis_link *link = check_link(L, 1)->link;
    fl_state *state = check_state(L);
    fl_claim_take(&state->thread->claim);
    fl_redis_link_close(link, "it is not needed any more");
    fl_claim_give(&state->thread->claim);
    return 0;
}

static void set_count(lua_State *L, const char *name, size_t count)
{
    lua_pushnumber(L, (lua_Number)count);
    lua_setfield(L, -2, name);
}

/* look(link) -> { connected =, waiting =, sent =, bytes =, connects = }   [-0, +1, e] */
static int redis_look(lua_State *L)
{
    fl_redis_link_status status = fl_redis_link_look(check_link(L, 1)->link);
    lua_createtable(L, 0, 5);
    lua_pushboolean(L, status.connected);
    lua_setfield(L, -2, "connected");
    set_count(L, "waiting", status.waiting);
    set_count(L, "sent", status.sent);
    set_count(L, "bytes", status.bytes);
    set_count(L, "connects", status.connects);
    return 1;
}

/* slot(key) -> integer   [-0, +1, e] */
static int redis_slot(lua_State *L)
{
    fl_slice key;
    key.data = luaL_checklstring(L, 1, &key.size);
    lua_pushinteger(L, (lua_Integer)fl_redis_slot(key));
    return 1;
}

static void make_metatable(lua_State *L)
{
    if (luaL_newmetatable(L, LINK)) {
        lua_pushcfunction(L, collect_link);
        lua_setfield(L, -2, "__gc");
    }
    lua_pop(L, 1);
}

int fl_redis_module(lua_State *L)
{
    static const luaL_Reg functions[] = {{"target", fl_redis_target_new},
                                         {"link", redis_link},
                                         {"command", redis_command},
                                         {"batch", redis_batch},
                                         {"encode", redis_encode},
                                         {"write", redis_write},
                                         {"next", redis_next},
                                         {"pin", redis_pin},
                                         {"close", redis_close},
                                         {"look", redis_look},
                                         {"slot", redis_slot},
                                         {NULL, NULL}};
    fl_redis_target_open(L);
    make_metatable(L);
    lua_newtable(L);
    fl_state_functions(L, functions);
    (void)luaL_newmetatable(L, FL_REDIS_ERROR);
    lua_setfield(L, -2, "error_metatable");
    return 1;
}
