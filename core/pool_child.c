#include "pool_child.h"

#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "frames.h"
#include "pool_process.h"
#include "pools.h"
#include "server.h"
#include "state.h"

#define LOOK 10     /* ms between two attempts to stop a job that is past its time */
#define ATTEMPTS 5  /* then the process is killed anyway */
#define NO_APP 9999 /* there is none of that name */

struct fl_pool_child {
    fl_server *server;
    fl_pool *pool;
    fl_frames *frames;
    fl_state stub; /* in the place of a state that would wait for the job */
    fl_address *address;
    fl_job *job;
    uint64_t ran; /* by all jobs before this one, ns */
    uv_timer_t attempts;
    unsigned attempts_left;
};

/* outcomes */

static uint64_t time_run(fl_pool_child *self)
{
    fl_pool_stats stats;
    fl_pool_get_stats(self->pool, &stats);
    uint64_t ran = stats.running - self->ran;
    self->ran = stats.running;
    return ran;
}

static int say_outcome(fl_pool_child *self, fl_job_outcome outcome, const char *text,
                       const fl_parcel *parcel, uint64_t ran)
{
    fl_pool_process_outcome head = {.outcome = outcome, .ran = ran};
    (void)snprintf(head.text, sizeof(head.text), "%s", text);
    fl_buffer *out = fl_frames_begin(self->frames, FL_FRAME_OUTCOME);
    fl_buffer_append(out, (const char *)&head, sizeof(head));
    if (parcel) (void)fl_parcel_write(parcel, out);
    return fl_frames_send(self->frames);
}

static void say_lost(fl_pool_child *self, const char *text)
{
    (void)say_outcome(self, FL_JOB_LOST, text, NULL, 0);
}

static bool has_result(const fl_job *job)
{
    return job->outcome == FL_JOB_RETURNED || job->outcome == FL_JOB_RAISED;
}

static void job_ended(fl_job *job)
{
    fl_pool_child *self = job->waiter;
    (void)uv_timer_stop(&self->attempts);
    self->job = NULL;
    int status = say_outcome(self, job->outcome, job->text, has_result(job) ? &job->result : NULL,
                             time_run(self));
    if (status == UV_E2BIG)
        say_lost(self, "its results are too large for another process");
    else if (status < 0)
        say_lost(self, "not enough memory to send the results");
    job->waiter = NULL;
    fl_job_release(job);
}

/* jobs */

static unsigned find_app(fl_pool_child *self, fl_slice name)
{
    size_t count = fl_server_settings(self->server)->app_count;
    for (unsigned i = 0; i < count; i++)
        if (fl_slice_equal(fl_slice_from_string(fl_server_app(self->server, i)->name), name))
            return i;
    return NO_APP;
}

static int read_job(fl_pool_child *self, fl_job *job, fl_slice bytes)
{
    fl_pool_process_job head;
    if (bytes.size < sizeof(head)) return UV_EINVAL;
    memcpy(&head, bytes.data, sizeof(head));
    if (bytes.size - sizeof(head) < head.app_size) return UV_EINVAL;
    fl_slice app = fl_slice_of(bytes.data + sizeof(head), head.app_size);
    size_t before = sizeof(head) + head.app_size;
    job->kind = (fl_job_kind)head.kind;
    job->request_number = head.request_number;
    job->app = find_app(self, app);
    if (job->app == NO_APP) return UV_ENOENT;
    return fl_parcel_read(&job->call, fl_slice_of(bytes.data + before, bytes.size - before));
}

static int take_job(fl_pool_child *self, fl_slice bytes)
{
    fl_job *job = fl_job_new(self->pool, FL_JOB_CALL, self->address);
    int status = job ? read_job(self, job, bytes) : UV_ENOMEM;
    if (status == 0) {
        job->waiter = self;
        job->ended = job_ended;
        status = fl_pool_submit(self->pool, job, false);
    }
    if (status == 0)
        self->job = job;
    else if (job)
        fl_job_release(job);
    return status;
}

static void start_job(fl_pool_child *self, fl_slice bytes)
{
    int status = take_job(self, bytes);
    char text[128];
    if (status == 0) return;
    if (status == UV_ENOENT)
        (void)snprintf(text, sizeof(text), "its process does not find the app: it has been moved");
    else
        (void)snprintf(text, sizeof(text), "its process cannot run it: %s", uv_strerror(status));
    say_lost(self, text);
}

/* cancelling */

static void attempt(uv_timer_t *timer)
{
    fl_pool_child *self = timer->data;
    fl_pools_look(fl_server_pools(self->server), uv_hrtime());
    if (--self->attempts_left == 0) (void)uv_timer_stop(timer);
}

static const char *static_reason(fl_slice text)
{
    static const char *const reasons[] = {"timeout", "shutdown"};
    for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++)
        if (fl_slice_equal(text, fl_slice_from_string(reasons[i]))) return reasons[i];
    return "cancelled";
}

static void drop_job(fl_pool_child *self, const char *reason)
{
    fl_job_release(self->job);
    self->job = NULL;
    bool late = strcmp(reason, "timeout") == 0;
    (void)say_outcome(self, late ? FL_JOB_TIMED_OUT : FL_JOB_CANCELLED, "", NULL, 0);
}

static void cancel_job(fl_pool_child *self, fl_slice text)
{
    const char *reason = static_reason(text);
    if (!self->job) return;
    if (fl_pool_cancel(self->pool, self->job, reason)) {
        drop_job(self, reason);
    } else if (strcmp(reason, "timeout") == 0) {
        self->attempts_left = ATTEMPTS;
        (void)uv_timer_start(&self->attempts, attempt, LOOK, LOOK);
    }
}

static void frame_arrived(void *data, fl_frame_kind kind, fl_slice bytes)
{
    fl_pool_child *self = data;
    switch (kind) {
    case FL_FRAME_JOB: start_job(self, bytes); return;
    case FL_FRAME_CANCEL: cancel_job(self, bytes); return;
    case FL_FRAME_READY:
    case FL_FRAME_FAILED:
    case FL_FRAME_OUTCOME: return; /* only ever said by us */
    }
}

static void parent_gone(void *data)
{
    fl_pool_child *self = data;
    uv_stop(fl_server_loop(self->server));
}

/* starting */

/* What the process has now is not counted, nor what it shares with others. */
static void limit_memory(uint64_t max_memory)
{
    unsigned long long data;
    FILE *file = fopen("/proc/self/statm", "re");
    bool known = file && fscanf(file, "%*u %*u %*u %*u %*u %llu", &data) == 1;
    if (file) (void)fclose(file);
    if (!known) return;
    uint64_t most = data * (uint64_t)sysconf(_SC_PAGESIZE) + max_memory + FL_POOL_MARGIN;
    const struct rlimit limit = {.rlim_cur = most, .rlim_max = most};
    (void)setrlimit(RLIMIT_DATA, &limit);
}

static int parent_in_settings(void)
{
    const char *text = getenv("FASTERLUA_POOL");
    return text ? atoi(text) : 0;
}

void fl_pool_child_begin(void)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent_in_settings()) return; /* else it has ended already */
    (void)fputs("fasterlua: FASTERLUA_POOL is only for what a server starts\n", stderr);
    _exit(2);
}

void fl_pool_child_fail(const char *why)
{
    fl_frames_say(FL_POOL_FD, FL_FRAME_FAILED, why);
}

static int read_options(fl_pool_options *options)
{
    const char *text = getenv("FASTERLUA_POOL");
    int name = 0;
    *options = (fl_pool_options){.size = 1, .queue = 1};
    if (!text ||
        sscanf(text, "%*d %d %" SCNu64 " %n", &options->nice, &options->max_memory, &name) != 2)
        return UV_EINVAL;
    (void)snprintf(options->name, sizeof(options->name), "%s", text + name);
    unsetenv("FASTERLUA_POOL");
    return 0;
}

static int make_pool(fl_pool_child *self, char *why, size_t why_size)
{
    fl_pool_options options;
    int status = read_options(&options);
    if (status < 0) return status;
    options.retire_rate = 1;
    options.retire_window = UINT64_MAX;
    status = fl_pools_open(&self->pool, fl_server_pools(self->server), UINT_MAX, &options, why,
                           why_size);
    if (status == 0) limit_memory(options.max_memory);
    return status;
}

static int connect_to_parent(fl_pool_child *self)
{
    const fl_frames_events events = {self, frame_arrived, parent_gone};
    int status = fl_address_new(&self->address, fl_server_mailbox(self->server), &self->stub);
    if (status == 0)
        status = fl_frames_open(&self->frames, fl_server_loop(self->server), FL_POOL_FD, events);
    if (status < 0) return status;
    (void)fl_frames_begin(self->frames, FL_FRAME_READY);
    return fl_frames_send(self->frames);
}

int fl_pool_child_open(fl_pool_child **out, fl_server *server, char *why, size_t why_size)
{
    fl_pool_child *self = *out = calloc(1, sizeof(*self));
    if (!self) return UV_ENOMEM;
    self->server = server;
    (void)uv_timer_init(fl_server_loop(server), &self->attempts);
    self->attempts.data = self;
    int status = make_pool(self, why, why_size);
    return status < 0 ? status : connect_to_parent(self);
}

static void timer_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void fl_pool_child_close(fl_pool_child *self)
{
    if (self->job) {
        self->job->waiter = NULL;
        fl_job_release(self->job);
    }
    fl_address_close(self->address);
    fl_address_release(self->address);
    fl_frames_close(self->frames);
    uv_close((uv_handle_t *)&self->attempts, timer_closed);
}
