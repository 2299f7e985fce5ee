#include "watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

#include "pool.h"
#include "server.h"
#include "web.h"

#define LOOK_NS 10000000 /* between two looks */

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

static uint64_t cpu_time(const fl_web *web)
{
    struct timespec time;
    if (clock_gettime(web->thread.cpu_clock, &time) < 0) return 0;
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* ns that the thread has waited in a run queue: the second number of its schedstat. */
static uint64_t run_queue_time(const fl_web *web)
{
    char path[64];
    unsigned long long waited = 0;
    (void)snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat",
                   atomic_load(&web->thread.tid));
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    if (fscanf(file, "%*u %llu", &waited) != 1) waited = 0;
    (void)fclose(file);
    return waited;
}

static bool is_debugged(void)
{
    char line[128];
    bool traced = false;
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof(line), file))
        if (strncmp(line, "TracerPid:", 10) == 0) traced = atoi(line + 10) != 0;
    if (file) (void)fclose(file);
    return traced;
}

/* The request whose Lua runs, as the ledger has it. */
static const char *describe(const fl_web *web, char text[160])
{
    uint32_t slot = atomic_load_explicit(&web->thread.running, memory_order_relaxed);
    if (!slot || slot > web->thread.slot_count) return "a task without a request";
    char id[40], route[128];
    const fl_ledger_slot *entry = &web->thread.slots[slot - 1];
    size_t size = fl_request_id(id, fl_ledger_boot(web->thread.ledger), entry->request);
    fl_ledger_route_text(web->thread.ledger, entry->route, route, sizeof(route));
    (void)snprintf(text, 160, "%s (request %.*s)", route, (int)size, id);
    return text;
}

static void help_accept(fl_watch *watch, unsigned number, bool start)
{
    fl_web *web = &watch->webs[number];
    if (watch->count < 2 || web->own_listener < 0) return;
    fl_web_help_accept(&watch->webs[(number + 1) % watch->count], web->own_listener, start);
}

static void tell_slow(fl_watch *watch, unsigned number, uint64_t held)
{
    fl_web *web = &watch->webs[number];
    char text[160];
    atomic_fetch_add_explicit(&web->thread.metrics->slow_handlers, 1, memory_order_relaxed);
    fl_log_printf(
        web->thread.log, FL_LOG_WARN,
        "slow handler: %s has held web thread %u for %.0f ms; every other request of this "
        "thread waits",
        describe(web, text), number, (double)held / 1e6);
    help_accept(watch, number, true);
}

static void turn_over(fl_watch *watch, unsigned number)
{
    fl_watched *watched = &watch->watched[number];
    if (watched->told) help_accept(watch, number, false);
    *watched = (fl_watched){0};
}

static void look_closer(fl_watch *watch, unsigned number, uint64_t held)
{
    fl_web *web = &watch->webs[number];
    fl_watched *watched = &watch->watched[number];
    uint64_t stuck_after = atomic_load_explicit(&web->thread.stuck_after, memory_order_relaxed);
    uint64_t blocked_after = atomic_load_explicit(&web->thread.blocked_after, memory_order_relaxed);
    uint64_t used = cpu_time(web) - watched->cpu;
    uint64_t waited = run_queue_time(web) - watched->waited;
    uint64_t blocked = held > used + waited ? held - used - waited : 0;
    bool spins = stuck_after && used > stuck_after * PATIENCE;
    bool blocks = blocked_after && blocked > blocked_after * PATIENCE;
    if (!spins && !blocks) return;
    watched->stuck = true;
    char text[160], what[320];
    (void)snprintf(what, sizeof(what), "%s %s for %.1f s", describe(web, text),
                   spins ? "has computed without a pause" : "has been blocked",
                   (double)(spins ? used : blocked) / 1e9);
    fl_log_printf(web->thread.log, FL_LOG_ERROR,
                  "stuck handler on web thread %u: %s; the process is being replaced", number,
                  what);
    fl_server_stuck(watch->server, what);
}

static void look(fl_watch *watch, unsigned number, uint64_t now)
{
    fl_web *web = &watch->webs[number];
    fl_watched *watched = &watch->watched[number];
    /* acquire: with its thread's clock and its routes' names */
    bool in_lua =
        atomic_load_explicit(&web->thread.claim.state, memory_order_acquire) == FL_CLAIM_LUA;
    unsigned long turn = atomic_load_explicit(&web->thread.claim.turn, memory_order_relaxed);
    if (!in_lua || turn != watched->turn || !watched->since) {
        turn_over(watch, number);
        watched->turn = turn;
        if (!in_lua) return;
        watched->since = now;
        watched->cpu = cpu_time(web);
        watched->waited = run_queue_time(web);
        return;
    }
    uint64_t held = now - watched->since;
    const fl_settings *settings = web->thread.settings;
    if (!watched->told && settings->slow_handler && held > settings->slow_handler) {
        watched->told = true;
        tell_slow(watch, number, held);
    }
    if (watched->told && !watched->stuck && !watch->disabled) look_closer(watch, number, held);
}

static void *run(void *data)
{
    fl_watch *watch = data;
    const struct timespec pause = {.tv_nsec = LOOK_NS};
    while (!atomic_load(&watch->stopping)) {
        nanosleep(&pause, NULL);
        uint64_t now = uv_hrtime();
        for (unsigned i = 0; i < watch->count; i++) look(watch, i, now);
        fl_pools_look(fl_server_pools(watch->server), now);
    }
    return NULL;
}

int fl_watch_start(fl_watch *watch, fl_server *server, fl_web *webs, unsigned count)
{
    *watch = (fl_watch){.server = server, .webs = webs, .count = count};
    watch->watched = calloc(count, sizeof(*watch->watched));
    if (!watch->watched) return UV_ENOMEM;
    watch->disabled = is_debugged();
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
