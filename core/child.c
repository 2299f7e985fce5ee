#include "child.h"

#include <assert.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "environment.h"

#define PATIENCE 1000 /* ms from FAILED, or from closing the pair unasked, to the end */

static void at_deadline(uv_timer_t *timer)
{
    fl_child *child = timer->data;
    child->killed = true;
    (void)uv_process_kill(&child->process, SIGKILL);
}

static void advance_deadline(fl_child *child, uint64_t patience)
{
    bool is_set = uv_is_active((uv_handle_t *)&child->deadline);
    if (is_set && uv_timer_get_due_in(&child->deadline) <= patience) return;
    (void)uv_timer_start(&child->deadline, at_deadline, patience, 0);
}

static void handle_closed(uv_handle_t *handle)
{
    fl_child *child = handle->data;
    if (--child->open_handles == 0) free(child);
}

/* Closed together with its handle, or libuv would later forget whatever has the same number. */
static void drop_control(fl_child *child)
{
    if (child->control_fd < 0) return;
    uv_close((uv_handle_t *)&child->control, handle_closed);
    close(child->control_fd);
    child->control_fd = -1;
}

static void begin_leaving(fl_child *child, uint64_t patience)
{
    child->state = FL_CHILD_LEAVING;
    advance_deadline(child, patience);
}

static void advance_state(fl_child *child, fl_child_state from, fl_child_state to)
{
    if (child->state == from) child->state = to;
}

static void take_message(fl_child *child, const fl_control_message *message)
{
    switch (message->kind) {
    case FL_CONTROL_LOADED: advance_state(child, FL_CHILD_LOADING, FL_CHILD_LOADED); break;
    case FL_CONTROL_FAILED:
        memcpy(child->reason, message->text, sizeof(child->reason));
        begin_leaving(child, PATIENCE);
        break;
    case FL_CONTROL_READY:
        child->was_ready = child->state == FL_CHILD_STARTING;
        advance_state(child, FL_CHILD_STARTING, FL_CHILD_READY);
        break;
    case FL_CONTROL_STUCK: child->stuck = true; break;
    case FL_CONTROL_CLOSED: child->closed = true; break;
    case FL_CONTROL_LISTENERS_SENT:
    case FL_CONTROL_STOP:
    case FL_CONTROL_REPLACED:
    case FL_CONTROL_NOW: return; /* not its to say */
    }
    child->events.message(child->events.data, child, message->kind, message->text);
}

/* A process that closes the pair is on its way out, perhaps still writing its log. */
static void control_closed(fl_child *child)
{
    drop_control(child);
    if (child->state != FL_CHILD_LEAVING) begin_leaving(child, PATIENCE);
}

static void read_control(fl_child *child)
{
    fl_control_message message;
    while (child->control_fd >= 0) {
        int got = fl_control_receive(child->control_fd, &message);
        if (got == UV_EAGAIN) return;
        if (got <= 0) {
            control_closed(child);
            return;
        }
        for (size_t i = 0; i < message.fd_count; i++) close(message.fds[i]);
        take_message(child, &message);
    }
}

static void control_readable(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    read_control(poll->data);
}

/* Its last words may still be in the pair. */
static void process_ended(uv_process_t *process, int64_t status, int signal)
{
    fl_child *child = process->data;
    child->status = status;
    child->signal = signal;
    read_control(child);
    drop_control(child);
    (void)uv_timer_stop(&child->deadline);
    child->state = FL_CHILD_ENDED;
    child->closed = true;
    child->events.ended(child->events.data, child);
}

/* A session of its own, so that the terminal's Ctrl-C reaches the supervisor only. */
static int spawn(fl_child *child, const fl_child_program *program, char **environment,
                 int control_fd, int ledger_fd)
{
    const int fds[] = {0, 1, 2, control_fd, ledger_fd, program->segment_fd};
    uv_stdio_container_t stdio[6];
    static_assert(FL_CONTROL_FD == 3 && FL_LEDGER_FD == 4 && FL_SEGMENT_FD == 5,
                  "the order of fds[]");
    for (size_t i = 0; i < 6; i++)
        stdio[i] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = fds[i]};
    uv_process_options_t options = {.exit_cb = process_ended,
                                    .file = program->path,
                                    .args = program->argv,
                                    .env = environment,
                                    .flags = UV_PROCESS_DETACHED,
                                    .stdio_count = 6,
                                    .stdio = stdio};
    child->open_handles++;
    return uv_spawn(program->loop, &child->process, &options);
}

static int open_control(fl_child *child, uv_loop_t *loop, int *theirs)
{
    int pair[2];
    int error = fl_control_pair(pair);
    if (error) return error;
    error = uv_poll_init(loop, &child->control, pair[0]);
    if (error) {
        close(pair[0]);
        close(pair[1]);
        return error;
    }
    child->open_handles++;
    child->control_fd = pair[0];
    *theirs = pair[1];
    return uv_poll_start(&child->control, UV_READABLE, control_readable);
}

static int start(fl_child *child, const fl_child_program *program, char *server)
{
    int control_fd = -1, ledger_fd = -1;
    char **environment = fl_environment_inherited(server);
    int error = environment ? 0 : UV_ENOMEM;
    if (!error) error = open_control(child, program->loop, &control_fd);
    if (!error)
        error = fl_ledger_create(&child->ledger, &ledger_fd, program->threads, program->slots);
    if (!error) error = spawn(child, program, environment, control_fd, ledger_fd);
    if (control_fd >= 0) close(control_fd);
    if (ledger_fd >= 0) close(ledger_fd);
    free(environment);
    return error;
}

int fl_child_start(fl_child **out, const fl_child_program *program, unsigned worker,
                   unsigned restarts, fl_child_events events)
{
    char server[96];
    (void)snprintf(server, sizeof(server), "FASTERLUA_SERVER=%u %u %" PRIu64, worker, restarts,
                   program->started ? program->started : uv_hrtime());
    fl_child *child = calloc(1, sizeof(*child));
    if (!child) return UV_ENOMEM;
    child->events = events;
    child->control_fd = -1;
    child->closed = true;
    child->process.data = child->control.data = child->deadline.data = child;
    (void)uv_timer_init(program->loop, &child->deadline);
    child->open_handles = 1;
    int error = start(child, program, server);
    if (error)
        fl_child_free(child);
    else
        *out = child;
    return error;
}

static const char *listeners_text(bool shared, bool more)
{
    if (shared) return more ? FL_CONTROL_SHARED " " FL_CONTROL_MORE : FL_CONTROL_SHARED;
    return more ? FL_CONTROL_MORE : "";
}

int fl_child_listen(fl_child *child, const int *fds, size_t count, bool shared)
{
    child->closed = false;
    while (count > 0) {
        size_t part = count < FL_CONTROL_LISTENERS ? count : FL_CONTROL_LISTENERS;
        const char *text = listeners_text(shared, part < count);
        int error = fl_control_send(child->control_fd, FL_CONTROL_LISTENERS_SENT, text, fds, part);
        if (error) return error;
        fds += part;
        count -= part;
    }
    advance_state(child, FL_CHILD_LOADED, FL_CHILD_STARTING);
    return 0;
}

void fl_child_leave(fl_child *child, fl_control_kind kind, uint64_t patience)
{
    assert(kind >= FL_CONTROL_STOP);
    if (child->state == FL_CHILD_ENDED) return;
    /* When the pair is full or closed, the deadline says it. */
    if (child->control_fd >= 0) (void)fl_control_send(child->control_fd, kind, NULL, NULL, 0);
    begin_leaving(child, patience);
}

void fl_child_describe_end(const fl_child *child, fl_buffer *out)
{
    const char *name = child->signal ? sigabbrev_np(child->signal) : NULL;
    if (name)
        fl_buffer_printf(out, "killed by SIG%s", name);
    else if (child->signal)
        fl_buffer_printf(out, "killed by signal %d", child->signal);
    else
        fl_buffer_printf(out, "ended with status %d", (int)child->status);
}

void fl_child_free(fl_child *child)
{
    drop_control(child);
    fl_ledger_close(child->ledger);
    child->ledger = NULL;
    if (uv_handle_get_type((uv_handle_t *)&child->process) == UV_PROCESS)
        uv_close((uv_handle_t *)&child->process, handle_closed);
    uv_close((uv_handle_t *)&child->deadline, handle_closed);
}
