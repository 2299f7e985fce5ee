/* What a server does at its supervisor's word: it listens, is looked at by its admin address,
 * drains and leaves. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "exec.h"
#include "pool_metrics.h"
#include "profile.h"
#include "quota.h"
#include "server_inside.h"
#include "spares.h"
#include "version.h"
#include "web.h"

#define ADMIN_RETRY_MS 20
#define LAST_CALL_MS 300

/* admin */

static bool is_ready(void *data)
{
    return ((fl_server *)data)->phase == FL_SERVER_SERVING;
}

static void render_metrics(void *data, fl_buffer *body)
{
    fl_server *server = data;
    uint64_t longest;
    fl_quota_counts databases = fl_quota_count(server->quota);
    fl_process_metrics process = {.restarts = server->restarts,
                                  .interruptions = atomic_load(&server->watch.interruptions),
                                  .db_connections = databases.slots,
                                  .db_waiting = databases.waiting,
                                  .retired_threads =
                                      fl_spares_retired(server->spares, uv_hrtime(), &longest),
                                  .log_dropped = fl_log_dropped(server->log),
                                  .evacuations = fl_spares_evacuations(server->spares),
                                  .start_time_unix = (uint64_t)server->start_time,
                                  .spare_threads = fl_spares_has_parked(server->spares),
                                  .version = FL_VERSION};
    fl_metrics_render(server->metrics, &process, body);
    fl_pools_render(server->pools, body);
}

static int start_profile(void *data, fl_slice query, uint64_t ticket, char *why, size_t size)
{
    return fl_profiler_ask(((fl_server *)data)->profiler, query, ticket, why, size);
}

static void cancel_profile(void *data, uint64_t ticket)
{
    fl_profiler_cancel(((fl_server *)data)->profiler, ticket);
}

static void start_admin(uv_timer_t *timer)
{
    fl_server *server = timer->data;
    if (server->admin || server->phase != FL_SERVER_SERVING) return;
    const fl_admin_callbacks callbacks = {is_ready, render_metrics, start_profile, cancel_profile,
                                          server};
    int status = fl_admin_start(&server->admin, &server->loop, server->settings->admin, &callbacks);
    if (status == UV_EADDRINUSE) { /* the process that this one replaces still has it */
        uv_timer_start(timer, start_admin, ADMIN_RETRY_MS, 0);
    } else if (status < 0) {
        fl_log_printf(server->log, FL_LOG_ERROR, "admin address %s: %s", server->settings->admin,
                      uv_strerror(status));
    } else if (fl_admin_port(server->admin)) {
        fl_log_printf(server->log, FL_LOG_INFO, "admin on port %d", fl_admin_port(server->admin));
    }
}

/* serving */

static void note_address(fl_server *server, int fd)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    char host[64] = "";
    if (server->address[0] || getsockname(fd, (struct sockaddr *)&address, &size) < 0) return;
    if (address.ss_family == AF_UNIX) {
        (void)snprintf(server->address, sizeof(server->address), "unix:%.100s",
                       ((struct sockaddr_un *)&address)->sun_path);
    } else if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        (void)snprintf(server->address, sizeof(server->address), "http://[%s]:%u", host,
                       ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in4 = (struct sockaddr_in *)&address;
        inet_ntop(AF_INET, &in4->sin_addr, host, sizeof(host));
        (void)snprintf(server->address, sizeof(server->address), "http://%s:%u", host,
                       ntohs(in4->sin_port));
    }
}

static void print_banner(fl_server *server)
{
    char message[192];
    double took = (double)(uv_hrtime() - server->started) / 1e6;
    (void)snprintf(message, sizeof(message), "fasterlua %s listening on %s", FL_VERSION,
                   server->address);
    const fl_log_field fields[] = {
        fl_field_text("url", fl_slice_from_string(server->address)),
        fl_field_integer("apps", (int64_t)server->settings->app_count),
        fl_field_integer("threads", server->web_count),
        fl_field_integer("worker", server->worker),
        fl_field_text("environment", fl_slice_from_string(server->settings->environment)),
        fl_field_number("took_ms", took)};
    fl_log_line(server->log, FL_LOG_INFO, fl_slice_from_string(message), fields,
                sizeof(fields) / sizeof(*fields));
    for (size_t i = server->settings->app_count; i-- > 0;) {
        const fl_app_place *app = server->apps[i];
        fl_log_printf(server->log, FL_LOG_INFO, "app %s at %s%s%s/", app->name, server->address,
                      server->settings->root_path, app->prefix);
    }
}

static void serve(fl_server *server)
{
    server->phase = FL_SERVER_SERVING;
    if (server->settings->admin[0]) start_admin(&server->admin_retry); /* who waits may ask it */
    print_banner(server);
    fl_server_say(FL_CONTROL_READY, "");
}

/* A socket that nobody accepts on would keep its clients waiting. */
static void listen_with(fl_server *server, fl_web *web, int fd)
{
    if (fd >= 0 && fl_web_listen(web, fd)) return;
    fl_server_say(FL_CONTROL_FAILED, "not enough memory or descriptors to listen");
    fl_server_leave(server, FL_SERVER_START_FAILED);
}

static void give_listener(fl_server *server, int fd, bool shared)
{
    note_address(server, fd);
    if (!shared) {
        fl_web *web = fl_server_web(server, server->listeners++ % server->web_count);
        web->own_listener = fd;
        listen_with(server, web, fd);
        return;
    }
    for (unsigned i = 0; i < server->web_count; i++) {
        int copy = i + 1 < server->web_count ? dup(fd) : fd;
        listen_with(server, fl_server_web(server, i), copy);
    }
}

static void take_listeners(fl_server *server, const fl_control_message *message)
{
    bool shared = strstr(message->text, FL_CONTROL_SHARED) != NULL;
    for (size_t i = 0; i < message->fd_count; i++) give_listener(server, message->fds[i], shared);
    if (!strstr(message->text, FL_CONTROL_MORE)) serve(server);
}

/* ending */

/* Stop hooks have had their chance; threads that are stuck have not come so far. */
static void last_call(uv_timer_t *timer)
{
    fl_server_leave(timer->data, 0);
}

static void drain_over(uv_timer_t *timer)
{
    fl_server *server = timer->data;
    uint64_t dropped = fl_server_in_flight(server);
    fl_buffer text;
    fl_buffer_init(&text);
    if (dropped) {
        (void)fl_ledger_describe(server->ledger, &text, 10);
        fl_log_printf(server->log, FL_LOG_WARN, "the drain time is over: dropped %.*s",
                      (int)text.size, text.data ? text.data : "");
        fl_buffer_close(&text);
    }
    for (unsigned i = 0; i < server->web_count; i++) fl_web_stop(fl_server_web(server, i));
    uv_timer_start(timer, last_call, LAST_CALL_MS, 0);
}

static void drain(fl_server *server, bool stop)
{
    if (server->phase == FL_SERVER_LOADING || server->phase == FL_SERVER_LISTENING)
        fl_server_leave(server, 0);
    if (server->phase == FL_SERVER_SERVING) {
        uint64_t milliseconds = server->settings->drain / 1000000;
        uv_timer_start(&server->drain, drain_over, milliseconds, 0);
        if (!stop) fl_server_stop_admin(server); /* its successor wants the address */
    }
    server->phase = FL_SERVER_DRAINING;
    for (unsigned i = 0; i < server->web_count; i++) fl_web_drain(fl_server_web(server, i), stop);
}

static void obey(fl_server *server, const fl_control_message *message)
{
    switch (message->kind) {
    case FL_CONTROL_LISTENERS_SENT: take_listeners(server, message); return;
    case FL_CONTROL_STOP: drain(server, true); return;
    case FL_CONTROL_REPLACED: drain(server, false); return;
    case FL_CONTROL_NOW: fl_server_leave(server, 0); return;
    case FL_CONTROL_LOADED:
    case FL_CONTROL_FAILED:
    case FL_CONTROL_READY:
    case FL_CONTROL_STUCK:
    case FL_CONTROL_CLOSED: return; /* only ever said by us */
    }
}

static void control_readable(uv_poll_t *poll, int status, int events)
{
    (void)events;
    fl_server *server = poll->data;
    for (;;) {
        fl_control_message message;
        int received = status < 0 ? 0 : fl_control_receive(FL_CONTROL_FD, &message);
        if (received == UV_EAGAIN) return;
        if (received <= 0) { /* the supervisor is gone */
            uv_poll_stop(poll);
            drain(server, true);
            return;
        }
        obey(server, &message);
        if (server->phase == FL_SERVER_ENDING) return;
    }
}

int fl_server_open_control(fl_server *server)
{
    uv_timer_init(&server->loop, &server->drain);
    uv_timer_init(&server->loop, &server->admin_retry);
    server->drain.data = server->admin_retry.data = server->control.data = server;
    int status = uv_poll_init(&server->loop, &server->control, FL_CONTROL_FD);
    return status ? status : uv_poll_start(&server->control, UV_READABLE, control_readable);
}

void fl_server_say(fl_control_kind kind, const char *text)
{
    (void)fl_control_send(FL_CONTROL_FD, kind, text, NULL, 0);
}

void fl_server_stop_admin(fl_server *server)
{
    uv_timer_stop(&server->admin_retry);
    if (server->admin) fl_admin_stop(server->admin);
    server->admin = NULL;
}

void fl_server_answer_profile(fl_server *server, uint64_t ticket, int status, fl_slice text)
{
    if (server->admin) fl_admin_reply(server->admin, ticket, status, text);
}

/* Nothing of this process is worth an orderly end: threads may be stuck. */
void fl_server_leave(fl_server *server, int status)
{
    fl_exec_end_all(&server->loop);
    fl_log_finish(server->log, FL_SERVER_LOG_PATIENCE); /* threads that run on may still use it */
    _exit(status);
}
