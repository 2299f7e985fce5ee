#include "thread.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#include <sanitizer/linux_syscall_hooks.h>
#define TELL_CLOSED(fd) __sanitizer_syscall_pre_close(fd)
#endif
#endif
#ifndef TELL_CLOSED
#define TELL_CLOSED(fd) ((void)(fd))
#endif

#define STACK_BYTES (8u << 20) /* C recursion under Lua is guarded by depth; leave it room */
#define CLOSE_TURNS 2000       /* of a millisecond, that ending ops may take when a thread closes */

uint64_t fl_thread_cpu_time(const fl_thread *thread)
{
    struct timespec time;
    if (clock_gettime(thread->cpu_clock, &time) < 0) return 0;
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

uint64_t fl_thread_waited(fl_thread *thread)
{
    return uv_metrics_idle_time(&thread->loop);
}

void fl_thread_tick(fl_thread *thread)
{
    thread->now = uv_hrtime();
}

const char *fl_thread_date(fl_thread *thread)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec != thread->date_second) {
        struct tm parts;
        thread->date_second = now.tv_sec;
        gmtime_r(&now.tv_sec, &parts);
        (void)strftime(thread->date, sizeof(thread->date), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    }
    return thread->date;
}

static void alarm_rings(uv_timer_t *alarm);

/* One uv timer stands for the whole wheel; it is only moved when something fires earlier. */
static void set_alarm(fl_thread *thread)
{
    uint64_t next = fl_wheel_next(&thread->wheel);
    if (next == UINT64_MAX || next >= thread->alarm_at) return;
    uint64_t now = uv_now(&thread->loop);
    thread->alarm_at = next;
    uv_timer_start(&thread->alarm, alarm_rings, next > now ? next - now : 0, 0);
}

static void alarm_rings(uv_timer_t *alarm)
{
    fl_thread *thread = alarm->data;
    thread->alarm_at = UINT64_MAX;
    fl_wheel_advance(&thread->wheel, uv_now(&thread->loop));
    set_alarm(thread);
}

void fl_thread_take_deadlines(fl_thread *thread, fl_wheel *from, const fl_state *except)
{
    fl_wheel_move(&thread->wheel, from, except);
    set_alarm(thread);
}

void fl_thread_start_deadline(fl_thread *thread, fl_deadline *deadline, uint64_t milliseconds,
                              fl_deadline_callback callback)
{
    uint64_t at = uv_now(&thread->loop) + milliseconds;
    fl_deadline_start(&thread->wheel, deadline, at, callback);
    if (at < thread->alarm_at) set_alarm(thread);
}

static void idle_turn(uv_idle_t *idle)
{
    (void)idle; /* its being active is enough: the loop does not sleep */
}

void fl_thread_task_ready(fl_thread *thread)
{
    uv_idle_start(&thread->idle, idle_turn);
}

static void settle(fl_thread *thread)
{
    void (*call)(void *) = thread->owed;
    thread->owed = NULL;
    if (call) call(thread->owed_data);
}

void fl_thread_owe(fl_thread *thread, void (*call)(void *data), void *data)
{
    if (thread->owed && (thread->owed != call || thread->owed_data != data)) settle(thread);
    thread->owed = call;
    thread->owed_data = data;
}

static void add_turn_end(fl_thread *thread, fl_turn_end *self)
{
    self->next = thread->turn_ends;
    if (self->next) self->next->link = &self->next;
    self->link = &thread->turn_ends;
    thread->turn_ends = self;
}

void fl_turn_end_start(fl_turn_end *self, fl_state *state, void (*call)(fl_turn_end *self))
{
    if (self->link) return;
    self->state = state;
    self->call = call;
    add_turn_end(state->thread, self);
}

void fl_turn_end_stop(fl_turn_end *self)
{
    if (!self->link) return;
    *self->link = self->next;
    if (self->next) self->next->link = self->link;
    self->link = NULL;
}

void fl_thread_take_turn_ends(fl_thread *thread, fl_thread *from, const fl_state *except)
{
    for (fl_turn_end *self = from->turn_ends, *next; self; self = next) {
        next = self->next;
        if (self->state == except) continue;
        fl_turn_end_stop(self);
        add_turn_end(thread, self);
    }
}

/* What is started meanwhile waits for the next turn, which then comes at once. */
static void end_turn(fl_thread *thread)
{
    fl_turn_end *all = thread->turn_ends;
    if (!all) return;
    thread->turn_ends = NULL;
    all->link = &all; /* so that each may stop any other */
    while (all) {
        fl_turn_end *self = all;
        fl_turn_end_stop(self);
        self->call(self);
    }
    if (thread->turn_ends) fl_thread_task_ready(thread);
}

static void free_discarded(fl_thread *thread)
{
    fl_state **link = &thread->discarded;
    while (*link) {
        fl_state *state = *link;
        if (state->live_tasks || state->ops) {
            link = &state->next;
            continue;
        }
        *link = state->next;
        fl_state_free(state);
    }
}

static bool run_discarded(fl_thread *thread)
{
    bool left = false;
    for (fl_state *state = thread->discarded; state; state = state->next)
        left |= fl_task_run_ready(state);
    free_discarded(thread);
    return left;
}

static void run_ready(fl_thread *thread)
{
    bool left = false;
    if (!uv_is_active((uv_handle_t *)&thread->idle)) return;
    fl_thread_tick(thread);
    for (unsigned i = 0; i < thread->state_count; i++) {
        if (!thread->states[i]) continue;
        left |= fl_task_run_ready(thread->states[i]);
        fl_state_safe_point(thread->states[i]);
    }
    if (thread->discarded) left |= run_discarded(thread);
    if (!left) uv_idle_stop(&thread->idle);
    settle(thread);
}

static void tell_again(fl_deadline *deadline)
{
    (void)deadline; /* that the loop turned is enough */
}

static size_t lua_bytes(const fl_thread *thread)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < thread->state_count; i++)
        if (thread->states[i]) bytes += thread->states[i]->memory.used;
    return bytes;
}

static void note_turn(fl_thread *thread)
{
    uint64_t now = uv_hrtime() / 1000000;
    uint64_t length = now > thread->turn_began ? now - thread->turn_began : 0;
    if (length > thread->longest_turn) thread->longest_turn = length;
    if (now - thread->lag_second < 1000) return;
    atomic_store_explicit(&thread->metrics->loop_lag, thread->longest_turn * 1000000,
                          memory_order_relaxed);
    size_t bytes = lua_bytes(thread);
    uint64_t told = atomic_load_explicit(&thread->metrics->lua_bytes, memory_order_relaxed);
    atomic_store_explicit(&thread->metrics->lua_bytes, bytes, memory_order_relaxed);
    if (thread->longest_turn || told != bytes) /* once more, should the loop fall idle now */
        fl_thread_start_deadline(thread, &thread->tell_again, 1000, tell_again);
    thread->longest_turn = 0;
    thread->lag_second = now;
}

/* Before the loop sleeps: what timers and letters made ready. */
static void before_poll(uv_prepare_t *prepare)
{
    fl_thread *thread = prepare->data;
    run_ready(thread);
    while (!fl_mailbox_doze(thread->mailbox)) {
    }
    run_ready(thread);
    end_turn(thread);
    note_turn(thread);
}

/* After the sockets' events: what they made ready. uv_now is when the poll returned. */
static void after_poll(uv_check_t *check)
{
    fl_thread *thread = check->data;
    fl_mailbox_rise(thread->mailbox);
    run_ready(thread);
    for (unsigned i = 0; i < thread->state_count; i++)
        if (thread->states[i]) fl_state_safe_point(thread->states[i]);
    thread->turn_began = uv_now(&thread->loop);
}

void fl_thread_begin(fl_thread *thread)
{
    atomic_store(&thread->tid, (int)syscall(SYS_gettid));
    pthread_getcpuclockid(pthread_self(), &thread->cpu_clock);
    uv_update_time(&thread->loop);
    fl_wheel_init(&thread->wheel, uv_now(&thread->loop));
    thread->turn_began = thread->lag_second = uv_now(&thread->loop);
    fl_thread_tick(thread);
}

bool fl_thread_is_quiet(const fl_thread *thread)
{
    for (unsigned i = 0; i < thread->state_count; i++) {
        const fl_state *state = thread->states[i];
        if (state && (state->live_tasks || state->ops)) return false;
    }
    return true;
}

/* What ends its ops may come as a letter, which ends no poll: so none is waited for. */
void fl_thread_close_state(fl_thread *thread, unsigned number)
{
    fl_state *state = thread->states[number];
    if (!state) return;
    fl_op_cancel_all(state);
    for (int i = 0; i < CLOSE_TURNS && state->ops; i++) {
        uv_run(&thread->loop, UV_RUN_NOWAIT);
        if (state->ops) uv_sleep(1);
    }
    thread->states[number] = NULL;
    fl_state_free(state);
}

void fl_thread_discard_state(fl_thread *thread, unsigned number)
{
    fl_state *state = thread->states[number];
    thread->states[number] = NULL;
    fl_op_cancel_all(state);
    fl_task_cancel_list(state->own_tasks, "shutdown");
    state->next = thread->discarded;
    thread->discarded = state;
    fl_thread_task_ready(thread);
}

static void close_walked(uv_handle_t *handle, void *data)
{
    (void)data;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

void fl_thread_end_loop(fl_thread *thread)
{
    for (unsigned i = 0; i < thread->state_count; i++) fl_thread_close_state(thread, i);
    while (thread->discarded) {
        fl_state *state = thread->discarded;
        thread->discarded = state->next;
        fl_state_free(state);
    }
    for (unsigned i = 0; i < thread->mailbox_count; i++) fl_mailbox_close(thread->mailboxes[i]);
    uv_walk(&thread->loop, close_walked, NULL);
    uv_run(&thread->loop, UV_RUN_DEFAULT);
}

int fl_thread_init(fl_thread *thread, void *owner)
{
    int status = uv_loop_init(&thread->loop);
    if (status < 0) return status;
    (void)uv_loop_configure(&thread->loop, UV_METRICS_IDLE_TIME);
    thread->alarm_at = UINT64_MAX;
    uv_timer_init(&thread->loop, &thread->alarm);
    uv_prepare_init(&thread->loop, &thread->prepare);
    uv_check_init(&thread->loop, &thread->check);
    uv_idle_init(&thread->loop, &thread->idle);
    thread->alarm.data = thread->prepare.data = thread->check.data = thread->idle.data = thread;
    uv_prepare_start(&thread->prepare, before_poll);
    uv_check_start(&thread->check, after_poll);
    thread->mailboxes = malloc(sizeof(*thread->mailboxes));
    if (!thread->mailboxes) return UV_ENOMEM;
    status = fl_mailbox_new(&thread->mailbox, &thread->loop, owner);
    if (status == 0) {
        thread->mailboxes[0] = thread->mailbox;
        thread->mailbox_count = 1;
        fl_mailbox_hold(thread->mailbox); /* others may post until fl_thread_close */
        return 0;
    }
    free(thread->mailboxes);
    uv_walk(&thread->loop, close_walked, NULL);
    uv_run(&thread->loop, UV_RUN_DEFAULT);
    uv_loop_close(&thread->loop);
    return status;
}

int fl_thread_start(fl_thread *thread, void *(*run)(void *data), void *data)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int error = pthread_create(&thread->id, &attributes, run, data);
    pthread_attr_destroy(&attributes);
    return -error;
}

void fl_thread_join(fl_thread *thread)
{
    pthread_join(thread->id, NULL);
}

/* libuv closes by system calls that ThreadSanitizer does not see: to it, whoever gets one of these
 * descriptors next would race with this thread. */
int fl_thread_close_loop(uv_loop_t *loop)
{
    TELL_CLOSED(loop->backend_fd);
    TELL_CLOSED(loop->signal_pipefd[0]);
    TELL_CLOSED(loop->signal_pipefd[1]);
    TELL_CLOSED(loop->async_io_watcher.fd);
    return uv_loop_close(loop);
}

void fl_thread_close(fl_thread *thread)
{
    fl_thread_close_loop(&thread->loop);
    for (unsigned i = 0; i < thread->mailbox_count; i++) fl_mailbox_release(thread->mailboxes[i]);
    free(thread->mailboxes);
    fl_request_free_pooled(thread);
    fl_buffer_close(&thread->out);
    fl_buffer_close(&thread->scratch);
    free(thread->states);
}
