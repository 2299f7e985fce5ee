#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "cpus.h"
#include "log.h"
#include "notify.h"
#include "segment.h"
#include "sockets.h"
#include "topic.h"
#include "worker.h"

#define START_FAILED 3
#define SLOTS_MOST 65536u        /* of one web thread in the ledger */
#define LOG_PATIENCE 1000000000u /* ns for the last lines */
#define MILLISECOND 1000000u

typedef enum {
    LOADING,  /* nothing is bound until every worker is LOADED */
    STARTING, /* bound; until every worker has been READY */
    SERVING,
    STOPPING
} phase;

typedef struct supervisor {
    const fl_settings *settings;
    phase phase;
    bool reloading; /* a SIGHUP is being carried out */
    bool queued;    /* another one came meanwhile */
    bool failed;    /* the last SIGHUP: old processes serve on */
    bool hurried;   /* NOW has been said */
    bool has_terminal;
    int status; /* to exit with */
    fl_worker_context context;
    fl_worker *workers;
    unsigned count;
    fl_sockets sockets;
    const char *manager; /* NOTIFY_SOCKET */
    char program[PATH_MAX];
    uv_loop_t loop;
    uv_signal_t signals[4];
} supervisor;

/* A SIGHUP also comes when the terminal that this was started from is closed: that means stop. */
static bool has_terminal(void)
{
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
    if (fd >= 0) (void)close(fd);
    return fd >= 0;
}

static const int watched_signals[4] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP};

static bool every(const supervisor *self, bool (*is_so)(const fl_worker *worker))
{
    for (unsigned i = 0; i < self->count; i++)
        if (!is_so(&self->workers[i])) return false;
    return true;
}

static bool has_started(const fl_worker *worker)
{
    return worker->has_started;
}

static bool is_gone(const fl_worker *worker)
{
    return !worker->children;
}

static bool is_settled(const fl_worker *worker)
{
    return !worker->replacement && !fl_worker_wants_another(worker);
}

static void want_new_version(supervisor *self, bool wanted)
{
    for (unsigned i = 0; i < self->count; i++) self->workers[i].wants_new_version = wanted;
}

/* stopping */

static void stop_workers(supervisor *self, fl_control_kind kind)
{
    self->phase = STOPPING;
    for (unsigned i = 0; i < self->count; i++) fl_worker_stop(&self->workers[i], kind);
}

static void close_handle(uv_handle_t *handle, void *data)
{
    (void)data;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

/* What waits in a backlog is lost when its socket closes: not before all have accepted theirs. */
static void advance_stop(supervisor *self)
{
    if (every(self, fl_worker_is_closed)) fl_sockets_close(&self->sockets);
    if (every(self, is_gone)) uv_walk(&self->loop, close_handle, NULL);
}

static void stop_asked(supervisor *self)
{
    if (self->phase != STOPPING) {
        fl_log_printf(self->context.log, FL_LOG_INFO, "stopping");
        (void)fl_notify_send(self->manager, "STOPPING=1");
        stop_workers(self, FL_CONTROL_STOP);
    } else if (!self->hurried) {
        self->hurried = true;
        fl_log_printf(self->context.log, FL_LOG_WARN, "stopping at once");
        stop_workers(self, FL_CONTROL_NOW);
    }
}

/* starting */

static void fail_start(supervisor *self, const char *why)
{
    (void)fprintf(stderr, "fasterlua: %s\n", why);
    (void)fl_notify_send(self->manager, "STOPPING=1");
    self->status = START_FAILED;
    stop_workers(self, FL_CONTROL_NOW);
}

static const char *first_failure(const supervisor *self)
{
    for (unsigned i = 0; i < self->count; i++)
        if (self->workers[i].failure[0]) return self->workers[i].failure;
    return NULL;
}

static void bind_and_listen(supervisor *self)
{
    char why[512];
    unsigned threads = self->context.program.threads;
    size_t wanted = (size_t)self->count * threads;
    if (fl_sockets_open(&self->sockets, self->settings, wanted, why, sizeof(why)) != 0) {
        fail_start(self, why);
        return;
    }
    const fl_sockets *sockets = &self->sockets;
    for (unsigned i = 0; i < self->count; i++) {
        const int *own = sockets->shared ? sockets->fds : sockets->fds + (size_t)i * threads;
        size_t count = sockets->shared ? sockets->count : threads;
        fl_worker_listen(&self->workers[i], own, count, sockets->shared);
    }
    self->phase = STARTING;
}

static void advance_start(supervisor *self)
{
    const char *why = first_failure(self);
    if (why)
        fail_start(self, why);
    else if (self->phase == LOADING && every(self, fl_worker_is_loaded))
        bind_and_listen(self);
    else if (self->phase == STARTING && every(self, has_started)) {
        self->context.program.started = 0;
        self->phase = SERVING;
        (void)fl_notify_send(self->manager, "READY=1\nSTATUS=serving");
    }
}

/* reloading: one worker after the other */

static void begin_reload(supervisor *self)
{
    self->queued = false;
    self->reloading = true;
    self->failed = false;
    fl_log_printf(self->context.log, FL_LOG_INFO, "reloading");
    (void)fl_notify_reloading(self->manager);
    want_new_version(self, true);
}

static void end_reload(supervisor *self)
{
    self->reloading = false;
    const char *status = self->failed ? "READY=1\nSTATUS=reload failed, the old version serves"
                                      : "READY=1\nSTATUS=serving";
    (void)fl_notify_send(self->manager, status);
}

/* What broke one replacement breaks the others too: the old ones stay, but for those that are
 * stuck. */
static void give_up_reload(supervisor *self)
{
    self->failed = true;
    want_new_version(self, false);
}

static void see_refusals(supervisor *self)
{
    for (unsigned i = 0; i < self->count; i++) {
        if (!self->workers[i].refused) continue;
        self->workers[i].refused = false;
        give_up_reload(self);
    }
}

/* Returns true when a replacement is on its way, or has to wait for a process to end. */
static bool replace_next(supervisor *self)
{
    for (unsigned i = 0; i < self->count; i++)
        if (self->workers[i].replacement) return true;
    for (unsigned i = 0; i < self->count; i++) {
        fl_worker *worker = &self->workers[i];
        if (!fl_worker_wants_another(worker)) continue;
        if (!fl_worker_has_room(worker)) return true;
        if (fl_worker_replace(worker) == 0) return true;
        give_up_reload(self);
    }
    return false;
}

static void advance_reload(supervisor *self)
{
    see_refusals(self);
    if (replace_next(self)) return;
    if (self->reloading) end_reload(self);
    if (!self->queued) return;
    begin_reload(self);
    if (!replace_next(self)) end_reload(self);
}

static void reload_asked(supervisor *self)
{
    if (self->phase == SERVING && every(self, is_settled))
        begin_reload(self);
    else
        self->queued = true;
}

static void advance(void *data)
{
    supervisor *self = data;
    if (self->phase == LOADING || self->phase == STARTING) advance_start(self);
    if (self->phase == SERVING) advance_reload(self);
    if (self->phase == STOPPING) advance_stop(self);
}

static void signal_came(uv_signal_t *handle, int number)
{
    supervisor *self = handle->data;
    if (number == SIGHUP && !(self->has_terminal && !has_terminal()))
        reload_asked(self);
    else
        stop_asked(self);
    advance(self);
}

/* set-up */

/* Resolved now, so that a reload takes the file that has replaced this program's by then. */
static int find_program(supervisor *self)
{
    ssize_t size = readlink("/proc/self/exe", self->program, sizeof(self->program) - 1);
    if (size < 0) return uv_translate_sys_error(errno);
    self->program[size] = '\0';
    return 0;
}

static int watch_signals(supervisor *self)
{
    (void)signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof(watched_signals) / sizeof(*watched_signals); i++) {
        int error = uv_signal_init(&self->loop, &self->signals[i]);
        self->signals[i].data = self;
        if (!error) error = uv_signal_start(&self->signals[i], signal_came, watched_signals[i]);
        if (error) return error;
    }
    return 0;
}

static void fill_context(supervisor *self, char **argv)
{
    const fl_settings *settings = self->settings;
    unsigned slots =
        settings->connections < SLOTS_MOST ? (unsigned)settings->connections : SLOTS_MOST;
    self->context.program = (fl_child_program){
        .loop = &self->loop,
        .path = self->program,
        .argv = argv,
        .started = uv_hrtime(),
        .threads = settings->threads ? (unsigned)settings->threads : fl_cpus_usable(),
        .slots = slots > 0 ? slots : 1,
        .segment_fd = -1};
    self->context.drain = settings->drain / MILLISECOND;
    self->context.data = self;
    self->context.changed = advance;
}

static int set_up(supervisor *self, const fl_settings *settings, char **argv, uint64_t retry)
{
    self->settings = settings;
    self->manager = getenv("NOTIFY_SOCKET");
    self->count = settings->workers ? (unsigned)settings->workers : 1;
    self->workers = calloc(self->count, sizeof(*self->workers));
    if (!self->workers) return UV_ENOMEM;
    fill_context(self, argv);
    self->context.retry = retry;
    struct sigaction hangup;
    bool is_ignored = sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler == SIG_IGN;
    self->has_terminal = has_terminal() && !is_ignored; /* nohup: outlives the terminal */
    int error = find_program(self);
    if (!error)
        error = fl_log_open_stdout(&self->context.log, settings->log_format, settings->log_level,
                                   settings->log_buffer);
    if (!error)
        error = fl_segment_create(&self->context.program.segment_fd,
                                  settings->shared_memory + fl_topics_room(settings->topic_ring));
    if (!error) error = watch_signals(self);
    return error;
}

static int run(supervisor *self)
{
    for (unsigned i = 0; i < self->count; i++) fl_worker_init(&self->workers[i], &self->context, i);
    for (unsigned i = 0; i < self->count; i++) fl_worker_start(&self->workers[i]);
    advance(self);
    (void)uv_run(&self->loop, UV_RUN_DEFAULT);
    return self->status;
}

int fl_supervisor_run(const fl_settings *settings, char **argv, uint64_t retry)
{
    int status = 1;
    supervisor *self = calloc(1, sizeof(*self));
    int error = self ? uv_loop_init(&self->loop) : UV_ENOMEM;
    if (error) goto fail;
    error = set_up(self, settings, argv, retry);
    if (!error) status = run(self);
    uv_walk(&self->loop, close_handle, NULL);
    (void)uv_run(&self->loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&self->loop);
    fl_sockets_close(&self->sockets);
    if (self->context.log) fl_log_close(self->context.log, LOG_PATIENCE);
    if (self->context.program.segment_fd > 0) close(self->context.program.segment_fd);
    free(self->workers);
fail:
    free(self);
    if (error) (void)fprintf(stderr, "fasterlua: cannot start: %s\n", uv_strerror(error));
    return status;
}
