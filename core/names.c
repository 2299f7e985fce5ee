#include "names.h"

#include <lauxlib.h>
#include <stdio.h>
#include <uv.h>

#define KEEP 4096 /* bytes of the scratch buffer */

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

static bool has_name(lua_State *L, int index)
{
    int type = lua_type(L, index);
    return type == LUA_TFUNCTION || type == LUA_TTABLE;
}

void fl_name_pack(const fl_name *name, fl_buffer *out)
{
    fl_buffer_byte(out, (char)name->kind);
    fl_pack_string(out, name->module);
    fl_pack_string(out, name->field);
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
static void push_standard(lua_State *L, const fl_names *names)
{
    lua_newtable(L);
    int standard = lua_gettop(L);
    push_ref(L, names->loaded);
    for (lua_pushnil(L); lua_next(L, standard + 1); lua_settop(L, standard + 2)) {
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        push_fields(L);
        lua_remove(L, -2);
        lua_rawset(L, standard);
    }
    lua_pop(L, 1);
}

static void push_weak_keys(lua_State *L)
{
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
}

void fl_names_open(fl_names *names, lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    names->loaded = luaL_ref(L, LUA_REGISTRYINDEX);
    push_standard(L, names);
    names->standard = luaL_ref(L, LUA_REGISTRYINDEX);
    push_weak_keys(L);
    names->map = luaL_ref(L, LUA_REGISTRYINDEX);
}

void fl_names_close(fl_names *names)
{
    fl_buffer_close(&names->scratch);
}

/* The sender's map: value → its packed name, or what was noted. */

fl_known fl_names_look_up(const fl_names *names, lua_State *L)
{
    fl_known known = {.kind = FL_KNOWN_NOT};
    push_ref(L, names->map);
    lua_pushvalue(L, -2);
    lua_rawget(L, -2);
    switch (lua_type(L, -1)) {
    case LUA_TSTRING:
        known.kind = FL_KNOWN_BY_NAME;
        known.name = string_at(L, -1);
        break;
    case LUA_TUSERDATA:
        known.kind = FL_KNOWN_BY_NOTE;
        known.note = lua_touserdata(L, -1);
        break;
    case LUA_TBOOLEAN: known.kind = FL_KNOWN_NAMELESS; break;
    default: break;
    }
    lua_pop(L, 2);
    return known;
}

void fl_names_note(const fl_names *names, lua_State *L)
{
    push_ref(L, names->map);
    lua_pushvalue(L, -3);
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);
    lua_pop(L, 2);
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
static bool is_better(lua_State *L, const fl_buffer *packed)
{
    if (lua_type(L, -1) != LUA_TSTRING) return true;
    fl_slice other = string_at(L, -1);
    if (packed->data[0] != other.data[0]) return packed->data[0] < other.data[0];
    if (packed->size != other.size) return packed->size < other.size;
    return memcmp(packed->data, other.data, other.size) < 0;
}

/* map[value on top] = its packed name, unless it has a better one. */
static void set_name(lua_State *L, fl_buffer *packed, int map, const fl_name *name)
{
    fl_buffer_reset(packed, KEEP);
    fl_name_pack(name, packed);
    if (packed->failed) luaL_error(L, "not enough memory");
    lua_pushvalue(L, -1);
    lua_rawget(L, map);
    bool better = is_better(L, packed);
    lua_pop(L, 1);
    if (!better) return;
    lua_pushvalue(L, -1);
    lua_pushlstring(L, packed->data, packed->size);
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
static void name_module(fl_names *names, lua_State *L, int map, int at)
{
    push_ref(L, names->standard);
    lua_pushvalue(L, at);
    lua_rawget(L, -2);
    int fields = lua_gettop(L);
    fl_name name = {lua_isnil(L, fields) ? FL_NAME_LOADED : FL_NAME_STANDARD, string_at(L, at),
                    FL_SLICE("")};
    lua_pushvalue(L, at + 1);
    if (has_name(L, -1)) set_name(L, &names->scratch, map, &name);
    if (!lua_istable(L, -1)) return;
    for (lua_pushnil(L); lua_next(L, at + 1); lua_pop(L, 1)) {
        if (!has_name(L, -1) || !is_exported(L, fields, lua_gettop(L) - 1)) continue;
        name.field = string_at(L, -2);
        set_name(L, &names->scratch, map, &name);
    }
}

/* What was noted is forgotten: those values may have a name now. */
static void make_map(fl_names *names, lua_State *L, int loaded)
{
    push_weak_keys(L);
    int map = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, loaded); lua_settop(L, map + 1))
        if (lua_type(L, -2) == LUA_TSTRING) name_module(names, L, map, map + 1);
    lua_rawseti(L, LUA_REGISTRYINDEX, names->map);
    names->loaded_print = print_loaded(L, loaded);
    names->fields_print = print_modules(L, loaded);
    names->maps++;
}

bool fl_names_renew(fl_names *names, lua_State *L, bool thorough)
{
    if (!lua_checkstack(L, 24)) return false;
    push_ref(L, names->loaded);
    int loaded = lua_gettop(L);
    bool changed = print_loaded(L, loaded) != names->loaded_print ||
                   (thorough && print_modules(L, loaded) != names->fields_print);
    if (changed) make_map(names, L, loaded);
    lua_settop(L, loaded - 1);
    return changed;
}

/* The receiver. */

static void push_raw_field(lua_State *L, fl_slice key)
{
    lua_pushlstring(L, key.data, key.size);
    lua_rawget(L, -2);
}

/* Pushes what is loaded under this name, read anew each time since it may be replaced; false when
 * it must be looked for otherwise. */
static bool push_loaded(const fl_names *names, lua_State *L, const fl_name *name)
{
    int at = lua_gettop(L) + 1;
    bool has_field = name->field.size > 0;
    push_ref(L, names->loaded);
    push_raw_field(L, name->module);
    bool found = !has_field || lua_istable(L, -1);
    if (found && has_field) push_raw_field(L, name->field);
    found = found && has_name(L, -1);
    if (found) lua_replace(L, at);
    lua_settop(L, found ? at : at - 1);
    return found;
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

static int shown(fl_slice text)
{
    return (int)(text.size < 200 ? text.size : 200);
}

/* The error lies on top, where the message is left. */
static int cannot_load(lua_State *L, int status, fl_slice module)
{
    char message[512];
    const char *why = lua_tostring(L, -1);
    (void)snprintf(message, sizeof(message), "cannot load the module \"%.*s\": %s", shown(module),
                   module.data, why ? why : "(error object)");
    lua_pop(L, 1);
    lua_pushstring(L, message);
    return status == LUA_ERRMEM ? UV_ENOMEM : UV_EINVAL;
}

/* Likewise, in place of what was found. */
static int missing(lua_State *L, const fl_name *name)
{
    char message[512];
    bool called = name->kind == FL_NAME_CALLED;
    const char *separator = name->field.size == 0 ? "" : called ? ":" : ".";
    (void)snprintf(message, sizeof(message), "\"%.*s%s%.*s\" is %s in the state it was sent to",
                   shown(name->module), name->module.data, separator, shown(name->field),
                   name->field.data, called ? "no function" : "neither a function nor a table");
    lua_pop(L, 1);
    lua_pushstring(L, message);
    return UV_EINVAL;
}

static int push_resolved(lua_State *L, const fl_name *name)
{
    lua_pushcfunction(L, resolve);
    lua_pushlstring(L, name->module.data, name->module.size);
    lua_pushlstring(L, name->field.data, name->field.size);
    int status = lua_pcall(L, 2, 1, 0);
    return status == 0 ? 0 : cannot_load(L, status, name->module);
}

int fl_names_push(const fl_names *names, lua_State *L, const fl_name *name)
{
    int error = push_loaded(names, L, name) ? 0 : push_resolved(L, name);
    if (error) return error;
    bool fits = name->kind == FL_NAME_CALLED ? lua_isfunction(L, -1) : has_name(L, -1);
    return fits ? 0 : missing(L, name);
}
