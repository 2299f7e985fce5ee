/* floor: the least that an HTTP server of this architecture can cost. libuv and llhttp, a thread
 * per core, each with its own listener (SO_REUSEPORT), fixed answers, one write per batch of
 * requests. It has no router, no limits, no timeouts and no manners: nothing here is a model for
 * the core.
 *
 *     floor PORT THREADS                    /plaintext /json /user/{id} /echo answered in C
 *     prototype PORT THREADS handlers.lua   compiled from prototype.c, which defines LUA: the same
 *                                           answers from LuaJIT, one reused coroutine and a small
 *                                           request table per request
 *
 * Both are built with llhttp's own sources and LLHTTP_STRICT_MODE=1, like the product. */
#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <llhttp.h>
#include <uv.h>

#include "floor.h"

#ifdef LUA
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#endif

#define container_of(pointer, type, member) ((type *)((char *)((pointer)) - offsetof(type, member)))

enum {
    input_size = 64 * 1024,
    target_size = 256,
    body_limit = 64 * 1024,
};

typedef enum floor_route {
    ROUTE_PLAINTEXT,
    ROUTE_JSON,
    ROUTE_USER,
    ROUTE_ECHO,
    ROUTE_COUNT
} floor_route;

typedef struct floor_options {
    uint16_t port;
    const char *script;
} floor_options;

typedef struct floor_worker {
    const floor_options *options;
    uv_loop_t loop;
    uv_tcp_t listener;
    uv_timer_t clock;
    char date[date_size + 1];
    char *input;
    floor_buffer output;
#ifdef LUA
    lua_State *L, *task;
    int task_reference, handlers[ROUTE_COUNT];
#endif
} floor_worker;

typedef struct floor_client {
    uv_tcp_t socket;
    llhttp_t parser;
    floor_worker *worker;
    char target[target_size];
    size_t target_used;
    floor_buffer body;
} floor_client;

typedef struct delayed_write {
    uv_write_t request;
    char bytes[];
} delayed_write;

static void put_answer(floor_worker *worker, const char *status, const char *type, const char *body,
                       size_t size)
{
    floor_buffer *output = &worker->output;
    put_text(output, "HTTP/1.1 ");
    put_text(output, status);
    put_text(output, "\r\nDate: ");
    put(output, worker->date, date_size);
    put_text(output, "\r\nContent-Type: ");
    put_text(output, type);
    put_text(output, "\r\nContent-Length: ");
    put_number(output, size);
    put_text(output, "\r\n\r\n");
    put(output, body, size);
}

static bool is_target(const floor_client *client, const char *path)
{
    return client->target_used == strlen(path) &&
           memcmp(client->target, path, client->target_used) == 0;
}

static floor_route find_route(const floor_client *client)
{
    if (is_target(client, "/plaintext")) return ROUTE_PLAINTEXT;
    if (is_target(client, "/json")) return ROUTE_JSON;
    if (client->target_used > 6 && memcmp(client->target, "/user/", 6) == 0) return ROUTE_USER;
    if (is_target(client, "/echo")) return ROUTE_ECHO;
    return ROUTE_COUNT;
}

static const char *route_type(floor_route route)
{
    return route == ROUTE_JSON || route == ROUTE_ECHO ? "application/json"
                                                      : "text/plain; charset=utf-8";
}

#ifdef LUA

static const char *const handler_names[ROUTE_COUNT] = {"plaintext", "json", "user", "echo"};

static void start_task(floor_worker *worker)
{
    worker->task = lua_newthread(worker->L);
    worker->task_reference = luaL_ref(worker->L, LUA_REGISTRYINDEX);
}

static void prepare(floor_worker *worker)
{
    lua_State *L = worker->L = luaL_newstate();
    if (!L) die("luaL_newstate");
    luaL_openlibs(L);
    if (luaL_dofile(L, worker->options->script)) {
        (void)fprintf(stderr, "prototype: %s\n", lua_tostring(L, -1));
        exit(1);
    }
    for (int i = 0; i < ROUTE_COUNT; i++) {
        lua_getfield(L, -1, handler_names[i]);
        worker->handlers[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_settop(L, 0);
    start_task(worker);
}

static void push_request(lua_State *task, const floor_client *client)
{
    lua_createtable(task, 0, 4);
    lua_pushstring(task, llhttp_method_name(client->parser.method));
    lua_setfield(task, -2, "method");
    lua_pushlstring(task, client->target, client->target_used);
    lua_setfield(task, -2, "path");
    if (client->body.used) {
        lua_pushlstring(task, client->body.bytes, client->body.used);
        lua_setfield(task, -2, "body");
    }
}

/* A coroutine that finished cleanly runs the next function; one that failed is replaced. */
static void answer_route(floor_client *client, floor_route route)
{
    floor_worker *worker = client->worker;
    lua_State *task = worker->task;
    lua_rawgeti(task, LUA_REGISTRYINDEX, worker->handlers[route]);
    push_request(task, client);
    if (route == ROUTE_USER) {
        lua_pushlstring(task, client->target + 6, client->target_used - 6);
        lua_setfield(task, -2, "id");
    }
    if (lua_resume(task, 1) == 0) {
        size_t size = 0;
        const char *body = lua_tolstring(task, -1, &size);
        put_answer(worker, "200 OK", route_type(route), body ? body : "", size);
        lua_settop(task, 0);
        return;
    }
    put_answer(worker, "500 Internal Server Error", "text/plain", "", 0);
    luaL_unref(worker->L, LUA_REGISTRYINDEX, worker->task_reference);
    start_task(worker);
}

#else

static void prepare(floor_worker *worker)
{
    (void)worker;
}

static void answer_route(floor_client *client, floor_route route)
{
    floor_worker *worker = client->worker;
    char text[target_size];
    switch (route) {
    case ROUTE_PLAINTEXT:
        put_answer(worker, "200 OK", route_type(route), "Hello, World!", 13);
        break;
    case ROUTE_JSON:
        put_answer(worker, "200 OK", route_type(route), "{\"message\":\"Hello, World!\"}", 27);
        break;
    case ROUTE_USER:
        memcpy(text, "user ", 5);
        memcpy(text + 5, client->target + 6, client->target_used - 6);
        put_answer(worker, "200 OK", route_type(route), text, client->target_used - 1);
        break;
    case ROUTE_ECHO:
        put_answer(worker, "200 OK", route_type(route), client->body.bytes, client->body.used);
        break;
    case ROUTE_COUNT: break;
    }
}

#endif

static int message_begun(llhttp_t *parser)
{
    floor_client *client = parser->data;
    client->target_used = client->body.used = 0;
    return 0;
}

static int target_read(llhttp_t *parser, const char *bytes, size_t size)
{
    floor_client *client = parser->data;
    if (size > sizeof(client->target) - client->target_used) return -1;
    memcpy(client->target + client->target_used, bytes, size);
    client->target_used += size;
    return 0;
}

static int body_read(llhttp_t *parser, const char *bytes, size_t size)
{
    floor_client *client = parser->data;
    if (size > body_limit - client->body.used) return -1;
    put(&client->body, bytes, size);
    return 0;
}

static int message_complete(llhttp_t *parser)
{
    floor_client *client = parser->data;
    floor_route route = find_route(client);
    if (route == ROUTE_COUNT)
        put_answer(client->worker, "404 Not Found", "text/plain", "", 0);
    else
        answer_route(client, route);
    return 0;
}

static const llhttp_settings_t parser_settings = {
    .on_message_begin = message_begun,
    .on_url = target_read,
    .on_body = body_read,
    .on_message_complete = message_complete,
};

static void client_closed(uv_handle_t *handle)
{
    floor_client *client = handle->data;
    free(client->body.bytes);
    free(client);
}

static void client_close(floor_client *client)
{
    if (!uv_is_closing((uv_handle_t *)&client->socket))
        uv_close((uv_handle_t *)&client->socket, client_closed);
}

static void buffer_wanted(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    const floor_client *client = handle->data;
    (void)suggested;
    *buffer = uv_buf_init(client->worker->input, input_size);
}

static void delayed_written(uv_write_t *request, int status)
{
    (void)status;
    free(container_of(request, delayed_write, request));
}

static void write_later(floor_client *client, const char *bytes, size_t size)
{
    delayed_write *later = malloc(sizeof(*later) + size);
    if (!later) die("malloc");
    memcpy(later->bytes, bytes, size);
    uv_buf_t buffer = uv_buf_init(later->bytes, (unsigned)size);
    if (uv_write(&later->request, (uv_stream_t *)&client->socket, &buffer, 1, delayed_written) < 0)
        free(later);
}

static void write_batch(floor_client *client)
{
    floor_worker *worker = client->worker;
    uv_buf_t buffer = uv_buf_init(worker->output.bytes, (unsigned)worker->output.used);
    int written = uv_try_write((uv_stream_t *)&client->socket, &buffer, 1);
    if (written == UV_EAGAIN) written = 0;
    if (written < 0)
        client_close(client);
    else if ((size_t)written < worker->output.used)
        write_later(client, worker->output.bytes + written, worker->output.used - (size_t)written);
}

static void socket_readable(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    floor_client *client = stream->data;
    if (count == 0) return;
    client->worker->output.used = 0;
    if (count < 0 || llhttp_execute(&client->parser, buffer->base, (size_t)count) != HPE_OK) {
        client_close(client);
        return;
    }
    if (client->worker->output.used) write_batch(client);
}

static void client_waiting(uv_stream_t *listener, int status)
{
    floor_worker *worker = listener->data;
    floor_client *client = status < 0 ? NULL : calloc(1, sizeof(*client));
    if (!client) return;
    client->worker = worker;
    client->socket.data = client;
    (void)uv_tcp_init(&worker->loop, &client->socket);
    if (uv_accept(listener, (uv_stream_t *)&client->socket) < 0) {
        client_close(client);
        return;
    }
    (void)uv_tcp_nodelay(&client->socket, 1);
    llhttp_init(&client->parser, HTTP_REQUEST, &parser_settings);
    client->parser.data = client;
    (void)uv_read_start((uv_stream_t *)&client->socket, buffer_wanted, socket_readable);
}

static void second_passed(uv_timer_t *clock)
{
    floor_worker *worker = clock->data;
    write_date(worker->date, time(NULL));
}

static void *worker_run(void *argument)
{
    floor_worker *worker = calloc(1, sizeof(*worker));
    if (!worker) die("calloc");
    worker->options = argument;
    worker->input = malloc(input_size);
    buffer_reserve(&worker->output, input_size);
    if (!worker->input) die("malloc");
    prepare(worker);
    (void)uv_loop_init(&worker->loop);
    (void)uv_timer_init(&worker->loop, &worker->clock);
    worker->clock.data = worker;
    second_passed(&worker->clock);
    (void)uv_timer_start(&worker->clock, second_passed, 1000, 1000);
    (void)uv_tcp_init(&worker->loop, &worker->listener);
    worker->listener.data = worker;
    if (uv_tcp_open(&worker->listener, listening_socket(worker->options->port)) < 0 ||
        uv_listen((uv_stream_t *)&worker->listener, 2048, client_waiting) < 0)
        die("listen");
    (void)uv_run(&worker->loop, UV_RUN_DEFAULT);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        (void)fprintf(stderr, "usage: %s PORT THREADS [handlers.lua]\n", argv[0]);
        return 2;
    }
    floor_options options = {(uint16_t)atoi(argv[1]), argc > 3 ? argv[3] : "handlers.lua"};
    (void)signal(SIGPIPE, SIG_IGN);
    for (int i = 1; i < atoi(argv[2]); i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker_run, &options)) die("pthread_create");
    }
    worker_run(&options);
    return 0;
}
