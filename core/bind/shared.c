/* A value is copied between Lua and a buffer while no lock is held, and between the buffer and the
 * segment while no Lua runs. */
#include "bind/shared.h"

#include <lauxlib.h>
#include <math.h>
#include <unistd.h>
#include <uv.h>

#include "../shared.h"
#include "bind/units.h"
#include "loan.h"
#include "lua_buffer.h"
#include "pack.h"
#include "server.h"
#include "thread.h"

#define METATABLE "fasterlua.shared"
#define LEASE_METATABLE "fasterlua.core.lease"
#define OWN_SEGMENT                                                                                \
    "fasterlua.core.shared.segment" /* in the registry of a state without a server */
#define OWN_BYTES                                                                                  \
    ((size_t)64 << 30) /* as much as the setting allows: untouched, it costs nothing */
#define BYTES_MOST 1e15
#define LONGEST 1e9 /* seconds, thirty years */
#define KEYS_DEFAULT 1000
#define KEYS_MOST 1000000

/* the segment */

static int close_own_segment(lua_State *L)
{
    fl_segment_close(*(fl_segment **)lua_touserdata(L, 1));
    return 0;
}

/* A userdatum in which a segment will be closed with the state.   [-0, +1, m] */
static fl_segment **new_own_segment(lua_State *L)
{
    fl_segment **own = lua_newuserdata(L, sizeof(*own));
    *own = NULL;
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, close_own_segment);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    return own;
}

static int make_own_segment(fl_segment **own, char *why, size_t size)
{
    int fd = -1;
    int error = fl_segment_create(&fd, OWN_BYTES);
    if (error) {
        (void)snprintf(why, size, "shared memory: %s", uv_strerror(error));
        return error;
    }
    error = fl_segment_map(own, fd, why, size);
    close(fd);
    return error;
}

static fl_segment *own_segment(lua_State *L)
{
    char why[256];
    lua_getfield(L, LUA_REGISTRYINDEX, OWN_SEGMENT);
    fl_segment **own = lua_touserdata(L, -1);
    if (!own) {
        own = new_own_segment(L);
        if (make_own_segment(own, why, sizeof(why)) != 0) luaL_error(L, "%s", why);
        lua_setfield(L, LUA_REGISTRYINDEX, OWN_SEGMENT);
    }
    lua_pop(L, 1);
    return *own;
}

static fl_segment *segment_of(lua_State *L)
{
    const fl_state *state = fl_state_of(L);
    return state ? fl_server_segment(state->thread->server) : own_segment(L);
}

/* arguments and errors */

static fl_shared *self_at_1(lua_State *L)
{
    if (lua_type(L, 1) != LUA_TUSERDATA)
        luaL_error(
            L, "a dictionary expected, got %s: a method has been called with a dot, not a colon?",
            luaL_typename(L, 1));
    return luaL_checkudata(L, 1, METATABLE);
}

static fl_slice key_at(lua_State *L, int index, const fl_shared *self)
{
    size_t size = 0;
    if (lua_type(L, index) != LUA_TSTRING)
        luaL_error(L, "shared \"%s\": a key must be a string, got %s", self->name,
                   luaL_typename(L, index));
    const char *key = lua_tolstring(L, index, &size);
    if (size > FL_SHARED_KEY_MOST)
        luaL_error(L, "shared \"%s\": a key has %d bytes at most, got one of %d", self->name,
                   FL_SHARED_KEY_MOST, (int)size);
    return fl_slice_of(key, size);
}

static uint64_t ttl_at(lua_State *L, int index, const fl_shared *self, bool is_needed)
{
    if (!is_needed && lua_isnoneornil(L, index)) return FL_SHARD_FOREVER;
    lua_Number seconds = fl_units_seconds(L, index);
    if (!(seconds > 0 && seconds <= LONGEST))
        luaL_error(L,
                   "shared \"%s\": a ttl must be seconds above 0 and up to 1e9, or a time as "
                   "\"5m\", got %s",
                   self->name,
                   lua_isstring(L, index) ? lua_tostring(L, index) : luaL_typename(L, index));
    return (uint64_t)ceil(seconds * 1e9);
}

static double number_at(lua_State *L, int index, const fl_shared *self, double otherwise)
{
    if (lua_isnoneornil(L, index)) return otherwise;
    double number = lua_type(L, index) == LUA_TNUMBER ? lua_tonumber(L, index) : NAN;
    if (!isfinite(number))
        luaL_error(L, "shared \"%s\": a finite number expected, got %s", self->name,
                   lua_isnumber(L, index) ? lua_tostring(L, index) : luaL_typename(L, index));
    return number;
}

static int fail(lua_State *L, const fl_shared *self, fl_slice key, const char *problem)
{
    lua_pushlstring(L, key.data, key.size);
    return luaL_error(L, "shared \"%s\": key \"%s\": %s", self->name, lua_tostring(L, -1), problem);
}

/* A process has died in the middle of a change: whoever notices tells. */
static void tell_emptied(lua_State *L, fl_shared *self)
{
    if (self->emptied == 0) return;
    self->emptied = 0;
    const fl_state *state = fl_state_of(L);
    if (!state) return;
    fl_log_printf(state->thread->log, FL_LOG_WARN,
                  "shared \"%s\": a process died while it changed it: a part of it was emptied",
                  self->name);
}

/* open(name[, bytes]) -> dictionary   [-0, +1, e] */
static int shared_open(lua_State *L)
{
    char why[256];
    size_t size;
    const char *name = luaL_checklstring(L, 1, &size);
    double bytes = luaL_optnumber(L, 2, 0);
    if (!lua_isnoneornil(L, 2) && !(bytes >= 1 && bytes <= BYTES_MOST))
        return luaL_error(L, "shared \"%s\": from %d bytes expected, got %f", name,
                          (int)FL_SHARED_LEAST, bytes);
    fl_shared *self = lua_newuserdata(L, sizeof(*self));
    fl_segment *segment = segment_of(L);
    fl_slice slice = fl_slice_of(name, size);
    if (fl_shared_open(self, segment, slice, (size_t)bytes, why, sizeof(why)) != 0)
        return luaL_error(L, "%s", why);
    luaL_getmetatable(L, METATABLE);
    lua_setmetatable(L, -2);
    return 1;
}

/* dictionary:name() -> string   [-0, +1, e] */
static int shared_name(lua_State *L)
{
    lua_pushstring(L, self_at_1(L)->name);
    return 1;
}

/* values */

/* What is unpacked must not lie in the buffer, which Lua code that runs meanwhile may use. */
static int push_packed(lua_State *L, const fl_shared *self, fl_slice bytes)
{
    size_t used;
    lua_pushlstring(L, bytes.data, bytes.size);
    fl_slice anchored = fl_slice_of(lua_tostring(L, -1), bytes.size);
    if (fl_unpack_value(L, anchored, &used) == 0) return 1;
    return luaL_error(L, "shared \"%s\": %s", self->name, lua_tostring(L, -1));
}

static int push_value(lua_State *L, const fl_shared *self, const fl_shared_value *value)
{
    switch (value->kind) {
    case FL_SHARED_NUMBER: lua_pushnumber(L, value->number); return 1;
    case FL_SHARED_BOOLEAN: lua_pushboolean(L, value->number != 0); return 1;
    case FL_SHARED_STRING: lua_pushlstring(L, value->bytes.data, value->bytes.size); return 1;
    case FL_SHARED_PACKED: return push_packed(L, self, value->bytes);
    }
    return luaL_error(L, "shared \"%s\": it holds a value of an unknown kind", self->name);
}

static int get(lua_State *L, bool peek)
{
    fl_shared *self = self_at_1(L);
    fl_slice key = key_at(L, 2, self);
    fl_buffer *buffer = fl_lua_buffer_take(L);
    fl_shared_value value = {0};
    int error = fl_shared_get(self, key, peek, &value, buffer);
    tell_emptied(L, self);
    if (error == UV_ENOMEM) return luaL_error(L, "not enough memory");
    if (error == 0) return push_value(L, self, &value);
    lua_pushnil(L);
    return 1;
}

/* dictionary:get(key) -> value | nil   [-0, +1, e] */
static int shared_get(lua_State *L)
{
    return get(L, false);
}

/* peek(dictionary, key) -> value | nil: neither a hit nor a miss   [-0, +1, e] */
static int shared_peek(lua_State *L)
{
    return get(L, true);
}

static void pack(lua_State *L, int index, const fl_shared *self, fl_slice key, fl_buffer *buffer)
{
    lua_pushfstring(L, "shared \"%s\": the value of \"%s\"", self->name, key.data);
    if (fl_pack_value(L, index, lua_tostring(L, -1), buffer) != 0)
        luaL_error(L, "%s", lua_tostring(L, -1));
    if (buffer->failed) luaL_error(L, "not enough memory");
    lua_pop(L, 1);
}

/* The bytes live as long as what is at `index`, or until the buffer is used again. */
static fl_shared_value value_at(lua_State *L, int index, const fl_shared *self, fl_slice key)
{
    fl_shared_value value = {.kind = FL_SHARED_PACKED};
    size_t size = 0;
    int type = lua_type(L, index);
    if (type == LUA_TNIL || type == LUA_TNONE)
        fail(L, self, key, "the value is nil: to remove it, use delete");
    if (type == LUA_TNUMBER) {
        value = (fl_shared_value){.kind = FL_SHARED_NUMBER, .number = lua_tonumber(L, index)};
    } else if (type == LUA_TBOOLEAN) {
        value = (fl_shared_value){.kind = FL_SHARED_BOOLEAN, .number = lua_toboolean(L, index)};
    } else if (type == LUA_TSTRING) {
        const char *text = lua_tolstring(L, index, &size);
        value = (fl_shared_value){.kind = FL_SHARED_STRING, .bytes = fl_slice_of(text, size)};
    } else {
        fl_buffer *buffer = fl_lua_buffer_take(L);
        pack(L, index, self, key, buffer);
        value.bytes = fl_slice_of(buffer->data, buffer->size);
    }
    return value;
}

static int too_large(lua_State *L, const fl_shared *self, fl_slice key, size_t size)
{
    char problem[160];
    (void)snprintf(problem, sizeof(problem),
                   "a value of %zu bytes is more than the %zu that fit; open it with more bytes",
                   size, fl_shared_value_most(self, key.size));
    return fail(L, self, key, problem);
}

static bool store(lua_State *L, fl_shared_mode mode)
{
    fl_shared *self = self_at_1(L);
    fl_slice key = key_at(L, 2, self);
    uint64_t ttl = ttl_at(L, 4, self, false);
    fl_shared_value value = value_at(L, 3, self, key);
    int error = fl_shared_store(self, key, &value, ttl, mode);
    tell_emptied(L, self);
    if (error == UV_E2BIG) too_large(L, self, key, value.bytes.size);
    return error == 0;
}

/* dictionary:set(key, value[, ttl])   [-0, +0, e] */
static int shared_set(lua_State *L)
{
    (void)store(L, FL_SHARED_SET);
    return 0;
}

/* dictionary:add(key, value[, ttl]) -> boolean   [-0, +1, e] */
static int shared_add(lua_State *L)
{
    lua_pushboolean(L, store(L, FL_SHARED_ADD));
    return 1;
}

/* dictionary:replace(key, value[, ttl]) -> boolean   [-0, +1, e] */
static int shared_replace(lua_State *L)
{
    lua_pushboolean(L, store(L, FL_SHARED_REPLACE));
    return 1;
}

/* dictionary:incr(key[, by[, initial[, ttl]]]) -> number   [-0, +1, e] */
static int shared_incr(lua_State *L)
{
    fl_shared *self = self_at_1(L);
    fl_slice key = key_at(L, 2, self);
    double by = number_at(L, 3, self, 1), initial = number_at(L, 4, self, 0), result;
    uint64_t ttl = ttl_at(L, 5, self, false);
    int error = fl_shared_increment(self, key, by, initial, ttl, &result);
    tell_emptied(L, self);
    if (error == UV_EINVAL) return fail(L, self, key, "it holds no number: incr cannot add to it");
    if (error == UV_ERANGE) return fail(L, self, key, "the sum is too large to be exact");
    if (error) return fail(L, self, key, uv_strerror(error));
    lua_pushnumber(L, result);
    return 1;
}

/* raise(dictionary, key, number) -> boolean: it was less, or not there   [-0, +1, e] */
static int shared_raise(lua_State *L)
{
    fl_shared *self = self_at_1(L);
    fl_slice key = key_at(L, 2, self);
    double number = number_at(L, 3, self, 0);
    lua_pushboolean(L, fl_shared_raise(self, key, number) == 0);
    tell_emptied(L, self);
    return 1;
}

/* dictionary:expire(key, ttl) -> boolean   [-0, +1, e] */
static int shared_expire(lua_State *L)
{
    fl_shared *self = self_at_1(L);
    fl_slice key = key_at(L, 2, self);
    uint64_t ttl = ttl_at(L, 3, self, true);
    lua_pushboolean(L, fl_shared_expire(self, key, ttl) == 0);
    tell_emptied(L, self);
    return 1;
}

/* dictionary:ttl(key) -> seconds, math.huge without an end | nil   [-0, +1, e] */
static int shared_ttl(lua_State *L)
{
    fl_shared *self = self_at_1(L);
    uint64_t ttl;
    int error = fl_shared_ttl(self, key_at(L, 2, self), &ttl);
    tell_emptied(L, self);
    if (error)
        lua_pushnil(L);
    else
        lua_pushnumber(L, ttl == FL_SHARD_FOREVER ? HUGE_VAL : (double)ttl / 1e9);
    return 1;
}

/* dictionary:delete(key) -> boolean   [-0, +1, e] */
static int shared_delete(lua_State *L)
{
    fl_shared *self = self_at_1(L);
    lua_pushboolean(L, fl_shared_delete(self, key_at(L, 2, self)) == 0);
    tell_emptied(L, self);
    return 1;
}

/* all of them */

/* A list of strings, each of which is behind a byte that is its size.   [-0, +1, m] */
static void push_keys(lua_State *L, const fl_buffer *keys)
{
    int count = 0;
    lua_newtable(L);
    for (size_t at = 0; at < keys->size; at += 1 + (unsigned char)keys->data[at]) {
        lua_pushlstring(L, keys->data + at + 1, (unsigned char)keys->data[at]);
        lua_rawseti(L, -2, ++count);
    }
}

/* dictionary:keys([prefix[, limit]]) -> list   [-0, +1, e] */
static int shared_keys(lua_State *L)
{
    fl_shared *self = self_at_1(L);
    fl_slice prefix = lua_isnoneornil(L, 2) ? FL_SLICE("") : key_at(L, 2, self);
    double limit = number_at(L, 3, self, KEYS_DEFAULT);
    if (limit < 1 || limit > KEYS_MOST || floor(limit) != limit)
        return luaL_error(L, "shared \"%s\": a limit from 1 to %d expected, got %s", self->name,
                          KEYS_MOST, lua_tostring(L, 3));
    fl_buffer *buffer = fl_lua_buffer_take(L);
    int error = fl_shared_keys(self, prefix, (size_t)limit, buffer);
    tell_emptied(L, self);
    if (error) return luaL_error(L, "not enough memory");
    push_keys(L, buffer);
    return 1;
}

/* dictionary:clear()   [-0, +0, e] */
static int shared_clear(lua_State *L)
{
    fl_shared *self = self_at_1(L);
    fl_shared_clear(self);
    tell_emptied(L, self);
    return 0;
}

static void set_count(lua_State *L, const char *name, uint64_t count)
{
    lua_pushnumber(L, (double)count);
    lua_setfield(L, -2, name);
}

/* dictionary:stats() -> table   [-0, +1, e] */
static int shared_stats(lua_State *L)
{
    fl_shared *self = self_at_1(L);
    fl_shared_stats stats;
    fl_shared_get_stats(self, &stats);
    tell_emptied(L, self);
    lua_createtable(L, 0, 9);
    set_count(L, "entries", stats.entries);
    set_count(L, "leases", stats.leases);
    set_count(L, "bytes", stats.bytes);
    set_count(L, "bytes_used", stats.bytes_used);
    set_count(L, "evicted", stats.evicted);
    set_count(L, "expired", stats.expired);
    set_count(L, "hits", stats.hits);
    set_count(L, "misses", stats.misses);
    set_count(L, "emptied", stats.emptied);
    return 1;
}

/* leases */

static fl_claim *claim_of(lua_State *L)
{
    const fl_state *state = fl_state_of(L);
    return state ? &state->thread->claim : NULL;
}

/* __gc of a lease   [-0, +0, -]; owning */
static int free_loan(lua_State *L)
{
    fl_loan *loan = *(fl_loan **)lua_touserdata(L, 1);
    fl_claim *claim = claim_of(L);
    if (!loan) return 0;
    if (claim) fl_claim_take(claim);
    fl_loan_free(loan);
    if (claim) fl_claim_give(claim);
    return 0;
}

/* A userdatum for a lease, none yet.   [-0, +1, m] */
static fl_loan **new_loan(lua_State *L)
{
    fl_loan **loan = lua_newuserdata(L, sizeof(fl_loan *));
    *loan = NULL;
    luaL_getmetatable(L, LEASE_METATABLE);
    lua_setmetatable(L, -2);
    return loan;
}

static int take(lua_State *L, fl_loan **loan, fl_shared *self, fl_space space, fl_slice key,
                uint64_t ttl)
{
    const fl_state *state = fl_state_of(L);
    fl_claim *claim = claim_of(L);
    if (claim) fl_claim_take(claim);
    int error = fl_loan_take(loan, state ? state->address : NULL, self, space, key, ttl);
    if (claim) fl_claim_give(claim);
    return error;
}

/* take(dictionary, space, key, ttl) -> token, lease | nil   [-0, +2, e]; owning */
static int lease_take(lua_State *L)
{
    static const char *const spaces[] = {"lock", "flight", NULL};
    fl_shared *self = self_at_1(L);
    bool is_lock = luaL_checkoption(L, 2, NULL, spaces) == 0;
    fl_slice key = key_at(L, 3, self);
    uint64_t ttl = ttl_at(L, 4, self, true);
    fl_loan **loan = new_loan(L);
    int error = take(L, loan, self, is_lock ? FL_SPACE_LOCKS : FL_SPACE_FLIGHTS, key, ttl);
    tell_emptied(L, self);
    if (error == UV_ENOSPC)
        return fail(L, self, key, "there are too many locks; open it with more bytes");
    if (error == UV_ENOMEM) return luaL_error(L, "not enough memory");
    if (error) return 0;
    lua_pushnumber(L, fl_loan_token(*loan));
    lua_insert(L, -2);
    return 2;
}

static fl_loan *loan_at_1(lua_State *L)
{
    return *(fl_loan **)luaL_checkudata(L, 1, LEASE_METATABLE);
}

static int push_result(lua_State *L, fl_loan *loan, bool result)
{
    tell_emptied(L, fl_loan_dictionary(loan));
    lua_pushboolean(L, result);
    return 1;
}

/* extend(lease, ttl) -> boolean   [-0, +1, e] */
static int lease_extend(lua_State *L)
{
    fl_loan *loan = loan_at_1(L);
    uint64_t ttl = ttl_at(L, 2, fl_loan_dictionary(loan), true);
    return push_result(L, loan, fl_loan_extend(loan, ttl));
}

/* give(lease) -> boolean   [-0, +1, e]; owning */
static int lease_give(lua_State *L)
{
    fl_loan *loan = loan_at_1(L);
    fl_claim *claim = claim_of(L);
    if (claim) fl_claim_take(claim);
    bool given = fl_loan_give(loan);
    if (claim) fl_claim_give(claim);
    return push_result(L, loan, given);
}

/* check(lease) -> boolean   [-0, +1, e] */
static int lease_check(lua_State *L)
{
    fl_loan *loan = loan_at_1(L);
    return push_result(L, loan, fl_loan_is_held(loan));
}

/* what schedules and leases must know */

/* clock() -> seconds since the server was started, the same in all of its processes  [-0, +1, e] */
static int shared_clock(lua_State *L)
{
    uint64_t born = fl_segment_born(segment_of(L));
    lua_pushnumber(L, (double)(fl_segment_clock() - born) / 1e9);
    return 1;
}

/* is_draining() -> boolean: this process takes no more work   [-0, +1, -] */
static int shared_is_draining(lua_State *L)
{
    const fl_state *state = fl_state_of(L);
    lua_pushboolean(L, state && state->thread->draining);
    return 1;
}

/* is_pooled() -> boolean: this state is one of a pool's   [-0, +1, -] */
static int shared_is_pooled(lua_State *L)
{
    const fl_state *state = fl_state_of(L);
    lua_pushboolean(L, state && state->is_pooled);
    return 1;
}

/* has_request() -> boolean: the running task belongs to one that has not ended   [-0, +1, -] */
static int shared_has_request(lua_State *L)
{
    const fl_state *state = fl_state_of(L);
    const fl_request *request = state && state->running ? state->running->request : NULL;
    lua_pushboolean(L, request && !request->ended);
    return 1;
}

/* Registers functions that have the buffer below the table as first upvalue. */
static void set_buffered(lua_State *L, const luaL_Reg *functions)
{
    for (; functions->name; functions++) {
        lua_pushvalue(L, -2);
        lua_pushcclosure(L, functions->func, 1);
        lua_setfield(L, -2, functions->name);
    }
}

/* Pushes the dictionaries' methods; a buffer is on top.   [-0, +1, m] */
static void push_methods(lua_State *L)
{
    static const luaL_Reg buffered[] = {{"get", shared_get},   {"set", shared_set},
                                        {"add", shared_add},   {"replace", shared_replace},
                                        {"keys", shared_keys}, {NULL, NULL}};
    static const luaL_Reg plain[] = {{"name", shared_name},     {"incr", shared_incr},
                                     {"expire", shared_expire}, {"ttl", shared_ttl},
                                     {"delete", shared_delete}, {"clear", shared_clear},
                                     {"stats", shared_stats},   {NULL, NULL}};
    lua_newtable(L);
    set_buffered(L, buffered);
    fl_state_functions(L, plain);
}

/* Pushes the module's functions; a buffer is on top.   [-0, +1, m] */
static void push_functions(lua_State *L)
{
    static const luaL_Reg buffered[] = {{"peek", shared_peek}, {NULL, NULL}};
    static const luaL_Reg plain[] = {{"open", shared_open},
                                     {"raise", shared_raise},
                                     {"take", lease_take},
                                     {"extend", lease_extend},
                                     {"give", lease_give},
                                     {"check", lease_check},
                                     {"clock", shared_clock},
                                     {"is_draining", shared_is_draining},
                                     {"is_pooled", shared_is_pooled},
                                     {"has_request", shared_has_request},
                                     {NULL, NULL}};
    lua_newtable(L);
    set_buffered(L, buffered);
    fl_state_functions(L, plain);
}

/* [-0, +0, m] */
static void add_lease_metatable(lua_State *L)
{
    luaL_newmetatable(L, LEASE_METATABLE);
    lua_pushcfunction(L, free_loan);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
}

int fl_shared_module(lua_State *L)
{
    fl_lua_buffer_new(L);
    int buffer = lua_gettop(L);
    add_lease_metatable(L);
    luaL_newmetatable(L, METATABLE);
    lua_pushvalue(L, buffer);
    push_methods(L);
    lua_setfield(L, buffer + 1, "__index");
    push_functions(L);
    lua_pushvalue(L, buffer + 1);
    lua_setfield(L, -2, "metatable");
    return 1;
}
