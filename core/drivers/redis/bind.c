#include "bind.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "arguments.h"
#include "json.h"
#include "link.h"
#include "op.h"
#include "reply.h"
#include "state.h"
#include "thread.h"
#include "transport.h"

#define TARGET "fasterlua.redis.target"
#define LINK "fasterlua.redis.link"

typedef enum { ONE, PIPELINE, PIPELINE_WITH_ERRORS, TRANSACTION } answer_kind;

typedef struct link_handle {
    fl_redis_link *link; /* NULL: where apps are only loaded, or closed by the collector */
} link_handle;

typedef struct command_op {
    fl_op op;
    fl_redis_command *command; /* NULL: the link has it, for nobody */
    answer_kind answer;
} command_op;

typedef struct messages_op {
    fl_op op;
    fl_redis_link *link;
    fl_redis_messages messages;
} messages_op;

/* targets */

static char *copy_field(lua_State *L, const char *name, const char *otherwise)
{
    lua_getfield(L, 1, name);
    const char *text = lua_tostring(L, -1);
    if (!text) text = otherwise;
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy) luaL_error(L, "not enough memory");
    lua_pop(L, 1);
    return copy;
}

static double number_field(lua_State *L, const char *name)
{
    lua_getfield(L, 1, name);
    double number = luaL_checknumber(L, -1);
    lua_pop(L, 1);
    return number;
}

static void close_target(fl_redis_target *target)
{
    free(target->host);
    free(target->path);
    free(target->label);
    free(target->user);
    free(target->password);
    free(target->name);
    free(target->tls_name);
    if (target->tls) SSL_CTX_free(target->tls);
    *target = (fl_redis_target){0};
}

/* [-1, +0, -] */
static int collect_target(lua_State *L)
{
    close_target(luaL_checkudata(L, 1, TARGET));
    return 0;
}

static void open_tls(lua_State *L, fl_redis_target *target)
{
    char problem[256];
    lua_getfield(L, 1, "tls");
    bool wanted = lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (!wanted) return;
    lua_getfield(L, 1, "ca");
    const char *ca = lua_tostring(L, -1);
    target->tls = fl_transport_context(ca, problem, sizeof(problem));
    if (!target->tls) {
        const char *what = ca ? ca : "the system's certificates";
        luaL_error(L, "redis: cannot use %s for TLS: %s", what, problem);
    }
    lua_pop(L, 1);
}

/* target(fields) -> target   [-0, +1, e] */
static int redis_target(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    fl_redis_target *target = lua_newuserdata(L, sizeof(*target));
    *target = (fl_redis_target){0};
    luaL_getmetatable(L, TARGET);
    lua_setmetatable(L, -2);
    target->port = (uint16_t)number_field(L, "port");
    target->database = (unsigned)number_field(L, "database");
    target->connect_timeout = (uint64_t)number_field(L, "connect_timeout");
    target->commands_most = (size_t)number_field(L, "max_commands");
    target->bytes_most = (size_t)number_field(L, "max_bytes");
    target->reply_most = (size_t)number_field(L, "max_reply");
    target->host = copy_field(L, "host", "");
    target->path = copy_field(L, "path", "");
    target->label = copy_field(L, "label", "");
    target->tls_name = copy_field(L, "tls_name", "");
    target->user = copy_field(L, "user", NULL);
    target->password = copy_field(L, "password", NULL);
    target->name = copy_field(L, "name", NULL);
    open_tls(L, target);
    return 1;
}

/* links */

static link_handle *check_link(lua_State *L, int index)
{
    link_handle *handle = luaL_checkudata(L, index, LINK);
    if (!handle->link) luaL_error(L, "redis: there is no server here");
    return handle;
}

static fl_state *check_state(lua_State *L)
{
    fl_state *state = fl_state_of(L);
    if (!state) luaL_error(L, "redis: there is no server here");
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
    const fl_redis_target *target = luaL_checkudata(L, 1, TARGET);
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
    if (self->command) fl_redis_command_free(self->command);
    self->command = NULL;
}

static int push_failure(lua_State *L, const fl_redis_command *command)
{
    const char *next;
    fl_slice name = fl_redis_arguments_name(command->bytes.data, &next);
    lua_pushboolean(L, false);
    if (command->code[0])
        fl_redis_failure_push(L, command->code, command->problem, name);
    else
        fl_redis_error_push(L, fl_slice_from_string(command->problem), name);
    return 2;
}

static fl_redis_kind kind_of(const fl_redis_command *command, size_t index)
{
    return (fl_redis_kind)(command->kinds.data[index] - '0');
}

static int push_one(lua_State *L, const fl_redis_command *command)
{
    const char *record = command->reply.data, *next;
    fl_slice name = fl_redis_arguments_name(command->bytes.data, &next);
    lua_pushboolean(L, !fl_redis_reply_is_error(record));
    fl_redis_reply_push(L, record, kind_of(command, 0), name);
    return 2;
}

/* Results of several commands: of those from `skip` on, one record each. */
typedef struct results {
    const fl_redis_command *command;
    const char *record, *bytes; /* of the next */
    size_t index, count;
    int failed; /* the first of the list that is an error; 0: none */
    const char *error;
    fl_slice error_name;
} results;

static void push_results(lua_State *L, results *all)
{
    lua_createtable(L, (int)all->count, 0);
    luaL_getmetatable(L, FL_JSON_ARRAY);
    lua_setmetatable(L, -2);
    for (int i = 1; i <= (int)all->count; i++) {
        fl_slice name = fl_redis_arguments_name(all->bytes, &all->bytes);
        if (!all->failed && fl_redis_reply_is_error(all->record)) {
            all->failed = i;
            all->error = all->record;
            all->error_name = name;
        }
        fl_redis_reply_push(L, all->record, kind_of(all->command, all->index++), name);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            lua_pushlightuserdata(L, NULL);
        }
        lua_rawseti(L, -2, i);
        all->record = fl_redis_reply_skip(all->record);
    }
}

/* true and the list, or false and its first error once more, which has the list as `results`. */
static int push_verdict(lua_State *L, results *all, bool with_errors)
{
    lua_pushboolean(L, true);
    push_results(L, all);
    if (!all->failed || with_errors) return 2;
    lua_pushboolean(L, false);
    fl_redis_reply_push(L, all->error, FL_REDIS_AS_IT_IS, all->error_name);
    lua_pushinteger(L, all->failed);
    lua_setfield(L, -2, "index");
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "results");
    return 2;
}

/* MULTI, the commands, EXEC: an error of queueing, nil (what was watched has changed: nothing was
 * done), or the list of results. */
static int push_transaction(lua_State *L, const fl_redis_command *command)
{
    const char *record = command->reply.data, *bytes = command->bytes.data;
    fl_slice name = {NULL, 0};
    for (size_t i = 0; i + 1 < command->replies; i++) {
        name = fl_redis_arguments_name(bytes, &bytes);
        if (fl_redis_reply_is_error(record)) {
            lua_pushboolean(L, false);
            fl_redis_error_push(L, fl_redis_reply_text(record), name);
            return 2;
        }
        record = fl_redis_reply_skip(record);
    }
    size_t count;
    if (!fl_redis_reply_is_list(record, &count) || count != command->replies - 2) {
        lua_pushboolean(L, !fl_redis_reply_is_error(record));
        fl_redis_reply_push(L, record, FL_REDIS_AS_IT_IS, FL_SLICE("EXEC"));
        return 2;
    }
    (void)fl_redis_arguments_name(command->bytes.data, &bytes);
    results all = {.command = command,
                   .record = fl_redis_reply_elements(record),
                   .bytes = bytes,
                   .index = 1,
                   .count = count};
    return push_verdict(L, &all, false);
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
    if (command->code) return push_failure(L, command);
    results all = {.command = command,
                   .record = command->reply.data,
                   .bytes = command->bytes.data,
                   .count = command->replies};
    switch (self->answer) {
    case ONE: return push_one(L, command);
    case PIPELINE: return push_verdict(L, &all, false);
    case PIPELINE_WITH_ERRORS: return push_verdict(L, &all, true);
    case TRANSACTION: break;
    }
    return push_transaction(L, command);
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
    self->answer = (answer_kind)answer;
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

/* clusters: CRC-16/XMODEM of the key, or of what its first {braces} hold */

static unsigned crc16(const char *data, size_t size)
{
    unsigned crc = 0;
    for (size_t i = 0; i < size; i++) {
        crc ^= (unsigned)(unsigned char)data[i] << 8;
        for (int bit = 0; bit < 8; bit++) crc = (crc << 1 ^ (crc & 0x8000 ? 0x1021u : 0)) & 0xffff;
    }
    return crc;
}

/* slot(key) -> integer   [-0, +1, e] */
static int redis_slot(lua_State *L)
{
    size_t size;
    const char *key = luaL_checklstring(L, 1, &size);
    const char *open = memchr(key, '{', size);
    const char *close = open ? memchr(open, '}', size - (size_t)(open - key)) : NULL;
    if (close && close > open + 1) {
        key = open + 1;
        size = (size_t)(close - key);
    }
    lua_pushinteger(L, (lua_Integer)(crc16(key, size) % 16384));
    return 1;
}

static void make_metatable(lua_State *L, const char *name, lua_CFunction collect)
{
    if (luaL_newmetatable(L, name)) {
        lua_pushcfunction(L, collect);
        lua_setfield(L, -2, "__gc");
    }
    lua_pop(L, 1);
}

int fl_redis_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"target", redis_target}, {"link", redis_link},     {"command", redis_command},
        {"batch", redis_batch},   {"encode", redis_encode}, {"write", redis_write},
        {"next", redis_next},     {"pin", redis_pin},       {"close", redis_close},
        {"look", redis_look},     {"slot", redis_slot},     {NULL, NULL}};
    make_metatable(L, TARGET, collect_target);
    make_metatable(L, LINK, collect_link);
    lua_newtable(L);
    fl_state_functions(L, functions);
    (void)luaL_newmetatable(L, FL_REDIS_ERROR);
    lua_setfield(L, -2, "error_metatable");
    return 1;
}
