#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "connection.h"
#include "server.h"
#include "web.h"

#define ACCEPTS_PER_TURN 64
#define BALANCE 2 /* a thread with this many more connections than another hands a new one over */

/* Out of descriptors: gives the spare one up to take the connection and tell it at once, instead of
 * spinning over a backlog that cannot be taken. */
static void turn_away(fl_listener *listener)
{
    static const char sorry[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n"
                                "Retry-After: 1\r\nConnection: close\r\n\r\n";
    fl_web *web = listener->web;
    close(web->spare_fd);
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        (void)!send(fd, sorry, sizeof(sorry) - 1, MSG_NOSIGNAL);
        close(fd);
    }
    web->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    fl_metric_add(&web->thread.metrics->shed, 1);
}

/* false: nothing more waits. */
static bool accept_one(fl_listener *listener)
{
    fl_web *web = listener->web;
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE) {
            turn_away(listener);
            return true;
        }
        return errno == ECONNABORTED || errno == EINTR;
    }
    fl_web *target = fl_server_least_loaded(web->thread.server, web, BALANCE);
    if (target != web && fl_web_hand_over(target, fd))
        fl_metric_add(&web->thread.metrics->handed_over, 1);
    else
        fl_connection_open(web, fd);
    return true;
}

static bool is_full(const fl_web *web)
{
    return atomic_load_explicit(&web->counts->connections, memory_order_relaxed) >=
           web->connections_most;
}

static void acceptable(uv_poll_t *poll, int status, int events)
{
    (void)events;
    fl_listener *listener = poll->data;
    if (status < 0) return;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        if (is_full(listener->web)) {
            fl_listener_pause(listener, true);
            return;
        }
        if (!accept_one(listener)) return;
    }
}

int fl_listener_open(fl_web *web, int fd, bool helping)
{
    fl_listener *listener = calloc(1, sizeof(*listener));
    if (!listener) return UV_ENOMEM;
    listener->web = web;
    listener->fd = fd;
    listener->helping = helping;
    int status = uv_poll_init(&web->thread.loop, &listener->poll, fd);
    if (status < 0) {
        free(listener);
        return status;
    }
    listener->poll.data = listener;
    listener->next = web->listeners;
    web->listeners = listener;
    return uv_poll_start(&listener->poll, UV_READABLE, acceptable);
}

void fl_listener_pause(fl_listener *listener, bool paused)
{
    for (; listener; listener = listener->next) {
        if (listener->paused == paused) continue;
        listener->paused = paused;
        if (paused)
            uv_poll_stop(&listener->poll);
        else
            uv_poll_start(&listener->poll, UV_READABLE, acceptable);
    }
}

void fl_listener_drain(fl_listener *listener)
{
    while (accept_one(listener)) {
    }
}

/* By a system call, as libuv closes: to ThreadSanitizer, which sees neither that nor that the
 * descriptor is a copy made by fcntl, its number still belongs to whoever had it before. */
static void poll_closed(uv_handle_t *handle)
{
    fl_listener *listener = handle->data;
    (void)syscall(SYS_close, listener->fd);
    free(listener);
}

void fl_listener_close(fl_listener *listener)
{
    fl_listener **link = &listener->web->listeners;
    while (*link != listener) link = &(*link)->next;
    *link = listener->next;
    uv_close((uv_handle_t *)&listener->poll, poll_closed);
}
