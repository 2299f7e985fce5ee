#include "web.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "connection.h"
#include "evacuation.h"
#include "server.h"
#include "spares.h"

typedef enum { HELP = 1, LOOK_AGAIN = 2, DRAIN = 4, CLOSE_IDLE = 8, STOP = 16 } stroke;

/* How long the event at hand has waited since the poll returned it. When that stays above the bound
 * for as long as the bound, the thread has more work than it can do, and new requests are told at
 * once; from then on a tenth of the bound is enough to refuse, so that those which are taken are
 * answered soon, until nothing has been late for as long as the bound. A request that merely waits
 * for something costs no delay and is not counted. */
bool fl_web_overloaded(fl_web *web)
{
    uint64_t bound = web->thread.settings->queue_delay;
    uint64_t arrived = uv_now(&web->thread.loop) * 1000000;
    uint64_t delay = web->thread.now > arrived ? web->thread.now - arrived : 0;
    if (!bound) return false;
    if (delay < (web->shedding ? bound / 10 : bound)) {
        if (web->shedding && web->thread.now - web->last_late > bound) web->shedding = false;
        web->late_since = 0;
        return false;
    }
    web->last_late = web->thread.now;
    if (!web->late_since) web->late_since = web->thread.now;
    if (web->thread.now - web->late_since >= bound || delay >= 2 * bound) web->shedding = true;
    return web->shedding;
}

/* messages */

typedef struct fl_web_message {
    fl_message message;
    int fd;
} fl_web_message;

static void drop_message(fl_message *message)
{
    fl_web_message *self = (fl_web_message *)message;
    if (self->fd >= 0) close(self->fd);
    free(self);
}

/* false: not delivered; the descriptor is still the caller's. */
static bool post(fl_web *web, void (*deliver)(fl_message *, void *), int fd)
{
    fl_web_message *self = calloc(1, sizeof(*self));
    if (!self) return false;
    *self = (fl_web_message){.message = {.deliver = deliver, .drop = drop_message}, .fd = fd};
    if (fl_mailbox_post(web->thread.mailbox, &self->message) == 0) return true;
    free(self);
    return false;
}

void fl_web_cannot_accept(fl_web *web, int status)
{
    fl_log_printf(web->thread.log, FL_LOG_ERROR, "web thread %u cannot accept connections: %s",
                  web->thread.number, uv_strerror(status));
    fl_server_is_deaf(web->thread.server, web);
}

static void listen_here(fl_message *message, void *owner)
{
    fl_web *web = owner;
    int fd = ((fl_web_message *)message)->fd;
    free(message);
    int status = web->phase == FL_WEB_SERVING ? fl_listener_open(web, fd, false) : UV_ECANCELED;
    if (status == 0) return;
    if (web->own_listener == fd) web->own_listener = -1;
    if (status != UV_ECANCELED) fl_web_cannot_accept(web, status);
    close(fd);
}

bool fl_web_listen(fl_web *web, int fd)
{
    return post(web, listen_here, fd);
}

static void look_again(fl_web *web)
{
    if (web->phase == FL_WEB_DRAINING) fl_web_maybe_drained(web);
}

static void tell(fl_web *web, unsigned strokes)
{
    fl_bell_ring(&web->told, web->thread.mailbox, strokes);
}

static void connect_here(fl_message *message, void *owner)
{
    fl_web *web = owner;
    fl_connection_open(web, ((fl_web_message *)message)->fd);
    free(message);
    atomic_fetch_sub(&web->counts->arriving, 1);
    look_again(web);
}

/* Counted first and asked afterwards, as the other side says that it drains first and counts
 * afterwards: either this sees that it drains, or it waits for what arrives. */
bool fl_web_hand_over(fl_web *web, int fd)
{
    atomic_fetch_add(&web->counts->arriving, 1);
    if (!atomic_load(&web->counts->draining) && post(web, connect_here, fd)) return true;
    atomic_fetch_sub(&web->counts->arriving, 1);
    tell(web, LOOK_AGAIN); /* it may have seen the count meanwhile */
    return false;
}

/* On a copy of the descriptor: its owner may close the original at any time. */
static void start_helping(fl_web *web, int fd)
{
    int copy = web->phase == FL_WEB_SERVING ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (copy < 0) return;
    if (fl_listener_open(web, copy, true) < 0)
        close(copy);
    else
        web->listeners->helps_fd = fd;
}

/* It helps one at a time. */
static void help(fl_web *web, int fd)
{
    fl_listener *listener = web->listeners;
    while (listener && !listener->helping) listener = listener->next;
    if (listener && listener->helps_fd == fd) return;
    if (listener) fl_listener_close(listener);
    if (fd >= 0) start_helping(web, fd);
}

void fl_web_help_accept(fl_web *web, int fd)
{
    atomic_store(&web->help_fd, fd);
    tell(web, HELP);
}

static bool requests_ended(const fl_web *web)
{
    if (web->phase != FL_WEB_DRAINING || web->listeners || web->connections) return false;
    return web->thread.requests_alive == 0 && atomic_load(&web->counts->arriving) == 0;
}

/* What belongs to no request is told to end once the requests have. */
static bool tasks_ended(fl_web *web)
{
    bool ended = true;
    for (unsigned i = 0; i < web->thread.state_count; i++) {
        fl_state *state = web->thread.states[i];
        fl_task_cancel_list(state->own_tasks, "shutdown");
        ended &= state->live_tasks == 0;
    }
    return ended;
}

void fl_web_maybe_drained(fl_web *web)
{
    if (!requests_ended(web) || !tasks_ended(web)) return;
    web->phase = FL_WEB_ENDED;
    fl_server_drained(web->thread.server, web);
}

static void drain(fl_web *web, bool close_idle)
{
    web->closing_idle |= close_idle;
    if (web->phase == FL_WEB_ENDED) return;
    if (web->phase == FL_WEB_SERVING) {
        web->phase = FL_WEB_DRAINING;
        atomic_store(&web->counts->draining, true);
        web->thread.draining = true;
        fl_thread_tick(&web->thread);
        web->own_listener = -1;
        while (web->listeners) {
            fl_listener *listener = web->listeners;
            if (!listener->helping && web->closing_idle) fl_listener_drain(listener);
            fl_listener_close(listener);
        }
        fl_server_closed(web->thread.server, web);
    }
    for (fl_connection *c = web->connections, *next; c && web->closing_idle; c = next) {
        next = c->next;
        if (fl_connection_is_idle(c) && c->served) fl_connection_close(c);
    }
    fl_web_maybe_drained(web);
}

void fl_web_drain(fl_web *web, bool close_idle)
{
    tell(web, close_idle ? DRAIN | CLOSE_IDLE : DRAIN);
}

void fl_web_stop(fl_web *web)
{
    tell(web, STOP);
}

/* Who hears it may have taken the place of the one that was told, and with it what that one was
 * to help; what it has been told itself since then is newer. */
static void heard(fl_bell *bell, unsigned strokes, void *owner)
{
    (void)bell;
    fl_web *web = owner;
    if (strokes & HELP) help(web, atomic_load(&web->help_fd));
    if (strokes & LOOK_AGAIN) look_again(web);
    if (strokes & DRAIN) drain(web, strokes & CLOSE_IDLE);
    if (strokes & STOP) uv_stop(&web->thread.loop);
}

/* hooks */

static void begin_start(fl_web *web, const char *what)
{
    atomic_store_explicit(&web->start, what, memory_order_relaxed);
}

static void end_start(fl_web *web)
{
    begin_start(web, NULL);
    fl_server_loaded(web->thread.server, web, NULL);
}

static void start_hook_ended(fl_task *task, int status, int results)
{
    (void)results;
    fl_web *web = (fl_web *)task->state->thread;
    if (status != 0) {
        fl_task_log_error(task, "a start hook failed");
        fl_server_loaded(web->thread.server, web, "a start hook failed (see the log)");
    }
    if (--web->thread.starting == 0 && status == 0) end_start(web);
}

/* Starts a hook's task; false: there is none. */
static bool run_hook(fl_web *web, fl_state *state, int hook, fl_task_ended ended)
{
    fl_task *task = hook == LUA_NOREF ? NULL : fl_task_new(state, NULL, ended);
    if (!task) return false;
    web->thread.starting++;
    lua_rawgeti(task->co, LUA_REGISTRYINDEX, hook);
    fl_task_ready(task, 0);
    return true;
}

static void run_hooks(fl_web *web, bool stopping, fl_task_ended ended)
{
    for (unsigned i = 0; i < web->thread.state_count; i++) {
        fl_state *state = web->thread.states[i];
        if (state) (void)run_hook(web, state, stopping ? state->stop : state->start, ended);
    }
}

static void stop_hook_ended(fl_task *task, int status, int results)
{
    (void)results;
    fl_web *web = (fl_web *)task->state->thread;
    if (status != 0) fl_task_log_error(task, "a stop hook failed");
    if (--web->thread.starting == 0) uv_stop(&web->thread.loop);
}

/* the thread */

static int load_states(fl_web *web, char *error, size_t error_size)
{
    fl_thread *thread = &web->thread;
    size_t count = thread->settings->app_count;
    thread->states = calloc(count ? count : 1, sizeof(*thread->states));
    if (!thread->states) return UV_ENOMEM;
    thread->state_count = (unsigned)count;
    for (size_t i = 0; i < count; i++) {
        const fl_app_place *app = fl_server_app(thread->server, i);
        int status = fl_state_new(&thread->states[i], thread, app, error, error_size);
        if (status < 0) return status;
    }
    return 0;
}

static void finish(fl_web *web)
{
    fl_thread *thread = &web->thread;
    thread->starting = 0;
    run_hooks(web, true, stop_hook_ended);
    if (thread->starting) uv_run(&thread->loop, UV_RUN_DEFAULT);
    while (web->connections) {
        fl_connection_close(web->connections);
        uv_run(&thread->loop, UV_RUN_NOWAIT);
    }
    fl_thread_end_loop(thread);
}

/* spare */

struct fl_spare_letter {
    fl_message message;
    unsigned app;
    fl_web *stuck;
};

static fl_spares *spares_of(const fl_web *web)
{
    return fl_server_spares(web->thread.server);
}

static void spare_hook_ended(fl_task *task, int status, int results)
{
    (void)results;
    fl_web *web = (fl_web *)task->state->thread;
    if (status != 0) fl_task_log_error(task, "a start hook failed in a spare state");
    if (web->thread.is_spare) web->thread.starting--; /* else nobody waits for it any more */
    fl_spares_loaded(spares_of(web), web, task->state->number, status == 0);
}

static void load_spare(fl_web *web, unsigned app)
{
    char error[1024] = "not enough memory";
    fl_thread *thread = &web->thread;
    fl_state **place = &thread->states[app];
    int status = *place ? 0
                        : fl_state_new(place, thread, fl_server_app(thread->server, app), error,
                                       sizeof(error));
    if (status < 0) {
        fl_log_printf(thread->log, FL_LOG_ERROR, "a spare state cannot be made: %s", error);
        if (*place) fl_thread_discard_state(thread, app);
        fl_spares_loaded(spares_of(web), web, app, false);
    } else if (!run_hook(web, *place, (*place)->start, spare_hook_ended)) {
        fl_spares_loaded(spares_of(web), web, app, true);
    } else {
        fl_spares_starting(spares_of(web), web, app);
    }
}

static void *run_spare(void *data)
{
    fl_web *web = data;
    fl_thread_begin(&web->thread);
    web->phase = FL_WEB_SERVING;
    uv_run(&web->thread.loop, UV_RUN_DEFAULT);
    bool took_place = !web->thread.is_spare;
    finish(web);
    if (took_place) fl_server_ended(web->thread.server, web);
    return NULL;
}

static void prepare_here(fl_message *message, void *owner)
{
    load_spare(owner, ((fl_spare_letter *)message)->app);
}

void fl_web_prepare_spare(fl_web *spare, unsigned app)
{
    (void)fl_mailbox_post(spare->thread.mailbox, &spare->letters[app].message);
}

static void take_place_here(fl_message *message, void *owner)
{
    fl_web *web = owner, *stuck = ((fl_spare_letter *)message)->stuck;
    fl_evacuation done;
    int status = fl_evacuate(web, stuck, &done);
    fl_spares_taken(spares_of(web), web, stuck, status, &done);
    if (status == 0) fl_web_maybe_drained(web);
}

void fl_web_take_place(fl_web *spare, fl_web *stuck)
{
    fl_spare_letter *letter = &spare->letters[spare->thread.state_count];
    letter->stuck = stuck;
    (void)fl_mailbox_post(spare->thread.mailbox, &letter->message);
}

static void drop_letter(fl_message *message)
{
    (void)message;
}

/* One for each app, and one more to take a place. */
static int make_letters(fl_web *spare, unsigned apps)
{
    spare->letters = calloc(apps + 1u, sizeof(*spare->letters));
    if (!spare->letters) return UV_ENOMEM;
    for (unsigned i = 0; i <= apps; i++) {
        spare->letters[i].message.deliver = i < apps ? prepare_here : take_place_here;
        spare->letters[i].message.drop = drop_letter;
        spare->letters[i].app = i;
    }
    return 0;
}

static void *run_thread(void *data)
{
    fl_web *web = data;
    fl_thread *thread = &web->thread;
    char error[2048] = "not enough memory";
    fl_thread_begin(thread);
    begin_start(web, "the loading of the apps");
    if (load_states(web, error, sizeof(error)) < 0) {
        fl_server_loaded(thread->server, web, error);
    } else {
        web->phase = FL_WEB_SERVING;
        begin_start(web, "a start hook");
        run_hooks(web, false, start_hook_ended);
        if (!thread->starting) end_start(web);
    }
    uv_run(&thread->loop, UV_RUN_DEFAULT);
    finish(web);
    fl_server_ended(thread->server, web);
    return NULL;
}

static void something_ended(fl_thread *thread)
{
    fl_web_maybe_drained((fl_web *)thread);
}

int fl_web_init(fl_web *web)
{
    fl_thread *thread = &web->thread;
    thread->timing = thread->settings->access_log || thread->settings->admin[0];
    thread->ended = something_ended;
    web->counts = &web->own_counts;
    fl_bell_init(&web->told, heard);
    fl_server_will_hear(web);
    web->help_fd = -1;
    web->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    web->read_buffer = malloc(FL_READ_BUFFER);
    int status = web->read_buffer ? fl_thread_init(thread, web) : UV_ENOMEM;
    if (status < 0) return status;
    /* libuv opens its spare descriptor with a loop's first stream: have it now, so that no later
     * connection seems to leak one. */
    uv_tcp_init(&thread->loop, &web->first_stream);
    uv_close((uv_handle_t *)&web->first_stream, NULL);
    uv_idle_init(&thread->loop, &web->go_on);
    return 0;
}

int fl_web_start(fl_web *web)
{
    return fl_thread_start(&web->thread, run_thread, web);
}

int fl_web_start_spare(fl_web *web)
{
    size_t count = web->thread.settings->app_count;
    web->thread.is_spare = true;
    web->thread.states = calloc(count ? count : 1, sizeof(*web->thread.states));
    if (!web->thread.states) return UV_ENOMEM;
    web->thread.state_count = (unsigned)count;
    int status = make_letters(web, web->thread.state_count);
    return status < 0 ? status : fl_thread_start(&web->thread, run_spare, web);
}

void fl_web_join(fl_web *web)
{
    fl_thread_join(&web->thread);
}

void fl_web_close(fl_web *web)
{
    fl_thread_close(&web->thread);
    free(web->read_buffer);
    free(web->letters);
    close(web->spare_fd);
}
