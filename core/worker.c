#include "worker.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define DRAINING_MOST 16    /* replaced processes per worker; further reloads wait for one to end */
#define DEATHS_AT_ONCE 3    /* that many within DEATHS_PERIOD are followed by a restart at once, */
#define DEATHS_PERIOD 10000 /* ms */
#define DELAY_FIRST 100     /* then after this, ms, */
#define DELAY_MOST 5000     /* doubled up to this when it does not even start */
#define STUCK_PERIOD 60000  /* ms between two replacements because of STUCK, */
#define RETRY_MOST 60000    /* and at most between two attempts when they fail */
#define NOW_PATIENCE 500    /* ms from NOW to SIGKILL */
#define DRAIN_PATIENCE 1000 /* ms beyond the drain time, to end in */
#define REQUESTS_NAMED 10   /* per line of the log */

static uv_loop_t *loop_of(const fl_worker *worker)
{
    return worker->context->program.loop;
}

static fl_log_field worker_field(const fl_worker *worker)
{
    return fl_field_integer("worker", worker->number);
}

static fl_slice text_of(const fl_buffer *buffer)
{
    return fl_slice_of(buffer->data, buffer->size);
}

/* A line about a process, with `why` ("" = as it ended) and the requests that it had. */
static void log_end(const fl_worker *worker, const fl_child *child, fl_log_level level,
                    fl_slice message)
{
    fl_buffer how, requests;
    fl_buffer_init(&how);
    fl_buffer_init(&requests);
    fl_child_describe_end(child, &how);
    unsigned in_flight = fl_ledger_describe(child->ledger, &requests, REQUESTS_NAMED);
    fl_log_field fields[6] = {worker_field(worker), fl_field_integer("pid", child->process.pid),
                              fl_field_text("how", text_of(&how))};
    size_t count = 3;
    if (child->reason[0])
        fields[count++] = fl_field_block("reason", fl_slice_from_string(child->reason));
    if (in_flight > 0) {
        fields[count++] = fl_field_integer("in_flight", in_flight);
        fields[count++] = fl_field_text("requests", text_of(&requests));
    }
    fl_log_line(worker->context->log, level, message, fields, count);
    fl_buffer_close(&how);
    fl_buffer_close(&requests);
}

static void log_child(const fl_worker *worker, const fl_child *child, fl_log_level level,
                      fl_slice message, const char *reason)
{
    fl_log_field fields[3] = {worker_field(worker), fl_field_integer("pid", child->process.pid)};
    size_t count = 2;
    if (reason) fields[count++] = fl_field_text("reason", fl_slice_from_string(reason));
    fl_log_line(worker->context->log, level, message, fields, count);
}

static void leave(fl_worker *worker, fl_child *child, fl_control_kind kind)
{
    bool serves = child->state > FL_CHILD_LOADED; /* else there is nothing to drain */
    if (!serves || kind == FL_CONTROL_NOW)
        fl_child_leave(child, FL_CONTROL_NOW, NOW_PATIENCE);
    else
        fl_child_leave(child, kind, worker->context->drain + DRAIN_PATIENCE);
}

static void give_listeners(fl_worker *worker, fl_child *child)
{
    int error =
        fl_child_listen(child, worker->listeners, worker->listener_count, worker->listeners_shared);
    if (!error) return;
    fl_log_printf(worker->context->log, FL_LOG_ERROR,
                  "cannot pass the listening sockets to server process %d: %s", child->process.pid,
                  uv_strerror(error));
    fl_child_leave(child, FL_CONTROL_NOW, NOW_PATIENCE);
}

/* restarts */

/* One that served is back soon, however often it dies; one that does not even start has time. */
static uint64_t restart_delay(const fl_worker *worker, bool was_ready)
{
    if (worker->deaths <= DEATHS_AT_ONCE) return 0;
    unsigned doublings = worker->deaths - DEATHS_AT_ONCE - 1;
    if (was_ready) return DELAY_FIRST;
    return doublings < 6 ? (uint64_t)DELAY_FIRST << doublings : DELAY_MOST;
}

static void at_restart(uv_timer_t *timer);

static void schedule_restart(fl_worker *worker, bool was_ready)
{
    uint64_t now = uv_now(loop_of(worker));
    if (now - worker->last_death > DEATHS_PERIOD) worker->deaths = 0;
    worker->last_death = now;
    worker->deaths++;
    worker->restarts++;
    (void)uv_timer_start(&worker->restart, at_restart, restart_delay(worker, was_ready), 0);
}

static int start_child(fl_worker *worker, fl_child **role);

static void at_restart(uv_timer_t *timer)
{
    fl_worker *worker = timer->data;
    int error = start_child(worker, &worker->current);
    if (error) schedule_restart(worker, false);
}

/* stuck */

static void at_stuck(uv_timer_t *timer)
{
    fl_worker *worker = timer->data;
    const fl_child *current = worker->current;
    if (worker->stopping || worker->replacement || !current || !current->stuck) return;
    worker->last_stuck = uv_now(loop_of(worker));
    worker->wants_unstuck = true;
    worker->context->changed(worker->context->data);
}

static uint64_t until_due(const fl_worker *worker)
{
    uint64_t now = uv_now(loop_of(worker)), due = worker->last_stuck + STUCK_PERIOD;
    return worker->last_stuck == 0 || due <= now ? 0 : due - now;
}

static uint64_t back_off(fl_worker *worker)
{
    uint64_t doubled = worker->stuck_delay ? 2 * worker->stuck_delay : worker->context->retry;
    return worker->stuck_delay = doubled < RETRY_MOST ? doubled : RETRY_MOST;
}

static void log_retry(const fl_worker *worker, fl_slice failure, uint64_t delay)
{
    const fl_log_field fields[] = {
        worker_field(worker), fl_field_integer("pid", worker->current->process.pid),
        fl_field_text("reason", failure), fl_field_number("again_in_s", (double)delay / 1000)};
    fl_log_line(worker->context->log, FL_LOG_ERROR,
                FL_SLICE("the stuck server process could not be replaced"), fields,
                sizeof(fields) / sizeof(*fields));
}

/* `failure`: why the attempt before this one failed; empty: there has been none. */
static void replace_stuck(fl_worker *worker, fl_slice failure)
{
    if (!failure.size && uv_is_active((uv_handle_t *)&worker->stuck)) return;
    if (!failure.size) worker->stuck_delay = 0;
    uint64_t delay = failure.size ? back_off(worker) : until_due(worker);
    if (failure.size) log_retry(worker, failure, delay);
    (void)uv_timer_start(&worker->stuck, at_stuck, delay, 0);
}

/* what a process says */

static void promote(fl_worker *worker)
{
    fl_child *old = worker->current;
    worker->current = worker->replacement;
    worker->replacement = NULL;
    worker->deaths = 0;
    (void)uv_timer_stop(&worker->stuck);
    log_child(worker, worker->current, FL_LOG_INFO, FL_SLICE("new server process serves"), NULL);
    if (old) leave(worker, old, FL_CONTROL_REPLACED);
}

static void child_ready(fl_worker *worker, fl_child *child)
{
    if (child->state != FL_CHILD_READY) return;
    if (child == worker->replacement) promote(worker);
    if (child == worker->current) worker->has_started = true;
}

static void child_stuck(fl_worker *worker, fl_child *child, const char *text)
{
    if (child != worker->current || worker->stopping) return;
    log_child(worker, child, FL_LOG_ERROR, FL_SLICE("server process is stuck"), text);
    replace_stuck(worker, (fl_slice){0});
}

static void child_message(void *data, fl_child *child, fl_control_kind kind, const char *text)
{
    fl_worker *worker = data;
    bool may_listen = child->state == FL_CHILD_LOADED && worker->listener_count > 0;
    if (kind == FL_CONTROL_LOADED && may_listen) give_listeners(worker, child);
    if (kind == FL_CONTROL_READY) child_ready(worker, child);
    if (kind == FL_CONTROL_STUCK) child_stuck(worker, child, text);
    worker->context->changed(worker->context->data);
}

/* how it ends */

static void forget(fl_worker *worker, fl_child *child)
{
    fl_child **place = &worker->children;
    while (*place != child) place = &(*place)->next;
    *place = child->next;
    if (worker->current == child) worker->current = NULL;
    if (worker->replacement == child) worker->replacement = NULL;
}

static void leaver_ended(fl_worker *worker, const fl_child *child)
{
    if (child->killed)
        log_end(worker, child, FL_LOG_WARN,
                FL_SLICE("server process did not end in time and was killed"));
    else if (child->signal || child->status)
        log_end(worker, child, FL_LOG_WARN, FL_SLICE("server process did not end cleanly"));
    else
        log_child(worker, child, FL_LOG_INFO, FL_SLICE("server process ended"), NULL);
}

/* What it said itself, if it did. */
static void describe_failure(const fl_child *child, char text[FL_CONTROL_TEXT])
{
    fl_buffer how;
    fl_buffer_init(&how);
    fl_child_describe_end(child, &how);
    if (child->reason[0])
        (void)snprintf(text, FL_CONTROL_TEXT, "%s", child->reason);
    else
        (void)snprintf(text, FL_CONTROL_TEXT, "the server process ended before it served: %.*s",
                       (int)how.size, how.data);
    fl_buffer_close(&how);
}

static void replacement_ended(fl_worker *worker, const fl_child *child)
{
    worker->refused = true;
    if (!worker->current) {
        log_end(worker, child, FL_LOG_ERROR, FL_SLICE("the replacement failed"));
        schedule_restart(worker, false);
        return;
    }
    log_end(worker, child, FL_LOG_ERROR,
            FL_SLICE("the replacement failed, the old server process keeps serving"));
    if (!worker->current->stuck) return;
    char why[FL_CONTROL_TEXT];
    describe_failure(child, why);
    replace_stuck(worker, fl_slice_of(why, strcspn(why, "\n")));
}

static void current_ended(fl_worker *worker, const fl_child *child)
{
    worker->wants_unstuck = false; /* it was the stuck one */
    if (!worker->has_started) {
        describe_failure(child, worker->failure);
        return;
    }
    log_end(worker, child, FL_LOG_ERROR,
            child->was_ready ? FL_SLICE("server process died")
                             : FL_SLICE("server process could not be started again"));
    if (!worker->replacement) schedule_restart(worker, child->was_ready);
}

static void child_ended(void *data, fl_child *child)
{
    fl_worker *worker = data;
    bool was_current = worker->current == child, was_replacement = worker->replacement == child;
    forget(worker, child);
    if (worker->stopping || (!was_current && !was_replacement))
        leaver_ended(worker, child);
    else if (was_replacement)
        replacement_ended(worker, child);
    else
        current_ended(worker, child);
    fl_child_free(child);
    worker->context->changed(worker->context->data);
}

static int start_child(fl_worker *worker, fl_child **role)
{
    assert(!*role && !worker->stopping);
    fl_child_events events = {worker, child_message, child_ended};
    fl_child_program program = worker->context->program;
    if (worker->has_started) program.started = uv_hrtime();
    fl_child *child;
    int error = fl_child_start(&child, &program, worker->number, worker->restarts, events);
    if (error) {
        fl_log_printf(worker->context->log, FL_LOG_ERROR, "cannot start a server process: %s",
                      uv_strerror(error));
        return error;
    }
    child->next = worker->children;
    worker->children = child;
    *role = child;
    return 0;
}

void fl_worker_init(fl_worker *worker, const fl_worker_context *context, unsigned number)
{
    *worker = (fl_worker){.context = context, .number = number};
    worker->restart.data = worker->stuck.data = worker;
    (void)uv_timer_init(context->program.loop, &worker->restart);
    (void)uv_timer_init(context->program.loop, &worker->stuck);
}

void fl_worker_start(fl_worker *worker)
{
    int error = start_child(worker, &worker->current);
    if (!error) return;
    (void)snprintf(worker->failure, sizeof(worker->failure), "cannot start a server process: %s",
                   uv_strerror(error));
}

void fl_worker_listen(fl_worker *worker, const int *fds, size_t count, bool shared)
{
    worker->listeners = fds;
    worker->listener_count = count;
    worker->listeners_shared = shared;
    for (fl_child *child = worker->children; child; child = child->next)
        if (child->state == FL_CHILD_LOADED) give_listeners(worker, child);
}

int fl_worker_replace(fl_worker *worker)
{
    worker->wants_new_version = worker->wants_unstuck = false;
    int error = start_child(worker, &worker->replacement);
    if (error) {
        bool is_stuck = worker->current && worker->current->stuck;
        if (is_stuck) replace_stuck(worker, fl_slice_from_string(uv_strerror(error)));
        return error;
    }
    (void)uv_timer_stop(&worker->restart); /* it takes over when there is none now */
    log_child(worker, worker->replacement, FL_LOG_INFO, FL_SLICE("new server process starts"),
              NULL);
    return 0;
}

void fl_worker_stop(fl_worker *worker, fl_control_kind kind)
{
    worker->stopping = true;
    worker->wants_new_version = worker->wants_unstuck = false;
    (void)uv_timer_stop(&worker->restart);
    (void)uv_timer_stop(&worker->stuck);
    for (fl_child *child = worker->children; child; child = child->next) leave(worker, child, kind);
}

bool fl_worker_wants_another(const fl_worker *worker)
{
    return worker->wants_new_version || worker->wants_unstuck;
}

bool fl_worker_is_loaded(const fl_worker *worker)
{
    return worker->current && worker->current->state == FL_CHILD_LOADED;
}

bool fl_worker_has_room(const fl_worker *worker)
{
    unsigned draining = 0;
    for (const fl_child *child = worker->children; child; child = child->next)
        draining += child != worker->current && child != worker->replacement;
    return draining < DRAINING_MOST;
}

bool fl_worker_is_closed(const fl_worker *worker)
{
    for (const fl_child *child = worker->children; child; child = child->next)
        if (!child->closed) return false;
    return true;
}
