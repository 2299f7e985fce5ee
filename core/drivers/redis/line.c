#include "line.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <uv.h>

#include "thread.h"

#define FIRST_PAUSE 50     /* ms between attempts to connect */
#define LONGEST_PAUSE 2000 /* ms */

static uint64_t now_of(const fl_redis_line *line)
{
    return uv_now(&line->state->thread->loop);
}

static void fail(fl_redis_line *line, const char *problem)
{
    line->events->failed(line, problem);
}

/* one address */

static void connect_next(fl_redis_line *line);

static void give_address_up(fl_redis_line *line, const char *problem)
{
    fl_redis_line_note(line, problem);
    fl_readiness_close(&line->readiness);
    fl_transport_close(&line->transport);
    connect_next(line);
}

static void be_up(fl_redis_line *line)
{
    line->phase = FL_LINE_UP;
    line->events->connected(line);
}

static void go_on_connecting(fl_redis_line *line)
{
    int status = fl_transport_connect(&line->transport);
    if (status < 0)
        give_address_up(line, line->transport.problem);
    else if (status > 0)
        be_up(line);
    else
        fl_redis_line_want(line, false);
}

/* libuv says so, and listens no more, when there is an error at the socket, which reading tells. */
static void socket_failed(fl_redis_line *line)
{
    if (line->phase == FL_LINE_CONNECTING) {
        int status = fl_transport_connect(&line->transport);
        give_address_up(line, status < 0 ? line->transport.problem : "the connection failed");
        return;
    }
    line->events->ready(line);
    if (line->phase == FL_LINE_UP) fail(line, "the connection failed");
}

static void socket_ready(fl_readiness *readiness, int status, int events)
{
    fl_redis_line *line = (fl_redis_line *)((char *)readiness - offsetof(fl_redis_line, readiness));
    (void)events;
    if (status == UV_EBADF)
        socket_failed(line);
    else if (status < 0)
        fail(line, uv_strerror(status));
    else if (line->phase == FL_LINE_CONNECTING)
        go_on_connecting(line);
    else
        line->events->ready(line);
}

static fl_redis_line *line_of(fl_deadline *timer)
{
    return (fl_redis_line *)((char *)timer - offsetof(fl_redis_line, timer));
}

static void attempt_timed_out(fl_deadline *timer)
{
    fl_redis_line *line = line_of(timer);
    if (line->phase == FL_LINE_CONNECTING)
        give_address_up(line, "no answer in time");
    else
        fail(line, "no answer in time");
}

static int open_socket(fl_redis_line *line, const struct sockaddr *address, socklen_t size)
{
    const fl_redis_target *target = line->target;
    int status = fl_transport_open(&line->transport, address, size, target->tls, target->tls_name);
    if (status < 0) return status;
    status = fl_readiness_open(&line->readiness, line->state, line->transport.fd, socket_ready);
    if (status < 0) fl_transport_close(&line->transport);
    if (status < 0) return status;
    line->phase = FL_LINE_CONNECTING;
    fl_thread_start_deadline(line->state->thread, &line->timer, target->connect_timeout,
                             attempt_timed_out);
    fl_redis_line_want(line, false);
    return 0;
}

static int open_path(fl_redis_line *line)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = strlen(line->target->path);
    if (size >= sizeof(address.sun_path)) return UV_ENAMETOOLONG;
    memcpy(address.sun_path, line->target->path, size + 1);
    return open_socket(line, (const struct sockaddr *)&address, sizeof(address));
}

static int open_address(fl_redis_line *line, const fl_resolved_address *address)
{
    bool is_v4 = address->any.sa_family == AF_INET;
    return open_socket(line, &address->any, is_v4 ? sizeof(address->v4) : sizeof(address->v6));
}

/* all of them */

static void connect_next(fl_redis_line *line)
{
    while (line->next_address < line->found.count) {
        int status = open_address(line, &line->found.addresses[line->next_address++]);
        if (status == 0) return;
        fl_redis_line_note(line, uv_strerror(status));
    }
    fail(line, line->problem);
}

static void connect_found(fl_redis_line *line)
{
    line->next_address = 0;
    fl_redis_line_note(line, "the host has no address");
    connect_next(line);
}

static void resolved(void *data, const fl_resolved *result)
{
    fl_redis_line *line = data;
    line->resolve = NULL;
    if (result->error) {
        fail(line, uv_strerror(result->error));
        return;
    }
    line->found = *result;
    connect_found(line);
}

static void look_up(fl_redis_line *line)
{
    const fl_redis_target *target = line->target;
    line->phase = FL_LINE_RESOLVING;
    int status =
        fl_resolve_start(&line->resolve, line->state, target->host, target->port, resolved, line);
    if (status < 0) fail(line, uv_strerror(status));
}

static void connect_now(fl_redis_line *line)
{
    if (!line->target->host[0]) {
        line->next_address = line->found.count = 0;
        int status = open_path(line);
        if (status < 0) fail(line, uv_strerror(status));
    } else if (fl_resolve_number(line->target->host, line->target->port, &line->found)) {
        connect_found(line);
    } else {
        look_up(line);
    }
}

/* pauses */

static void pause_ends(fl_deadline *timer)
{
    fl_redis_line *line = line_of(timer);
    line->phase = FL_LINE_DOWN;
    line->events->rested(line);
}

static uint64_t pause_of(const fl_redis_line *line)
{
    unsigned doublings = line->failures < 8 ? line->failures : 8;
    if (doublings == 0) return 0;
    uint64_t pause = (uint64_t)FIRST_PAUSE << (doublings - 1);
    return pause < LONGEST_PAUSE ? pause : LONGEST_PAUSE;
}

void fl_redis_line_init(fl_redis_line *line, fl_state *state, const fl_redis_target *target,
                        const fl_redis_line_events *events)
{
    *line = (fl_redis_line){.state = state, .target = target, .events = events};
    line->transport.fd = -1;
    line->timer.state = state;
}

void fl_redis_line_open(fl_redis_line *line)
{
    if (now_of(line) < line->not_before)
        fl_redis_line_open_later(line);
    else
        connect_now(line);
}

void fl_redis_line_open_later(fl_redis_line *line)
{
    uint64_t now = now_of(line);
    line->phase = FL_LINE_PAUSED;
    fl_thread_start_deadline(line->state->thread, &line->timer,
                             line->not_before > now ? line->not_before - now : 0, pause_ends);
}

void fl_redis_line_settle(fl_redis_line *line)
{
    fl_deadline_stop(&line->timer);
}

void fl_redis_line_want(fl_redis_line *line, bool reads)
{
    if (line->phase < FL_LINE_CONNECTING) return;
    if (reads) line->transport.want |= UV_READABLE;
    fl_readiness_want(&line->readiness, line->transport.want);
}

void fl_redis_line_note(fl_redis_line *line, const char *problem)
{
    if (problem != line->problem)
        (void)snprintf(line->problem, sizeof(line->problem), "%s", problem);
}

void fl_redis_line_back_off(fl_redis_line *line)
{
    line->not_before = now_of(line) + pause_of(line);
    line->failures++;
}

void fl_redis_line_close(fl_redis_line *line)
{
    fl_readiness_close(&line->readiness);
    fl_transport_close(&line->transport);
    fl_deadline_stop(&line->timer);
    if (line->resolve) fl_resolve_cancel(line->resolve);
    line->resolve = NULL;
    line->phase = FL_LINE_DOWN;
}
