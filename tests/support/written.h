/* written: what C writes of a Lua value, and reads back, in a state that knows `json`.
 *
 * The value comes from an expression and is written behind other bytes, which a refusal has to
 * leave as they were, with its message on the stack and nothing else. Owner: the test. */
#ifndef FL_WRITTEN_H
#define FL_WRITTEN_H

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>

#include "buffer.h"
#include "json.h"
#include "test.h"

#define WRITTEN_BEFORE "before "

/* Writes the value on top; 0, or a negative uv code and the message on top. */
typedef int (*written_by)(lua_State *L, size_t most, fl_buffer *out);

static inline lua_State *written_state(void)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    fl_json_open(L);
    lua_pushcfunction(L, fl_json_module);
    lua_call(L, 0, 1);
    lua_setglobal(L, "json");
    return L;
}

/* NULL: it was written to `out`, the value is at 1; else the message. */
static inline const char *written_problem(lua_State *L, const char *expression, written_by write,
                                          size_t most, fl_buffer *out)
{
    const size_t before = sizeof(WRITTEN_BEFORE) - 1;
    FL_BUFFER_LITERAL(out, WRITTEN_BEFORE);
    lua_pushfstring(L, "return %s", expression);
    if (luaL_dostring(L, lua_tostring(L, -1)) != 0) return lua_tostring(L, -1);
    lua_remove(L, 1);
    lua_settop(L, 1);
    int error = write(L, most, out);
    if (lua_gettop(L) != 1 + (error != 0) || (error && out->size != before)) return "left-overs";
    return error ? lua_tostring(L, -1) : NULL;
}

static inline fl_slice written_bytes(const fl_buffer *out)
{
    const size_t before = sizeof(WRITTEN_BEFORE) - 1;
    return fl_slice_of(out->data + before, out->size - before);
}

/* For an attempt of scarcity.h: the value at 1 stays, and so does nothing else. */
static inline int written_scarcely(lua_State *L, written_by write, size_t most)
{
    fl_buffer out;
    fl_buffer_init(&out);
    int status = write(L, most, &out);
    if (lua_gettop(L) != 1 + (status < 0) || (status < 0 && out.size)) status = 1;
    lua_settop(L, 1);
    fl_buffer_close(&out);
    return status;
}

/* Exactly as long as the bytes, so that a sanitizer sees one read beyond them; the caller frees. */
static inline char *written_copy(fl_slice bytes)
{
    char *copy = malloc(bytes.size ? bytes.size : 1);
    memcpy(copy, bytes.data, bytes.size);
    return copy;
}

/* "[[[]]]" of "[]"; valid until the next call. */
static inline const char *written_nested(const char *brackets, size_t depth)
{
    static char text[1024];
    memset(text, brackets[0], depth);
    memset(text + depth, brackets[1], depth);
    text[2 * depth] = '\0';
    return text;
}

#endif
