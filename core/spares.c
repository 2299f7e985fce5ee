#include "spares.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "server.h"
#include "web.h"

/* of the spare's state of an app: while one loads, the spare hears nothing */
typedef enum { UNKNOWN, LOADING, STARTING, READY, FAILED } app_state;

typedef struct retired {
    struct retired *next;
    fl_web *web;
    uint64_t since; /* ns */
    bool taken;     /* another one has its place */
    bool ended;
    char what[256];
} retired;

struct fl_spares {
    fl_server *server;
    pthread_mutex_t lock;
    fl_web *spare; /* parked, or being made */
    unsigned apps;
    app_state *states; /* by app */
    retired *list;
    _Atomic uint64_t evacuations;
};

typedef struct spare_web {
    fl_web web;
    fl_thread_metrics metrics; /* nobody's until it has a place */
    retired stuck;             /* whose place it takes */
} spare_web;

static int make(fl_spares *spares)
{
    spare_web *self = calloc(1, sizeof(*self));
    if (!self) return UV_ENOMEM;
    fl_web *web = &self->web;
    fl_server_prepare_thread(spares->server, &web->thread);
    web->thread.metrics = &self->metrics;
    web->own_listener = -1;
    int status = fl_web_init(web);
    if (status == 0 && (status = fl_web_start_spare(web)) < 0) {
        fl_thread_end_loop(&web->thread);
        fl_thread_close(&web->thread);
    }
    if (status < 0) { /* descriptors, memory or threads have run out */
        if (web->spare_fd >= 0) close(web->spare_fd);
        free(web->read_buffer);
        free(web->letters);
        free(self);
        return status;
    }
    spares->spare = web;
    return 0;
}

int fl_spares_new(fl_spares **out, fl_server *server, unsigned apps)
{
    fl_spares *spares = calloc(1, sizeof(*spares));
    *out = spares;
    if (!spares) return UV_ENOMEM;
    spares->server = server;
    spares->apps = apps;
    spares->states = calloc(apps ? apps : 1, sizeof(*spares->states));
    if (!spares->states) {
        free(spares);
        *out = NULL;
        return UV_ENOMEM;
    }
    pthread_mutex_init(&spares->lock, NULL);
    return make(spares);
}

/* With the lock held. */
static void provide(fl_spares *spares, unsigned app)
{
    if (!spares->spare && make(spares) < 0) return;
    spares->states[app] = LOADING;
    fl_web_prepare_spare(spares->spare, app);
}

/* With the lock held: its loop would be long in taking a stuck thread's place. */
static bool is_busy(const fl_spares *spares)
{
    uint64_t turn;
    for (unsigned i = 0; i < spares->apps; i++)
        if (spares->states[i] == LOADING) return true;
    return spares->spare && fl_claim_look(&spares->spare->thread.claim, &turn) != FL_CLAIM_C;
}

bool fl_spares_ready(fl_spares *spares, unsigned app, bool *failed)
{
    pthread_mutex_lock(&spares->lock);
    if (spares->states[app] == UNKNOWN) provide(spares, app);
    bool ready = spares->states[app] == READY && !is_busy(spares);
    *failed = spares->states[app] == FAILED;
    pthread_mutex_unlock(&spares->lock);
    return ready;
}

/* One that has been sent meanwhile says nothing of its successor. */
static void set_state(fl_spares *spares, const fl_web *spare, unsigned app, app_state state)
{
    pthread_mutex_lock(&spares->lock);
    if (spares->spare == spare) spares->states[app] = state;
    pthread_mutex_unlock(&spares->lock);
}

void fl_spares_starting(fl_spares *spares, const fl_web *spare, unsigned app)
{
    set_state(spares, spare, app, STARTING);
}

void fl_spares_loaded(fl_spares *spares, const fl_web *spare, unsigned app, bool loaded)
{
    set_state(spares, spare, app, loaded ? READY : FAILED);
}

void fl_spares_send(fl_spares *spares, fl_web *stuck, const char *what)
{
    pthread_mutex_lock(&spares->lock);
    fl_web *spare = spares->spare;
    spares->spare = NULL;
    for (unsigned i = 0; i < spares->apps; i++) spares->states[i] = UNKNOWN;
    retired *entry = &((spare_web *)spare)->stuck;
    entry->web = stuck;
    entry->since = uv_hrtime();
    (void)snprintf(entry->what, sizeof(entry->what), "%s", what);
    entry->next = spares->list;
    spares->list = entry;
    pthread_mutex_unlock(&spares->lock);
    atomic_fetch_add(&spares->evacuations, 1);
    fl_web_take_place(spare, stuck);
    pthread_mutex_lock(&spares->lock);
    (void)make(spares); /* else when the next one is needed */
    pthread_mutex_unlock(&spares->lock);
}

void fl_spares_taken(fl_spares *spares, fl_web *spare, fl_web *stuck, int status,
                     const fl_evacuation *done)
{
    retired *entry = &((spare_web *)spare)->stuck;
    pthread_mutex_lock(&spares->lock);
    entry->taken = true;
    pthread_mutex_unlock(&spares->lock);
    fl_log *log = spare->thread.log;
    if (status < 0) {
        fl_log_printf(log, FL_LOG_ERROR, "web thread %u cannot be evacuated: %s",
                      stuck->thread.number, uv_strerror(status));
        fl_server_stuck(spares->server, "a thread that could not be evacuated");
        return;
    }
    fl_log_printf(log, FL_LOG_ERROR,
                  "evacuated web thread %u: %s; %u connections moved, %u requests run again, %u "
                  "answered with 503, %u cut, %u tasks lost; run_in_state is for what computes, "
                  "run_blocking for what blocks",
                  stuck->thread.number, entry->what, done->connections, done->replayed,
                  done->refused, done->cut, done->tasks);
}

static bool has_ended(retired *entry)
{
    if (!entry->ended) entry->ended = pthread_tryjoin_np(entry->web->thread.id, NULL) == 0;
    return entry->ended;
}

unsigned fl_spares_retired(fl_spares *spares, uint64_t now, uint64_t *longest)
{
    unsigned count = 0;
    *longest = 0;
    pthread_mutex_lock(&spares->lock);
    for (retired *entry = spares->list; entry; entry = entry->next) {
        if (has_ended(entry) && entry->taken) continue;
        count++;
        uint64_t age = now > entry->since ? now - entry->since : 0;
        if (age > *longest) *longest = age;
    }
    pthread_mutex_unlock(&spares->lock);
    return count;
}

bool fl_spares_has_parked(fl_spares *spares)
{
    pthread_mutex_lock(&spares->lock);
    bool has = spares->spare != NULL;
    pthread_mutex_unlock(&spares->lock);
    return has;
}

uint64_t fl_spares_evacuations(fl_spares *spares)
{
    return atomic_load(&spares->evacuations);
}

/* What its stop hooks wait for is done by the server's loop. */
static void join_spare(fl_spares *spares, fl_web *spare)
{
    while (pthread_tryjoin_np(spare->thread.id, NULL) != 0) {
        (void)uv_run(fl_server_loop(spares->server), UV_RUN_NOWAIT);
        uv_sleep(1);
    }
}

/* Its start hooks, which nobody watches, may never end. */
static bool is_making(fl_spares *spares)
{
    bool making = false;
    pthread_mutex_lock(&spares->lock);
    for (unsigned i = 0; i < spares->apps; i++)
        making |= spares->states[i] == LOADING || spares->states[i] == STARTING;
    pthread_mutex_unlock(&spares->lock);
    return making;
}

bool fl_spares_close(fl_spares *spares)
{
    if (spares->list || is_making(spares)) return false;
    fl_web *spare = spares->spare;
    if (spare) {
        fl_web_stop(spare);
        join_spare(spares, spare);
        fl_web_close(spare);
        free(spare); /* the first member of its spare_web */
    }
    pthread_mutex_destroy(&spares->lock);
    free(spares->states);
    free(spares);
    return true;
}
