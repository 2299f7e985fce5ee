#include "web.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "connection.h"
#include "router_path.h"
#include "server.h"

#define STACK_BYTES (8u << 20) /* C recursion under Lua is guarded by depth; leave it room */
#define CLOSE_TURNS 2000       /* ms that ending ops may take when a thread closes */

void fl_web_tick(fl_web *web)
{
    web->now = uv_hrtime();
}

const char *fl_web_date(fl_web *web)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec != web->date_second) {
        struct tm parts;
        web->date_second = now.tv_sec;
        gmtime_r(&now.tv_sec, &parts);
        (void)strftime(web->date, sizeof(web->date), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    }
    return web->date;
}

static void alarm_rings(uv_timer_t *alarm);

/* One uv timer stands for the whole wheel; it is only moved when something fires earlier. */
static void set_alarm(fl_web *web)
{
    uint64_t next = fl_wheel_next(&web->wheel);
    if (next == UINT64_MAX || next >= web->alarm_at) return;
    uint64_t now = uv_now(&web->loop);
    web->alarm_at = next;
    uv_timer_start(&web->alarm, alarm_rings, next > now ? next - now : 0, 0);
}

static void alarm_rings(uv_timer_t *alarm)
{
    fl_web *web = alarm->data;
    web->alarm_at = UINT64_MAX;
    fl_wheel_advance(&web->wheel, uv_now(&web->loop));
    set_alarm(web);
}

void fl_web_start_deadline(fl_web *web, fl_deadline *deadline, uint64_t milliseconds,
                           fl_deadline_callback callback)
{
    uint64_t at = uv_now(&web->loop) + milliseconds;
    fl_deadline_start(&web->wheel, deadline, at, callback);
    if (at < web->alarm_at) set_alarm(web);
}

static void idle_turn(uv_idle_t *idle)
{
    (void)idle; /* its being active is enough: the loop does not sleep */
}

void fl_web_task_ready(fl_web *web)
{
    uv_idle_start(&web->idle, idle_turn);
}

static void run_ready(fl_web *web)
{
    bool left = false;
    if (!uv_is_active((uv_handle_t *)&web->idle)) return;
    fl_web_tick(web);
    for (unsigned i = 0; i < web->state_count; i++) {
        left |= fl_task_run_ready(&web->states[i]);
        fl_state_safe_point(&web->states[i]);
    }
    if (!left) uv_idle_stop(&web->idle);
}

static void tell_again(fl_deadline *deadline)
{
    (void)deadline; /* that the loop turned is enough */
}

static void note_turn(fl_web *web)
{
    uint64_t now = uv_hrtime() / 1000000;
    uint64_t length = now > web->turn_began ? now - web->turn_began : 0;
    if (length > web->longest_turn) web->longest_turn = length;
    if (now - web->lag_second < 1000) return;
    atomic_store_explicit(&web->metrics->loop_lag, web->longest_turn * 1000000,
                          memory_order_relaxed);
    size_t bytes = 0;
    for (unsigned i = 0; i < web->state_count; i++) bytes += web->states[i].memory.used;
    uint64_t told = atomic_load_explicit(&web->metrics->lua_bytes, memory_order_relaxed);
    atomic_store_explicit(&web->metrics->lua_bytes, bytes, memory_order_relaxed);
    if (web->longest_turn || told != bytes) /* once more, should the loop fall idle now */
        fl_web_start_deadline(web, &web->tell_again, 1000, tell_again);
    web->longest_turn = 0;
    web->lag_second = now;
}

/* Before the loop sleeps: what timers made ready. */
static void before_poll(uv_prepare_t *prepare)
{
    fl_web *web = prepare->data;
    run_ready(web);
    note_turn(web);
}

/* After the sockets' events: what they made ready. uv_now is when the poll returned. */
static void after_poll(uv_check_t *check)
{
    fl_web *web = check->data;
    run_ready(web);
    for (unsigned i = 0; i < web->state_count; i++) fl_state_safe_point(&web->states[i]);
    web->turn_began = uv_now(&web->loop);
}

/* How long the event at hand has waited since the poll returned it. When that stays above the bound
 * for as long as the bound, the thread has more work than it can do, and new requests are told at
 * once; from then on a tenth of the bound is enough to refuse, so that those which are taken are
 * answered soon, until nothing has been late for as long as the bound. A request that merely waits
 * for something costs no delay and is not counted. */
bool fl_web_overloaded(fl_web *web)
{
    uint64_t bound = web->settings->queue_delay;
    uint64_t arrived = uv_now(&web->loop) * 1000000;
    uint64_t delay = web->now > arrived ? web->now - arrived : 0;
    if (!bound) return false;
    if (delay < (web->shedding ? bound / 10 : bound)) {
        if (web->shedding && web->now - web->last_late > bound) web->shedding = false;
        web->late_since = 0;
        return false;
    }
    web->last_late = web->now;
    if (!web->late_since) web->late_since = web->now;
    if (web->now - web->late_since >= bound || delay >= 2 * bound) web->shedding = true;
    return web->shedding;
}

static bool has_prefix(fl_slice path, fl_slice prefix, fl_slice *rest)
{
    size_t size = prefix.size;
    if (path.size < size || (size && memcmp(path.data, prefix.data, size) != 0)) return false;
    if (path.size > size && path.data[size] != '/') return false;
    *rest = fl_slice_of(path.data + size, path.size - size);
    return true;
}

/* The path with its dot segments resolved and its escapes in one form, in the scratch buffer; room
 * is made so that what the router appends does not move it. */
static fl_slice resolve(fl_web *web, fl_slice path)
{
    fl_router_path split;
    web->scratch.size = 0;
    if (!fl_buffer_room(&web->scratch, 8 * path.size + 64)) return path;
    if (fl_router_path_split(&split, path, &web->scratch) != FL_ROUTE_FOUND) return path;
    fl_slice resolved = fl_router_path_write(&split, path.size, &web->scratch);
    return resolved.size ? resolved : path;
}

static bool is_plain(fl_slice path)
{
    for (size_t i = 0; i < path.size; i++)
        if (path.data[i] == '%' ||
            (path.data[i] == '/' && i + 1 < path.size && path.data[i + 1] == '.'))
            return false;
    return true;
}

fl_state *fl_web_mount(fl_web *web, fl_slice path, fl_slice *rest)
{
    web->scratch.size = 0;
    if (web->state_count && web->states[0].prefix.size && !is_plain(path))
        path = resolve(web, path);
    for (unsigned i = 0; i < web->state_count; i++) /* longest prefix first */
        if (has_prefix(path, web->states[i].prefix, rest)) return &web->states[i];
    return NULL;
}

/* messages */

typedef struct fl_web_message {
    fl_message message;
    int fd;
    bool flag;
} fl_web_message;

static void drop_message(fl_message *message)
{
    fl_web_message *self = (fl_web_message *)message;
    if (self->fd >= 0) close(self->fd);
    free(self);
}

/* false: not delivered; the descriptor is still the caller's. */
static bool post(fl_web *web, void (*deliver)(fl_message *, void *), int fd, bool flag)
{
    fl_web_message *self = calloc(1, sizeof(*self));
    if (!self) return false;
    *self = (fl_web_message){
        .message = {.deliver = deliver, .drop = drop_message}, .fd = fd, .flag = flag};
    if (fl_mailbox_post(web->mailbox, &self->message) == 0) return true;
    free(self);
    return false;
}

static void listen_here(fl_message *message, void *owner)
{
    fl_web *web = owner;
    fl_web_message *self = (fl_web_message *)message;
    if (fl_listener_open(web, self->fd, false) < 0) close(self->fd);
    free(self);
}

void fl_web_listen(fl_web *web, int fd)
{
    if (!post(web, listen_here, fd, false)) close(fd);
}

static void look_again(fl_message *message, void *owner)
{
    fl_web *web = owner;
    free(message);
    if (web->phase == FL_WEB_DRAINING) fl_web_maybe_drained(web);
}

static void connect_here(fl_message *message, void *owner)
{
    fl_web *web = owner;
    fl_connection_open(web, ((fl_web_message *)message)->fd);
    atomic_fetch_sub(&web->arriving, 1);
    look_again(message, owner);
}

/* Counted first and asked afterwards, as the other side says that it drains first and counts
 * afterwards: either this sees that it drains, or it waits for what arrives. */
bool fl_web_hand_over(fl_web *web, int fd)
{
    atomic_fetch_add(&web->arriving, 1);
    if (!atomic_load(&web->draining) && post(web, connect_here, fd, false)) return true;
    atomic_fetch_sub(&web->arriving, 1);
    (void)post(web, look_again, -1, false); /* it may have seen the count meanwhile */
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

static void stop_helping(fl_web *web, int fd)
{
    for (fl_listener *listener = web->listeners; listener; listener = listener->next) {
        if (!listener->helping || listener->helps_fd != fd) continue;
        fl_listener_close(listener);
        return;
    }
}

static void help(fl_message *message, void *owner)
{
    fl_web *web = owner;
    fl_web_message *self = (fl_web_message *)message;
    if (self->flag)
        start_helping(web, self->fd);
    else
        stop_helping(web, self->fd);
    free(self);
}

void fl_web_help_accept(fl_web *web, int fd, bool start)
{
    fl_web_message *self = calloc(1, sizeof(*self));
    if (!self) return;
    *self = (fl_web_message){.message = {.deliver = help, .drop = (void (*)(fl_message *))free},
                             .fd = fd,
                             .flag = start};
    if (fl_mailbox_post(web->mailbox, &self->message) < 0) free(self);
}

static bool requests_ended(const fl_web *web)
{
    if (web->phase != FL_WEB_DRAINING || web->listeners || web->connections) return false;
    return web->requests_alive == 0 && atomic_load(&web->arriving) == 0;
}

/* What belongs to no request is told to end once the requests have. */
static bool tasks_ended(fl_web *web)
{
    bool ended = true;
    for (unsigned i = 0; i < web->state_count; i++) {
        fl_task_cancel_list(web->states[i].own_tasks, "shutdown");
        ended &= web->states[i].live_tasks == 0;
    }
    return ended;
}

void fl_web_maybe_drained(fl_web *web)
{
    if (!requests_ended(web) || !tasks_ended(web)) return;
    web->phase = FL_WEB_ENDED;
    fl_server_drained(web->server, web);
}

static void drain_here(fl_message *message, void *owner)
{
    fl_web *web = owner;
    web->closing_idle |= ((fl_web_message *)message)->flag;
    free(message);
    if (web->phase == FL_WEB_ENDED) return;
    if (web->phase == FL_WEB_SERVING) {
        web->phase = FL_WEB_DRAINING;
        atomic_store(&web->draining, true);
        fl_web_tick(web);
        while (web->listeners) {
            fl_listener *listener = web->listeners;
            if (!listener->helping && web->closing_idle) fl_listener_drain(listener);
            fl_listener_close(listener);
        }
        fl_server_closed(web->server);
    }
    for (fl_connection *c = web->connections, *next; c && web->closing_idle; c = next) {
        next = c->next;
        if (fl_connection_is_idle(c) && c->served) fl_connection_close(c);
    }
    fl_web_maybe_drained(web);
}

void fl_web_drain(fl_web *web, bool close_idle)
{
    (void)post(web, drain_here, -1, close_idle);
}

static void stop_loop(fl_message *message, void *owner)
{
    fl_web *web = owner;
    free(message);
    uv_stop(&web->loop);
}

void fl_web_stop(fl_web *web)
{
    (void)post(web, stop_loop, -1, false);
}

/* hooks */

static void start_hook_ended(fl_task *task, int status, int results)
{
    (void)results;
    fl_web *web = task->state->web;
    if (status != 0) {
        fl_task_log_error(task, "a start hook failed");
        fl_server_loaded(web->server, web, "a start hook failed (see the log)");
    }
    if (--web->starting == 0 && status == 0) fl_server_loaded(web->server, web, NULL);
}

static void run_hooks(fl_web *web, bool stopping, fl_task_ended ended)
{
    for (unsigned i = 0; i < web->state_count; i++) {
        fl_state *state = &web->states[i];
        int hook = stopping ? state->stop : state->start;
        fl_task *task = hook == LUA_NOREF ? NULL : fl_task_new(state, NULL, ended);
        if (!task) continue;
        web->starting++;
        lua_rawgeti(task->co, LUA_REGISTRYINDEX, hook);
        fl_task_ready(task, 0);
    }
}

static void stop_hook_ended(fl_task *task, int status, int results)
{
    (void)results;
    fl_web *web = task->state->web;
    if (status != 0) fl_task_log_error(task, "a stop hook failed");
    if (--web->starting == 0) uv_stop(&web->loop);
}

/* the thread */

static int load_states(fl_web *web, char *error, size_t error_size)
{
    const fl_settings *settings = web->settings;
    web->states = calloc(settings->app_count, sizeof(*web->states));
    if (!web->states) return UV_ENOMEM;
    for (size_t i = 0; i < settings->app_count; i++) {
        web->state_count = (unsigned)i + 1;
        int status =
            fl_state_open(&web->states[i], web, fl_server_app(web->server, i), error, error_size);
        if (status < 0) return status;
    }
    return 0;
}

static void close_states(fl_web *web)
{
    for (unsigned i = 0; i < web->state_count; i++) fl_op_cancel_all(&web->states[i]);
    uint64_t until = uv_hrtime() / 1000000 + CLOSE_TURNS;
    bool pending = true;
    while (pending && uv_hrtime() / 1000000 < until) {
        pending = false;
        for (unsigned i = 0; i < web->state_count; i++) pending |= web->states[i].ops != NULL;
        if (pending) uv_run(&web->loop, UV_RUN_ONCE);
    }
    for (unsigned i = 0; i < web->state_count; i++) fl_state_close(&web->states[i]);
}

static void close_walked(uv_handle_t *handle, void *data)
{
    (void)data;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

static void finish(fl_web *web)
{
    web->starting = 0;
    run_hooks(web, true, stop_hook_ended);
    if (web->starting) uv_run(&web->loop, UV_RUN_DEFAULT);
    while (web->connections) {
        fl_connection_close(web->connections);
        uv_run(&web->loop, UV_RUN_NOWAIT);
    }
    close_states(web);
    fl_mailbox_close(web->mailbox);
    uv_walk(&web->loop, close_walked, NULL);
    uv_run(&web->loop, UV_RUN_DEFAULT);
}

static void *run_thread(void *data)
{
    fl_web *web = data;
    char error[2048] = "not enough memory";
    atomic_store(&web->tid, (int)syscall(SYS_gettid));
    pthread_getcpuclockid(pthread_self(), &web->cpu_clock);
    uv_update_time(&web->loop);
    fl_wheel_init(&web->wheel, uv_now(&web->loop));
    web->turn_began = web->lag_second = uv_now(&web->loop);
    fl_web_tick(web);
    if (load_states(web, error, sizeof(error)) < 0) {
        fl_server_loaded(web->server, web, error);
    } else {
        web->phase = FL_WEB_SERVING;
        run_hooks(web, false, start_hook_ended);
        if (!web->starting) fl_server_loaded(web->server, web, NULL);
    }
    uv_run(&web->loop, UV_RUN_DEFAULT);
    finish(web);
    fl_server_ended(web->server);
    return NULL;
}

static int init_handles(fl_web *web)
{
    int status = uv_loop_init(&web->loop);
    if (status < 0) return status;
    uv_timer_init(&web->loop, &web->alarm);
    uv_prepare_init(&web->loop, &web->prepare);
    uv_check_init(&web->loop, &web->check);
    uv_idle_init(&web->loop, &web->idle);
    web->alarm.data = web->prepare.data = web->check.data = web->idle.data = web;
    /* libuv opens its spare descriptor with a loop's first stream: have it now, so that no later
     * connection seems to leak one. */
    uv_tcp_init(&web->loop, &web->first_stream);
    uv_close((uv_handle_t *)&web->first_stream, NULL);
    uv_prepare_start(&web->prepare, before_poll);
    uv_check_start(&web->check, after_poll);
    status = fl_mailbox_new(&web->mailbox, &web->loop, web);
    if (status == 0) fl_mailbox_hold(web->mailbox); /* others may post until fl_web_close */
    return status;
}

int fl_web_init(fl_web *web, fl_server *server, unsigned number)
{
    web->server = server;
    web->number = number;
    web->alarm_at = UINT64_MAX;
    web->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    web->read_buffer = malloc(FL_READ_BUFFER);
    web->timing = web->settings->access_log || web->settings->admin[0];
    return web->read_buffer ? init_handles(web) : UV_ENOMEM;
}

int fl_web_start(fl_web *web)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int error = pthread_create(&web->thread, &attributes, run_thread, web);
    pthread_attr_destroy(&attributes);
    return -error;
}

void fl_web_join(fl_web *web)
{
    pthread_join(web->thread, NULL);
}

static void free_requests(fl_web *web)
{
    while (web->free_requests) {
        fl_request *request = web->free_requests;
        web->free_requests = request->next;
        fl_buffer_close(&request->head);
        fl_buffer_close(&request->body_kept);
        fl_buffer_close(&request->trailers);
        fl_buffer_close(&request->extra);
        free(request);
    }
    fl_slots_close(&web->request_slots);
}

void fl_web_close(fl_web *web)
{
    uv_loop_close(&web->loop);
    fl_mailbox_release(web->mailbox);
    free_requests(web);
    fl_buffer_close(&web->out);
    fl_buffer_close(&web->scratch);
    free(web->states);
    free(web->read_buffer);
    close(web->spare_fd);
}
