#include "server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "admin.h"
#include "console.h"
#include "control.h"
#include "cpus.h"
#include "exec.h"
#include "exile.h"
#include "interruption.h"
#include "ledger.h"
#include "log.h"
#include "metrics.h"
#include "pool.h"
#include "pool_child.h"
#include "pool_metrics.h"
#include "privileges.h"
#include "profile.h"
#include "spares.h"
#include "version.h"
#include "watch.h"
#include "web.h"

#define START_FAILED 3
#define LOG_PATIENCE 1000000000u
#define ADMIN_RETRY_MS 20
#define LAST_CALL_MS 300
#define MILLISECOND 1000000u
#define POOLS_PATIENCE 1000000000u
#define LOOP_PATIENCE 1000000000u

typedef enum { LOADING, LISTENING, SERVING, DRAINING, ENDING } server_phase;

struct fl_server {
    const fl_settings *settings;
    char **arguments;
    fl_pool_child *pool_child; /* NULL: this is a server process */
    fl_log *log;
    fl_ledger *ledger;
    fl_segment *segment;
    fl_metrics *metrics;
    fl_channels *channels;
    fl_topics *topics;
    fl_pools *pools;
    _Atomic uint64_t connections; /* to databases */
    fl_pool *cpu_pool, *blocking_pool;
    fl_modules *modules;
    const fl_app_place **apps; /* longest prefix first */
    _Atomic(fl_web *) *webs;   /* by their places */
    unsigned web_count, worker;
    fl_spares *spares;
    fl_profiler *profiler;
    fl_exile exile;
    uint64_t restarts, started; /* started: CLOCK_MONOTONIC ns of the supervisor */
    time_t start_time;
    fl_watch watch;
    bool watching;
    fl_admin *admin;
    uv_loop_t loop;
    uv_poll_t control;
    uv_timer_t drain, admin_retry;
    fl_mailbox *mailbox;
    server_phase phase;
    unsigned loaded, closed, drained, ended, listeners;
    char address[128]; /* "http://127.0.0.1:8000" */
};

/* what the web threads say */

typedef struct fl_server_message {
    fl_message message;
    char text[2048];
} fl_server_message;

static void post(fl_server *server, void (*deliver)(fl_message *, void *), const char *text)
{
    fl_server_message *self = calloc(1, sizeof(*self));
    if (!self) return;
    self->message = (fl_message){.deliver = deliver, .drop = (void (*)(fl_message *))free};
    if (text) (void)snprintf(self->text, sizeof(self->text), "%s", text);
    if (fl_mailbox_post(server->mailbox, &self->message) < 0) free(self);
}

/* Nothing of this process is worth an orderly end: threads may be stuck. */
static void leave(fl_server *server, int status)
{
    fl_exec_end_all(&server->loop);
    fl_log_finish(server->log, LOG_PATIENCE); /* threads that run on may still use it */
    _exit(status);
}

static void say(fl_server *server, fl_control_kind kind, const char *text)
{
    (void)fl_control_send(FL_CONTROL_FD, kind, text, NULL, 0);
    (void)server;
}

static void web_loaded(fl_message *message, void *owner)
{
    fl_server *server = owner;
    fl_server_message *self = (fl_server_message *)message;
    if (self->text[0]) {
        say(server, FL_CONTROL_FAILED, self->text);
        leave(server, START_FAILED);
    }
    free(self);
    if (++server->loaded < server->web_count) return;
    server->phase = LISTENING;
    say(server, FL_CONTROL_LOADED, "");
}

void fl_server_loaded(fl_server *server, fl_web *web, const char *error)
{
    (void)web;
    post(server, web_loaded, error);
}

static void web_closed(fl_message *message, void *owner)
{
    fl_server *server = owner;
    free(message);
    if (++server->closed == server->web_count) say(server, FL_CONTROL_CLOSED, "");
}

void fl_server_closed(fl_server *server)
{
    post(server, web_closed, NULL);
}

static void end(fl_server *server)
{
    server->phase = ENDING; /* the drain timer runs on: a stop hook may hang */
    for (unsigned i = 0; i < server->web_count; i++) fl_web_stop(fl_server_web(server, i));
}

/* Until then the loop serves what stop hooks and cancelled ops need: their programs run on it. */
static void web_ended(fl_message *message, void *owner)
{
    fl_server *server = owner;
    free(message);
    if (++server->ended == server->web_count) uv_stop(&server->loop);
}

void fl_server_ended(fl_server *server)
{
    post(server, web_ended, NULL);
}

static void web_drained(fl_message *message, void *owner)
{
    fl_server *server = owner;
    free(message);
    if (++server->drained == server->web_count) end(server);
}

void fl_server_drained(fl_server *server, fl_web *web)
{
    (void)web;
    post(server, web_drained, NULL);
}

void fl_server_stuck(fl_server *server, const char *what)
{
    say(server, FL_CONTROL_STUCK, what);
}

static unsigned load_of(const fl_web *web)
{
    return atomic_load_explicit(&web->counts->connections, memory_order_relaxed) +
           atomic_load_explicit(&web->counts->arriving, memory_order_relaxed);
}

fl_web *fl_server_least_loaded(fl_server *server, fl_web *self, unsigned lead)
{
    unsigned mine = load_of(self);
    fl_web *best = self;
    unsigned least = mine;
    for (unsigned i = 0; i < server->web_count; i++) {
        fl_web *web = fl_server_web(server, i);
        unsigned count = load_of(web);
        /* what is in Lua now may be so for long: a connection is better off here */
        uint64_t turn;
        bool busy = fl_claim_look(&web->thread.claim, &turn) != FL_CLAIM_C;
        if (count < least && !busy) {
            best = web;
            least = count;
        }
    }
    return mine >= least + lead ? best : self;
}

uint64_t fl_server_in_flight(fl_server *server)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < server->web_count; i++)
        total += atomic_load_explicit(&fl_server_web(server, i)->thread.metrics->in_flight,
                                      memory_order_relaxed);
    return total;
}

fl_mailbox *fl_server_mailbox(fl_server *server)
{
    return server->mailbox;
}

fl_segment *fl_server_segment(fl_server *server)
{
    return server->segment;
}

fl_channels *fl_server_channels(fl_server *server)
{
    return server->channels;
}

fl_topics *fl_server_topics(fl_server *server)
{
    return server->topics;
}

uv_loop_t *fl_server_loop(fl_server *server)
{
    return &server->loop;
}

unsigned fl_server_web_count(fl_server *server)
{
    return server->web_count;
}

fl_web *fl_server_web(fl_server *server, unsigned number)
{
    return atomic_load_explicit(&server->webs[number], memory_order_acquire);
}

void fl_server_set_web(fl_server *server, unsigned number, fl_web *web)
{
    atomic_store_explicit(&server->webs[number], web, memory_order_release);
}

fl_spares *fl_server_spares(fl_server *server)
{
    return server->spares;
}

fl_profiler *fl_server_profiler(fl_server *server)
{
    return server->profiler;
}

const fl_app_place *fl_server_app(fl_server *server, size_t number)
{
    return server->apps[number];
}

const fl_settings *fl_server_settings(const fl_server *server)
{
    return server->settings;
}

char **fl_server_arguments(const fl_server *server)
{
    return server->arguments;
}

bool fl_server_is_pool(const fl_server *server)
{
    return server->pool_child != NULL;
}

unsigned fl_server_app_number(fl_server *server, const fl_app_place *app)
{
    unsigned number = 0;
    while (server->apps[number] != app) number++;
    return number;
}

bool fl_server_take_connection(fl_server *server)
{
    if (atomic_fetch_add(&server->connections, 1) < server->settings->db_connections) return true;
    atomic_fetch_sub(&server->connections, 1);
    return false;
}

void fl_server_give_connection(fl_server *server)
{
    atomic_fetch_sub(&server->connections, 1);
}

fl_pools *fl_server_pools(fl_server *server)
{
    return server->pools;
}

fl_pool *fl_server_pool(fl_server *server, const char *name)
{
    if (strcmp(name, "cpu") == 0) return server->cpu_pool;
    return strcmp(name, "blocking") == 0 ? server->blocking_pool : NULL;
}

void fl_server_prepare_thread(fl_server *server, fl_thread *thread)
{
    thread->server = server;
    thread->settings = server->settings;
    thread->log = server->log;
    thread->ledger = server->ledger;
    thread->all_metrics = server->metrics;
    thread->exile = &server->exile;
}

fl_modules *fl_server_modules(fl_server *server)
{
    return server->modules;
}

/* admin */

static bool is_ready(void *data)
{
    return ((fl_server *)data)->phase == SERVING;
}

static void render_metrics(void *data, fl_buffer *body)
{
    fl_server *server = data;
    uint64_t longest;
    fl_process_metrics process = {.restarts = server->restarts,
                                  .interruptions = atomic_load(&server->watch.interruptions),
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

static void profile_told(fl_server *server, uint64_t ticket, int status, fl_slice text)
{
    if (server->admin) fl_admin_reply(server->admin, ticket, status, text);
}

static void start_admin(uv_timer_t *timer)
{
    fl_server *server = timer->data;
    if (server->admin || server->phase != SERVING) return;
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

static void stop_admin(fl_server *server)
{
    uv_timer_stop(&server->admin_retry);
    if (server->admin) fl_admin_stop(server->admin);
    server->admin = NULL;
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
    server->phase = SERVING;
    if (server->settings->admin[0]) start_admin(&server->admin_retry); /* who waits may ask it */
    print_banner(server);
    say(server, FL_CONTROL_READY, "");
}

static void give_listener(fl_server *server, int fd, bool shared)
{
    note_address(server, fd);
    if (!shared) {
        fl_web *web = fl_server_web(server, server->listeners++ % server->web_count);
        web->own_listener = fd;
        fl_web_listen(web, fd);
        return;
    }
    for (unsigned i = 0; i < server->web_count; i++) {
        int copy = i + 1 < server->web_count ? dup(fd) : fd;
        if (copy >= 0) fl_web_listen(fl_server_web(server, i), copy);
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
    leave(timer->data, 0);
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
    if (server->phase == LOADING || server->phase == LISTENING) leave(server, 0);
    if (server->phase == SERVING) {
        uint64_t milliseconds = server->settings->drain / 1000000;
        uv_timer_start(&server->drain, drain_over, milliseconds, 0);
        if (!stop) stop_admin(server); /* its successor wants the address */
    }
    server->phase = DRAINING;
    for (unsigned i = 0; i < server->web_count; i++) fl_web_drain(fl_server_web(server, i), stop);
}

static void obey(fl_server *server, const fl_control_message *message)
{
    switch (message->kind) {
    case FL_CONTROL_LISTENERS_SENT: take_listeners(server, message); return;
    case FL_CONTROL_STOP: drain(server, true); return;
    case FL_CONTROL_REPLACED: drain(server, false); return;
    case FL_CONTROL_NOW: leave(server, 0); return;
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
        if (server->phase == ENDING) return;
    }
}

/* starting */

static int by_prefix(const void *a, const void *b)
{
    const fl_app_place *const *left = a, *const *right = b;
    size_t left_size = strlen((*left)->prefix), right_size = strlen((*right)->prefix);
    if (left_size != right_size) return left_size < right_size ? 1 : -1;
    return strcmp((*left)->prefix, (*right)->prefix);
}

static int sort_apps(fl_server *server)
{
    size_t count = server->settings->app_count;
    server->apps = calloc(count ? count : 1, sizeof(fl_app_place *));
    if (!server->apps) return UV_ENOMEM;
    for (size_t i = 0; i < count; i++) server->apps[i] = &server->settings->apps[i];
    qsort((void *)server->apps, count, sizeof(*server->apps), by_prefix);
    return 0;
}

static void read_environment(fl_server *server)
{
    const char *text = getenv("FASTERLUA_SERVER");
    unsigned long long restarts = 0, started = 0;
    if (text && sscanf(text, "%u %llu %llu", &server->worker, &restarts, &started) == 3) {
        server->restarts = restarts;
        server->started = started;
    }
    unsetenv("FASTERLUA_SERVER");
    server->start_time = time(NULL);
    char threads[16];
    (void)snprintf(threads, sizeof(threads), "%u", (unsigned)server->settings->file_threads);
    setenv("UV_THREADPOOL_SIZE", threads, 1);
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

static int make_channels(fl_server *server)
{
    const fl_settings *settings = server->settings;
    return fl_channels_new(&server->channels, settings->channels, settings->channel_bytes);
}

/* `processes` that it takes messages to reach everybody. */
static int make_topics(fl_server *server, unsigned processes)
{
    const fl_settings *settings = server->settings;
    const fl_topic_options options = {.log = server->log,
                                      .segment = server->segment,
                                      .ring = settings->topic_ring,
                                      .bytes = settings->topic_bytes,
                                      .processes = processes};
    return fl_topics_new(&server->topics, &options);
}

static int make_pools(fl_server *server, char *why, size_t size)
{
    const fl_settings *settings = server->settings;
    unsigned cpus = (unsigned)settings->cpu_states;
    fl_pool_options cpu = {.name = "cpu",
                           .size = cpus ? cpus : fl_cpus_usable(),
                           .queue = (unsigned)settings->pool_queue,
                           .timeout = settings->pool_timeout,
                           .max_memory = settings->lua_memory,
                           .retire_rate = (unsigned)settings->retire_rate,
                           .retire_window = 60000000000u,
                           .nice = 5};
    fl_pool_options blocking = cpu;
    (void)snprintf(blocking.name, sizeof(blocking.name), "blocking");
    blocking.size = (unsigned)settings->blocking_threads;
    blocking.idle = settings->pool_idle;
    blocking.nice = 0;
    int status = fl_pools_new(&server->pools, server);
    if (status == 0)
        status = fl_pool_open(&server->cpu_pool, server->pools, UINT_MAX, &cpu, why, size);
    if (status == 0)
        status =
            fl_pool_open(&server->blocking_pool, server->pools, UINT_MAX, &blocking, why, size);
    return status;
}

static int make_web(fl_server *server, unsigned number)
{
    fl_web *web = calloc(1, sizeof(*web));
    if (!web) return UV_ENOMEM;
    fl_server_set_web(server, number, web);
    fl_server_prepare_thread(server, &web->thread);
    web->thread.number = number;
    web->thread.metrics = fl_metrics_thread(server->metrics, number);
    web->thread.slots = fl_ledger_slots(server->ledger, number);
    web->thread.slot_count = fl_ledger_slots_each(server->ledger);
    web->connections_most =
        (unsigned)((server->settings->connections + server->web_count - 1) / server->web_count);
    web->own_listener = -1;
    return fl_web_init(web);
}

static int make_webs(fl_server *server)
{
    server->web_count = fl_ledger_threads(server->ledger);
    server->webs = calloc(server->web_count, sizeof(*server->webs));
    if (!server->webs) return UV_ENOMEM;
    int status = fl_metrics_new(&server->metrics, server->web_count);
    if (status == 0)
        status = fl_spares_new(&server->spares, server, (unsigned)server->settings->app_count);
    for (unsigned i = 0; i < server->web_count && status == 0; i++) status = make_web(server, i);
    return status;
}

static int make_loop(fl_server *server)
{
    int status = uv_loop_init(&server->loop);
    if (status < 0) return status;
    uv_timer_init(&server->loop, &server->drain);
    uv_timer_init(&server->loop, &server->admin_retry);
    server->drain.data = server->admin_retry.data = server->control.data = server;
    status = uv_poll_init(&server->loop, &server->control, FL_CONTROL_FD);
    if (status == 0) status = uv_poll_start(&server->control, UV_READABLE, control_readable);
    return status ? status : fl_mailbox_new(&server->mailbox, &server->loop, server);
}

static void ignore_signals(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGINT, SIG_IGN); /* the supervisor decides */
    (void)signal(SIGTERM, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
}

/* What the processes of a server have in common. */
static int set_up_shared(fl_server *server, char *why, size_t size)
{
    const fl_settings *settings = server->settings;
    ignore_signals();
    (void)fcntl(FL_CONTROL_FD, F_SETFD, FD_CLOEXEC); /* what apps start must not speak for us */
    (void)fcntl(FL_LEDGER_FD, F_SETFD, FD_CLOEXEC);
    (void)fcntl(FL_SEGMENT_FD, F_SETFD, FD_CLOEXEC);
    int status = fl_log_open_stdout(&server->log, settings->log_format, settings->log_level,
                                    settings->log_buffer);
    if (status == 0) status = fl_ledger_map(&server->ledger, FL_LEDGER_FD);
    if (status == 0) status = sort_apps(server);
    if (status < 0) {
        (void)snprintf(why, size, "%s", uv_strerror(status));
        return status;
    }
    return fl_segment_map(&server->segment, FL_SEGMENT_FD, why, size);
}

static int set_up(fl_server *server, char *why, size_t size)
{
    const fl_settings *settings = server->settings;
    read_environment(server);
    raise_descriptor_limit();
    int status = set_up_shared(server, why, size);
    if (status < 0) return status;
    status = fl_privileges_become(settings->user, settings->group, why, size);
    if (status < 0) return status;
    status = make_loop(server);
    if (status == 0) status = make_channels(server);
    if (status == 0) status = make_topics(server, (unsigned)settings->workers);
    if (status == 0)
        status = fl_profiler_new(&server->profiler, server, settings->home, profile_told);
    if (status == 0) status = make_pools(server, why, size);
    if (status == 0) status = fl_interruption_open();
    if (status == 0) status = fl_modules_new(&server->modules);
    if (status == 0) status = make_webs(server);
    for (unsigned i = 0; i < server->web_count && status == 0; i++)
        status = fl_web_start(fl_server_web(server, i));
    if (status == 0) status = fl_watch_start(&server->watch, server);
    if (status < 0) (void)snprintf(why, size, "%s", uv_strerror(status));
    return status;
}

static void close_walked(uv_handle_t *handle, void *data)
{
    (void)data;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

/* What pools' threads wait for at their end is done by this loop. */
static bool stop_pools(fl_server *server)
{
    uint64_t until = uv_hrtime() + POOLS_PATIENCE;
    while (!fl_pools_stop(server->pools, MILLISECOND)) {
        if (uv_hrtime() > until) return false;
        (void)uv_run(&server->loop, UV_RUN_NOWAIT);
    }
    return true;
}

/* Files that are worked on are finished, as far as their threads are not stuck in the kernel. */
static bool end_loop(fl_server *server)
{
    fl_mailbox_close(server->mailbox);
    fl_exec_end_all(&server->loop);
    uv_walk(&server->loop, close_walked, NULL);
    uint64_t until = uv_hrtime() + LOOP_PATIENCE;
    while (uv_run(&server->loop, UV_RUN_NOWAIT)) {
        if (uv_hrtime() > until) return false;
        uv_sleep(1);
    }
    return uv_loop_close(&server->loop) == 0;
}

static void tear_down(fl_server *server)
{
    for (unsigned i = 0; i < server->web_count; i++) fl_web_join(fl_server_web(server, i));
    fl_watch_stop(&server->watch);
    if (!stop_pools(server)) leave(server, 0); /* one is stuck */
    if (!fl_spares_close(server->spares)) leave(server, 0);
    fl_pools_free(server->pools);
    for (unsigned i = 0; i < server->web_count; i++) {
        fl_web_close(fl_server_web(server, i));
        free(fl_server_web(server, i));
    }
    fl_topics_free(server->topics);
    fl_channels_free(server->channels);
    stop_admin(server);
    if (!end_loop(server)) leave(server, 0);
    fl_profiler_free(server->profiler);
    fl_modules_free(server->modules);
    fl_metrics_free(server->metrics);
    fl_ledger_close(server->ledger);
    fl_segment_close(server->segment);
    fl_log_close(server->log, LOG_PATIENCE);
    free((void *)server->apps);
    free((void *)server->webs);
    free(server);
}

int fl_server_run(const fl_settings *settings, char **arguments)
{
    char why[512] = "";
    fl_server *server = calloc(1, sizeof(*server));
    if (!server) return START_FAILED;
    server->settings = settings;
    server->arguments = arguments;
    if (set_up(server, why, sizeof(why)) < 0) {
        say(server, FL_CONTROL_FAILED, why);
        _exit(START_FAILED);
    }
    (void)uv_run(&server->loop, UV_RUN_DEFAULT);
    tear_down(server);
    return 0;
}

/* processes that have pools alone */

/* `processes` that topics reach. */
static int set_up_pools(fl_server *server, unsigned processes, char *why, size_t size)
{
    int status = uv_loop_init(&server->loop);
    if (status == 0) status = fl_mailbox_new(&server->mailbox, &server->loop, server);
    if (status == 0) status = make_topics(server, processes);
    if (status == 0) status = make_pools(server, why, size);
    if (status == 0) status = fl_interruption_open();
    if (status == 0) status = fl_modules_new(&server->modules);
    return status;
}

static void close_pools(fl_server *server, int status)
{
    fl_pools_free(server->pools);
    fl_topics_free(server->topics);
    if (!end_loop(server)) leave(server, status);
    fl_modules_free(server->modules);
    fl_ledger_close(server->ledger);
    fl_segment_close(server->segment);
    fl_log_close(server->log, LOG_PATIENCE);
    free((void *)server->apps);
    free(server);
}

/* a child process of a pool */

static int set_up_pool(fl_server *server, char *why, size_t size)
{
    int status = set_up_shared(server, why, size);
    if (status < 0) return status;
    status = set_up_pools(server, 2, why, size); /* its parent's, at least, and its own */
    if (status == 0) status = fl_pool_child_open(&server->pool_child, server, why, size);
    if (status < 0 && !why[0]) (void)snprintf(why, size, "%s", uv_strerror(status));
    return status;
}

static void tear_down_pool(fl_server *server)
{
    if (!stop_pools(server)) leave(server, 0);
    fl_pool_child_close(server->pool_child);
    close_pools(server, 0);
}

int fl_server_run_pool(const fl_settings *settings)
{
    char why[512] = "";
    fl_server *server = calloc(1, sizeof(*server));
    if (!server) return START_FAILED;
    server->settings = settings;
    if (set_up_pool(server, why, sizeof(why)) < 0) {
        fl_pool_child_fail(why);
        _exit(START_FAILED);
    }
    (void)uv_run(&server->loop, UV_RUN_DEFAULT);
    tear_down_pool(server);
    return 0;
}

/* a console */

/* What a supervisor would have made. */
static int make_shared(fl_server *server, char *why, size_t size)
{
    const fl_settings *settings = server->settings;
    int fd = -1;
    int status = fl_ledger_create(&server->ledger, &fd, 1, 1);
    if (status < 0) return status;
    close(fd);
    status = fl_segment_create(&fd, settings->shared_memory + fl_topics_room(settings->topic_ring));
    if (status < 0) return status;
    status = fl_segment_map(&server->segment, fd, why, size);
    close(fd);
    return status;
}

static int set_up_console(fl_server *server, fl_console *console, char *why, size_t size)
{
    (void)signal(SIGPIPE, SIG_IGN);
    int status = fl_log_open(&server->log, STDERR_FILENO, FL_LOG_TEXT, FL_LOG_INFO,
                             server->settings->log_buffer);
    if (status == 0) status = sort_apps(server);
    if (status == 0) status = make_shared(server, why, size);
    if (status == 0) status = set_up_pools(server, 1, why, size);
    if (status == 0) status = make_channels(server);
    if (status == 0) status = fl_console_start(console, server);
    if (status < 0 && !why[0]) (void)snprintf(why, size, "%s", uv_strerror(status));
    return status;
}

/* After a failed start nothing is closed: the process ends. */
int fl_server_run_console(const fl_settings *settings, fl_console *console, char *why, size_t size)
{
    fl_server *server = calloc(1, sizeof(*server));
    if (!server) return UV_ENOMEM;
    server->settings = settings;
    int status = set_up_console(server, console, why, size);
    if (status < 0) return status;
    (void)uv_run(&server->loop, UV_RUN_DEFAULT);
    if (!stop_pools(server)) leave(server, 1);
    fl_console_end(console);
    fl_channels_free(server->channels);
    close_pools(server, 1);
    return 0;
}
