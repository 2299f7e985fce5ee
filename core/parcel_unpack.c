#include "parcel.h"

#include <lauxlib.h>
#include <stdio.h>
#include <uv.h>

#include "border.h"
#include "pack.h"

typedef struct receiver {
    fl_unpacker u;
    const fl_parcel *parcel;
    fl_border *border;     /* once it was needed */
    size_t blob, function; /* the next */
    int functions;         /* where the table of those that arrived lies, when they are linked */
} receiver;

static bool fail_with(receiver *r, int status, const char *what, fl_slice name)
{
    fl_unpacker *u = &r->u;
    const char *why = lua_tostring(u->L, -1);
    (void)snprintf(u->message, sizeof(u->message), "%s \"%.*s\": %s", what,
                   (int)(name.size < 100 ? name.size : 100), name.data,
                   why ? why : "(error object)");
    u->error = status == LUA_ERRMEM ? UV_ENOMEM : UV_EINVAL;
    return false;
}

static bool push_blob(receiver *r)
{
    if (r->blob == r->parcel->blob_count) return fl_unpacker_malformed(&r->u);
    const fl_parcel_blob *blob = &r->parcel->blobs[r->blob++];
    lua_pushlstring(r->u.L, blob->data, blob->size);
    return true;
}

/* What the message on top says. */
static bool fail_as(receiver *r, int error)
{
    fl_unpacker *u = &r->u;
    (void)snprintf(u->message, sizeof(u->message), "%s", lua_tostring(u->L, -1));
    u->error = error;
    return false;
}

static bool push_named(receiver *r, uint8_t tag)
{
    fl_name name = {.kind = tag};
    if (!fl_unpacker_string(&r->u, &name.module) || !fl_unpacker_string(&r->u, &name.field))
        return false;
    int error = fl_names_push(&r->border->names, r->u.L, &name);
    return error == 0 || fail_as(r, error);
}

/* from_crossing(module, ...) -> the handle   [-n, +1, e] */
static int from_crossing(lua_State *L)
{
    lua_getglobal(L, "require");
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    if (!lua_istable(L, -1)) return luaL_error(L, "the module is no table");
    lua_getfield(L, -1, "from_crossing");
    lua_replace(L, 1);
    lua_pop(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

/* As fl_packer_inner counts the levels. */
static bool push_inner(fl_unpacker *u)
{
    if (u->depth == FL_PACK_DEPTH || !lua_checkstack(u->L, 16)) return fl_unpacker_malformed(u);
    u->depth++;
    if (!fl_unpacker_value(u)) return false;
    u->depth--;
    return true;
}

static bool push_handle(receiver *r)
{
    fl_unpacker *u = &r->u;
    fl_slice module;
    uint8_t count;
    if (!fl_unpacker_string(u, &module) || !fl_unpacker_byte(u, &count)) return false;
    if (count > FL_PARCEL_HANDLE_MOST || !lua_checkstack(u->L, count + 8))
        return fl_unpacker_malformed(u);
    lua_pushcfunction(u->L, from_crossing);
    lua_pushlstring(u->L, module.data, module.size);
    for (int i = 0; i < count; i++)
        if (!push_inner(u)) return false;
    int status = lua_pcall(u->L, count + 1, 1, 0);
    return status == 0 || fail_with(r, status, "cannot receive a handle of", module);
}

/* Pushes a function that arrived before. */
static bool push_arrived(receiver *r)
{
    uint64_t number;
    if (!fl_unpacker_size(&r->u, &number)) return false;
    if (!r->functions || number >= r->function) return fl_unpacker_malformed(&r->u);
    lua_rawgeti(r->u.L, r->functions, (int)number + 1);
    return true;
}

static bool has_upvalue(lua_State *L, int closure, uint64_t upvalue)
{
    if (upvalue == 0 || upvalue > UINT8_MAX || !lua_getupvalue(L, closure, (int)upvalue))
        return false;
    lua_pop(L, 1);
    return true;
}

static bool join_upvalue(receiver *r, int closure, int upvalue)
{
    lua_State *L = r->u.L;
    uint64_t other;
    if (!push_arrived(r) || !fl_unpacker_size(&r->u, &other)) return false;
    int from = lua_gettop(L);
    if (!has_upvalue(L, closure, (uint64_t)upvalue) || !has_upvalue(L, from, other))
        return fl_unpacker_malformed(&r->u);
    lua_upvaluejoin(L, closure, upvalue, from, (int)other);
    lua_pop(L, 1);
    return true;
}

static bool fill_upvalue(receiver *r, int closure, int upvalue)
{
    fl_unpacker *u = &r->u;
    if (u->at < u->end && (uint8_t)*u->at == FL_PARCEL_UPVALUE_AGAIN) {
        u->at++;
        return join_upvalue(r, closure, upvalue);
    }
    if (!push_inner(u)) return false;
    return lua_setupvalue(u->L, closure, upvalue) || fl_unpacker_malformed(u);
}

static bool push_function(receiver *r)
{
    fl_unpacker *u = &r->u;
    uint8_t count;
    if (r->function == r->parcel->function_count || !fl_unpacker_byte(u, &count) ||
        !lua_checkstack(u->L, 16))
        return fl_unpacker_malformed(u);
    int number = (int)++r->function;
    fl_code *code = r->parcel->functions[number - 1].code;
    int error = fl_functions_push(&r->border->functions, u->L, code);
    if (error) return fail_as(r, error);
    int closure = lua_gettop(u->L);
    if (r->functions) {
        lua_pushvalue(u->L, closure);
        lua_rawseti(u->L, r->functions, number);
    }
    for (int i = 1; i <= count; i++)
        if (!fill_upvalue(r, closure, i)) return false;
    return true;
}

static bool push_special(fl_unpacker *u, uint8_t tag)
{
    receiver *r = (receiver *)u; /* its first member */
    if (!r->border) r->border = fl_border_of(u->L);
    switch (tag) {
    case FL_PARCEL_BLOB: return push_blob(r);
    case FL_NAME_STANDARD:
    case FL_NAME_LOADED:
    case FL_NAME_CALLED: return push_named(r, tag);
    case FL_PARCEL_HANDLE: return push_handle(r);
    case FL_PARCEL_FUNCTION: return push_function(r);
    case FL_PARCEL_FUNCTION_AGAIN: return push_arrived(r);
    default: return fl_unpacker_malformed(u);
    }
}

static bool push_all(receiver *r)
{
    fl_unpacker *u = &r->u;
    if (r->parcel->linked) {
        lua_createtable(u->L, (int)r->parcel->function_count, 0);
        r->functions = lua_gettop(u->L);
    }
    for (uint32_t i = 0; i < r->parcel->values; i++)
        if (!fl_unpacker_value(u)) return false;
    if (r->functions) lua_remove(u->L, r->functions);
    return u->at == u->end || fl_unpacker_malformed(u);
}

int fl_parcel_unpack(const fl_parcel *parcel, lua_State *L)
{
    receiver r;
    int top = lua_gettop(L);
    luaL_checkstack(L, 16, "to unpack values");
    fl_unpacker_init(&r.u, L, fl_slice_of(parcel->bytes.data, parcel->bytes.size));
    r.u.special = push_special;
    r.parcel = parcel;
    r.border = NULL;
    r.blob = r.function = 0;
    r.functions = 0;
    if (parcel->values > INT32_MAX - 16 || !lua_checkstack(L, (int)parcel->values + 16)) {
        lua_pushliteral(L, "too many values for the Lua stack");
        return UV_EINVAL;
    }
    if (push_all(&r)) return (int)parcel->values;
    lua_settop(L, top);
    lua_pushstring(L, r.u.message);
    return r.u.error;
}
