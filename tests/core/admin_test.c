#include "admin.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "test.h"

/* A loop in a thread with the listener, and blocking sockets before it. */
typedef struct fixture {
    uv_loop_t loop;
    uv_async_t stop;
    uv_thread_t thread;
    fl_admin *admin;
    int port;
    atomic_bool is_ready;
    size_t metrics_size;
    uv_timer_t profile; /* rings when it is done */
    uint64_t ticket;
    atomic_int cancelled;
    char query[64];
} fixture;

static bool ready(void *data)
{
    fixture *self = data;
    return atomic_load(&self->is_ready);
}

static void metrics(void *data, fl_buffer *body)
{
    fixture *self = data;
    for (size_t i = 0; i < self->metrics_size; i++) fl_buffer_byte(body, 'm');
}

static void profile_done(uv_timer_t *timer)
{
    fixture *self = timer->data;
    fl_admin_reply(self->admin, self->ticket, 200, fl_slice_from_string(self->query));
}

static int profile(void *data, fl_slice query, uint64_t ticket, char *why, size_t size)
{
    fixture *self = data;
    (void)snprintf(self->query, sizeof(self->query), "profile %.*s", (int)query.size, query.data);
    (void)snprintf(why, size, "busy %s", self->query);
    if (fl_slice_equal(query, FL_SLICE("refuse"))) return 409;
    self->ticket = ticket;
    uint64_t time = fl_slice_equal(query, FL_SLICE("long")) ? 60000 : 50;
    return uv_timer_start(&self->profile, profile_done, time, 0);
}

static void cancel(void *data, uint64_t ticket)
{
    fixture *self = data;
    (void)uv_timer_stop(&self->profile);
    if (ticket == self->ticket) atomic_fetch_add(&self->cancelled, 1);
}

static void stop_loop(uv_async_t *async)
{
    fixture *self = async->data;
    fl_admin_stop(self->admin);
    uv_close((uv_handle_t *)&self->profile, NULL);
    uv_close((uv_handle_t *)async, NULL);
}

static void run_loop(void *argument)
{
    fixture *self = argument;
    (void)uv_run(&self->loop, UV_RUN_DEFAULT);
}

static fixture *fixture_open(const char *address)
{
    fixture *self = calloc(1, sizeof(*self));
    if (!self || uv_loop_init(&self->loop) < 0) abort();
    const fl_admin_callbacks callbacks = {ready, metrics, profile, cancel, self};
    atomic_store(&self->is_ready, true);
    self->metrics_size = 3;
    if (fl_admin_start(&self->admin, &self->loop, address, &callbacks) < 0) abort();
    self->port = fl_admin_port(self->admin);
    (void)uv_async_init(&self->loop, &self->stop, stop_loop);
    (void)uv_timer_init(&self->loop, &self->profile);
    self->stop.data = self->profile.data = self;
    if (uv_thread_create(&self->thread, run_loop, self) < 0) abort();
    return self;
}

/* False: handles were left open. */
static bool fixture_close(fixture *self)
{
    (void)uv_async_send(&self->stop);
    (void)uv_thread_join(&self->thread);
    int status = uv_loop_close(&self->loop);
    free(self);
    return status == 0;
}

static int dial(const fixture *self)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)self->port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct timeval limit = {.tv_sec = 8};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) abort();
    return fd;
}

static void say(int fd, const char *text)
{
    (void)send(fd, text, strlen(text), MSG_NOSIGNAL);
}

/* What comes until the peer closes, or until `size` bytes are there. */
static const char *hear(int fd, char *text, size_t size)
{
    size_t at = 0;
    while (at < size) {
        ssize_t count = recv(fd, text + at, size - at, 0);
        if (count < 0 && errno == EINTR) continue; /* the ring of a loop made here does that */
        if (count <= 0) break;
        at += (size_t)count;
    }
    text[at] = '\0';
    return text;
}

/* Asks on a connection of its own, and hears until the server closes. */
static const char *ask(const fixture *self, const char *request)
{
    static char text[65536];
    int fd = dial(self);
    say(fd, request);
    hear(fd, text, sizeof(text) - 1);
    close(fd);
    return text;
}

static bool begins(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static bool ends(const char *text, const char *end)
{
    return strlen(text) >= strlen(end) && strcmp(text + strlen(text) - strlen(end), end) == 0;
}

#define CLOSING " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

TEST(health_ready_and_metrics_answer)
{
    fixture *self = fixture_open("127.0.0.1:0");
    const char *text = ask(self, "GET /health" CLOSING);
    CHECK(begins(text, "HTTP/1.1 200 OK\r\nDate: ") && ends(text, "\r\n\r\nok"));
    CHECK(strstr(text, "\r\nContent-Length: 2\r\n") && strstr(text, "\r\nConnection: close\r\n"));
    CHECK(begins(ask(self, "GET /ready" CLOSING), "HTTP/1.1 200 "));
    text = ask(self, "GET /metrics?x=y" CLOSING);
    CHECK(strstr(text, "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n") != NULL);
    CHECK(begins(text, "HTTP/1.1 200 ") && ends(text, "\r\n\r\nmmm"));
    CHECK(fixture_close(self));
}

#define PROGRAMS " HTTP/1.1\r\nHost: x\r\nX-Requested-With: test\r\n\r\n"

TEST(a_profile_is_answered_when_it_is_done)
{
    fixture *self = fixture_open("127.0.0.1:0");
    const char *text = ask(self, "POST /profile?seconds=1" PROGRAMS);
    CHECK(begins(text, "HTTP/1.1 200 OK\r\n") && ends(text, "\r\n\r\nprofile seconds=1"));
    CHECK(strstr(text, "\r\nConnection: close\r\n") != NULL);
    CHECK(ends(ask(self, "POST /profile" PROGRAMS), "\r\n\r\nprofile "));
    CHECK(atomic_load(&self->cancelled) == 0);
    CHECK(fixture_close(self));
}

TEST(a_profile_may_be_refused)
{
    fixture *self = fixture_open("127.0.0.1:0");
    const char *text = ask(self, "POST /profile?refuse" PROGRAMS);
    CHECK(begins(text, "HTTP/1.1 409 Conflict\r\n") && ends(text, "\r\n\r\nbusy profile refuse"));
    CHECK(fixture_close(self));
}

TEST(a_profile_is_no_pages_to_ask_for)
{
    fixture *self = fixture_open("127.0.0.1:0");
    CHECK(begins(ask(self, "POST /profile?seconds=1" CLOSING), "HTTP/1.1 403 "));
    const char *text = ask(self, "GET /profile?seconds=1" CLOSING);
    CHECK(begins(text, "HTTP/1.1 405 ") && strstr(text, "\r\nAllow: POST\r\n"));
    CHECK(begins(ask(self, "POST /profiles" PROGRAMS "GET /health" CLOSING), "HTTP/1.1 404 "));
    CHECK(self->query[0] == '\0');
    CHECK(fixture_close(self));
}

/* The header counts for its own request alone. */
TEST(a_header_is_forgotten_with_its_request)
{
    fixture *self = fixture_open("127.0.0.1:0");
    const char *text = ask(self, "GET /health" PROGRAMS "POST /profile" CLOSING);
    CHECK(strstr(text, "okHTTP/1.1 403 ") != NULL);
    CHECK(fixture_close(self));
}

TEST(a_profile_is_cancelled_when_its_client_leaves)
{
    fixture *self = fixture_open("127.0.0.1:0");
    int fd = dial(self);
    say(fd, "POST /profile?long" PROGRAMS);
    CHECK(begins(ask(self, "GET /health" CLOSING), "HTTP/1.1 200 "));
    CHECK(atomic_load(&self->cancelled) == 0);
    close(fd);
    for (int i = 0; i < 1000 && atomic_load(&self->cancelled) == 0; i++) usleep(5000);
    CHECK(atomic_load(&self->cancelled) == 1);
    CHECK(fixture_close(self));
}

TEST(a_profile_is_cancelled_by_the_end)
{
    fixture *self = fixture_open("127.0.0.1:0");
    int fd = dial(self);
    say(fd, "POST /profile?long" PROGRAMS);
    CHECK(begins(ask(self, "GET /health" CLOSING), "HTTP/1.1 200 "));
    CHECK(fixture_close(self));
    close(fd);
}

TEST(an_address_is_split)
{
    char *host, *port, plain[] = "localhost:80", six[] = "[::1]:9000";
    CHECK(fl_admin_split_address(plain, &host, &port) == 0);
    CHECK(strcmp(host, "localhost") == 0 && strcmp(port, "80") == 0);
    CHECK(fl_admin_split_address(six, &host, &port) == 0);
    CHECK(strcmp(host, "::1") == 0 && strcmp(port, "9000") == 0);
    static const char *const wrong[] = {
        "", "80", ":80", "a:", "a:b", "a:65536", "::1:80", "[::1:80"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        char copy[32];
        (void)snprintf(copy, sizeof(copy), "%s", wrong[i]);
        CHECK(fl_admin_split_address(copy, &host, &port) == UV_EINVAL);
    }
}

TEST(ready_is_503_while_draining)
{
    fixture *self = fixture_open("127.0.0.1:0");
    atomic_store(&self->is_ready, false);
    CHECK(begins(ask(self, "GET /ready" CLOSING), "HTTP/1.1 503 "));
    CHECK(begins(ask(self, "GET /health" CLOSING), "HTTP/1.1 200 "));
    CHECK(fixture_close(self));
}

TEST(head_has_no_body_but_its_length)
{
    fixture *self = fixture_open("127.0.0.1:0");
    const char *text = ask(self, "HEAD /metrics" CLOSING);
    CHECK(strstr(text, "\r\nContent-Length: 3\r\n") != NULL && ends(text, "\r\n\r\n"));
    CHECK(fixture_close(self));
}

TEST(other_paths_and_methods_are_refused)
{
    fixture *self = fixture_open("127.0.0.1:0");
    CHECK(begins(ask(self, "GET /" CLOSING), "HTTP/1.1 404 "));
    CHECK(begins(ask(self, "GET /healthy" CLOSING), "HTTP/1.1 404 "));
    CHECK(begins(ask(self, "OPTIONS *" CLOSING), "HTTP/1.1 404 "));
    const char *text = ask(self, "DELETE /health" CLOSING);
    CHECK(begins(text, "HTTP/1.1 405 ") && strstr(text, "\r\nAllow: GET, HEAD\r\n"));
    CHECK(fixture_close(self));
}

TEST(the_absolute_form_is_understood)
{
    fixture *self = fixture_open("127.0.0.1:0");
    CHECK(begins(ask(self, "GET HTTP://x:80/health?a" CLOSING), "HTTP/1.1 200 "));
    CHECK(begins(ask(self, "GET http://x" CLOSING), "HTTP/1.1 404 "));
    CHECK(fixture_close(self));
}

TEST(a_request_with_a_body_is_answered_and_the_connection_closed)
{
    fixture *self = fixture_open("127.0.0.1:0");
    const char *text =
        ask(self, "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\nGET /ready "
                  "HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK(begins(text, "HTTP/1.1 405 ") && !strstr(text, "HTTP/1.1 200"));
    text = ask(self, "GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n");
    CHECK(begins(text, "HTTP/1.1 200 ") && ends(text, "ok"));
    CHECK(fixture_close(self));
}

TEST(malformed_requests_get_400)
{
    static const char *const requests[] = {
        "nonsense\r\n\r\n",
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n",
        "GET /health HTTP/2.0\r\nHost: x\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: gzip\r\n\r\n",
    };
    fixture *self = fixture_open("127.0.0.1:0");
    for (size_t i = 0; i < sizeof(requests) / sizeof(*requests); i++) {
        const char *text = ask(self, requests[i]);
        CHECK(begins(text, "HTTP/1.1 400 ") && strstr(text, "\r\nConnection: close\r\n"));
    }
    CHECK(fixture_close(self));
}

TEST(a_head_that_is_too_large_gets_431)
{
    fixture *self = fixture_open("127.0.0.1:0");
    char request[9200];
    memset(request, 'a', sizeof(request));
    memcpy(request, "GET /health HTTP/1.1\r\nHost: x\r\nX: ", 34);
    request[sizeof(request) - 1] = '\0';
    CHECK(begins(ask(self, request), "HTTP/1.1 431 "));
    CHECK(fixture_close(self));
}

TEST(a_connection_is_kept_alive_and_pipelined_requests_are_answered_in_order)
{
    fixture *self = fixture_open("127.0.0.1:0");
    int fd = dial(self);
    char text[8192];
    say(fd, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK(recv(fd, text, sizeof(text), 0) > 0);
    CHECK(begins(text, "HTTP/1.1 200 "));
    say(fd, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nHEAD /health HTTP/1.1\r\nHost: x\r\n\r\n"
            "GET /ready" CLOSING);
    hear(fd, text, sizeof(text) - 1);
    const char *first = strstr(text, "\r\n\r\nmmmHTTP/1.1 200 ");
    CHECK(first && strstr(first, "Content-Length: 2\r\n") && ends(text, "\r\n\r\nready"));
    close(fd);
    CHECK(fixture_close(self));
}

TEST(a_request_may_come_in_single_bytes)
{
    fixture *self = fixture_open("127.0.0.1:0");
    const char request[] = "GET /health" CLOSING;
    int fd = dial(self), on = 1;
    char text[1024];
    (void)setsockopt(fd, IPPROTO_TCP, 1, &on, sizeof(on));
    for (size_t i = 0; i < sizeof(request) - 1; i++) {
        (void)send(fd, &request[i], 1, MSG_NOSIGNAL);
        usleep(300);
    }
    CHECK(begins(hear(fd, text, sizeof(text) - 1), "HTTP/1.1 200 "));
    close(fd);
    CHECK(fixture_close(self));
}

TEST(http_1_0_is_answered_and_kept_alive_only_on_demand)
{
    fixture *self = fixture_open("127.0.0.1:0");
    CHECK(ends(ask(self, "GET /health HTTP/1.0\r\n\r\n"), "ok"));
    int fd = dial(self);
    char text[1024] = "";
    say(fd, "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    CHECK(recv(fd, text, sizeof(text) - 1, 0) > 0);
    CHECK(strstr(text, "\r\nConnection: keep-alive\r\n") != NULL);
    close(fd);
    CHECK(fixture_close(self));
}

TEST(a_large_answer_arrives_whole_at_a_slow_reader)
{
    fixture *self = fixture_open("127.0.0.1:0");
    self->metrics_size = 8 << 20;
    static char text[9 << 20];
    int fd = dial(self);
    say(fd, "GET /metrics" CLOSING);
    usleep(50000);
    hear(fd, text, sizeof(text) - 1);
    const char *body = strstr(text, "\r\n\r\n");
    CHECK(body != NULL);
    CHECK_EQUAL_INT(strlen(body + 4), 8 << 20);
    close(fd);
    CHECK(fixture_close(self));
}

TEST(connections_beyond_the_limit_are_closed)
{
    fixture *self = fixture_open("127.0.0.1:0");
    int fds[33];
    char text[1024] = "";
    for (int i = 0; i < 33; i++) fds[i] = dial(self);
    CHECK(*hear(fds[32], text, 1) == '\0');
    say(fds[0], "GET /health" CLOSING);
    CHECK(begins(hear(fds[0], text, sizeof(text) - 1), "HTTP/1.1 200 "));
    close(fds[0]);
    usleep(50000);
    CHECK(begins(ask(self, "GET /health" CLOSING), "HTTP/1.1 200 "));
    for (int i = 1; i < 33; i++) close(fds[i]);
    CHECK(fixture_close(self));
}

TEST(a_head_that_takes_too_long_gets_408_and_a_silent_connection_is_closed)
{
    fixture *self = fixture_open("127.0.0.1:0");
    int slow = dial(self), silent = dial(self);
    char text[1024];
    say(slow, "GET /health HT");
    CHECK(begins(hear(slow, text, sizeof(text) - 1), "HTTP/1.1 408 "));
    CHECK(*hear(silent, text, sizeof(text) - 1) == '\0');
    close(slow);
    close(silent);
    CHECK(fixture_close(self));
}

TEST(stopping_closes_open_connections)
{
    fixture *self = fixture_open("127.0.0.1:0");
    int fd = dial(self);
    char text[1024];
    say(fd, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK(recv(fd, text, sizeof(text), 0) > 0);
    CHECK(fixture_close(self));
    CHECK_EQUAL_INT(recv(fd, text, sizeof(text), 0), 0);
    close(fd);
}

static int start_alone(const char *address)
{
    uv_loop_t loop;
    fl_admin *admin = NULL;
    const fl_admin_callbacks callbacks = {ready, metrics, profile, cancel, NULL};
    if (uv_loop_init(&loop) < 0) abort();
    int status = fl_admin_start(&admin, &loop, address, &callbacks);
    if (status == 0) fl_admin_stop(admin);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop) < 0) return 1;
    return status;
}

TEST(an_address_in_use_and_what_is_no_address_are_errors)
{
    fixture *self = fixture_open("127.0.0.1:0");
    char address[32];
    (void)snprintf(address, sizeof(address), "127.0.0.1:%d", self->port);
    CHECK_EQUAL_INT(start_alone(address), UV_EADDRINUSE);
    static const char *const wrong[] = {
        "", "9000", ":9000", "127.0.0.1:", "::1:0", "127.0.0.1:65536", "[::1:0", "127.0.0.1:8x"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        CHECK_EQUAL_INT(start_alone(wrong[i]), UV_EINVAL);
    CHECK(fixture_close(self));
}

TEST(a_socket_path_is_served_and_removed_and_an_abandoned_one_replaced)
{
    char directory[] = "/tmp/fl_admin_test_XXXXXX";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat file;
    CHECK(mkdtemp(directory) != NULL);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/admin", directory);
    int abandoned = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQUAL_INT(bind(abandoned, (struct sockaddr *)&address, sizeof(address)), 0);
    close(abandoned);
    fixture *self = fixture_open(address.sun_path);
    CHECK_EQUAL_INT(self->port, 0);
    CHECK_EQUAL_INT(start_alone(address.sun_path), UV_EADDRINUSE);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQUAL_INT(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    char text[1024];
    say(fd, "GET /health" CLOSING);
    CHECK(ends(hear(fd, text, sizeof(text) - 1), "ok"));
    close(fd);
    CHECK(fixture_close(self));
    CHECK(stat(address.sun_path, &file) < 0);
    rmdir(directory);
}

TEST(a_file_that_is_no_socket_is_left_alone)
{
    char path[] = "/tmp/fl_admin_test_XXXXXX";
    close(mkstemp(path));
    CHECK_EQUAL_INT(start_alone(path), UV_EADDRINUSE);
    CHECK_EQUAL_INT(unlink(path), 0);
}

TEST_MAIN
