#include "server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server_inside.h"
#include "thread.h"
#include "web.h"

/* what the web threads say, each of it once */

typedef enum { LOADED = 1, CLOSED = 2, DRAINED = 4, ENDED = 8, DEAF = 16 } stroke;

static void say(fl_server *server, fl_web *web, stroke what)
{
    fl_bell_ring(&web->says, server->mailbox, what);
}

static void web_loaded(fl_server *server, const fl_web *web)
{
    if (web->failure[0]) {
        fl_server_say(FL_CONTROL_FAILED, web->failure);
        fl_server_leave(server, FL_SERVER_START_FAILED);
    }
    if (++server->loaded < server->web_count) return;
    server->phase = FL_SERVER_LISTENING;
    fl_server_say(FL_CONTROL_LOADED, "");
}

void fl_server_loaded(fl_server *server, fl_web *web, const char *error)
{
    if (web->failure[0]) return;
    if (error) (void)snprintf(web->failure, sizeof(web->failure), "%s", error);
    say(server, web, LOADED);
}

static void web_closed(fl_server *server)
{
    if (++server->closed == server->web_count) fl_server_say(FL_CONTROL_CLOSED, "");
}

void fl_server_closed(fl_server *server, fl_web *web)
{
    say(server, web, CLOSED);
}

static void end(fl_server *server)
{
    server->phase = FL_SERVER_ENDING; /* the drain timer runs on: a stop hook may hang */
    for (unsigned i = 0; i < server->web_count; i++) fl_web_stop(fl_server_web(server, i));
}

static void web_drained(fl_server *server)
{
    if (++server->drained == server->web_count) end(server);
}

void fl_server_drained(fl_server *server, fl_web *web)
{
    say(server, web, DRAINED);
}

/* Until then the loop serves what stop hooks and cancelled ops need: their programs run on it. */
static void web_ended(fl_server *server)
{
    if (++server->ended == server->web_count) uv_stop(&server->loop);
}

void fl_server_ended(fl_server *server, fl_web *web)
{
    say(server, web, ENDED);
}

/* Who has heard READY already is asked for another process. */
static void web_is_deaf(fl_server *server)
{
    static const char what[] = "a web thread that cannot accept connections";
    if (server->phase == FL_SERVER_SERVING) fl_server_stuck(server, what);
    if (server->phase != FL_SERVER_LISTENING) return;
    fl_server_say(FL_CONTROL_FAILED, what);
    fl_server_leave(server, FL_SERVER_START_FAILED);
}

void fl_server_is_deaf(fl_server *server, fl_web *web)
{
    say(server, web, DEAF);
}

static void heard(fl_bell *bell, unsigned strokes, void *owner)
{
    const fl_web *web = (fl_web *)((char *)bell - offsetof(fl_web, says));
    if (strokes & LOADED) web_loaded(owner, web);
    if (strokes & DEAF) web_is_deaf(owner);
    if (strokes & CLOSED) web_closed(owner);
    if (strokes & DRAINED) web_drained(owner);
    if (strokes & ENDED) web_ended(owner);
}

void fl_server_will_hear(fl_web *web)
{
    fl_bell_init(&web->says, heard);
}

void fl_server_stuck(fl_server *server, const char *what)
{
    (void)server;
    fl_server_say(FL_CONTROL_STUCK, what);
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

fl_quota *fl_server_quota(fl_server *server)
{
    return server->quota;
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
