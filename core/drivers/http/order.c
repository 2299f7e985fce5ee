#include "order.h"

#include <lauxlib.h>

typedef struct order {
    lua_State *L;
    int table;
    const char *folder;
    fl_http_transfer *transfer;
} order;

static void check(const order *self, const char *name, CURLcode code)
{
    if (code != CURLE_OK)
        (void)luaL_error(self->L, "option %s: %s", name, curl_easy_strerror(code));
}

/* Sets an option to the text of a field, if there is one. */
static bool set_text(const order *self, const char *name, CURLoption option)
{
    lua_getfield(self->L, self->table, name);
    bool is_there = lua_isstring(self->L, -1);
    if (is_there)
        check(self, name,
              curl_easy_setopt(self->transfer->easy, option, lua_tostring(self->L, -1)));
    lua_pop(self->L, 1);
    return is_there;
}

static void set_path(const order *self, const char *name, CURLoption option)
{
    lua_State *L = self->L;
    lua_getfield(L, self->table, name);
    if (lua_isstring(L, -1)) {
        const char *path = lua_tostring(L, -1);
        lua_pushfstring(L, "%s/%s", path[0] == '/' ? "" : self->folder, path);
        check(self, name, curl_easy_setopt(self->transfer->easy, option, lua_tostring(L, -1)));
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void set_number(const order *self, CURLoption option, long value)
{
    (void)curl_easy_setopt(self->transfer->easy, option, value);
}

static bool flag(const order *self, const char *name)
{
    lua_getfield(self->L, self->table, name);
    bool is_set = lua_toboolean(self->L, -1);
    lua_pop(self->L, 1);
    return is_set;
}

static double number(const order *self, const char *name)
{
    lua_getfield(self->L, self->table, name);
    double value = lua_tonumber(self->L, -1);
    lua_pop(self->L, 1);
    return value;
}

/* Seconds to ms, never 0 of what is more. */
static uint64_t duration(const order *self, const char *name)
{
    return (uint64_t)(number(self, name) * 1000 + 0.999);
}

static struct curl_slist *append(const order *self, struct curl_slist *list)
{
    const char *text = lua_tostring(self->L, -1);
    struct curl_slist *longer = text ? curl_slist_append(list, text) : NULL;
    if (!longer)
        (void)luaL_error(self->L, text ? "not enough memory" : "a list of strings expected");
    return longer;
}

static void set_list(const order *self, const char *name, struct curl_slist **list,
                     CURLoption option)
{
    lua_State *L = self->L;
    lua_getfield(L, self->table, name);
    if (lua_istable(L, -1)) {
        int count = (int)lua_objlen(L, -1);
        for (int i = 1; i <= count; i++) {
            lua_rawgeti(L, -1, i);
            *list = append(self, *list);
            lua_pop(L, 1);
        }
        (void)curl_easy_setopt(self->transfer->easy, option, *list);
    }
    lua_pop(L, 1);
}

/* the body of the request */

static bool copy_body(const order *self)
{
    lua_State *L = self->L;
    CURL *easy = self->transfer->easy;
    size_t size;
    lua_getfield(L, self->table, "body");
    const char *body = lua_tolstring(L, -1, &size);
    if (body) {
        check(self, "body", curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)size));
        check(self, "body", curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, body));
    }
    lua_pop(L, 1);
    return body != NULL;
}

/* Of unknown size without `body_size`: sent in chunks. */
static void upload(const order *self)
{
    double size = number(self, "body_size");
    lua_getfield(self->L, self->table, "body_size");
    curl_off_t known = lua_isnil(self->L, -1) ? -1 : (curl_off_t)size;
    lua_pop(self->L, 1);
    set_number(self, CURLOPT_UPLOAD, 1);
    (void)curl_easy_setopt(self->transfer->easy, CURLOPT_INFILESIZE_LARGE, known);
    self->transfer->uploads = true;
}

static void set_method_and_body(const order *self)
{
    if (flag(self, "uploads"))
        upload(self);
    else if (!copy_body(self))
        set_number(self, flag(self, "is_head") ? CURLOPT_NOBODY : CURLOPT_HTTPGET, 1);
    if (!flag(self, "is_head")) (void)set_text(self, "method", CURLOPT_CUSTOMREQUEST);
}

/* security */

static void set_tls(const order *self)
{
    long verify = flag(self, "insecure") ? 0 : 1;
    set_number(self, CURLOPT_SSL_VERIFYPEER, verify);
    set_number(self, CURLOPT_SSL_VERIFYHOST, verify ? 2 : 0);
    set_path(self, "ca", CURLOPT_CAINFO);
    set_path(self, "cert", CURLOPT_SSLCERT);
    set_path(self, "key", CURLOPT_SSLKEY);
}

static void set_http(const order *self)
{
    set_number(self, CURLOPT_HTTP_VERSION, (long)number(self, "version"));
    (void)set_text(self, "encodings", CURLOPT_ACCEPT_ENCODING);
    (void)set_text(self, "proxy", CURLOPT_PROXY);
    set_path(self, "unix_socket", CURLOPT_UNIX_SOCKET_PATH);
    set_list(self, "headers", &self->transfer->headers, CURLOPT_HTTPHEADER);
    set_method_and_body(self);
}

/* libcurl greets, secures and authenticates; what follows is Lua's, for libcurl would wait for the
 * answers to the message and to QUIT without giving the thread back. */
static void set_mail(const order *self)
{
    (void)set_text(self, "username", CURLOPT_USERNAME);
    (void)set_text(self, "password", CURLOPT_PASSWORD);
    set_number(self, CURLOPT_USE_SSL, (long)number(self, "use_tls"));
    set_number(self, CURLOPT_CONNECT_ONLY, 1);
    self->transfer->is_mail = true;
}

static void set_limits(const order *self)
{
    fl_http_transfer *transfer = self->transfer;
    transfer->limits.timeout = duration(self, "timeout");
    transfer->limits.connect_timeout = duration(self, "connect_timeout");
    transfer->limits.idle_timeout = duration(self, "idle_timeout");
    transfer->limits.max_body = (uint64_t)number(self, "max_body");
    transfer->streams = flag(self, "streams");
    transfer->is_public = flag(self, "is_public");
}

void fl_http_order_read(lua_State *L, int index, const char *folder, fl_http_transfer *transfer)
{
    order self = {L, index, folder, transfer};
    bool is_mail = flag(&self, "is_mail");
    const char *protocols = is_mail ? "smtp,smtps" : "http,https";
    check(&self, "protocols", curl_easy_setopt(transfer->easy, CURLOPT_PROTOCOLS_STR, protocols));
    (void)set_text(&self, "url", CURLOPT_URL);
    set_limits(&self);
    set_tls(&self);
    if (is_mail)
        set_mail(&self);
    else
        set_http(&self);
}
