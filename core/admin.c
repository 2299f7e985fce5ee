/* A client is read until one request is complete, answered, and read on: never more than one
 * response in the making, and what was pipelined waits in the input. Bodies are not read: a request
 * that has one is answered and its connection closed, after the peer closed or a second, so that
 * the answer is not lost in a reset (RFC 9112 section 9.6).
 *
 * Left out: everything that does not serve a probe or a scraper. */
#include "admin.h"

#include <errno.h>
#include <llhttp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "slice.h"

#define CLIENTS 32
#define HEAD_LIMIT 8192
#define TARGET_LIMIT 1024
#define BACKLOG 64
#define NAME_LIMIT 16 /* longer than the names that matter */
#define HEAD_MS 5000
#define WRITE_MS 10000
#define IDLE_MS 75000
#define LINGER_MS 1000
#define PROFILE_MS 330000 /* somewhat more than the longest one takes */
#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"
#define TEXT_TYPE "text/plain; charset=utf-8"

/* Two pairs of parentheses: clang-format 14 takes (x) - y for a cast. */
#define container_of(pointer, type, member)                                                        \
    ((type *)(void *)((char *)((pointer)) - offsetof(type, member)))

typedef union admin_stream {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
} admin_stream;

typedef enum {
    CLIENT_READING,
    CLIENT_WAITING, /* for its profile */
    CLIENT_ANSWERING,
    CLIENT_LINGERING, /* the last answer is out; waits for the peer to close */
    CLIENT_CLOSING
} client_state;

typedef struct admin_client {
    admin_stream stream;
    uv_timer_t timer;
    fl_admin *admin;
    struct admin_client *next, **link; /* link: what points here */
    client_state state;
    unsigned open_handles;
    llhttp_t parser;
    size_t head_size;
    size_t target_size; /* also what target did not take */
    char target[TARGET_LIMIT];
    char name[NAME_LIMIT]; /* of the present field, in lower case */
    size_t name_size;      /* also what name did not take */
    unsigned hosts;
    bool is_programs; /* no page in a browser could send it unasked */
    uint64_t ticket;  /* of its profile */
    bool is_last;     /* close after this answer */
    char input[HEAD_LIMIT];
    size_t input_at, input_size; /* not parsed yet */
    fl_buffer head, body;
    uv_write_t write;
    uv_shutdown_t shutdown;
} admin_client;

struct fl_admin {
    admin_stream listener;
    bool is_path, is_listener_open;
    fl_admin_callbacks callbacks;
    admin_client *clients;
    unsigned count;
    uint64_t tickets; /* given out */
    llhttp_settings_t parsing;
};

typedef struct admin_answer {
    int status;
    const char *reason, *type, *text;
} admin_answer;

static const admin_answer answer_bad = {400, "Bad Request", TEXT_TYPE, "bad request"};
static const admin_answer answer_large = {431, "Request Header Fields Too Large", TEXT_TYPE,
                                          "header too large"};
static const admin_answer answer_slow = {408, "Request Timeout", TEXT_TYPE, "request timeout"};
static const admin_answer answer_missing = {404, "Not Found", TEXT_TYPE, "not found"};
static const admin_answer answer_method = {405, "Method Not Allowed", TEXT_TYPE,
                                           "method not allowed"};
static const admin_answer answer_post = {405, "Method Not Allowed", TEXT_TYPE,
                                         "method not allowed"};
static const admin_answer answer_unasked = {403, "Forbidden", TEXT_TYPE,
                                            "the header X-Requested-With is missing"};
static const admin_answer answer_health = {200, "OK", TEXT_TYPE, "ok"};
static const admin_answer answer_ready = {200, "OK", TEXT_TYPE, "ready"};
static const admin_answer answer_not_ready = {503, "Service Unavailable", TEXT_TYPE, "not ready"};
static const admin_answer answer_metrics = {200, "OK", METRICS_TYPE, ""};
static const admin_answer answer_failed = {500, "Internal Server Error", TEXT_TYPE,
                                           "out of memory"};

static void parse_input(admin_client *client);
static void client_timed_out(uv_timer_t *timer);
static void client_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer);
static void client_read(uv_stream_t *handle, ssize_t size, const uv_buf_t *buffer);

/* Closing */

static void admin_release(fl_admin *admin)
{
    if (!admin->is_listener_open && admin->count == 0) free(admin);
}

static void client_handle_closed(admin_client *client)
{
    fl_admin *admin = client->admin;
    if (--client->open_handles > 0) return;
    fl_buffer_close(&client->head);
    fl_buffer_close(&client->body);
    free(client);
    admin->count--;
    admin_release(admin);
}

static void client_stream_closed(uv_handle_t *handle)
{
    client_handle_closed(handle->data);
}

static void client_timer_closed(uv_handle_t *handle)
{
    client_handle_closed(container_of(handle, admin_client, timer));
}

static void client_close(admin_client *client)
{
    if (client->state == CLIENT_CLOSING) return;
    if (client->state == CLIENT_WAITING)
        client->admin->callbacks.cancel(client->admin->callbacks.data, client->ticket);
    client->state = CLIENT_CLOSING;
    *client->link = client->next;
    if (client->next) client->next->link = client->link;
    uv_close(&client->stream.handle, client_stream_closed);
    uv_close((uv_handle_t *)&client->timer, client_timer_closed);
}

/* Answering */

static void client_wait(admin_client *client, uint64_t milliseconds)
{
    (void)uv_timer_start(&client->timer, client_timed_out, milliseconds, 0);
}

/* Into the input: nothing may be left in it. */
static void client_read_on(admin_client *client)
{
    int status = uv_read_start(&client->stream.stream, client_allocate, client_read);
    if (status < 0 && status != UV_EALREADY) client_close(client);
}

static void client_shut(uv_shutdown_t *shutdown, int status)
{
    if (status < 0) client_close(container_of(shutdown, admin_client, shutdown));
}

static void client_linger(admin_client *client)
{
    client->state = CLIENT_LINGERING;
    client_wait(client, LINGER_MS);
    client_read_on(client);
    if (uv_shutdown(&client->shutdown, &client->stream.stream, client_shut) < 0)
        client_close(client);
}

static void client_written(uv_write_t *write, int status)
{
    admin_client *client = container_of(write, admin_client, write);
    if (client->state == CLIENT_CLOSING) return;
    if (status < 0) {
        client_close(client);
        return;
    }
    client->head_size = client->target_size = 0;
    client->hosts = 0;
    client->is_programs = false;
    if (client->is_last) {
        client_linger(client);
        return;
    }
    client->state = CLIENT_READING;
    client_wait(client, IDLE_MS);
    llhttp_resume(&client->parser);
    parse_input(client);
}

static void put_date(fl_buffer *out)
{
    char text[64];
    struct tm calendar;
    time_t now = time(NULL);
    gmtime_r(&now, &calendar);
    size_t size = strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &calendar);
    FL_BUFFER_LITERAL(out, "Date: ");
    fl_buffer_append(out, text, size);
    FL_BUFFER_LITERAL(out, "\r\n");
}

static void put_head(admin_client *client, const admin_answer *answer)
{
    fl_buffer *head = &client->head;
    fl_buffer_printf(head, "HTTP/1.1 %d %s\r\n", answer->status, answer->reason);
    put_date(head);
    fl_buffer_printf(head, "Content-Type: %s\r\nContent-Length: %zu\r\n", answer->type,
                     client->body.size);
    FL_BUFFER_LITERAL(head, "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n");
    if (answer->status == 405)
        fl_buffer_printf(head, "Allow: %s\r\n", answer == &answer_post ? "POST" : "GET, HEAD");
    if (client->is_last)
        FL_BUFFER_LITERAL(head, "Connection: close\r\n");
    else if (client->parser.http_minor == 0) /* HTTP/1.0 has to be told (RFC 9112 section 9.3) */
        FL_BUFFER_LITERAL(head, "Connection: keep-alive\r\n");
    FL_BUFFER_LITERAL(head, "\r\n");
}

/* The body is answer->text behind what a callback has already appended. */
static void client_answer(admin_client *client, const admin_answer *answer)
{
    client->state = CLIENT_ANSWERING;
    (void)uv_read_stop(&client->stream.stream);
    fl_buffer_reset(&client->head, HEAD_LIMIT);
    fl_buffer_slice(&client->body, fl_slice_from_string(answer->text));
    put_head(client, answer);
    if (client->head.failed || client->body.failed) {
        client_close(client);
        return;
    }
    bool has_body = client->parser.method != HTTP_HEAD;
    uv_buf_t parts[] = {uv_buf_init(client->head.data, (unsigned)client->head.size),
                        uv_buf_init(client->body.data, (unsigned)client->body.size)};
    client_wait(client, WRITE_MS);
    int status =
        uv_write(&client->write, &client->stream.stream, parts, has_body ? 2 : 1, client_written);
    if (status < 0) client_close(client);
}

static void client_refuse(admin_client *client, const admin_answer *answer)
{
    fl_buffer_reset(&client->body, HEAD_LIMIT);
    client->is_last = true;
    client_answer(client, answer);
}

/* The path of an origin-form or absolute-form target (RFC 9112 section 3.2). */
static fl_slice target_path(fl_slice target)
{
    const fl_slice scheme = FL_SLICE("http://");
    size_t at = scheme.size;
    if (target.size > at && fl_slice_equal_nocase(fl_slice_of(target.data, at), scheme)) {
        while (at < target.size && target.data[at] != '/') at++;
        target = fl_slice_of(target.data + at, target.size - at);
    }
    const char *query = memchr(target.data, '?', target.size);
    return query ? fl_slice_of(target.data, (size_t)(query - target.data)) : target;
}

static const admin_answer *render_metrics(admin_client *client)
{
    const fl_admin_callbacks *callbacks = &client->admin->callbacks;
    callbacks->metrics(callbacks->data, &client->body);
    if (!client->body.failed) return &answer_metrics;
    fl_buffer_reset(&client->body, 0);
    return &answer_failed;
}

static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {{200, "OK"},       {400, "Bad Request"},         {404, "Not Found"},
                   {409, "Conflict"}, {503, "Service Unavailable"}, {504, "Gateway Timeout"}};
    for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++)
        if (reasons[i].status == status) return reasons[i].reason;
    return "Internal Server Error";
}

static fl_slice target_query(fl_slice target)
{
    const char *mark = memchr(target.data, '?', target.size);
    if (!mark) return fl_slice_of(target.data, 0);
    return fl_slice_of(mark + 1, target.size - (size_t)(mark + 1 - target.data));
}

/* Reads on meanwhile, to see whether the client leaves; what else comes is dropped. */
static void start_profile(admin_client *client)
{
    const fl_admin_callbacks *callbacks = &client->admin->callbacks;
    char why[1024] = "";
    fl_slice query = target_query(fl_slice_of(client->target, client->target_size));
    client->is_last = true;
    client->ticket = ++client->admin->tickets;
    int status = callbacks->profile(callbacks->data, query, client->ticket, why, sizeof(why));
    if (status != 0) {
        client_answer(client, &(admin_answer){status, reason_of(status), TEXT_TYPE, why});
        return;
    }
    client->state = CLIENT_WAITING;
    client_wait(client, PROFILE_MS);
    client_read_on(client);
}

static void respond_to_profile(admin_client *client)
{
    if (client->parser.method != HTTP_POST)
        client_answer(client, &answer_post);
    else if (!client->is_programs)
        client_answer(client, &answer_unasked);
    else
        start_profile(client);
}

static bool is_profile(const admin_client *client)
{
    if (client->target_size > TARGET_LIMIT) return false;
    fl_slice path = target_path(fl_slice_of(client->target, client->target_size));
    return fl_slice_equal(path, FL_SLICE("/profile"));
}

static const admin_answer *choose_answer(admin_client *client)
{
    const fl_admin_callbacks *callbacks = &client->admin->callbacks;
    if (client->target_size > TARGET_LIMIT) return &answer_missing;
    fl_slice path = target_path(fl_slice_of(client->target, client->target_size));
    bool is_health = fl_slice_equal(path, FL_SLICE("/health"));
    bool is_ready = fl_slice_equal(path, FL_SLICE("/ready"));
    bool is_metrics = fl_slice_equal(path, FL_SLICE("/metrics"));
    if (!is_health && !is_ready && !is_metrics) return &answer_missing;
    if (client->parser.method != HTTP_GET && client->parser.method != HTTP_HEAD)
        return &answer_method;
    if (is_metrics) return render_metrics(client);
    if (is_health) return &answer_health;
    return callbacks->ready(callbacks->data) ? &answer_ready : &answer_not_ready;
}

static void client_respond(admin_client *client)
{
    fl_buffer_reset(&client->body, 256 * 1024);
    if (is_profile(client))
        respond_to_profile(client);
    else
        client_answer(client, choose_answer(client));
}

/* Parsing */

static admin_client *client_of(llhttp_t *parser)
{
    return container_of(parser, admin_client, parser);
}

static int on_begin(llhttp_t *parser)
{
    client_wait(client_of(parser), HEAD_MS);
    return 0;
}

static int on_target(llhttp_t *parser, const char *at, size_t size)
{
    admin_client *client = client_of(parser);
    if (client->target_size < TARGET_LIMIT) {
        size_t room = TARGET_LIMIT - client->target_size;
        memcpy(client->target + client->target_size, at, size < room ? size : room);
    }
    client->target_size += size;
    return 0;
}

/* A name may come in pieces. */
static int on_field(llhttp_t *parser, const char *at, size_t size)
{
    admin_client *client = client_of(parser);
    for (size_t i = 0; i < size; i++, client->name_size++)
        if (client->name_size < NAME_LIMIT) client->name[client->name_size] = fl_lower(at[i]);
    return 0;
}

static int on_field_complete(llhttp_t *parser)
{
    admin_client *client = client_of(parser);
    size_t size = client->name_size <= NAME_LIMIT ? client->name_size : 0;
    fl_slice name = fl_slice_of(client->name, size);
    if (fl_slice_equal(name, FL_SLICE("host"))) client->hosts++;
    if (fl_slice_equal(name, FL_SLICE("x-requested-with"))) client->is_programs = true;
    client->name_size = 0;
    return 0;
}

/* 1: there is no body to read. */
static int on_head_complete(llhttp_t *parser)
{
    admin_client *client = client_of(parser);
    bool has_body = parser->flags & F_CHUNKED || parser->content_length > 0;
    client->is_last = has_body || parser->upgrade || !llhttp_should_keep_alive(parser);
    return 1;
}

static int on_complete(llhttp_t *parser)
{
    (void)parser;
    return HPE_PAUSED;
}

/* llhttp takes HTTP/0.9, HTTP/2.0 and any number of Hosts (RFC 9112 sections 2.3 and 3.2). */
static bool is_sound(const admin_client *client)
{
    const llhttp_t *parser = &client->parser;
    if (parser->http_major != 1 || parser->http_minor > 1) return false;
    return client->hosts == 1 || (client->hosts == 0 && parser->http_minor == 0);
}

static void request_complete(admin_client *client)
{
    const char *end = llhttp_get_error_pos(&client->parser);
    size_t at = (size_t)(end - client->input);
    client->head_size += at - client->input_at;
    client->input_at = at;
    if (client->head_size > HEAD_LIMIT)
        client_refuse(client, &answer_large);
    else if (is_sound(client))
        client_respond(client);
    else
        client_refuse(client, &answer_bad);
}

static void parse_input(admin_client *client)
{
    size_t size = client->input_size - client->input_at;
    llhttp_errno_t error = llhttp_execute(&client->parser, client->input + client->input_at, size);
    if (error == HPE_PAUSED) {
        request_complete(client);
        return;
    }
    client->head_size += size;
    client->input_at = client->input_size;
    if (error != HPE_OK)
        client_refuse(client, &answer_bad);
    else if (client->head_size > HEAD_LIMIT)
        client_refuse(client, &answer_large);
    else
        client_read_on(client);
}

/* Reading */

static void client_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    (void)suggested;
    admin_client *client = handle->data;
    *buffer = uv_buf_init(client->input, sizeof(client->input));
}

static void client_read(uv_stream_t *handle, ssize_t size, const uv_buf_t *buffer)
{
    (void)buffer;
    admin_client *client = handle->data;
    if (size < 0) {
        client_close(client);
        return;
    }
    if (client->state != CLIENT_READING) return;
    client->input_at = 0;
    client->input_size = (size_t)size;
    parse_input(client);
}

static void client_timed_out(uv_timer_t *timer)
{
    admin_client *client = container_of(timer, admin_client, timer);
    if (client->state == CLIENT_READING && client->head_size > 0)
        client_refuse(client, &answer_slow);
    else
        client_close(client);
}

/* Accepting */

static int stream_init(admin_stream *stream, uv_loop_t *loop, bool is_path)
{
    return is_path ? uv_pipe_init(loop, &stream->pipe, 0) : uv_tcp_init(loop, &stream->tcp);
}

static admin_client *client_new(fl_admin *admin)
{
    admin_client *client = calloc(1, sizeof(*client));
    uv_loop_t *loop = admin->listener.handle.loop;
    if (!client || stream_init(&client->stream, loop, admin->is_path) < 0) {
        free(client);
        return NULL;
    }
    (void)uv_timer_init(loop, &client->timer);
    client->open_handles = 2;
    client->stream.handle.data = client;
    client->admin = admin;
    client->next = admin->clients;
    client->link = &admin->clients;
    if (client->next) client->next->link = &client->next;
    admin->clients = client;
    admin->count++;
    llhttp_init(&client->parser, HTTP_REQUEST, &admin->parsing);
    return client;
}

/* A client too many is accepted as well, or libuv would stop listening, and closed at once. */
static void client_arrived(uv_stream_t *listener, int status)
{
    fl_admin *admin = listener->data;
    admin_client *client = status < 0 ? NULL : client_new(admin);
    if (!client) return;
    if (uv_accept(listener, &client->stream.stream) < 0 || admin->count > CLIENTS) {
        client_close(client);
        return;
    }
    client_wait(client, HEAD_MS);
    client_read_on(client);
}

/* Listening */

/* A socket file that nobody listens on. */
static bool is_abandoned(const struct sockaddr_un *address)
{
    struct stat file;
    if (lstat(address->sun_path, &file) < 0 || !S_ISSOCK(file.st_mode)) return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return false;
    int status = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    bool abandoned = status < 0 && errno == ECONNREFUSED;
    (void)close(fd);
    return abandoned;
}

static int bind_path(fl_admin *admin, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) return UV_ENAMETOOLONG; /* libuv would cut it */
    memcpy(address.sun_path, path, strlen(path));
    if (is_abandoned(&address)) (void)unlink(path);
    return uv_pipe_bind(&admin->listener.pipe, path);
}

static bool is_port(const char *text)
{
    size_t size = strspn(text, "0123456789");
    return size > 0 && size <= 5 && text[size] == '\0' && strtoul(text, NULL, 10) <= 65535;
}

int fl_admin_split_address(char *address, char **host, char **port)
{
    char *colon = strrchr(address, ':');
    if (!colon || colon == address || !is_port(colon + 1)) return UV_EINVAL;
    *colon = '\0';
    *port = colon + 1;
    *host = address;
    if (*address != '[') return strchr(address, ':') ? UV_EINVAL : 0;
    if (colon[-1] != ']') return UV_EINVAL;
    colon[-1] = '\0';
    *host = address + 1;
    return 0;
}

static int bind_host(fl_admin *admin, const char *address)
{
    char copy[512], *host, *port;
    if (strlen(address) >= sizeof(copy)) return UV_EINVAL;
    int status = fl_admin_split_address(strcpy(copy, address), &host, &port);
    if (status < 0) return status;
    uv_getaddrinfo_t lookup;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    status = uv_getaddrinfo(admin->listener.handle.loop, &lookup, NULL, host, port, &hints);
    if (status < 0) return status;
    status = uv_tcp_bind(&admin->listener.tcp, lookup.addrinfo->ai_addr, 0);
    uv_freeaddrinfo(lookup.addrinfo);
    return status;
}

static void set_parsing(llhttp_settings_t *parsing)
{
    llhttp_settings_init(parsing);
    parsing->on_message_begin = on_begin;
    parsing->on_url = on_target;
    parsing->on_header_field = on_field;
    parsing->on_header_field_complete = on_field_complete;
    parsing->on_headers_complete = on_head_complete;
    parsing->on_message_complete = on_complete;
}

int fl_admin_start(fl_admin **out, uv_loop_t *loop, const char *address,
                   const fl_admin_callbacks *callbacks)
{
    fl_admin *admin = calloc(1, sizeof(*admin));
    if (!admin) return UV_ENOMEM;
    admin->is_path = strchr(address, '/') != NULL;
    admin->callbacks = *callbacks;
    set_parsing(&admin->parsing);
    int status = stream_init(&admin->listener, loop, admin->is_path);
    if (status < 0) {
        free(admin);
        return status;
    }
    admin->is_listener_open = true;
    admin->listener.handle.data = admin;
    status = admin->is_path ? bind_path(admin, address) : bind_host(admin, address);
    if (status == 0) status = uv_listen(&admin->listener.stream, BACKLOG, client_arrived);
    if (status < 0) {
        fl_admin_stop(admin);
        return status;
    }
    *out = admin;
    return 0;
}

int fl_admin_port(const fl_admin *admin)
{
    struct sockaddr_storage address;
    int size = sizeof(address);
    if (admin->is_path) return 0;
    if (uv_tcp_getsockname(&admin->listener.tcp, (struct sockaddr *)&address, &size) < 0) return 0;
    if (address.ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)(const void *)&address)->sin_port);
    return ntohs(((const struct sockaddr_in6 *)(const void *)&address)->sin6_port);
}

void fl_admin_reply(fl_admin *admin, uint64_t ticket, int status, fl_slice text)
{
    for (admin_client *client = admin->clients; client; client = client->next) {
        if (client->state != CLIENT_WAITING || client->ticket != ticket) continue;
        fl_buffer_slice(&client->body, text);
        client_answer(client, &(admin_answer){status, reason_of(status), TEXT_TYPE, ""});
        return;
    }
}

static void listener_closed(uv_handle_t *handle)
{
    fl_admin *admin = handle->data;
    admin->is_listener_open = false;
    admin_release(admin);
}

void fl_admin_stop(fl_admin *admin)
{
    uv_close(&admin->listener.handle, listener_closed);
    while (admin->clients) client_close(admin->clients);
}
