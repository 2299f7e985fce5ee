#include "bind/admin_client.h"

#include <errno.h>
#include <lauxlib.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "admin.h"
#include "buffer.h"
#include "state.h"

#define ANSWER_MOST (64u << 20)
#define PIECE 65536

typedef struct exchange {
    int fd;
    uint64_t until; /* ns */
    fl_buffer answer;
} exchange;

/* Until the socket is ready; 0 or a negative uv code. */
static int wait_for(const exchange *self, short events)
{
    struct pollfd poller = {.fd = self->fd, .events = events};
    for (;;) {
        uint64_t now = uv_hrtime();
        if (now >= self->until) return UV_ETIMEDOUT;
        int ready = poll(&poller, 1, (int)((self->until - now) / 1000000) + 1);
        if (ready > 0) return 0;
        if (ready < 0 && errno != EINTR) return uv_translate_sys_error(errno);
    }
}

static int open_socket(exchange *self, const struct sockaddr *address, socklen_t size)
{
    self->fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (self->fd < 0) return uv_translate_sys_error(errno);
    if (connect(self->fd, address, size) == 0) return 0;
    if (errno != EINPROGRESS) return uv_translate_sys_error(errno);
    int status = wait_for(self, POLLOUT), error = 0;
    socklen_t error_size = sizeof(error);
    if (status < 0) return status;
    (void)getsockopt(self->fd, SOL_SOCKET, SO_ERROR, &error, &error_size);
    return error ? uv_translate_sys_error(error) : 0;
}

static int connect_path(exchange *self, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) return UV_ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path));
    return open_socket(self, (const struct sockaddr *)&address, sizeof(address));
}

static int connect_host(exchange *self, const char *address)
{
    char copy[512], *host, *port;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found;
    if (strlen(address) >= sizeof(copy)) return UV_EINVAL;
    int status = fl_admin_split_address(strcpy(copy, address), &host, &port);
    if (status < 0) return status;
    if (getaddrinfo(host, port, &hints, &found) != 0) return UV_EAI_NONAME;
    status = open_socket(self, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return status;
}

static int send_all(const exchange *self, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(self->fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) return uv_translate_sys_error(errno);
        int status = sent < 0 ? wait_for(self, POLLOUT) : 0;
        if (status < 0) return status;
        data += sent > 0 ? sent : 0;
        size -= sent > 0 ? (size_t)sent : 0;
    }
    return 0;
}

/* Until the peer closes, as the request tells it to. */
static int receive_all(exchange *self)
{
    while (self->answer.size < ANSWER_MOST) {
        if (!fl_buffer_room(&self->answer, PIECE)) return UV_ENOMEM;
        ssize_t size = recv(self->fd, self->answer.data + self->answer.size, PIECE, 0);
        if (size == 0) return 0;
        if (size > 0) self->answer.size += (size_t)size;
        if (size < 0 && errno != EAGAIN && errno != EINTR) return uv_translate_sys_error(errno);
        int status = size < 0 ? wait_for(self, POLLIN) : 0;
        if (status < 0) return status;
    }
    return UV_E2BIG;
}

static int talk(exchange *self, const char *address, const char *request)
{
    int status = strchr(address, '/') ? connect_path(self, address) : connect_host(self, address);
    if (status == 0) status = send_all(self, request, strlen(request));
    return status == 0 ? receive_all(self) : status;
}

/* Where the body begins; NULL: the answer is none, or not whole. */
static const char *find_body(const exchange *self, int *status)
{
    const fl_buffer *answer = &self->answer;
    const char *end = memmem(answer->data, answer->size, "\r\n\r\n", 4);
    char head[1024];
    size_t size = end ? (size_t)(end - answer->data) : sizeof(head);
    unsigned long long length = 0;
    if (size >= sizeof(head)) return NULL;
    memcpy(head, answer->data, size);
    head[size] = '\0';
    const char *field = strcasestr(head, "\r\nContent-Length: ");
    if (sscanf(head, "HTTP/1.1 %d ", status) != 1 || !field) return NULL;
    if (sscanf(field + 18, "%llu", &length) != 1) return NULL;
    return answer->size - size - 4 == length ? end + 4 : NULL;
}

/* request(address, method, path, seconds) -> status, body, or nil, message   [-0, +2, e] */
static int admin_request(lua_State *L)
{
    const char *address = luaL_checkstring(L, 1);
    const char *method = luaL_checkstring(L, 2), *path = luaL_checkstring(L, 3);
    double seconds = luaL_checknumber(L, 4);
    luaL_argcheck(L, seconds > 0 && seconds < 1e6, 4, "expected a time in seconds");
    const char *request = lua_pushfstring(
        L,
        "%s %s HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nX-Requested-With: fasterlua\r\n\r\n",
        method, path);
    exchange self = {.fd = -1, .until = uv_hrtime() + (uint64_t)(seconds * 1e9)};
    fl_buffer_init(&self.answer);
    int code = 0, status = talk(&self, address, request);
    if (self.fd >= 0) (void)close(self.fd);
    const char *body = status == 0 && self.answer.size ? find_body(&self, &code) : NULL;
    if (body) {
        lua_pushinteger(L, code);
        lua_pushlstring(L, body, self.answer.size - (size_t)(body - self.answer.data));
    } else {
        lua_pushnil(L);
        lua_pushstring(L, status < 0 ? uv_strerror(status) : "the connection was closed");
    }
    fl_buffer_close(&self.answer);
    return 2;
}

int fl_admin_client_module(lua_State *L)
{
    static const luaL_Reg functions[] = {{"request", admin_request}, {NULL, NULL}};
    lua_newtable(L);
    fl_state_functions(L, functions);
    return 1;
}
