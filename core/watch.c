#include "watch.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "pools.h"
#include "server.h"
#include "spares.h"
#include "web.h"

#define LOOK_NS 10000000              /* between two looks */
#define LOOK_CLOSER_NS 50000000u      /* of a turn, before its times are read */
#define INTERRUPTION_NS 50000000u     /* that an interrupted handler has to end */
#define SPARE_PATIENCE_NS 5000000000u /* for a spare thread to be there */
#define PAUSE_NS 1000000000u          /* between two looks: all threads may have been stopped */
#define RETIRE_TRIES 10000
#define RETIRED_PATIENCE_NS 5000000000u
#define EVACUATIONS_MOST 64 /* of one process: what they leave behind is freed with it */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PATIENCE 20
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PATIENCE 20
#endif
#endif
#ifndef PATIENCE
#define PATIENCE 1
#endif

/* By system calls as such: libuv closes descriptors by those, which ThreadSanitizer does not see,
 * so that to it whoever opens one with the same number by the C library would race with libuv. */
static void read_file(const char *path, char *text, size_t size)
{
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    long got = fd < 0 ? 0 : syscall(SYS_read, fd, text, size - 1);
    text[got > 0 ? got : 0] = '\0';
    if (fd >= 0) (void)syscall(SYS_close, fd);
}

/* ns that the thread has waited in a run queue: the second number of its schedstat. */
static uint64_t run_queue_time(const fl_web *web)
{
    char path[64], text[128];
    unsigned long long waited = 0;
    (void)snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat",
                   atomic_load(&web->thread.tid));
    read_file(path, text, sizeof(text));
    return sscanf(text, "%*u %llu", &waited) == 1 ? waited : 0;
}

/* It does not run, and does not wait for a processor: that, its times do not tell until it has got
 * one. */
static bool is_asleep(const fl_web *web)
{
    char path[64], text[128];
    (void)snprintf(path, sizeof(path), "/proc/self/task/%d/stat", atomic_load(&web->thread.tid));
    read_file(path, text, sizeof(text));
    const char *name_end = strrchr(text, ')');
    return name_end && strncmp(name_end, ") R", 3) != 0;
}

static bool is_debugged(void)
{
    char text[4096];
    read_file("/proc/self/status", text, sizeof(text));
    const char *tracer = strstr(text, "\nTracerPid:");
    return tracer && atoi(tracer + sizeof("\nTracerPid:") - 1) != 0;
}

/* The request whose Lua runs, as the ledger has it. */
static const char *describe(const fl_web *web, char text[160])
{
    uint32_t slot = atomic_load_explicit(&web->thread.running, memory_order_relaxed);
    if (!slot || slot > web->thread.slot_count)
        return "a task without a request (a schedule, fl.detach)";
    char id[40], route[128];
    const fl_ledger_slot *entry = &web->thread.slots[slot - 1];
    size_t size = fl_request_id(id, fl_ledger_boot(web->thread.ledger), entry->request);
    fl_ledger_route_text(web->thread.ledger, entry->route, route, sizeof(route));
    (void)snprintf(text, 160, "%s (request %.*s)", route, (int)size, id);
    return text;
}

static void help_accept(fl_watch *watch, unsigned number, bool start)
{
    const fl_web *web = fl_server_web(watch->server, number);
    if (watch->count < 2) return;
    fl_web *helper = fl_server_web(watch->server, (number + 1) % watch->count);
    fl_web_help_accept(helper, start ? web->own_listener : -1);
}

static void tell_slow(fl_watch *watch, unsigned number, uint64_t held)
{
    fl_web *web = fl_server_web(watch->server, number);
    char text[160];
    const char *start = atomic_load_explicit(&web->start, memory_order_relaxed);
    if (start) { /* no request can wait for it */
        fl_log_printf(web->thread.log, FL_LOG_INFO,
                      "slow start: %s has held web thread %u for %.0f ms", start, number,
                      (double)held / 1e6);
        return;
    }
    atomic_fetch_add_explicit(&web->thread.metrics->slow_handlers, 1, memory_order_relaxed);
    fl_log_printf(
        web->thread.log, FL_LOG_WARN,
        "slow handler: %s has held web thread %u for %.0f ms; every other request of this "
        "thread waits: run_in_state is for what computes, run_blocking for what blocks",
        describe(web, text), number, (double)held / 1e6);
    help_accept(watch, number, true);
}

static void turn_over(fl_watch *watch, unsigned number)
{
    fl_watched *watched = &watch->watched[number];
    if (watched->told) help_accept(watch, number, false);
    *watched = (fl_watched){0};
}

/* The app of the state whose Lua runs. */
static unsigned app_of(const fl_web *web)
{
    return atomic_load_explicit(&web->thread.interruption.app, memory_order_relaxed);
}

static void replace_process(fl_watch *watch, const char *what)
{
    if (watch->asked) return;
    watch->asked = true;
    fl_server_stuck(watch->server, what);
}

/* It may cost the next thread, too: who wonders finds why in the log. */
static void send_into_exile(fl_web *web, uint64_t now)
{
    const fl_thread *thread = &web->thread;
    uint32_t slot = atomic_load_explicit(&thread->running, memory_order_relaxed);
    uint64_t time = thread->settings->exile;
    if (!slot || slot > thread->slot_count || !time) return;
    uint32_t route = atomic_load_explicit(&thread->slots[slot - 1].route, memory_order_relaxed);
    if (fl_exile_send(thread->exile, route, now + time)) return;
    char text[128];
    fl_ledger_route_text(thread->ledger, route, text, sizeof(text));
    fl_log_printf(thread->log, FL_LOG_WARN, "%s stays on its web thread: no pool can run it", text);
}

/* One that calls owning functions all the time is in Lua between them. */
static bool retire(fl_web *web, uint64_t turn)
{
    for (int i = 0; i < RETIRE_TRIES; i++)
        if (fl_claim_retire(&web->thread.claim, turn)) return true;
    return false;
}

/* Its time is up: first it is interrupted, and when that does not help, another thread takes what
 * is not its own. */
static void stop(fl_watch *watch, unsigned number, uint64_t now, const char *what)
{
    fl_web *web = fl_server_web(watch->server, number);
    fl_watched *watched = &watch->watched[number];
    bool failed = false;
    if (!watched->interrupted) {
        watched->interrupted = now;
        fl_log_printf(web->thread.log, FL_LOG_ERROR, "stuck handler on web thread %u: %s", number,
                      what);
    }
    if (now - watched->interrupted < INTERRUPTION_NS) {
        /* again, should the signal have been late */
        if (!atomic_load(&web->thread.interruption.hooked))
            fl_interrupt(&web->thread, watched->turn, "stuck", 503);
        return;
    }
    if (fl_spares_ready(watch->spares, app_of(web), &failed)) {
        if (!retire(web, watched->turn)) return;
        turn_over(watch, number);
        send_into_exile(web, now);
        fl_spares_send(watch->spares, web, what);
    } else if (failed || now - watched->interrupted > SPARE_PATIENCE_NS) {
        watched->given_up = true;
        replace_process(watch, what);
    }
}

static void look_closer(fl_watch *watch, unsigned number, uint64_t now, uint64_t held)
{
    fl_web *web = fl_server_web(watch->server, number);
    fl_watched *watched = &watch->watched[number];
    uint64_t stuck_after = atomic_load_explicit(&web->thread.stuck_after, memory_order_relaxed);
    uint64_t blocked_after = atomic_load_explicit(&web->thread.blocked_after, memory_order_relaxed);
    uint64_t used = fl_thread_cpu_time(&web->thread) - watched->cpu;
    uint64_t waited = run_queue_time(web) - watched->waited;
    uint64_t blocked = held > used + waited ? held - used - waited : 0;
    bool spins = stuck_after && used > stuck_after * PATIENCE;
    bool blocks = blocked_after && blocked > blocked_after * PATIENCE && is_asleep(web);
    if (!stuck_after && !blocked_after) return;
    bool failed;
    (void)fl_spares_ready(watch->spares, app_of(web), &failed); /* have it when it is needed */
    if ((!spins && !blocks) || is_debugged()) return;
    char text[160], what[256];
    (void)snprintf(what, sizeof(what), "%s %s for %.1f s", describe(web, text),
                   spins ? "has computed without a pause" : "has been blocked",
                   (double)(spins ? used : blocked) / 1e9);
    stop(watch, number, now, what);
}

static void look(fl_watch *watch, unsigned number, uint64_t now)
{
    fl_web *web = fl_server_web(watch->server, number);
    fl_watched *watched = &watch->watched[number];
    uint64_t turn;
    bool in_lua = fl_claim_look(&web->thread.claim, &turn) == FL_CLAIM_LUA;
    /* in C with the same turn: an owning function */
    bool same = watched->since && turn == watched->turn && web == watched->web;
    if (!same) {
        if (watched->interrupted && !watched->given_up)
            atomic_fetch_add_explicit(&watch->interruptions, 1, memory_order_relaxed);
        turn_over(watch, number);
        watched->turn = turn;
        watched->web = web;
        if (!in_lua) return;
        watched->since = now;
        watched->cpu = fl_thread_cpu_time(&web->thread);
        watched->waited = run_queue_time(web);
        return;
    }
    uint64_t held = now - watched->since;
    const fl_settings *settings = web->thread.settings;
    if (!watched->told && settings->slow_handler && held > settings->slow_handler) {
        watched->told = true;
        tell_slow(watch, number, held);
    }
    if (held > LOOK_CLOSER_NS && !watched->given_up) look_closer(watch, number, now, held);
}

/* Threads that were given up take a processor and hold their memory: the process goes when that
 * becomes much. */
static void look_at_retired(fl_watch *watch, uint64_t now)
{
    uint64_t longest, of_pools = fl_pools_retired(fl_server_pools(watch->server), now);
    unsigned retired = fl_spares_retired(watch->spares, now, &longest);
    unsigned many = watch->count / 2 > 2 ? watch->count / 2 : 2;
    bool full = fl_spares_evacuations(watch->spares) >= EVACUATIONS_MOST;
    if (longest > RETIRED_PATIENCE_NS || retired >= many || full)
        replace_process(watch, full ? "many handlers that had to be given up"
                                    : "a handler that was given up and still runs");
    if (of_pools > RETIRED_PATIENCE_NS)
        replace_process(watch, "a job that was given up and still runs");
}

/* Nobody has looked for so long: a signal, a debugger or a frozen group of processes may have
 * stopped everybody, which is no handler's fault. */
static void begin_anew(fl_watch *watch)
{
    for (unsigned i = 0; i < watch->count; i++) turn_over(watch, i);
}

static void *run(void *data)
{
    fl_watch *watch = data;
    const struct timespec pause = {.tv_nsec = LOOK_NS};
    uint64_t last = uv_hrtime();
    while (!atomic_load(&watch->stopping)) {
        nanosleep(&pause, NULL);
        uint64_t now = uv_hrtime();
        if (now - last > PAUSE_NS) begin_anew(watch);
        last = now;
        for (unsigned i = 0; i < watch->count; i++) look(watch, i, now);
        look_at_retired(watch, now);
        fl_pools_look(fl_server_pools(watch->server), now);
    }
    return NULL;
}

int fl_watch_start(fl_watch *watch, fl_server *server)
{
    unsigned count = fl_server_web_count(server);
    *watch = (fl_watch){.server = server, .spares = fl_server_spares(server), .count = count};
    watch->watched = calloc(count, sizeof(*watch->watched));
    if (!watch->watched) return UV_ENOMEM;
    int error = pthread_create(&watch->thread, NULL, run, watch);
    if (error) free(watch->watched);
    return -error;
}

void fl_watch_stop(fl_watch *watch)
{
    atomic_store(&watch->stopping, true);
    pthread_join(watch->thread, NULL);
    free(watch->watched);
}
