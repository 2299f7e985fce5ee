#include "parcel.h"

#include <assert.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "pack.h"

#define KEEP 4096      /* bytes of an empty parcel's buffer */
#define KEEP_ITEMS 256 /* of its lists */
#define MOST_FUNCTIONS 1000
#define MOST_HANDLE 60 /* values of a handle */
#define VERSION 1      /* of a written parcel */

enum {                         /* kinds beside the plain ones */
       BLOB = FL_PACK_SPECIAL, /* the next blob */
       STANDARD,               /* module, field or "": found by name, in the standard library */
       NAMED,          /* likewise, elsewhere; of two names the lesser in this order is used */
       CALLED,         /* likewise, must be a function: "module:function" */
       HANDLE,         /* module, number of values (1 byte), values */
       FUNCTION,       /* the next function: number of upvalues (1 byte), upvalues */
       FUNCTION_AGAIN, /* its number */
       UPVALUE_AGAIN   /* in place of an upvalue: a function's number, which upvalue of it */
};

typedef struct border { /* what a state keeps for this; tables by their registry references */
    int loaded;         /* package.loaded */
    int standard;       /* module → { field → true } */
    int map;       /* value → its packed name, or userdata with a closure's code, or false for a
                      table without a name; weak keys */
    int codes;     /* digest → the same userdata; weak values */
    int metatable; /* of those userdata */
    int factories; /* by place in `cache`, from 1 */
    uint64_t loaded_print, fields_print; /* of package.loaded when `map` was made */
    fl_code_cache cache;
    bool
        bare[FL_CODE_CACHE]; /* by place too: the function has no upvalues, and itself lies there */
    fl_buffer template, scratch;
    fl_parcel_counts counts;
} border;

static const char border_key;

/* Threads inherit exdata2; those made before fl_parcel_open, and nobody else's, have none. */
static border *border_of(lua_State *L)
{
    border *known = lua_getexdata2(L);
    if (known) return known;
    lua_pushlightuserdata(L, (void *)(uintptr_t)&border_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    border *b = lua_touserdata(L, -1);
    assert(b); /* else fl_parcel_open was not called */
    lua_pop(L, 1);
    return b;
}

static void push_ref(lua_State *L, int ref)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
}

static fl_slice string_at(lua_State *L, int index)
{
    fl_slice text;
    text.data = lua_tolstring(L, index, &text.size);
    return text;
}

/* The function on top. */
static bool has_own_environment(lua_State *L)
{
    lua_getfenv(L, -1);
    bool result = !lua_rawequal(L, -1, LUA_GLOBALSINDEX);
    lua_pop(L, 1);
    return result;
}

/* Names. */

static bool has_name(lua_State *L, int index)
{
    return lua_isfunction(L, index) || lua_istable(L, index);
}

static uint64_t print_of(lua_State *L, int key, int value)
{
    uint64_t a = (uintptr_t)lua_topointer(L, key), b = (uintptr_t)lua_topointer(L, value);
    a = (a ^ b << 32 ^ b >> 32) * 0x9e3779b97f4a7c15;
    return (a ^ a >> 29 ^ b) * 0xbf58476d1ce4e5b9;
}

/* Of the table at `index`: changes whenever one of its functions or tables does. */
static uint64_t print_fields(lua_State *L, int index)
{
    uint64_t print = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1))
        if (has_name(L, -1)) print += print_of(L, -2, -1);
    return print;
}

/* Of package.loaded at `index`, as quickly as that goes: changes whenever a module comes or goes.
 */
static uint64_t print_loaded(lua_State *L, int index)
{
    uint64_t print = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1))
        print = (print ^ (uintptr_t)lua_topointer(L, -1)) * 0x9e3779b97f4a7c15;
    return print;
}

/* As print_fields, of all modules in the table at `index`. */
static uint64_t print_modules(lua_State *L, int index)
{
    uint64_t print = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1))
        if (lua_istable(L, -1)) print = print * 31 + print_fields(L, lua_gettop(L));
    return print;
}

/* The packed name is less than the one on top, or there is none. */
static bool is_better(lua_State *L, const fl_buffer *name)
{
    if (lua_type(L, -1) != LUA_TSTRING) return true;
    fl_slice other = string_at(L, -1);
    if (name->data[0] != other.data[0]) return name->data[0] < other.data[0];
    if (name->size != other.size) return name->size < other.size;
    return memcmp(name->data, other.data, other.size) < 0;
}

/* map[value on top] = its packed name, unless it has a better one. */
static void set_name(lua_State *L, border *b, int map, uint8_t tag, fl_slice module, fl_slice field)
{
    fl_buffer *name = &b->scratch;
    fl_buffer_reset(name, KEEP);
    fl_buffer_byte(name, (char)tag);
    fl_pack_string(name, module);
    fl_pack_string(name, field);
    if (name->failed) luaL_error(L, "not enough memory");
    lua_pushvalue(L, -1);
    lua_rawget(L, map);
    bool better = is_better(L, name);
    lua_pop(L, 1);
    if (!better) return;
    lua_pushvalue(L, -1);
    lua_pushlstring(L, name->data, name->size);
    lua_rawset(L, map);
}

/* Is the field, a key on the stack, one of the library's own? Its table lies at `fields`, nil for
 * a module that is no part of the standard library. */
static bool is_exported(lua_State *L, int fields, int key)
{
    if (lua_type(L, key) != LUA_TSTRING) return false;
    if (lua_isnil(L, fields)) return true;
    lua_pushvalue(L, key);
    lua_rawget(L, fields);
    bool result = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return result;
}

/* The module's name and value lie at `at` and above. */
static void name_module(lua_State *L, border *b, int map, int at)
{
    fl_slice module = string_at(L, at);
    push_ref(L, b->standard);
    lua_pushvalue(L, at);
    lua_rawget(L, -2);
    int fields = lua_gettop(L);
    uint8_t tag = lua_isnil(L, fields) ? NAMED : STANDARD;
    lua_pushvalue(L, at + 1);
    if (has_name(L, -1)) set_name(L, b, map, tag, module, FL_SLICE(""));
    if (!lua_istable(L, -1)) return;
    for (lua_pushnil(L); lua_next(L, at + 1); lua_pop(L, 1)) {
        if (has_name(L, -1) && is_exported(L, fields, lua_gettop(L) - 1))
            set_name(L, b, map, tag, module, string_at(L, -2));
    }
}

static void push_weak(lua_State *L, const char *mode)
{
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushstring(L, mode);
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
}

/* What was known of closures and tables is forgotten: they may have a name now. */
static void make_map(lua_State *L, border *b, int loaded)
{
    push_weak(L, "k");
    int map = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, loaded); lua_settop(L, map + 1))
        if (lua_type(L, -2) == LUA_TSTRING) name_module(L, b, map, map + 1);
    lua_rawseti(L, LUA_REGISTRYINDEX, b->map);
    b->loaded_print = print_loaded(L, loaded);
    b->fields_print = print_modules(L, loaded);
    b->counts.maps++;
}

/* Makes the map of names anew if package.loaded has changed since; `thorough`: or one of the
 * modules. */
static bool renew_map(lua_State *L, border *b, bool thorough)
{
    if (!lua_checkstack(L, 24)) return false;
    push_ref(L, b->loaded);
    int loaded = lua_gettop(L);
    bool changed = print_loaded(L, loaded) != b->loaded_print ||
                   (thorough && print_modules(L, loaded) != b->fields_print);
    if (changed) make_map(L, b, loaded);
    lua_settop(L, loaded - 1);
    return changed;
}

/* Packing. */

typedef enum { NOTHING, A_NAME, A_CODE, NO_NAME } knowledge;

typedef struct sender {
    fl_packer p;
    fl_parcel *parcel;
    border *border; /* for functions, and what is inside them */
    bool inside;    /* a function */
    bool checked;   /* the map is that of package.loaded as it is now */
} sender;

static bool grow(void *items, size_t *capacity, size_t count, size_t size)
{
    void **list = items;
    if (count < *capacity) return true;
    size_t wanted = *capacity ? 2 * *capacity : 4;
    void *grown = realloc(*list, wanted * size);
    if (!grown) return false;
    *list = grown;
    *capacity = wanted;
    return true;
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

static bool add_blob(fl_parcel *parcel, fl_slice text)
{
    if (!grow(&parcel->blobs, &parcel->blob_capacity, parcel->blob_count, sizeof(*parcel->blobs)))
        return false;
    char *data = malloc(text.size ? text.size : 1);
    if (!data) return false;
    memcpy(data, text.data, text.size);
    parcel->blobs[parcel->blob_count++] = (fl_parcel_blob){data, text.size};
    return true;
}

static fl_pack_verdict pack_large_string(sender *s)
{
    if (!add_blob(s->parcel, string_at(s->p.L, -1))) return out_of_memory(s);
    fl_buffer_byte(s->p.out, (char)BLOB);
    return FL_PACK_DONE;
}

/* What the map knows of the value on top: its name, which is packed then, its code, neither, or
 * nothing. */
static knowledge look_up(sender *s, fl_code **code)
{
    lua_State *L = s->p.L;
    knowledge found = NOTHING;
    push_ref(L, s->border->map);
    lua_pushvalue(L, -2);
    lua_rawget(L, -2);
    switch (lua_type(L, -1)) {
    case LUA_TSTRING:
        fl_buffer_slice(s->p.out, string_at(L, -1));
        found = A_NAME;
        break;
    case LUA_TUSERDATA:
        *code = *(fl_code **)lua_touserdata(L, -1);
        found = A_CODE;
        break;
    case LUA_TBOOLEAN: found = NO_NAME; break;
    default: break;
    }
    lua_pop(L, 2);
    return found;
}

/* The same, when the map is made anew if modules were loaded since. */
static knowledge find(sender *s, fl_code **code)
{
    knowledge found = look_up(s, code);
    if (found != NOTHING || s->checked) return found;
    s->checked = true;
    return renew_map(s->p.L, s->border, false) ? look_up(s, code) : NOTHING;
}

/* Packs the name of the value on top if it has got one since the map was made. */
static bool pack_new_name(sender *s)
{
    fl_code *code;
    s->checked = true;
    return renew_map(s->p.L, s->border, true) && look_up(s, &code) == A_NAME;
}

/* map[the value below the top] = the value on top, which is taken off. */
static void remember(sender *s)
{
    lua_State *L = s->p.L;
    push_ref(L, s->border->map);
    lua_pushvalue(L, -3);
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);
    lua_pop(L, 2);
}

/* Packs the name of the table on top, if it has one. */
static bool pack_table_name(sender *s)
{
    fl_code *code;
    bool checked = s->checked;
    knowledge found = find(s, &code);
    if (found == NOTHING && !checked) {
        lua_pushboolean(s->p.L, 0);
        remember(s);
    }
    return found == A_NAME;
}

/* Handles: the object lies at `object`, the results of its __crossing above it. */
static fl_pack_verdict pack_handle_values(sender *s, int object)
{
    lua_State *L = s->p.L;
    int count = lua_gettop(L) - object - 1;
    if (count < 0 || lua_type(L, object + 1) != LUA_TSTRING)
        return refuse(s, ": __crossing must return the name of a module first");
    if (count > MOST_HANDLE || !lua_checkstack(L, 8))
        return refuse(s, ": __crossing returned too many values");
    fl_buffer_byte(s->p.out, (char)HANDLE);
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

static bool is_same(const fl_code *code, fl_slice bytes)
{
    return code->size == bytes.size && memcmp(code->bytes, bytes.data, bytes.size) == 0;
}

/* Pushes the userdata of the code with these bytes, or nil. */
static fl_code *push_known(sender *s, fl_slice bytes, const uint64_t digest[2])
{
    lua_State *L = s->p.L;
    push_ref(L, s->border->codes);
    lua_pushlstring(L, (const char *)digest, 16);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    fl_code *const *code = lua_touserdata(L, -1);
    return code && is_same(*code, bytes) ? *code : NULL;
}

/* Pushes a userdata with the code of these bytes; NULL: there is no memory. */
static fl_code *push_code(sender *s, fl_slice bytes)
{
    lua_State *L = s->p.L;
    fl_code **code = lua_newuserdata(L, sizeof(fl_code *));
    *code = NULL;
    push_ref(L, s->border->metatable);
    lua_setmetatable(L, -2);
    if (fl_code_new(bytes, code) < 0) return NULL;
    push_ref(L, s->border->codes);
    lua_pushlstring(L, (const char *)(*code)->digest, 16);
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);
    lua_pop(L, 1);
    return *code;
}

/* `*is_new`: no function with this code was met before. */
static fl_pack_verdict make_code(sender *s, fl_code **code, bool *is_new)
{
    border *b = s->border;
    uint64_t digest[2];
    fl_buffer_reset(&b->scratch, KEEP);
    int error = fl_code_dump(s->p.L, fl_slice_of(b->template.data, b->template.size), &b->scratch);
    if (error == UV_ENOMEM) return out_of_memory(s);
    if (error) return refuse(s, " is a function whose bytecode is not understood");
    b->counts.dumps++;
    fl_slice bytes = fl_slice_of(b->scratch.data, b->scratch.size);
    fl_code_digest(bytes, digest);
    *code = push_known(s, bytes, digest);
    *is_new = !*code;
    if (!*code) {
        lua_pop(s->p.L, 1);
        *code = push_code(s, bytes);
        if (!*code) return out_of_memory(s);
    }
    remember(s);
    return FL_PACK_PLAIN;
}

static bool pack_function_again(sender *s, const void *id)
{
    fl_parcel *parcel = s->parcel;
    for (size_t i = 0; i < parcel->function_count; i++) {
        if (parcel->functions[i].id != id) continue;
        fl_buffer_byte(s->p.out, (char)FUNCTION_AGAIN);
        fl_pack_size(s->p.out, i);
        parcel->linked = true;
        return true;
    }
    return false;
}

static bool add_function(fl_parcel *parcel, fl_code *code, const void *id)
{
    if (!grow(&parcel->functions, &parcel->function_capacity, parcel->function_count,
              sizeof(*parcel->functions)))
        return false;
    fl_code_hold(code);
    parcel->functions[parcel->function_count++] = (fl_parcel_function){code, id};
    return true;
}

static bool pack_upvalue_again(sender *s, const void *id)
{
    fl_parcel *parcel = s->parcel;
    for (size_t i = 0; i < parcel->cell_count; i++) {
        const fl_parcel_cell *cell = &parcel->cells[i];
        if (cell->id != id) continue;
        fl_buffer_byte(s->p.out, (char)UPVALUE_AGAIN);
        fl_pack_size(s->p.out, cell->function);
        fl_pack_size(s->p.out, cell->upvalue);
        parcel->linked = true;
        return true;
    }
    return false;
}

static bool add_cell(fl_parcel *parcel, const void *id, uint32_t function, int upvalue)
{
    if (!grow(&parcel->cells, &parcel->cell_capacity, parcel->cell_count, sizeof(*parcel->cells)))
        return false;
    parcel->cells[parcel->cell_count++] = (fl_parcel_cell){id, function, (uint32_t)upvalue};
    return true;
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
            if (!add_cell(s->parcel, id, number, i)) return out_of_memory(s);
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
    if (number == MOST_FUNCTIONS) return refuse(s, " is one function too many: 1000 can cross");
    if (!add_function(s->parcel, code, lua_topointer(s->p.L, closure))) return out_of_memory(s);
    fl_buffer_byte(s->p.out, (char)FUNCTION);
    bool inside = s->inside;
    s->inside = true;
    fl_pack_verdict verdict = pack_upvalues(s, closure, (uint32_t)number);
    s->inside = inside;
    return verdict;
}

static fl_pack_verdict pack_function(sender *s)
{
    lua_State *L = s->p.L;
    bool is_new = false;
    if (s->inside && pack_function_again(s, lua_topointer(L, -1))) return FL_PACK_DONE;
    fl_code *code = NULL;
    if (find(s, &code) == A_NAME) return FL_PACK_DONE;
    if (lua_iscfunction(L, -1)) {
        if (pack_new_name(s)) return FL_PACK_DONE;
        return refuse(s, " is a C function that no module exports");
    }
    if (has_own_environment(L)) {
        if (pack_new_name(s)) return FL_PACK_DONE;
        return refuse(s, " is a function with an environment of its own (setfenv)");
    }
    if (!code) {
        fl_pack_verdict verdict = make_code(s, &code, &is_new);
        if (verdict != FL_PACK_PLAIN) return verdict;
    }
    if (is_new && pack_new_name(s)) return FL_PACK_DONE;
    return pack_code(s, code);
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

static void cut_back(fl_parcel *parcel, const fl_parcel *to)
{
    while (parcel->blob_count > to->blob_count) free(parcel->blobs[--parcel->blob_count].data);
    while (parcel->function_count > to->function_count)
        fl_code_release(parcel->functions[--parcel->function_count].code);
    parcel->cell_count = to->cell_count;
    parcel->values = to->values;
    parcel->linked = to->linked;
    parcel->bytes.size = to->bytes.size;
}

/* `to`: what the parcel was before. */
static int finish(sender *s, bool packed, const fl_parcel *to, int top)
{
    fl_packer *p = &s->p;
    bool failed = p->out->failed;
    lua_settop(p->L, top);
    if (packed && !failed) return 0;
    cut_back(s->parcel, to);
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
    fl_buffer_byte(s->p.out, (char)CALLED);
    fl_pack_string(s->p.out, fl_slice_of(text.data, size));
    fl_pack_string(s->p.out, fl_slice_of(colon + 1, text.size - size - 1));
    return true;
}

static bool pack_root(sender *s)
{
    lua_State *L = s->p.L;
    if (lua_type(L, -1) == LUA_TSTRING) return pack_called(s, string_at(L, -1));
    if (lua_isfunction(L, -1)) {
        s->border = border_of(L);
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

/* Unpacking. */

typedef struct receiver {
    fl_unpacker u;
    const fl_parcel *parcel;
    border *border;        /* once it was needed */
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

/* resolve(module, field) -> what is there, whatever it is   [-2, +1, e] */
static int resolve(lua_State *L)
{
    lua_getglobal(L, "require");
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    if (lua_objlen(L, 2) == 0) return 1;
    if (!lua_istable(L, -1) && !lua_isuserdata(L, -1)) return 0;
    lua_pushvalue(L, 2);
    lua_gettable(L, -2);
    return 1;
}

/* Leaves the field of a loaded module at `at`; false when it must be looked for otherwise. */
static bool find_loaded(receiver *r, int at, fl_slice module, fl_slice field)
{
    lua_State *L = r->u.L;
    push_ref(L, r->border->loaded);
    lua_pushlstring(L, module.data, module.size);
    lua_rawget(L, at);
    if (field.size > 0 && lua_istable(L, -1)) {
        lua_pushlstring(L, field.data, field.size);
        lua_rawget(L, -2);
    } else if (field.size > 0) {
        lua_pushnil(L);
    }
    bool found = has_name(L, -1);
    if (found) lua_replace(L, at);
    lua_settop(L, found ? at : at - 1);
    return found;
}

static bool missing(receiver *r, uint8_t tag, fl_slice module, fl_slice field)
{
    fl_unpacker *u = &r->u;
    int module_size = (int)(module.size < 200 ? module.size : 200);
    int field_size = (int)(field.size < 200 ? field.size : 200);
    const char *separator = field.size == 0 ? "" : tag == CALLED ? ":" : ".";
    (void)snprintf(u->message, sizeof(u->message),
                   "\"%.*s%s%.*s\" is %s in the state it was sent to", module_size, module.data,
                   separator, field_size, field.data,
                   tag == CALLED ? "no function" : "neither a function nor a table");
    u->error = UV_EINVAL;
    return false;
}

static bool push_named(receiver *r, uint8_t tag)
{
    lua_State *L = r->u.L;
    fl_slice module, field;
    if (!fl_unpacker_string(&r->u, &module) || !fl_unpacker_string(&r->u, &field)) return false;
    bool found = find_loaded(r, lua_gettop(L) + 1, module, field);
    if (found && tag != CALLED) return true;
    if (!found) {
        lua_pushcfunction(L, resolve);
        lua_pushlstring(L, module.data, module.size);
        lua_pushlstring(L, field.data, field.size);
        int status = lua_pcall(L, 2, 1, 0);
        if (status != 0) return fail_with(r, status, "cannot load the module", module);
    }
    if (tag == CALLED ? lua_isfunction(L, -1) : has_name(L, -1)) return true;
    return missing(r, tag, module, field);
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

static bool take_byte(fl_unpacker *u, uint8_t *byte)
{
    fl_slice bytes;
    if (!fl_unpacker_bytes(u, 1, &bytes)) return false;
    *byte = (uint8_t)bytes.data[0];
    return true;
}

static bool push_handle(receiver *r)
{
    fl_unpacker *u = &r->u;
    fl_slice module;
    uint8_t count;
    if (!fl_unpacker_string(u, &module) || !take_byte(u, &count)) return false;
    if (count > MOST_HANDLE || !lua_checkstack(u->L, count + 8)) return fl_unpacker_malformed(u);
    lua_pushcfunction(u->L, from_crossing);
    lua_pushlstring(u->L, module.data, module.size);
    for (int i = 0; i < count; i++)
        if (!push_inner(u)) return false;
    int status = lua_pcall(u->L, count + 1, 1, 0);
    return status == 0 || fail_with(r, status, "cannot receive a handle of", module);
}

static bool cannot_load(receiver *r, int error)
{
    (void)snprintf(r->u.message, sizeof(r->u.message), "cannot load a function: %s",
                   error == UV_ENOMEM ? "not enough memory" : lua_tostring(r->u.L, -1));
    r->u.error = error;
    return false;
}

/* The place's function or factory = what is on top. */
static void keep_factory(border *b, lua_State *L, uint16_t place, bool bare)
{
    push_ref(L, b->factories);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, place + 1);
    lua_pop(L, 1);
    b->bare[place] = bare;
}

/* Pushes a closure, and keeps its factory, or itself if it has no upvalues, at the place. */
static bool load_closure(receiver *r, const fl_code *code, uint16_t place)
{
    lua_State *L = r->u.L;
    int error = fl_code_load(L, code);
    if (error) return cannot_load(r, error);
    lua_pushvalue(L, -1);
    lua_call(L, 0, 1);
    bool bare = !lua_getupvalue(L, -1, 1);
    if (!bare) lua_pop(L, 1);
    if (!bare) lua_insert(L, -2); /* the factory on top */
    keep_factory(r->border, L, place, bare);
    if (bare)
        lua_remove(L, -2);
    else
        lua_pop(L, 1);
    r->border->counts.loads++;
    return true;
}

/* The function is anchored before the cache takes its code. */
static bool load_new(receiver *r, fl_code *code)
{
    uint16_t place;
    int error = fl_code_cache_place(&r->border->cache, &place);
    if (error) return cannot_load(r, error);
    if (!load_closure(r, code, place)) return false;
    fl_code_cache_put(&r->border->cache, code);
    return true;
}

/* Pushes a closure of the function, with upvalues of its own. One without any serves again, unless
 * it has got another environment. */
static bool push_closure(receiver *r, fl_code *code)
{
    lua_State *L = r->u.L;
    border *b = r->border;
    uint16_t place = fl_code_cache_find(&b->cache, code);
    if (place == FL_CODE_CACHE) return load_new(r, code);
    push_ref(L, b->factories);
    lua_rawgeti(L, -1, place + 1);
    lua_remove(L, -2);
    if (!b->bare[place]) {
        lua_call(L, 0, 1);
        return true;
    }
    if (!has_own_environment(L)) return true;
    lua_pop(L, 1);
    return load_closure(r, code, place);
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
    if (u->at < u->end && (uint8_t)*u->at == UPVALUE_AGAIN) {
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
    if (r->function == r->parcel->function_count || !take_byte(u, &count) ||
        !lua_checkstack(u->L, 16))
        return fl_unpacker_malformed(u);
    int number = (int)++r->function;
    if (!push_closure(r, r->parcel->functions[number - 1].code)) return false;
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
    if (!r->border) r->border = border_of(u->L);
    switch (tag) {
    case BLOB: return push_blob(r);
    case STANDARD:
    case NAMED:
    case CALLED: return push_named(r, tag);
    case HANDLE: return push_handle(r);
    case FUNCTION: return push_function(r);
    case FUNCTION_AGAIN: return push_arrived(r);
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

/* The struct. */

void fl_parcel_init(fl_parcel *parcel)
{
    *parcel = (fl_parcel){0};
}

static void drop_contents(fl_parcel *parcel)
{
    static const fl_parcel empty;
    cut_back(parcel, &empty);
}

static void free_lists(fl_parcel *parcel)
{
    free(parcel->blobs);
    free(parcel->functions);
    free(parcel->cells);
    parcel->blobs = NULL;
    parcel->functions = NULL;
    parcel->cells = NULL;
    parcel->blob_capacity = parcel->function_capacity = parcel->cell_capacity = 0;
}

void fl_parcel_reset(fl_parcel *parcel)
{
    drop_contents(parcel);
    fl_buffer_reset(&parcel->bytes, KEEP);
    if (parcel->blob_capacity > KEEP_ITEMS || parcel->function_capacity > KEEP_ITEMS ||
        parcel->cell_capacity > KEEP_ITEMS)
        free_lists(parcel);
}

void fl_parcel_close(fl_parcel *parcel)
{
    drop_contents(parcel);
    free_lists(parcel);
    fl_buffer_close(&parcel->bytes);
    fl_parcel_init(parcel);
}

/* For another process: version, values, linked; the functions' number and, of each, digest, size,
 * bytecode; the blobs' number and, of each, size, bytes; the values. */

static void write_sized(fl_buffer *out, const char *data, size_t size)
{
    fl_pack_size(out, size);
    fl_buffer_append(out, data, size);
}

int fl_parcel_write(const fl_parcel *parcel, fl_buffer *out)
{
    size_t before = out->size;
    fl_buffer_byte(out, VERSION);
    fl_pack_size(out, parcel->values);
    fl_buffer_byte(out, parcel->linked);
    fl_pack_size(out, parcel->function_count);
    for (size_t i = 0; i < parcel->function_count; i++) {
        const fl_code *code = parcel->functions[i].code;
        fl_buffer_append(out, (const char *)code->digest, sizeof(code->digest));
        write_sized(out, code->bytes, code->size);
    }
    fl_pack_size(out, parcel->blob_count);
    for (size_t i = 0; i < parcel->blob_count; i++)
        write_sized(out, parcel->blobs[i].data, parcel->blobs[i].size);
    write_sized(out, parcel->bytes.data, parcel->bytes.size);
    if (!out->failed) return 0;
    out->size = before;
    return UV_ENOMEM;
}

static bool read_sized(fl_unpacker *u, fl_slice *bytes)
{
    uint64_t size;
    return fl_unpacker_size(u, &size) && fl_unpacker_bytes(u, size, bytes);
}

static bool no_memory(fl_unpacker *u)
{
    u->error = UV_ENOMEM;
    return false;
}

static bool read_function(fl_unpacker *u, fl_parcel *parcel)
{
    fl_slice digest, bytes;
    fl_code *code;
    if (!fl_unpacker_bytes(u, sizeof(code->digest), &digest) || !read_sized(u, &bytes))
        return false;
    if (fl_code_new(bytes, &code) < 0) return no_memory(u);
    bool whole = memcmp(code->digest, digest.data, digest.size) == 0;
    bool added = whole && add_function(parcel, code, NULL);
    fl_code_release(code);
    if (!whole) return fl_unpacker_malformed(u);
    return added || no_memory(u);
}

static bool read_functions(fl_unpacker *u, fl_parcel *parcel)
{
    uint64_t count;
    if (!fl_unpacker_size(u, &count)) return false;
    if (count > MOST_FUNCTIONS) return fl_unpacker_malformed(u);
    for (uint64_t i = 0; i < count; i++)
        if (!read_function(u, parcel)) return false;
    return true;
}

static bool read_blobs(fl_unpacker *u, fl_parcel *parcel)
{
    uint64_t count;
    fl_slice bytes;
    if (!fl_unpacker_size(u, &count)) return false;
    for (uint64_t i = 0; i < count; i++) {
        if (!read_sized(u, &bytes)) return false;
        if (bytes.size <= FL_PARCEL_LARGE) return fl_unpacker_malformed(u);
        if (!add_blob(parcel, bytes)) return no_memory(u);
    }
    return true;
}

static bool read_parcel(fl_unpacker *u, fl_parcel *parcel)
{
    uint8_t version, linked;
    uint64_t values;
    fl_slice bytes;
    if (!take_byte(u, &version) || !fl_unpacker_size(u, &values) || !take_byte(u, &linked))
        return false;
    if (version != VERSION || linked > 1) return fl_unpacker_malformed(u);
    if (!read_functions(u, parcel) || !read_blobs(u, parcel) || !read_sized(u, &bytes))
        return false;
    if (values > bytes.size || values > UINT32_MAX || u->at != u->end)
        return fl_unpacker_malformed(u);
    parcel->values = (uint32_t)values;
    parcel->linked = linked;
    fl_buffer_slice(&parcel->bytes, bytes);
    return !parcel->bytes.failed || no_memory(u);
}

int fl_parcel_read(fl_parcel *parcel, fl_slice bytes)
{
    fl_unpacker u;
    fl_unpacker_init(&u, NULL, bytes);
    if (read_parcel(&u, parcel)) return 0;
    fl_parcel_reset(parcel);
    return u.error;
}

/* A state's part. */

/* __gc of the border   [-0, +0, -] */
static int border_close(lua_State *L)
{
    border *b = lua_touserdata(L, 1);
    fl_code_cache_close(&b->cache);
    fl_buffer_close(&b->template);
    fl_buffer_close(&b->scratch);
    return 0;
}

/* __gc of a code's userdata   [-0, +0, -] */
static int code_close(lua_State *L)
{
    fl_code *const *code = lua_touserdata(L, 1);
    if (*code) fl_code_release(*code);
    return 0;
}

static void push_finalizer(lua_State *L, lua_CFunction close)
{
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, close);
    lua_setfield(L, -2, "__gc");
}

/* Pushes { field → true } of the module on top. */
static void push_fields(lua_State *L)
{
    int module = lua_gettop(L);
    lua_newtable(L);
    if (!lua_istable(L, module)) return;
    for (lua_pushnil(L); lua_next(L, module); lua_pop(L, 1)) {
        if (!has_name(L, -1)) continue;
        lua_pushvalue(L, -2);
        lua_pushboolean(L, 1);
        lua_rawset(L, module + 1);
    }
}

/* Pushes { module → { field → true } }. */
static void push_standard(lua_State *L, border *b)
{
    lua_newtable(L);
    int standard = lua_gettop(L);
    push_ref(L, b->loaded);
    for (lua_pushnil(L); lua_next(L, standard + 1); lua_settop(L, standard + 2)) {
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        push_fields(L);
        lua_remove(L, -2);
        lua_rawset(L, standard);
    }
    lua_pop(L, 1);
}

void fl_parcel_open(lua_State *L)
{
    border *b = lua_newuserdata(L, sizeof(*b));
    *b = (border){0};
    push_finalizer(L, border_close);
    lua_setmetatable(L, -2);
    if (fl_code_template(L, &b->template) != 0) fl_buffer_reset(&b->template, 0);
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    b->loaded = luaL_ref(L, LUA_REGISTRYINDEX);
    push_standard(L, b);
    b->standard = luaL_ref(L, LUA_REGISTRYINDEX);
    push_weak(L, "k");
    b->map = luaL_ref(L, LUA_REGISTRYINDEX);
    push_weak(L, "v");
    b->codes = luaL_ref(L, LUA_REGISTRYINDEX);
    push_finalizer(L, code_close);
    b->metatable = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    b->factories = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushlightuserdata(L, (void *)(uintptr_t)&border_key);
    lua_insert(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
    lua_setexdata2(L, b);
}

fl_parcel_counts fl_parcel_counts_of(lua_State *L)
{
    return border_of(L)->counts;
}
