#include "url.h"

#include <curl/curl.h>
#include <lauxlib.h>

/* The handle and the text that was got last, freed by the collector should anything raise. */
typedef struct parser {
    CURLU *url;
    char *part;
} parser;

/* [-0, +0, -] */
static int parser_collect(lua_State *L)
{
    parser *self = lua_touserdata(L, 1);
    curl_free(self->part);
    curl_url_cleanup(self->url);
    *self = (parser){0};
    return 0;
}

/* Pushes one.  [-0, +1, e] */
static parser *parser_new(lua_State *L)
{
    parser *self = lua_newuserdata(L, sizeof(*self));
    *self = (parser){0};
    if (luaL_newmetatable(L, "fasterlua.http.url")) {
        lua_pushcfunction(L, parser_collect);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    self->url = curl_url();
    if (!self->url) luaL_error(L, "not enough memory");
    return self;
}

/* Sets a field of the table on top, if the URL has that part.  [-0, +0, e] */
static void set_part(lua_State *L, parser *self, const char *name, CURLUPart what, unsigned flags)
{
    if (curl_url_get(self->url, what, &self->part, flags) != CURLUE_OK) return;
    lua_pushstring(L, self->part);
    lua_setfield(L, -2, name);
    curl_free(self->part);
    self->part = NULL;
}

/* [-0, +1, e] */
static void push_parts(lua_State *L, parser *self)
{
    lua_createtable(L, 0, 6);
    set_part(L, self, "scheme", CURLUPART_SCHEME, 0);
    set_part(L, self, "host", CURLUPART_HOST, 0);
    set_part(L, self, "port", CURLUPART_PORT, CURLU_DEFAULT_PORT);
    set_part(L, self, "user", CURLUPART_USER, CURLU_URLDECODE);
    set_part(L, self, "password", CURLUPART_PASSWORD, CURLU_URLDECODE);
    (void)curl_url_set(self->url, CURLUPART_USER, NULL, 0);
    (void)curl_url_set(self->url, CURLUPART_PASSWORD, NULL, 0);
    (void)curl_url_set(self->url, CURLUPART_FRAGMENT, NULL, 0);
    set_part(L, self, "url", CURLUPART_URL, 0);
}

int fl_http_url(lua_State *L)
{
    const char *text = luaL_checkstring(L, 1);
    const char *base = luaL_optstring(L, 2, NULL);
    parser *self = parser_new(L);
    CURLUcode code = base ? curl_url_set(self->url, CURLUPART_URL, base, 0) : CURLUE_OK;
    /* Others write spaces into what they redirect to. */
    unsigned flags = base ? CURLU_URLENCODE | CURLU_ALLOW_SPACE : 0;
    if (code == CURLUE_OK) code = curl_url_set(self->url, CURLUPART_URL, text, flags);
    if (code == CURLUE_OK) {
        push_parts(L, self);
        return 1;
    }
    lua_pushnil(L);
    lua_pushstring(L, curl_url_strerror(code));
    return 2;
}
