#include "functions.h"

#include <lauxlib.h>
#include <uv.h>

#define KEEP 4096       /* bytes of the scratch buffer */
#define FACTORY_SIZE 80 /* slots of the Lua stack, at least what a factory needs to run */

static void push_ref(lua_State *L, int ref)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
}

/* __gc of a code's userdata   [-0, +0, -] */
static int code_close(lua_State *L)
{
    fl_code *code = fl_functions_code(lua_touserdata(L, 1));
    if (code) fl_code_release(code);
    return 0;
}

static void push_weak_values(lua_State *L)
{
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
}

void fl_functions_open(fl_functions *f, lua_State *L)
{
    push_weak_values(L);
    f->codes = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, code_close);
    lua_setfield(L, -2, "__gc");
    f->metatable = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    f->factories = luaL_ref(L, LUA_REGISTRYINDEX);
}

void fl_functions_close(fl_functions *f)
{
    fl_code_cache_close(&f->cache);
    fl_buffer_close(&f->template);
    fl_buffer_close(&f->scratch);
}

/* The sender. */

static bool is_same(const fl_code *code, fl_slice bytes)
{
    return code->size == bytes.size && memcmp(code->bytes, bytes.data, bytes.size) == 0;
}

/* Pushes the userdata of the code with these bytes, if there is one. */
static bool push_known(const fl_functions *f, lua_State *L, fl_slice bytes)
{
    uint64_t digest[2];
    fl_code_digest(bytes, digest);
    push_ref(L, f->codes);
    lua_pushlstring(L, (const char *)digest, sizeof(digest));
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (!lua_isnil(L, -1) && is_same(fl_functions_code(lua_touserdata(L, -1)), bytes)) return true;
    lua_pop(L, 1);
    return false;
}

/* codes[digest] = the userdata on top */
static void keep_code(const fl_functions *f, lua_State *L, const fl_code *code)
{
    push_ref(L, f->codes);
    lua_pushlstring(L, (const char *)code->digest, sizeof(code->digest));
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

/* Pushes a userdata with the code of these bytes. */
static int push_code(const fl_functions *f, lua_State *L, fl_slice bytes)
{
    fl_code **code = lua_newuserdata(L, sizeof(fl_code *));
    *code = NULL;
    push_ref(L, f->metatable);
    lua_setmetatable(L, -2);
    if (fl_code_new(bytes, code) < 0) {
        lua_pop(L, 1);
        return UV_ENOMEM;
    }
    keep_code(f, L, *code);
    return 0;
}

/* Made by the first dump. When LuaJIT's bytecode is not understood there is none, and each function
 * is refused. */
static int need_template(fl_functions *f, lua_State *L)
{
    if (f->template.size > 0) return 0;
    int error = fl_code_template(L, &f->template);
    if (error) fl_buffer_reset(&f->template, 0);
    return error == UV_ENOMEM ? error : 0;
}

int fl_functions_dump(fl_functions *f, lua_State *L, bool *is_new)
{
    fl_buffer_reset(&f->scratch, KEEP);
    int error = need_template(f, L);
    if (error) return error;
    error = fl_code_dump(L, fl_slice_of(f->template.data, f->template.size), &f->scratch);
    if (error) return error;
    f->dumps++;
    fl_slice bytes = fl_slice_of(f->scratch.data, f->scratch.size);
    *is_new = !push_known(f, L, bytes);
    return *is_new ? push_code(f, L, bytes) : 0;
}

fl_code *fl_functions_code(void *block)
{
    return *(fl_code **)block;
}

/* The receiver. */

/* What is pushed when LuaJIT refuses the code, whose message lies on top. */
static int cannot_load(lua_State *L, int error)
{
    lua_pushfstring(L, "cannot load a function: %s",
                    error == UV_ENOMEM ? "not enough memory" : lua_tostring(L, -1));
    lua_remove(L, -2);
    return error;
}

/* Puts a closure in place of the factory on top. The stack grows before the call, not by it: when
 * memory is refused to that, LuaJIT (of Debian 12) raises the error in a frame beyond the stack's
 * end, and writes there. */
static int call_factory(lua_State *L)
{
    if (!lua_checkstack(L, FACTORY_SIZE)) {
        lua_pop(L, 1);
        lua_pushliteral(L, "cannot load a function: not enough memory for the Lua stack");
        return UV_ENOMEM;
    }
    lua_call(L, 0, 1);
    return 0;
}

/* The place's function or factory = what is on top. */
static void keep_factory(fl_functions *f, lua_State *L, uint16_t place, bool bare)
{
    push_ref(L, f->factories);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, place + 1);
    lua_pop(L, 1);
    f->bare[place] = bare;
}

/* The function on top. */
static bool has_upvalues(lua_State *L)
{
    if (!lua_getupvalue(L, -1, 1)) return false;
    lua_pop(L, 1);
    return true;
}

/* Pushes a closure, and keeps its factory, or itself if it has no upvalues, at the place. */
static int load_closure(fl_functions *f, lua_State *L, const fl_code *code, uint16_t place)
{
    int error = fl_code_load(L, code);
    if (error) return cannot_load(L, error);
    lua_pushvalue(L, -1);
    error = call_factory(L);
    if (error) {
        lua_remove(L, -2);
        return error;
    }
    bool bare = !has_upvalues(L);
    lua_pushvalue(L, bare ? -1 : -2);
    keep_factory(f, L, place, bare);
    lua_pop(L, 1);
    lua_remove(L, -2); /* the factory */
    f->loads++;
    return 0;
}

/* The function is anchored before the cache takes its code. */
static int load_new(fl_functions *f, lua_State *L, fl_code *code)
{
    uint16_t place;
    if (fl_code_cache_place(&f->cache, &place) < 0) {
        lua_pushliteral(L, "cannot load a function: not enough memory");
        return UV_ENOMEM;
    }
    int error = load_closure(f, L, code, place);
    if (!error) fl_code_cache_put(&f->cache, code);
    return error;
}

int fl_functions_push(fl_functions *f, lua_State *L, fl_code *code)
{
    uint16_t place = fl_code_cache_find(&f->cache, code);
    if (place == FL_CODE_CACHE) return load_new(f, L, code);
    push_ref(L, f->factories);
    lua_rawgeti(L, -1, place + 1);
    lua_remove(L, -2);
    if (!f->bare[place]) return call_factory(L);
    if (!fl_functions_has_environment(L)) return 0;
    lua_pop(L, 1);
    return load_closure(f, L, code, place);
}

bool fl_functions_has_environment(lua_State *L)
{
    lua_getfenv(L, -1);
    bool result = !lua_rawequal(L, -1, LUA_GLOBALSINDEX);
    lua_pop(L, 1);
    return result;
}
