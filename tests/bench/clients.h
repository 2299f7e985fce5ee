/* clients: many connections to one server on one thread and epoll, and what happens to each: the
 * loop of `load`, whose modes say what is sent when.
 *
 * A mode is told when a connection is open, has its answer or is closed. Nothing is sent or
 * connected any more once the run `is_ending`. */
#ifndef BENCH_CLIENTS_H
#define BENCH_CLIENTS_H

#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <netinet/in.h>

#include "answer.h"
#include "latencies.h"

enum {
    events_per_turn = 512,
    connecting_at_once = 256, /* below any listener's backlog */
    read_size = 64 * 1024,
    status_count = 600,
};

static const uint64_t second = 1000000000, millisecond = 1000000;

typedef enum client_state { CLIENT_CLOSED, CLIENT_CONNECTING, CLIENT_OPEN } client_state;

typedef struct load_client {
    int fd;
    client_state state;
    bool is_waiting;               /* for the answer to a request */
    uint64_t due;                  /* when that request was to be sent */
    uint64_t wake;                 /* when to go on; 0 = not asleep */
    uint64_t failures;             /* in all */
    uint64_t streak, worst_streak; /* since the last answer; the longest */
    load_answer answer;
} load_client;

typedef struct load_run load_run;

typedef struct load_mode {
    const char *name;
    int receive_buffer; /* of each socket; 0 leaves it to the kernel */
    void (*run)(load_run *load);
    void (*opened)(load_run *load, load_client *client);
    void (*answered)(load_run *load, load_client *client);
    void (*closed)(load_run *load, load_client *client);
} load_mode;

struct load_run {
    const load_mode *mode;
    struct sockaddr_in address;
    uint64_t clients_wanted, seconds, rate, pause, timeout, idle, wait, warm, close;
    const char *path;

    int epoll;
    char request[2048];
    size_t request_size;
    uint64_t started, now;
    load_client *clients, **free_clients;
    size_t free_count, next_client, connecting, open, sleeping, in_flight;
    bool is_ending; /* nothing is sent or connected any more */

    uint64_t connects, connect_failures, requests, answers, unanswered, cut, unsent;
    uint64_t closed_by_server, first_close, last_close, first_request, last_answer;
    uint64_t statuses[status_count];
    latencies latencies;
};

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

static inline uint64_t clock_now(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * second + (uint64_t)time.tv_nsec;
}

static inline void client_sleep(load_run *load, load_client *client, uint64_t duration)
{
    load->sleeping += client->wake == 0;
    client->wake = load->now + duration;
}

static inline void client_close(load_run *load, load_client *client)
{
    if (client->state == CLIENT_CLOSED) return;
    (void)close(client->fd);
    load->connecting -= client->state == CLIENT_CONNECTING;
    load->open -= client->state == CLIENT_OPEN;
    load->in_flight -= client->is_waiting;
    client->state = CLIENT_CLOSED;
    client->is_waiting = false;
}

static inline void client_failed(load_run *load, load_client *client)
{
    client->failures++;
    if (++client->streak > client->worst_streak) client->worst_streak = client->streak;
    client_close(load, client);
    if (load->mode->closed) load->mode->closed(load, client);
}

/* What the server's closing means depends on what was under way. */
static inline void client_lost(load_run *load, load_client *client)
{
    bool was_waiting = client->is_waiting;
    load->closed_by_server++;
    load->last_close = load->now;
    if (!load->first_close) load->first_close = load->now;
    if (was_waiting && client->answer.is_begun)
        load->cut++;
    else if (was_waiting)
        load->unanswered++;
    if (was_waiting) {
        client_failed(load, client);
        return;
    }
    client_close(load, client);
    if (load->mode->closed) load->mode->closed(load, client);
}

static inline void client_watch(load_run *load, load_client *client, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(load->epoll, operation, client->fd, &event) < 0) die("epoll_ctl");
}

static inline void client_connect(load_run *load, load_client *client)
{
    int on = 1, receive_buffer = load->mode->receive_buffer;
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0) die("socket");
    (void)setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (receive_buffer)
        (void)setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer,
                         sizeof(receive_buffer));
    client->state = CLIENT_CONNECTING;
    client->answer = (load_answer){0};
    load->connecting++;
    load->connects++;
    client_watch(load, client, EPOLL_CTL_ADD, EPOLLOUT);
    if (connect(client->fd, (struct sockaddr *)&load->address, sizeof(load->address)) == 0 ||
        errno == EINPROGRESS)
        return;
    load->connect_failures++;
    client_failed(load, client);
}

static inline void connect_more(load_run *load)
{
    while (load->next_client < load->clients_wanted && load->connecting < connecting_at_once)
        client_connect(load, &load->clients[load->next_client++]);
}

static inline void client_send(load_run *load, load_client *client, uint64_t due)
{
    client->is_waiting = true;
    client->due = due;
    client->answer = (load_answer){0};
    load->in_flight++;
    load->requests++;
    if (!load->first_request) load->first_request = clock_now();
    ssize_t sent = send(client->fd, load->request, load->request_size, MSG_NOSIGNAL);
    if (sent != (ssize_t)load->request_size) client_lost(load, client);
}

static inline void client_connected(load_run *load, load_client *client)
{
    int error = 0;
    socklen_t size = sizeof(error);
    (void)getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        load->connect_failures++;
        client_failed(load, client);
        return;
    }
    load->connecting--;
    load->open++;
    client->state = CLIENT_OPEN;
    client_watch(load, client, EPOLL_CTL_MOD, EPOLLIN);
    if (load->mode->opened) load->mode->opened(load, client);
}

static inline void client_answered(load_run *load, load_client *client)
{
    uint64_t now = clock_now(), latency = now > client->due ? now - client->due : 0;
    int status = client->answer.status;
    load->statuses[status > 0 && status < status_count ? status : 0]++;
    load->last_answer = now;
    if (!client->is_waiting) return;
    load->answers++;
    latencies_add(&load->latencies, latency);
    load->in_flight--;
    client->is_waiting = false;
    client->streak = 0;
    if (client->answer.is_last) client_close(load, client);
    if (load->mode->answered) load->mode->answered(load, client);
}

static inline void client_readable(load_run *load, load_client *client)
{
    static char bytes[read_size];
    ssize_t count = recv(client->fd, bytes, sizeof(bytes), 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
        client_lost(load, client);
        return;
    }
    bool is_complete = false;
    (void)answer_read(&client->answer, bytes, (size_t)count, &is_complete);
    if (is_complete) client_answered(load, client);
}

static inline void client_event(load_run *load, load_client *client, uint32_t events)
{
    switch (client->state) {
    case CLIENT_CLOSED: break;
    case CLIENT_CONNECTING: client_connected(load, client); break;
    case CLIENT_OPEN:
        if (events & EPOLLIN)
            client_readable(load, client);
        else if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            client_lost(load, client);
        break;
    }
}

static inline void wake_clients(load_run *load)
{
    for (size_t i = 0; i < load->clients_wanted && load->sleeping; i++) {
        load_client *client = &load->clients[i];
        if (client->wake == 0 || client->wake > load->now) continue;
        client->wake = 0;
        load->sleeping--;
        if (load->is_ending) continue;
        if (client->state == CLIENT_CLOSED)
            client_connect(load, client);
        else if (!client->is_waiting)
            client_send(load, client, load->now);
    }
}

/* Waits for events until `until` at the latest, and handles them. */
static inline void load_turn(load_run *load, uint64_t until)
{
    struct epoll_event events[events_per_turn];
    uint64_t now = clock_now(), wait = until > now ? until - now : 0;
    if (load->sleeping && wait > millisecond) wait = millisecond;
    struct timespec time = {(time_t)(wait / second), (long)(wait % second)};
    int count = epoll_pwait2(load->epoll, events, events_per_turn, &time, NULL);
    if (count < 0 && errno != EINTR) die("epoll_pwait2");
    load->now = clock_now();
    for (int i = 0; i < count; i++) client_event(load, events[i].data.ptr, events[i].events);
    if (load->sleeping) wake_clients(load);
}

static inline void load_run_until(load_run *load, uint64_t until)
{
    while (load->now < until) load_turn(load, until);
}

static inline void finish_answers(load_run *load)
{
    uint64_t until = load->now + load->timeout * second;
    load->is_ending = true;
    while (load->in_flight && load->now < until) load_turn(load, until);
}

#endif
