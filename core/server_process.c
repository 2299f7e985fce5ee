/* Setting up and tearing down a server's parts, for each kind of process that has some of them. */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "console.h"
#include "cpus.h"
#include "exec.h"
#include "interruption.h"
#include "pools.h"
#include "privileges.h"
#include "profile.h"
#include "quota.h"
#include "server_inside.h"
#include "spares.h"
#include "web.h"

#define MILLISECOND 1000000u
#define POOLS_PATIENCE 1000000000u
#define LOOP_PATIENCE 1000000000u

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
    int status = fl_quota_new(&server->quota, settings->db_connections, uv_hrtime);
    if (status == 0) status = fl_pools_new(&server->pools, server);
    if (status == 0)
        status = fl_pools_open(&server->cpu_pool, server->pools, UINT_MAX, &cpu, why, size);
    if (status == 0)
        status =
            fl_pools_open(&server->blocking_pool, server->pools, UINT_MAX, &blocking, why, size);
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
    status = fl_server_open_control(server);
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
        status =
            fl_profiler_new(&server->profiler, server, settings->home, fl_server_answer_profile);
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
    if (!stop_pools(server)) fl_server_leave(server, 0); /* one is stuck */
    if (!fl_spares_close(server->spares)) fl_server_leave(server, 0);
    fl_pools_free(server->pools);
    for (unsigned i = 0; i < server->web_count; i++) {
        fl_web_close(fl_server_web(server, i));
        free(fl_server_web(server, i));
    }
    fl_topics_free(server->topics);
    fl_channels_free(server->channels);
    fl_server_stop_admin(server);
    if (!end_loop(server)) fl_server_leave(server, 0);
    fl_profiler_free(server->profiler);
    fl_modules_free(server->modules);
    fl_metrics_free(server->metrics);
    fl_ledger_close(server->ledger);
    fl_segment_close(server->segment);
    fl_log_close(server->log, FL_SERVER_LOG_PATIENCE);
    free((void *)server->apps);
    free((void *)server->webs);
    fl_quota_free(server->quota);
    free(server);
}

int fl_server_run(const fl_settings *settings, char **arguments)
{
    char why[512] = "";
    fl_server *server = calloc(1, sizeof(*server));
    if (!server) return FL_SERVER_START_FAILED;
    server->settings = settings;
    server->arguments = arguments;
    if (set_up(server, why, sizeof(why)) < 0) {
        fl_server_say(FL_CONTROL_FAILED, why);
        _exit(FL_SERVER_START_FAILED);
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
    if (!end_loop(server)) fl_server_leave(server, status);
    fl_modules_free(server->modules);
    fl_ledger_close(server->ledger);
    fl_segment_close(server->segment);
    fl_log_close(server->log, FL_SERVER_LOG_PATIENCE);
    free((void *)server->apps);
    fl_quota_free(server->quota);
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
    if (!stop_pools(server)) fl_server_leave(server, 0);
    fl_pool_child_close(server->pool_child);
    close_pools(server, 0);
}

int fl_server_run_pool(const fl_settings *settings)
{
    char why[512] = "";
    fl_server *server = calloc(1, sizeof(*server));
    if (!server) return FL_SERVER_START_FAILED;
    server->settings = settings;
    if (set_up_pool(server, why, sizeof(why)) < 0) {
        fl_pool_child_fail(why);
        _exit(FL_SERVER_START_FAILED);
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
    if (!stop_pools(server)) fl_server_leave(server, 1);
    fl_console_end(console);
    fl_channels_free(server->channels);
    close_pools(server, 1);
    return 0;
}
