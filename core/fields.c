#include "fields.h"

#include <lauxlib.h>

#include "response.h"

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c = fl_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* [-0, +1, m] */
static void push_decoded(lua_State *L, fl_slice text)
{
    if (!memchr(text.data, '%', text.size) && !memchr(text.data, '+', text.size)) {
        lua_pushlstring(L, text.data, text.size);
        return;
    }
    luaL_Buffer buffer;
    luaL_buffinit(L, &buffer);
    for (size_t i = 0; i < text.size; i++) {
        char c = text.data[i];
        if (c == '%' && i + 2 < text.size && hex_value(text.data[i + 1]) >= 0 &&
            hex_value(text.data[i + 2]) >= 0) {
            c = (char)(hex_value(text.data[i + 1]) * 16 + hex_value(text.data[i + 2]));
            i += 2;
        } else if (c == '+') {
            c = ' ';
        }
        luaL_addchar(&buffer, c);
    }
    luaL_pushresult(&buffer);
}

int fl_fields_refuse(lua_State *L, int status, const char *detail)
{
    lua_createtable(L, 0, 2);
    luaL_getmetatable(L, FL_HTTP_ERROR);
    lua_setmetatable(L, -2);
    lua_pushinteger(L, status);
    lua_setfield(L, -2, "status");
    lua_pushstring(L, detail);
    lua_setfield(L, -2, "detail");
    return lua_error(L);
}

static fl_slice cut(fl_slice *text, char separator)
{
    const char *mark = text->size ? memchr(text->data, separator, text->size) : NULL;
    fl_slice piece = *text;
    if (mark) piece.size = (size_t)(mark - text->data);
    size_t used = piece.size + (mark ? 1 : 0);
    *text = fl_slice_of(text->data + used, text->size - used);
    return piece;
}

void fl_fields_form(lua_State *L, fl_slice text, size_t most, const fl_slice *wanted)
{
    size_t count = 0;
    int values = 0;
    lua_newtable(L);
    while (text.size) {
        fl_slice pair = cut(&text, '&');
        if (pair.size == 0) continue;
        if (++count > most) fl_fields_refuse(L, 400, "too many fields");
        fl_slice name = cut(&pair, '=');
        push_decoded(L, name);
        push_decoded(L, pair);
        if (!wanted) {
            lua_rawset(L, -3);
            continue;
        }
        size_t size;
        const char *decoded = lua_tolstring(L, -2, &size);
        if (fl_slice_equal(fl_slice_of(decoded, size), *wanted))
            lua_rawseti(L, -3, ++values);
        else
            lua_pop(L, 1);
        lua_pop(L, 1);
    }
}

static fl_slice trim(fl_slice text)
{
    while (text.size && (*text.data == ' ' || *text.data == '\t')) {
        text.data++;
        text.size--;
    }
    while (text.size && (text.data[text.size - 1] == ' ' || text.data[text.size - 1] == '\t'))
        text.size--;
    return text;
}

size_t fl_fields_cookies(lua_State *L, fl_slice text)
{
    size_t count = 0;
    while (text.size) {
        fl_slice pair = trim(cut(&text, ';'));
        if (pair.size == 0 || !memchr(pair.data, '=', pair.size)) continue;
        count++;
        fl_slice name = trim(cut(&pair, '='));
        fl_slice value = trim(pair);
        if (value.size >= 2 && value.data[0] == '"' && value.data[value.size - 1] == '"')
            value = fl_slice_of(value.data + 1, value.size - 2);
        lua_pushlstring(L, name.data, name.size);
        lua_pushvalue(L, -1);
        lua_rawget(L, -3);
        bool taken = !lua_isnil(L, -1);
        lua_pop(L, 1);
        if (taken) {
            lua_pop(L, 1);
            continue;
        }
        lua_pushlstring(L, value.data, value.size);
        lua_rawset(L, -3);
    }
    return count;
}
