#include "parcel.h"

#include <lauxlib.h>
#include <stdio.h>
#include <uv.h>

#include "border.h"
#include "pack.h"

typedef struct sender {
    fl_packer p;
    fl_parcel *parcel;
    fl_border *border; /* for functions, and what is inside them */
    bool inside;       /* a function */
    bool checked;      /* the map is that of package.loaded as it is now */
} sender;

static fl_slice string_at(lua_State *L, int index)
{
    fl_slice text;
    text.data = lua_tolstring(L, index, &text.size);
    return text;
}

static fl_pack_verdict out_of_memory(sender *s)
{
    s->p.out->failed = true;
    return FL_PACK_DONE;
}

static fl_pack_verdict refuse(sender *s, const char *what)
{
    (void)fl_packer_refuse(&s->p, what);
    return FL_PACK_REFUSED;
}

static fl_pack_verdict pack_large_string(sender *s)
{
    if (fl_parcel_add_blob(s->parcel, string_at(s->p.L, -1)) < 0) return out_of_memory(s);
    fl_buffer_byte(s->p.out, (char)FL_PARCEL_BLOB);
    return FL_PACK_DONE;
}

/* What is known of the value on top; a name is packed at once. */
static fl_known look_up(sender *s)
{
    fl_known known = fl_names_look_up(&s->border->names, s->p.L);
    if (known.kind == FL_KNOWN_BY_NAME) fl_buffer_slice(s->p.out, known.name);
    return known;
}

/* The same, when the names are made anew if modules were loaded since. */
static fl_known find(sender *s)
{
    fl_known known = look_up(s);
    if (known.kind != FL_KNOWN_NOT || s->checked) return known;
    s->checked = true;
    return fl_names_renew(&s->border->names, s->p.L, false) ? look_up(s) : known;
}

/* Packs the name of the value on top if it has got one since the names were made. */
static bool pack_new_name(sender *s)
{
    s->checked = true;
    return fl_names_renew(&s->border->names, s->p.L, true) && look_up(s).kind == FL_KNOWN_BY_NAME;
}

/* Packs the name of the table on top, if it has one. */
static bool pack_table_name(sender *s)
{
    bool checked = s->checked;
    fl_known_kind kind = find(s).kind;
    if (kind == FL_KNOWN_NOT && !checked) {
        lua_pushboolean(s->p.L, 0);
        fl_names_note(&s->border->names, s->p.L);
    }
    return kind == FL_KNOWN_BY_NAME;
}

/* Handles: the object lies at `object`, the results of its __crossing above it. */
static fl_pack_verdict pack_handle_values(sender *s, int object)
{
    lua_State *L = s->p.L;
    int count = lua_gettop(L) - object - 1;
    if (count < 0 || lua_type(L, object + 1) != LUA_TSTRING)
        return refuse(s, ": __crossing must return the name of a module first");
    if (count > FL_PARCEL_HANDLE_MOST || !lua_checkstack(L, 8))
        return refuse(s, ": __crossing returned too many values");
    fl_buffer_byte(s->p.out, (char)FL_PARCEL_HANDLE);
    fl_pack_string(s->p.out, string_at(L, object + 1));
    fl_buffer_byte(s->p.out, (char)count);
    fl_pack_step here = {.index = lua_gettop(L) + 1};
    for (int i = 1; i <= count; i++) {
        lua_pushinteger(L, i);
        lua_pushvalue(L, object + 1 + i);
        if (!fl_packer_inner(&s->p, &here)) return FL_PACK_REFUSED;
        lua_pop(L, 2);
    }
    return FL_PACK_DONE;
}

/* __crossing of the object on top lies above it. */
static fl_pack_verdict pack_handle(sender *s)
{
    lua_State *L = s->p.L;
    int object = lua_gettop(L) - 1;
    lua_pushvalue(L, object);
    int status = lua_pcall(L, 1, LUA_MULTRET, 0);
    if (status != 0) {
        char what[256];
        const char *why = lua_tostring(L, -1);
        (void)snprintf(what, sizeof(what), " cannot cross: %.200s", why ? why : "(error object)");
        (void)refuse(s, what);
        if (status == LUA_ERRMEM) s->p.error = UV_ENOMEM;
        return FL_PACK_REFUSED;
    }
    bool inside = s->inside;
    s->inside = false;
    fl_pack_verdict verdict = pack_handle_values(s, object);
    s->inside = inside;
    if (verdict == FL_PACK_DONE) lua_settop(L, object);
    return verdict;
}

/* Of the table or userdata on top; `*foreign` when it has a metatable without. */
static bool push_crossing(lua_State *L, bool *foreign)
{
    *foreign = false;
    if (!lua_getmetatable(L, -1)) return false;
    lua_pushliteral(L, "__crossing");
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (lua_isfunction(L, -1)) return true;
    *foreign = true;
    lua_pop(L, 1);
    return false;
}

static fl_pack_verdict pack_object(sender *s, int type)
{
    bool foreign, nameable = s->inside && type == LUA_TTABLE;
    if (nameable && pack_table_name(s)) return FL_PACK_DONE;
    if (push_crossing(s->p.L, &foreign)) return pack_handle(s);
    if (foreign && nameable && pack_new_name(s)) return FL_PACK_DONE;
    return FL_PACK_PLAIN;
}

/* Functions: the closure lies on top. */

static fl_pack_verdict make_code(sender *s, fl_code **code, bool *is_new)
{
    int error = fl_functions_dump(&s->border->functions, s->p.L, is_new);
    if (error == UV_ENOMEM) return out_of_memory(s);
    if (error) return refuse(s, " is a function whose bytecode is not understood");
    *code = fl_functions_code(lua_touserdata(s->p.L, -1));
    fl_names_note(&s->border->names, s->p.L);
    return FL_PACK_PLAIN;
}

static bool pack_function_again(sender *s, const void *id)
{
    fl_parcel *parcel = s->parcel;
    for (size_t i = 0; i < parcel->function_count; i++) {
        if (parcel->functions[i].id != id) continue;
        fl_buffer_byte(s->p.out, (char)FL_PARCEL_FUNCTION_AGAIN);
        fl_pack_size(s->p.out, i);
        parcel->linked = true;
        return true;
    }
    return false;
}

static bool pack_upvalue_again(sender *s, const void *id)
{
    fl_parcel *parcel = s->parcel;
    for (size_t i = 0; i < parcel->cell_count; i++) {
        const fl_parcel_cell *cell = &parcel->cells[i];
        if (cell->id != id) continue;
        fl_buffer_byte(s->p.out, (char)FL_PARCEL_UPVALUE_AGAIN);
        fl_pack_size(s->p.out, cell->function);
        fl_pack_size(s->p.out, cell->upvalue);
        parcel->linked = true;
        return true;
    }
    return false;
}

/* Of the closure at `closure`, the parcel's function `number`. */
static fl_pack_verdict pack_upvalues(sender *s, int closure, uint32_t number)
{
    lua_State *L = s->p.L;
    size_t count_at = s->p.out->size;
    fl_buffer_byte(s->p.out, 0);
    fl_pack_step here = {.index = closure};
    int i = 1;
    for (; (here.upvalue = lua_getupvalue(L, closure, i)) != NULL; i++) {
        const void *id = lua_upvalueid(L, closure, i);
        if (!pack_upvalue_again(s, id)) {
            if (fl_parcel_add_cell(s->parcel, id, number, i) < 0) return out_of_memory(s);
            if (!fl_packer_inner(&s->p, &here)) return FL_PACK_REFUSED;
        }
        lua_pop(L, 1);
    }
    if (!s->p.out->failed) s->p.out->data[count_at] = (char)(i - 1);
    return FL_PACK_DONE;
}

static fl_pack_verdict pack_code(sender *s, fl_code *code)
{
    int closure = lua_gettop(s->p.L);
    size_t number = s->parcel->function_count;
    if (number == FL_PARCEL_FUNCTIONS_MOST)
        return refuse(s, " is one function too many: 1000 can cross");
    if (fl_parcel_add_function(s->parcel, code, lua_topointer(s->p.L, closure)) < 0)
        return out_of_memory(s);
    fl_buffer_byte(s->p.out, (char)FL_PARCEL_FUNCTION);
    bool inside = s->inside;
    s->inside = true;
    fl_pack_verdict verdict = pack_upvalues(s, closure, (uint32_t)number);
    s->inside = inside;
    return verdict;
}

/* One that was not met before. */
static fl_pack_verdict pack_new_function(sender *s)
{
    bool is_new;
    fl_code *code;
    fl_pack_verdict verdict = make_code(s, &code, &is_new);
    if (verdict != FL_PACK_PLAIN) return verdict;
    if (is_new && pack_new_name(s)) return FL_PACK_DONE;
    return pack_code(s, code);
}

/* Why the function cannot cross but by name, NULL if it can. */
static const char *why_not(lua_State *L)
{
    if (lua_iscfunction(L, -1)) return " is a C function that no module exports";
    if (fl_functions_has_environment(L))
        return " is a function with an environment of its own (setfenv)";
    return NULL;
}

static fl_pack_verdict pack_function(sender *s)
{
    lua_State *L = s->p.L;
    if (s->inside && pack_function_again(s, lua_topointer(L, -1))) return FL_PACK_DONE;
    fl_known known = find(s);
    if (known.kind == FL_KNOWN_BY_NAME) return FL_PACK_DONE;
    const char *reason = why_not(L);
    if (reason) return pack_new_name(s) ? FL_PACK_DONE : refuse(s, reason);
    if (known.kind == FL_KNOWN_BY_NOTE) return pack_code(s, fl_functions_code(known.note));
    return pack_new_function(s);
}

static fl_pack_verdict pack_special(fl_packer *p, int type)
{
    sender *s = (sender *)p; /* its first member */
    switch (type) {
    case LUA_TSTRING: return pack_large_string(s);
    case LUA_TFUNCTION: return s->inside ? pack_function(s) : FL_PACK_PLAIN;
    default: return pack_object(s, type);
    }
}

static void sender_init(sender *s, fl_parcel *parcel, lua_State *L, const char *name)
{
    fl_packer_init(&s->p, L, name, &parcel->bytes);
    s->p.special = pack_special;
    s->p.large = FL_PARCEL_LARGE;
    s->parcel = parcel;
    s->border = NULL;
    s->inside = s->checked = false;
}

/* `to`: what the parcel was before. */
static int finish(sender *s, bool packed, const fl_parcel *to, int top)
{
    fl_packer *p = &s->p;
    bool failed = p->out->failed;
    lua_settop(p->L, top);
    if (packed && !failed) return 0;
    fl_parcel_cut(s->parcel, to);
    p->out->failed = false;
    if (packed || failed) {
        lua_pushfstring(p->L, "%s: not enough memory", p->name);
        return UV_ENOMEM;
    }
    lua_pushlstring(p->L, p->message, p->said);
    return p->error;
}

static int absolute(lua_State *L, int index)
{
    return index < 0 && index > LUA_REGISTRYINDEX ? lua_gettop(L) + 1 + index : index;
}

int fl_parcel_pack(fl_parcel *parcel, lua_State *L, int first, int count, const char *noun)
{
    sender s;
    fl_parcel before = *parcel;
    luaL_checkstack(L, 16, "to pack values");
    first = absolute(L, first);
    int top = lua_gettop(L);
    bool packed = true;
    sender_init(&s, parcel, L, noun);
    for (int i = 0; i < count && packed; i++) {
        s.p.number = i + 1;
        packed = fl_packer_value(&s.p, first + i);
    }
    parcel->values += (uint32_t)count;
    return finish(&s, packed, &before, top);
}

static bool refuse_root(sender *s, const char *what)
{
    s->p.said = (size_t)snprintf(
        s->p.message, sizeof(s->p.message),
        "%.64s must be a function or a string \"module:function\", not %.128s", s->p.name, what);
    s->p.error = UV_EINVAL;
    return false;
}

static bool pack_called(sender *s, fl_slice text)
{
    const char *colon = memchr(text.data, ':', text.size);
    size_t size = colon ? (size_t)(colon - text.data) : 0;
    if (size == 0 || size + 1 == text.size) {
        char what[128];
        (void)snprintf(what, sizeof(what), "\"%.100s\"", text.data);
        return refuse_root(s, what);
    }
    fl_name name = {FL_NAME_CALLED, fl_slice_of(text.data, size),
                    fl_slice_of(colon + 1, text.size - size - 1)};
    fl_name_pack(&name, s->p.out);
    return true;
}

static bool pack_root(sender *s)
{
    lua_State *L = s->p.L;
    if (lua_type(L, -1) == LUA_TSTRING) return pack_called(s, string_at(L, -1));
    if (lua_isfunction(L, -1)) {
        s->border = fl_border_of(L);
        return pack_function(s) == FL_PACK_DONE;
    }
    char what[64];
    (void)snprintf(what, sizeof(what), lua_isnil(L, -1) ? "%s" : "a %s", luaL_typename(L, -1));
    return refuse_root(s, what);
}

int fl_parcel_pack_function(fl_parcel *parcel, lua_State *L, int index, const char *name)
{
    sender s;
    fl_parcel before = *parcel;
    luaL_checkstack(L, 16, "to pack a function");
    int top = lua_gettop(L);
    lua_pushvalue(L, index);
    sender_init(&s, parcel, L, name);
    bool packed = pack_root(&s);
    parcel->values++;
    return finish(&s, packed, &before, top);
}
