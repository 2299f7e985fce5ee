#include "pool_process.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control.h"
#include "environment.h"
#include "frames.h"
#include "log.h"
#include "pool.h"
#include "server.h"

#define STARTING 30000  /* ms that the program may take to be ready */
#define LATE 50         /* ms after its time that a job has to end by itself */
#define LAST_CALL 500   /* the same of the server's end */
#define FAREWELL 100    /* ms that a process has to end when its socket has closed */
#define GRIEF 1000      /* ms that a killed one may take to be gone */
#define FIRST_FREE_FD 6 /* that it does not get */

struct fl_pool_process {
    fl_pool *pool;
    fl_thread *thread;
    void (*ended)(fl_thread *thread, uint64_t ran);
    char settings[160]; /* FASTERLUA_POOL=… */
    uv_timer_t timer;   /* kills it */

    pid_t pid; /* 0: there is none */
    fl_frames *frames;
    bool ready, killed;
    bool worn;     /* to be replaced after this job */
    bool given_up; /* one has ended with its job */
    uint64_t jobs; /* that it has got */
    char why[160]; /* it could not start */

    fl_job *job;
    bool sent;
    const char *cancelled; /* static text */
};

static void finish_job(fl_pool_process *self, fl_job_outcome outcome, uint64_t ran)
{
    self->job->outcome = outcome;
    self->job = NULL;
    (void)uv_timer_stop(&self->timer);
    self->ended(self->thread, ran);
}

static void lose_job(fl_pool_process *self, const char *text)
{
    (void)snprintf(self->job->text, sizeof(self->job->text), "%s", text);
    finish_job(self, FL_JOB_LOST, 0);
}

/* the end of a process */

/* Returns whether it is gone, having waited for it for `patience` ms at most. */
static bool reap(fl_pool_process *self, unsigned patience, int *status)
{
    for (unsigned i = 0;; i++) {
        pid_t got = waitpid(self->pid, status, WNOHANG);
        if (got == self->pid || (got < 0 && errno != EINTR)) return true;
        if (i == patience) return false;
        uv_sleep(1);
    }
}

static void kill_now(fl_pool_process *self)
{
    assert(self->pid > 0);
    self->killed = true;
    (void)kill(self->pid, SIGKILL);
}

static void close_frames(fl_pool_process *self)
{
    if (self->frames) fl_frames_close(self->frames);
    self->frames = NULL;
    self->ready = false;
}

/* It sees that its socket has closed. */
static int bury(fl_pool_process *self)
{
    int status = 0;
    (void)uv_timer_stop(&self->timer);
    close_frames(self);
    if (self->killed || !reap(self, FAREWELL, &status)) {
        kill_now(self);
        if (!reap(self, GRIEF, &status))
            fl_log_printf(self->thread->log, FL_LOG_ERROR,
                          "pool \"%s\": its process %d cannot be killed",
                          fl_pool_options_of(self->pool)->name, (int)self->pid);
    }
    self->pid = 0;
    self->worn = self->killed = false;
    self->given_up = true;
    return status;
}

static void describe(const fl_pool_process *self, int status, char *text, size_t size)
{
    const char *name = WIFSIGNALED(status) ? sigabbrev_np(WTERMSIG(status)) : NULL;
    if (self->why[0])
        (void)snprintf(text, size, "its process cannot start: %.120s", self->why);
    else if (name)
        (void)snprintf(text, size, "its process was killed by SIG%s", name);
    else if (WIFSIGNALED(status))
        (void)snprintf(text, size, "its process was killed by signal %d", WTERMSIG(status));
    else
        (void)snprintf(text, size, "its process ended with status %d", WEXITSTATUS(status));
}

/* By itself: nobody has asked for it. */
static void process_ended(void *data)
{
    fl_pool_process *self = data;
    char text[160];
    pid_t pid = self->pid;
    int status = bury(self);
    describe(self, status, text, sizeof(text));
    fl_log_printf(self->thread->log, FL_LOG_ERROR, "pool \"%s\": %s (%d)",
                  fl_pool_options_of(self->pool)->name, text, (int)pid);
    if (self->job) lose_job(self, text);
}

static fl_job_outcome outcome_of(const char *reason)
{
    return strcmp(reason, "timeout") == 0 ? FL_JOB_TIMED_OUT : FL_JOB_CANCELLED;
}

/* The job has not ended in time, or the program does not start. It is buried when the job has gone
 * home. */
static void too_late(uv_timer_t *timer)
{
    fl_pool_process *self = timer->data;
    fl_log_printf(self->thread->log, FL_LOG_WARN, "pool \"%s\": %s: its process %d is killed",
                  fl_pool_options_of(self->pool)->name,
                  self->sent && self->job ? "a job has not ended in time" : "it does not get ready",
                  (int)self->pid);
    kill_now(self);
    close_frames(self);
    if (!self->job) return;
    if (self->sent)
        finish_job(self, outcome_of(self->cancelled ? self->cancelled : "timeout"), 0);
    else
        lose_job(self, "its process does not get ready");
}

static void set_timer(fl_pool_process *self, uint64_t milliseconds)
{
    bool is_set = uv_is_active((uv_handle_t *)&self->timer);
    if (is_set && uv_timer_get_due_in(&self->timer) <= milliseconds) return;
    uv_update_time(&self->thread->loop);
    (void)uv_timer_start(&self->timer, too_late, milliseconds, 0);
}

/* jobs */

static const char *app_name(fl_pool_process *self, const fl_job *job)
{
    return fl_server_app(self->thread->server, job->app)->name;
}

static int write_job(fl_pool_process *self, fl_job *job)
{
    const char *app = app_name(self, job);
    const fl_pool_process_job head = {.request_number = job->request_number,
                                      .kind = job->kind,
                                      .app_size = (uint32_t)strlen(app)};
    fl_buffer *out = fl_frames_begin(self->frames, FL_FRAME_JOB);
    fl_buffer_append(out, (const char *)&head, sizeof(head));
    fl_buffer_append(out, app, head.app_size);
    (void)fl_parcel_write(&job->call, out); /* the buffer knows that it failed */
    return fl_frames_send(self->frames);
}

static void send_job(fl_pool_process *self)
{
    fl_job *job = self->job;
    uint64_t used = (uv_hrtime() - job->begun) / 1000000;
    int status = write_job(self, job);
    fl_parcel_close(&job->call);
    if (status < 0) {
        lose_job(self, status == UV_E2BIG ? "its arguments are too large for another process"
                                          : "not enough memory to send the job");
        return;
    }
    self->sent = true;
    self->jobs++;
    uint64_t most = job->timeout / 1000000;
    if (job->timeout) set_timer(self, (most > used ? most - used : 0) + 1 + LATE);
}

static void take_outcome(fl_pool_process *self, fl_slice bytes)
{
    fl_pool_process_outcome head;
    fl_job *job = self->job;
    if (!job || bytes.size < sizeof(head)) return;
    memcpy(&head, bytes.data, sizeof(head));
    memcpy(job->text, head.text, sizeof(job->text));
    job->text[sizeof(job->text) - 1] = '\0';
    fl_slice parcel = fl_slice_of(bytes.data + sizeof(head), bytes.size - sizeof(head));
    fl_job_outcome outcome =
        head.outcome <= FL_JOB_LOST ? (fl_job_outcome)head.outcome : FL_JOB_LOST;
    if (outcome == FL_JOB_OUT_OF_MEMORY) self->worn = true;
    if (parcel.size > 0 && fl_parcel_read(&job->result, parcel) < 0)
        lose_job(self, "not enough memory for the result");
    else
        finish_job(self, outcome, head.ran);
}

static void become_ready(fl_pool_process *self)
{
    self->ready = true;
    (void)uv_timer_stop(&self->timer);
    if (self->job) send_job(self);
}

static void keep_why(fl_pool_process *self, fl_slice text)
{
    (void)snprintf(self->why, sizeof(self->why), "%.*s", (int)text.size, text.data);
}

static void frame_arrived(void *data, fl_frame_kind kind, fl_slice bytes)
{
    fl_pool_process *self = data;
    switch (kind) {
    case FL_FRAME_READY: become_ready(self); return;
    case FL_FRAME_FAILED: keep_why(self, bytes); return;
    case FL_FRAME_OUTCOME: take_outcome(self, bytes); return;
    case FL_FRAME_JOB:
    case FL_FRAME_CANCEL: return; /* only ever said by us */
    }
}

/* the start of a process */

/* A session of its own, as server processes have; handlers and masks as a program expects them. */
static int set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t set;
    sigemptyset(&set);
    int error = posix_spawnattr_setsigmask(attributes, &set);
    (void)sigaddset(&set, SIGPIPE);
    if (!error) error = posix_spawnattr_setsigdefault(attributes, &set);
    short flags = POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
    return error ? error : posix_spawnattr_setflags(attributes, flags);
}

static int set_descriptors(posix_spawn_file_actions_t *actions, int fd)
{
    int error = posix_spawn_file_actions_adddup2(actions, fd, FL_POOL_FD);
    if (!error) error = posix_spawn_file_actions_adddup2(actions, FL_LEDGER_FD, FL_LEDGER_FD);
    if (!error) error = posix_spawn_file_actions_adddup2(actions, FL_SEGMENT_FD, FL_SEGMENT_FD);
    if (!error) error = posix_spawn_file_actions_addclosefrom_np(actions, FIRST_FREE_FD);
    return error;
}

/* 0 or an errno. The program is this one, even when its file has been replaced meanwhile. */
static int execute(fl_pool_process *self, int fd, char **environment)
{
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_init(&actions);
    int error = set_attributes(&attributes);
    if (!error) error = set_descriptors(&actions, fd);
    if (!error)
        error = posix_spawn(&self->pid, "/proc/self/exe", &actions, &attributes,
                            fl_server_arguments(self->thread->server), environment);
    if (error) self->pid = 0;
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return error;
}

/* Ours does not block, for the loop's sake, and neither does theirs. */
static int make_pair(fl_pool_process *self, int *theirs)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
        return uv_translate_sys_error(errno);
    const fl_frames_events events = {self, frame_arrived, process_ended};
    int status = fl_frames_open(&self->frames, &self->thread->loop, pair[0], events);
    *theirs = pair[1];
    if (status == 0) return 0;
    close(pair[0]);
    close(pair[1]);
    return status;
}

static int start(fl_pool_process *self)
{
    int theirs = -1, status = make_pair(self, &theirs);
    if (status < 0) return status;
    char **environment = fl_environment_inherited(self->settings);
    self->why[0] = '\0';
    self->jobs = 0;
    int error = environment ? execute(self, theirs, environment) : ENOMEM;
    free((void *)environment);
    close(theirs);
    if (error)
        close_frames(self);
    else
        set_timer(self, STARTING);
    return uv_translate_sys_error(error);
}

/* what the thread calls */

static void describe_settings(fl_pool_process *self)
{
    const fl_pool_options *options = fl_pool_options_of(self->pool);
    (void)snprintf(self->settings, sizeof(self->settings), "FASTERLUA_POOL=%d %d %llu %s",
                   (int)getpid(), options->nice, (unsigned long long)options->max_memory,
                   options->name);
}

int fl_pool_process_new(fl_pool_process **out, fl_pool *pool, fl_thread *thread,
                        void (*ended)(fl_thread *thread, uint64_t ran))
{
    fl_pool_process *self = calloc(1, sizeof(*self));
    if (!self) return UV_ENOMEM;
    self->pool = pool;
    self->thread = thread;
    self->ended = ended;
    describe_settings(self);
    (void)uv_timer_init(&thread->loop, &self->timer);
    self->timer.data = self;
    *out = self;
    return 0;
}

void fl_pool_process_run(fl_pool_process *self, fl_job *job)
{
    assert(!self->job);
    self->job = job;
    self->sent = false;
    self->cancelled = NULL;
    if (self->killed) (void)bury(self); /* before it was ready */
    int status = self->pid ? 0 : start(self);
    char text[128];
    if (status < 0) {
        (void)snprintf(text, sizeof(text), "its process cannot be started: %s",
                       uv_strerror(status));
        lose_job(self, text);
    } else if (self->ready) {
        send_job(self);
    }
}

/* What has not been sent never will be. */
void fl_pool_process_cancel(fl_pool_process *self, const char *reason)
{
    if (!self->job) return;
    self->cancelled = reason;
    if (!self->sent) {
        self->job->outcome = outcome_of(reason);
        self->job = NULL; /* the timer is the start's */
        self->ended(self->thread, 0);
        return;
    }
    fl_buffer *out = fl_frames_begin(self->frames, FL_FRAME_CANCEL);
    fl_buffer_append(out, reason, strlen(reason));
    (void)fl_frames_send(self->frames);
    if (strcmp(reason, "timeout") == 0) set_timer(self, LATE);
    if (strcmp(reason, "shutdown") == 0) set_timer(self, LAST_CALL);
}

/* The next one starts at once, unless there never was one that got ready: then the next job tries
 * again. */
bool fl_pool_process_settle(fl_pool_process *self)
{
    uint64_t most = fl_pool_options_of(self->pool)->recycle_after;
    bool given_up = self->given_up || self->worn || self->killed;
    if (self->pid && (self->worn || self->killed || (most && self->jobs >= most))) (void)bury(self);
    self->given_up = false;
    if (!self->pid && !self->why[0] && !fl_pool_is_closed(self->pool)) (void)start(self);
    return given_up;
}

static void timer_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void fl_pool_process_free(fl_pool_process *self)
{
    if (self->pid) (void)bury(self);
    uv_close((uv_handle_t *)&self->timer, timer_closed);
}
