/* Phases: IDLE → ASKED (the message is under way) → RUNNING (LuaJIT samples) → IDLE, or → LOST for
 * good when the state was given up. A message that comes too late finds another `turn`.
 *
 * LuaJIT's handler of SIGPROF is called by ours, which looks first whether the thread is in the
 * Lua of that state. So no hook is set while something else runs, to be counted against what runs
 * next; and no signal that comes late ends the process. LuaJIT marks what it compiles while it
 * samples, line by line: machine code is made anew at the start and at the end.
 *
 * Left out: other threads than web threads; several profiles at a time; wall-clock time. */
#include "profile.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <lua.h>
#include <luajit.h>

#include "definitions.h"
#include "profile_order.h"
#include "samples.h"
#include "server.h"
#include "web.h"

#define FRAMES_MOST 64
#define NAME_MOST 60
#define PATH_MOST 220
#define TITLE_MOST 512
#define FRAME_SIZE (NAME_MOST + PATH_MOST + 24)
#define STACK_SIZE (TITLE_MOST + FRAMES_MOST * FRAME_SIZE + 64)
#define MARK '\001'
#define PATIENCE_MS 5000 /* beyond the profile's time, for a thread that does not answer */
#define MODE "li1000000" /* by lines; the interval of LuaJIT's own timer, which is stopped */

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

typedef enum { PROFILE_IDLE, PROFILE_ASKED, PROFILE_RUNNING, PROFILE_LOST } profile_phase;

struct fl_profiler {
    fl_server *server;
    fl_profile_told told;
    const char *home;    /* the installation */
    uv_timer_t patience; /* on the housekeeping loop */
    fl_deadline end;     /* on the state's thread */
    timer_t timer;
    void (*trigger)(int number);   /* LuaJIT's handler */
    _Atomic(fl_thread *) thread;   /* of the state that is sampled; read by signals */
    _Atomic(lua_State *) inside;   /* its main coroutine; NULL: nothing is sampled */
    _Atomic uint64_t core, others; /* samples outside of its Lua */

    uv_mutex_t mutex; /* guards all below: a thread that was given up may still take a sample */
    profile_phase phase;
    uint64_t turn, ticket;
    bool is_awaited;
    fl_profile_order order;
    unsigned app;
    fl_state *state;
    uint64_t kinds[5]; /* samples by what the VM did: see kind_letters */
    fl_samples samples;
};

static const char kind_letters[] = "NICGJ";
static const char *const kind_frames[] = {"", "", ";[C]", ";[garbage collection]", ";[compiling]"};

/* The stack of a sample. Frames of Lua functions are recorded as name MARK file MARK line, and made
 * readable once all have been taken. */

/* What separates frames, their parts and lines is in none of the names. */
static size_t put_text(char *stack, size_t at, const char *text, size_t most)
{
    for (size_t i = 0; text[i] && i < most && at < STACK_SIZE; i++) {
        bool separates = text[i] == ';' || text[i] == 127 || (text[i] >= 0 && text[i] < ' ');
        stack[at++] = separates ? '?' : text[i];
    }
    return at;
}

static size_t put_frame(char *stack, size_t at, const lua_Debug *frame)
{
    const char *name = frame->name ? frame->name : "";
    bool is_file = *frame->source == '@';
    if (*frame->what == 'C') return put_text(stack, at, frame->name ? name : "[C]", NAME_MOST);
    if (*frame->what == 'm') name = "(main chunk)";
    at = put_text(stack, at, name, NAME_MOST);
    stack[at++] = MARK;
    at = put_text(stack, at, is_file ? frame->source + 1 : frame->short_src, PATH_MOST);
    return at + (size_t)snprintf(stack + at, 16, "%c%d", MARK, frame->linedefined);
}

static int count_frames(lua_State *L)
{
    lua_Debug frame;
    int count = 0;
    while (count < FRAMES_MOST && lua_getstack(L, count, &frame)) count++;
    return count;
}

static const char *describe_task(const fl_task *task)
{
    if (!task || !task->request) return "[background]";
    return task->request->route ? task->request->route->title : "[no route]";
}

/* Reads frames only: nothing is pushed and nothing allocated, which a hook of this kind must not.
 */
static fl_slice describe_stack(const fl_state *state, lua_State *L, size_t kind, char *stack)
{
    lua_Debug frame;
    int count = count_frames(L);
    size_t at = put_text(stack, 0, describe_task(state->running), TITLE_MOST);
    if (count == FRAMES_MOST) at += (size_t)snprintf(stack + at, 16, ";[deeper]");
    while (count-- > 0) {
        if (!lua_getstack(L, count, &frame) || !lua_getinfo(L, "nS", &frame)) continue;
        stack[at++] = ';';
        at = put_frame(stack, at, &frame);
    }
    return fl_slice_of(stack, at + (size_t)snprintf(stack + at, 32, "%s", kind_frames[kind]));
}

/* LuaJIT calls this in the state's thread, between two instructions. */
static void take_sample(void *data, lua_State *L, int samples, int vmstate)
{
    fl_profiler *profiler = data;
    if (!atomic_load(&profiler->inside)) return;
    char stack[STACK_SIZE];
    const fl_state *state = fl_state_of(L);
    const char *letter = memchr(kind_letters, vmstate, sizeof(kind_letters) - 1);
    size_t kind = letter ? (size_t)(letter - kind_letters) : 1;
    fl_slice text = describe_stack(state, L, kind, stack);
    uv_mutex_lock(&profiler->mutex);
    if (atomic_load(&profiler->inside) && profiler->state == state) {
        fl_samples_add(&profiler->samples, text, (uint64_t)samples);
        profiler->kinds[kind] += (uint64_t)samples;
    }
    uv_mutex_unlock(&profiler->mutex);
}

/* The signal */

/* On the profiled thread. The claim's count is odd during a turn of Lua. */
static void signalled(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_code != SI_TIMER || !info->si_value.sival_ptr) return;
    int kept = errno;
    fl_profiler *profiler = info->si_value.sival_ptr;
    fl_thread *thread = atomic_load(&profiler->thread);
    lua_State *wanted = atomic_load(&profiler->inside);
    if (wanted && atomic_load(&thread->tid) == (int)syscall(SYS_gettid)) {
        lua_State *inside = atomic_load(&thread->interruption.inside);
        if (thread->claim.turn % 2 == 0)
            atomic_fetch_add(&profiler->core, 1);
        else if (inside != wanted)
            atomic_fetch_add(&profiler->others, 1);
        else
            profiler->trigger(number);
    }
    errno = kept;
}

/* Interruptions set hooks as well (interruption.h): one after the other. */
static void fill_action(struct sigaction *action)
{
    *action = (struct sigaction){.sa_sigaction = signalled, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&action->sa_mask);
}

static bool is_ours(void)
{
    struct sigaction now;
    return sigaction(SIGPROF, NULL, &now) == 0 && now.sa_flags & SA_SIGINFO &&
           now.sa_sigaction == signalled;
}

static int start_timer(fl_profiler *profiler)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID,
                             .sigev_signo = SIGPROF,
                             .sigev_value = {.sival_ptr = profiler}};
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &profiler->timer) < 0) return -errno;
    struct timespec pause = {.tv_sec = profiler->order.interval / 1000,
                             .tv_nsec = (long)(profiler->order.interval % 1000) * 1000000};
    struct itimerspec times = {.it_interval = pause, .it_value = pause};
    return timer_settime(profiler->timer, 0, &times, NULL) < 0 ? -errno : 0;
}

/* When LuaJIT profiles another VM it does nothing, and says nothing. */
static int start_sampling(fl_profiler *profiler, lua_State *L)
{
    struct sigaction ours, theirs;
    const struct itimerval never = {0};
    if (!is_ours()) return UV_EBUSY;
    luaJIT_profile_start(L, MODE, take_sample, profiler);
    if (is_ours()) return UV_EBUSY;
    (void)setitimer(ITIMER_PROF, &never, NULL);
    fill_action(&ours);
    (void)sigaction(SIGPROF, &ours, &theirs);
    profiler->trigger = theirs.sa_handler;
    int status = start_timer(profiler);
    if (status < 0) luaJIT_profile_stop(L);
    return status;
}

/* Making stacks readable, on the housekeeping loop */

typedef struct profile_reader {
    const char *folder, *home; /* of the app; of the installation */
    fl_definitions definitions;
    fl_samples samples;
} profile_reader;

/* "/srv/shop/app.lua" as "app.lua", "…/lua/fasterlua/url.lua" as "fasterlua/url.lua". */
static const char *shorten(const profile_reader *reader, const char *path)
{
    size_t folder_size = strlen(reader->folder), home_size = strlen(reader->home);
    if (strncmp(path, reader->folder, folder_size) == 0 && path[folder_size] == '/')
        return path + folder_size + 1;
    if (strncmp(path, reader->home, home_size) == 0 && strncmp(path + home_size, "/lua/", 5) == 0)
        return path + home_size + 5;
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* By its definition, if that can be told. */
static void read_frame(profile_reader *reader, fl_buffer *out, fl_slice frame)
{
    char text[FRAME_SIZE];
    (void)snprintf(text, sizeof(text), "%.*s", (int)frame.size, frame.data);
    char *path = strchr(text, MARK), *line = path ? strchr(path + 1, MARK) : NULL;
    if (!line) {
        fl_buffer_slice(out, frame);
        return;
    }
    *path++ = *line++ = '\0';
    unsigned number = (unsigned)strtoul(line, NULL, 10);
    fl_slice name = fl_slice_from_string(text), defined;
    if (number && fl_definitions_find(&reader->definitions, path, number, &defined)) name = defined;
    fl_buffer_slice(out, name);
    fl_buffer_printf(out, "%s%s:%s", name.size ? " " : "", shorten(reader, path), line);
}

static void read_stack(profile_reader *reader, fl_slice stack, uint64_t count)
{
    fl_buffer out;
    fl_buffer_init(&out);
    for (size_t at = 0; at <= stack.size;) {
        const char *start = stack.data + at;
        const char *end = memchr(start, ';', stack.size - at);
        size_t size = end ? (size_t)(end - start) : stack.size - at;
        if (at) fl_buffer_byte(&out, ';');
        read_frame(reader, &out, fl_slice_of(start, size));
        at += size + 1;
    }
    fl_samples_add(&reader->samples, fl_slice_of(out.data, out.size), count);
    fl_buffer_close(&out);
}

/* A line of fl_samples_render. */
static void read_line(profile_reader *reader, fl_slice line)
{
    size_t at = line.size;
    while (at > 0 && line.data[at - 1] != ' ') at--;
    if (at == 0) return;
    read_stack(reader, fl_slice_of(line.data, at - 1), strtoull(line.data + at, NULL, 10));
}

/* The line of totals stays; the others are read. */
static void make_readable(profile_reader *reader, fl_buffer *text)
{
    fl_definitions_init(&reader->definitions);
    fl_samples_init(&reader->samples);
    const char *end = memchr(text->data, '\n', text->size);
    size_t head = end ? (size_t)(end - text->data) + 1 : text->size;
    for (size_t at = head; at < text->size;) {
        const char *start = text->data + at;
        end = memchr(start, '\n', text->size - at);
        size_t size = end ? (size_t)(end - start) : text->size - at;
        read_line(reader, fl_slice_of(start, size));
        at += size + 1;
    }
    text->size = head;
    fl_samples_render(&reader->samples, text);
    fl_samples_close(&reader->samples);
    fl_definitions_close(&reader->definitions);
}

/* Messages */

typedef struct profile_message {
    fl_message message;
    fl_profiler *profiler;
    uint64_t turn, ticket;
    unsigned app;
    int status;
    fl_buffer text;
} profile_message;

static void free_message(profile_message *self)
{
    fl_buffer_close(&self->text);
    free(self);
}

static void drop_message(fl_message *message)
{
    free_message((profile_message *)message);
}

static profile_message *new_message(fl_profiler *profiler, void (*deliver)(fl_message *, void *))
{
    profile_message *self = calloc(1, sizeof(*self));
    if (!self) return NULL;
    self->message = (fl_message){.deliver = deliver, .drop = drop_message};
    self->profiler = profiler;
    self->turn = profiler->turn;
    self->ticket = profiler->ticket;
    self->app = profiler->app;
    fl_buffer_init(&self->text);
    return self;
}

static void told_here(fl_message *message, void *owner)
{
    (void)owner;
    profile_message *self = (profile_message *)message;
    fl_profiler *profiler = self->profiler;
    const fl_app_place *app = fl_server_app(profiler->server, self->app);
    profile_reader reader = {.folder = app->folder, .home = profiler->home};
    if (self->status == 200) make_readable(&reader, &self->text);
    uv_mutex_lock(&profiler->mutex);
    bool is_present = profiler->ticket == self->ticket;
    if (is_present && profiler->phase != PROFILE_RUNNING) uv_timer_stop(&profiler->patience);
    uv_mutex_unlock(&profiler->mutex);
    profiler->told(profiler->server, self->ticket, self->status,
                   fl_slice_of(self->text.data, self->text.size));
    free_message(self);
}

static void put_totals(fl_profiler *profiler, fl_buffer *out)
{
    const fl_profile_order *order = &profiler->order;
    const uint64_t *kinds = profiler->kinds;
    fl_buffer_printf(out, "# app=%s thread=%d seconds=%.3f interval_ms=%u", order->app,
                     order->thread, order->milliseconds / 1000.0, order->interval);
    fl_buffer_printf(out, " compiled=%llu interpreted=%llu c=%llu collecting=%llu compiling=%llu",
                     (unsigned long long)kinds[0], (unsigned long long)kinds[1],
                     (unsigned long long)kinds[2], (unsigned long long)kinds[3],
                     (unsigned long long)kinds[4]);
}

static void put_outside(fl_buffer *out, const char *name, uint64_t count)
{
    if (count) fl_buffer_printf(out, "%s %llu\n", name, (unsigned long long)count);
}

/* With the mutex: what was seen, to whoever waits for it; once. */
static void tell(fl_profiler *profiler, int status, const char *note)
{
    if (!profiler->is_awaited) return;
    profiler->is_awaited = false;
    profile_message *self = new_message(profiler, told_here);
    if (!self) return; /* the listener gives up by itself */
    self->status = status;
    if (status == 200) {
        put_totals(profiler, &self->text);
        fl_buffer_printf(&self->text, "%s%s\n", *note ? " note=" : "", note);
        fl_samples_render(&profiler->samples, &self->text);
        put_outside(&self->text, "[server]", atomic_load(&profiler->core));
        put_outside(&self->text, "[other apps]", atomic_load(&profiler->others));
    } else {
        fl_buffer_slice(&self->text, fl_slice_from_string(note));
    }
    if (self->text.failed) self->status = 500;
    if (fl_mailbox_post(fl_server_mailbox(profiler->server), &self->message) < 0)
        free_message(self);
}

/* In the state's thread */

/* With the mutex. */
static void forget(fl_profiler *profiler)
{
    atomic_store(&profiler->inside, NULL);
    fl_samples_close(&profiler->samples);
    profiler->state = NULL;
    profiler->turn++;
}

static void finish(fl_profiler *profiler, const char *note)
{
    lua_State *L = atomic_exchange(&profiler->inside, NULL);
    fl_deadline_stop(&profiler->end);
    (void)timer_delete(profiler->timer);
    luaJIT_profile_stop(L);
    uv_mutex_lock(&profiler->mutex);
    tell(profiler, 200, note);
    forget(profiler);
    profiler->phase = PROFILE_IDLE;
    uv_mutex_unlock(&profiler->mutex);
}

static void time_is_over(fl_deadline *deadline)
{
    finish((fl_profiler *)(void *)((char *)deadline - offsetof(fl_profiler, end)), "");
}

/* With the mutex. */
static int begin(fl_profiler *profiler, fl_thread *thread)
{
    fl_state *state = thread->states[profiler->app];
    if (!state) return UV_ENOENT;
    for (size_t i = 0; i < sizeof(kind_letters) - 1; i++) profiler->kinds[i] = 0;
    atomic_store(&profiler->core, 0);
    atomic_store(&profiler->others, 0);
    atomic_store(&profiler->thread, thread);
    profiler->state = state;
    int status = start_sampling(profiler, state->L);
    if (status < 0) return status;
    profiler->phase = PROFILE_RUNNING;
    atomic_store(&profiler->inside, state->L);
    profiler->end.state = state;
    fl_thread_start_deadline(thread, &profiler->end, profiler->order.milliseconds, time_is_over);
    return 0;
}

static void begin_here(fl_message *message, void *owner)
{
    profile_message *self = (profile_message *)message;
    fl_profiler *profiler = self->profiler;
    uv_mutex_lock(&profiler->mutex);
    if (profiler->phase == PROFILE_ASKED && profiler->turn == self->turn) {
        int status = begin(profiler, owner);
        if (status < 0) {
            tell(profiler, status == UV_EBUSY ? 409 : 503,
                 status == UV_EBUSY ? "LuaJIT profiles another state of this process already: an "
                                      "app does that by itself (jit.profile)"
                                    : uv_strerror(status));
            forget(profiler);
            profiler->phase = PROFILE_IDLE;
        }
    }
    uv_mutex_unlock(&profiler->mutex);
    free_message(self);
}

static void stop_here(fl_message *message, void *owner)
{
    (void)owner;
    profile_message *self = (profile_message *)message;
    fl_profiler *profiler = self->profiler;
    uv_mutex_lock(&profiler->mutex);
    bool runs = profiler->phase == PROFILE_RUNNING && profiler->turn == self->turn;
    uv_mutex_unlock(&profiler->mutex);
    free_message(self);
    if (runs) finish(profiler, "");
}

void fl_profiler_state_closes(fl_profiler *profiler, const fl_state *state)
{
    if (!profiler) return; /* in a pool's process nobody asks for profiles */
    uv_mutex_lock(&profiler->mutex);
    bool runs = profiler->phase == PROFILE_RUNNING && profiler->state == state;
    uv_mutex_unlock(&profiler->mutex);
    if (runs) finish(profiler, "the state was closed");
}

/* LuaJIT is not told to stop: the VM is another thread's, which still runs it. */
static void lose(fl_profiler *profiler)
{
    (void)timer_delete(profiler->timer);
    tell(profiler, 200, "the state was given up: a handler was stuck");
    forget(profiler);
    profiler->phase = PROFILE_LOST;
}

static void follow(fl_profiler *profiler, fl_thread *to)
{
    (void)timer_delete(profiler->timer);
    atomic_store(&profiler->thread, to);
    (void)start_timer(profiler); /* it fails: nothing more is seen until the end */
}

void fl_profiler_evacuated(fl_profiler *profiler, fl_thread *from, fl_thread *to,
                           const fl_state *gone)
{
    uv_mutex_lock(&profiler->mutex);
    if (profiler->phase == PROFILE_RUNNING && atomic_load(&profiler->thread) == from) {
        if (profiler->state == gone)
            lose(profiler);
        else
            follow(profiler, to);
    }
    uv_mutex_unlock(&profiler->mutex);
}

/* On the housekeeping loop */

static int busiest_thread(fl_server *server)
{
    unsigned busiest = 0;
    uint64_t most = 0;
    for (unsigned i = 0; i < fl_server_web_count(server); i++) {
        uint64_t time = fl_thread_cpu_time(&fl_server_web(server, i)->thread);
        if (time <= most) continue;
        most = time;
        busiest = i;
    }
    return (int)busiest;
}

static void list_apps(const fl_settings *settings, char *why, size_t size)
{
    size_t at = strlen(why);
    for (size_t i = 0; i < settings->app_count && at < size; i++) {
        int more = snprintf(why + at, size - at, "%s %s", i ? "," : "", settings->apps[i].name);
        at += more > 0 ? (size_t)more : 0;
    }
}

/* 0 or an HTTP status. */
static int find_app(fl_profiler *profiler, const fl_settings *settings, char *why, size_t size)
{
    fl_profile_order *order = &profiler->order;
    bool is_only = settings->app_count == 1;
    if (!order->app[0] && is_only)
        (void)snprintf(order->app, sizeof(order->app), "%s", settings->apps[0].name);
    for (size_t i = 0; i < settings->app_count; i++) {
        const fl_app_place *place = fl_server_app(profiler->server, i);
        profiler->app = (unsigned)i;
        if (strcmp(place->name, order->app) == 0) return 0;
    }
    int status = order->app[0] ? 404 : 400;
    (void)snprintf(why, size, status == 404 ? "no app \"%s\" here, but" : "%swhich app? There are",
                   order->app);
    list_apps(settings, why, size);
    return status;
}

/* With the mutex. */
static int choose(fl_profiler *profiler, fl_slice query, char *why, size_t size)
{
    fl_profile_order *order = &profiler->order;
    unsigned threads = fl_server_web_count(profiler->server);
    if (fl_profile_order_parse(order, query, why, size) < 0) return 400;
    const fl_thread *first = &fl_server_web(profiler->server, 0)->thread;
    int status = find_app(profiler, first->settings, why, size);
    if (status != 0) return status;
    if (order->thread < 0) order->thread = busiest_thread(profiler->server);
    if ((unsigned)order->thread < threads) return 0;
    (void)snprintf(why, size, "no thread %d here: they are 0 to %u", order->thread, threads - 1);
    return 404;
}

/* The thread is held by something that the watch thread does not mind. */
static void patience_over(uv_timer_t *timer)
{
    fl_profiler *profiler = timer->data;
    uv_mutex_lock(&profiler->mutex);
    if (profiler->phase == PROFILE_ASKED) {
        tell(profiler, 504, "the web thread does not answer: it is held by a handler");
        forget(profiler);
        profiler->phase = PROFILE_IDLE;
    } else {
        tell(profiler, 200, "the web thread does not answer: it is held by a handler");
    }
    uv_mutex_unlock(&profiler->mutex);
}

/* With the mutex. */
static int post(fl_profiler *profiler, void (*deliver)(fl_message *, void *))
{
    profile_message *message = new_message(profiler, deliver);
    fl_web *web = fl_server_web(profiler->server, (unsigned)profiler->order.thread);
    if (!message) return UV_ENOMEM;
    int status = fl_mailbox_post(web->thread.mailbox, &message->message);
    if (status < 0) free_message(message);
    return status;
}

static int refuse(int status, const char *reason, char *why, size_t size)
{
    (void)snprintf(why, size, "%s", reason);
    return status;
}

/* With the mutex. */
static int ask(fl_profiler *profiler, fl_slice query, uint64_t ticket, char *why, size_t size)
{
    if (profiler->phase == PROFILE_LOST)
        return refuse(409,
                      "a state that was given up while it was profiled holds the profiler: "
                      "reload the server (SIGHUP)",
                      why, size);
    if (profiler->phase != PROFILE_IDLE)
        return refuse(409, "a profile is being taken already", why, size);
    int status = choose(profiler, query, why, size);
    if (status != 0) return status;
    profiler->ticket = ticket;
    if (post(profiler, begin_here) < 0) return refuse(503, "the web thread has ended", why, size);
    profiler->phase = PROFILE_ASKED;
    profiler->is_awaited = true;
    uv_timer_start(&profiler->patience, patience_over, profiler->order.milliseconds + PATIENCE_MS,
                   0);
    return 0;
}

int fl_profiler_ask(fl_profiler *profiler, fl_slice query, uint64_t ticket, char *why, size_t size)
{
    uv_mutex_lock(&profiler->mutex);
    int status = ask(profiler, query, ticket, why, size);
    uv_mutex_unlock(&profiler->mutex);
    return status;
}

void fl_profiler_cancel(fl_profiler *profiler, uint64_t ticket)
{
    uv_mutex_lock(&profiler->mutex);
    if (profiler->is_awaited && profiler->ticket == ticket) {
        profiler->is_awaited = false;
        uv_timer_stop(&profiler->patience);
        if (profiler->phase == PROFILE_RUNNING) {
            (void)post(profiler, stop_here); /* else its deadline stops it */
        } else if (profiler->phase == PROFILE_ASKED) {
            forget(profiler);
            profiler->phase = PROFILE_IDLE;
        }
    }
    uv_mutex_unlock(&profiler->mutex);
}

int fl_profiler_new(fl_profiler **out, fl_server *server, const char *home, fl_profile_told told)
{
    struct sigaction action;
    fl_profiler *profiler = calloc(1, sizeof(*profiler));
    if (!profiler) return UV_ENOMEM;
    profiler->server = server;
    profiler->told = told;
    profiler->home = home;
    fl_samples_init(&profiler->samples);
    uv_timer_init(fl_server_loop(server), &profiler->patience);
    profiler->patience.data = profiler;
    int status = uv_mutex_init(&profiler->mutex);
    fill_action(&action);
    if (status == 0 && sigaction(SIGPROF, &action, NULL) < 0) status = -errno;
    *out = profiler;
    return status;
}

void fl_profiler_free(fl_profiler *profiler)
{
    if (!profiler) return;
    fl_samples_close(&profiler->samples);
    uv_mutex_destroy(&profiler->mutex);
    free(profiler);
}
