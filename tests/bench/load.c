/* load: a client of many connections for specs and benchmarks, on one thread and epoll. Where wrk
 * measures how fast a server is, this one shows what happens to each request when the server is
 * crowded, slowed down, overloaded, killed or replaced. Prints one line of JSON.
 *
 *     load MODE ADDRESS:PORT [key=value]…
 *
 *     connections  opens `clients` keep-alive connections (and with warm=1 sends a request on
 *                  each), waits `idle` seconds (or with wait=1 prints "ready" to stderr and waits
 *                  for a line on stdin), then sends one request on each at once
 *     open-loop    `rate` requests a second over `clients` connections for `seconds`, whatever the
 *                  answers do; latency counts from the time a request was due
 *     slowloris    each connection sends one byte of a head that never ends every second
 *     stalled      each connection sends a request, reads nothing for `seconds`, then all there is
 *     reconnect    each client sends request after request (`pause` ms between, close=1 for one
 *                  per connection) and connects again when a connection fails; SIGTERM ends it
 *                  before its time
 *
 * Keys: clients seconds rate path pause timeout idle wait warm close. All is bounded: clients
 * 20,000, rate 200,000, times 120 s; `timeout` is how long answers are awaited at the end. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

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

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t clock_now(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * second + (uint64_t)time.tv_nsec;
}

static void client_sleep(load_run *load, load_client *client, uint64_t duration)
{
    load->sleeping += client->wake == 0;
    client->wake = load->now + duration;
}

static void client_close(load_run *load, load_client *client)
{
    if (client->state == CLIENT_CLOSED) return;
    (void)close(client->fd);
    load->connecting -= client->state == CLIENT_CONNECTING;
    load->open -= client->state == CLIENT_OPEN;
    load->in_flight -= client->is_waiting;
    client->state = CLIENT_CLOSED;
    client->is_waiting = false;
}

static void client_failed(load_run *load, load_client *client)
{
    client->failures++;
    if (++client->streak > client->worst_streak) client->worst_streak = client->streak;
    client_close(load, client);
    if (load->mode->closed) load->mode->closed(load, client);
}

/* What the server's closing means depends on what was under way. */
static void client_lost(load_run *load, load_client *client)
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

static void client_watch(load_run *load, load_client *client, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(load->epoll, operation, client->fd, &event) < 0) die("epoll_ctl");
}

static void client_connect(load_run *load, load_client *client)
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

static void connect_more(load_run *load)
{
    while (load->next_client < load->clients_wanted && load->connecting < connecting_at_once)
        client_connect(load, &load->clients[load->next_client++]);
}

static void client_send(load_run *load, load_client *client, uint64_t due)
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

static void client_connected(load_run *load, load_client *client)
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

static void client_answered(load_run *load, load_client *client)
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

static void client_readable(load_run *load, load_client *client)
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

static void client_event(load_run *load, load_client *client, uint32_t events)
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

static void wake_clients(load_run *load)
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
static void load_turn(load_run *load, uint64_t until)
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

static void load_run_until(load_run *load, uint64_t until)
{
    while (load->now < until) load_turn(load, until);
}

static void finish_answers(load_run *load)
{
    uint64_t until = load->now + load->timeout * second;
    load->is_ending = true;
    while (load->in_flight && load->now < until) load_turn(load, until);
}

static void open_all(load_run *load)
{
    uint64_t until = load->now + load->timeout * second;
    connect_more(load);
    while ((load->connecting || load->next_client < load->clients_wanted) && load->now < until) {
        load_turn(load, until);
        connect_more(load);
    }
}

static void wait_for_line(const load_run *load)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    (void)fputs("ready\n", stderr);
    (void)poll(&input, 1, (int)(load->timeout * 1000));
}

static void send_on_all(load_run *load)
{
    load->is_ending = false;
    load->first_request = 0;
    for (size_t i = 0; i < load->clients_wanted; i++)
        if (load->clients[i].state == CLIENT_OPEN)
            client_send(load, &load->clients[i], clock_now());
    finish_answers(load);
}

static void connections_run(load_run *load)
{
    open_all(load);
    if (load->warm) send_on_all(load);
    if (load->wait) wait_for_line(load);
    load->now = clock_now();
    load_run_until(load, load->now + load->idle * second);
    send_on_all(load);
}

static void client_is_free(load_run *load, load_client *client)
{
    if (client->state == CLIENT_OPEN)
        load->free_clients[load->free_count++] = client;
    else if (!load->is_ending)
        client_connect(load, client);
}

/* A free client that the server closed leaves the list before it connects again. */
static void open_loop_closed(load_run *load, load_client *client)
{
    for (size_t i = 0; i < load->free_count; i++)
        if (load->free_clients[i] == client)
            load->free_clients[i--] = load->free_clients[--load->free_count];
    if (!load->is_ending) client_sleep(load, client, 10 * millisecond);
}

static void open_loop_run(load_run *load)
{
    open_all(load);
    uint64_t start = clock_now(), sent = 0, total = load->rate * load->seconds;
    uint64_t interval = second / load->rate, until = start + load->seconds * second;
    load->now = start;
    while (load->now < until && sent < total) {
        while (sent < total && load->free_count && start + sent * interval <= load->now)
            client_send(load, load->free_clients[--load->free_count], start + sent++ * interval);
        uint64_t next = load->free_count ? start + sent * interval : until;
        load_turn(load, next < until ? next : until);
    }
    load->unsent = total - sent;
    finish_answers(load);
}

static void slowloris_run(load_run *load)
{
    const char *head = load->request;
    size_t head_size = load->request_size - 2; /* without the empty line */
    open_all(load);
    uint64_t start = load->now;
    for (uint64_t i = 0; i < load->seconds; i++) {
        const char *byte = i < head_size ? &head[i] : "a";
        for (size_t j = 0; j < load->clients_wanted; j++) {
            load_client *client = &load->clients[j];
            if (client->state == CLIENT_OPEN) (void)send(client->fd, byte, 1, MSG_NOSIGNAL);
        }
        load_run_until(load, start + (i + 1) * second);
    }
}

static void stalled_opened(load_run *load, load_client *client)
{
    client_watch(load, client, EPOLL_CTL_MOD, EPOLLRDHUP);
    client_send(load, client, load->now);
}

/* A FIN behind unread bytes cannot be seen: reading at the end tells the cut from the complete. */
static void stalled_run(load_run *load)
{
    open_all(load);
    load_run_until(load, load->now + load->seconds * second);
    for (size_t i = 0; i < load->clients_wanted; i++)
        if (load->clients[i].state == CLIENT_OPEN)
            client_watch(load, &load->clients[i], EPOLL_CTL_MOD, EPOLLIN);
    finish_answers(load);
}

static void reconnect_opened(load_run *load, load_client *client)
{
    if (!load->is_ending) client_send(load, client, load->now);
}

static void reconnect_answered(load_run *load, load_client *client)
{
    if (load->close) client_close(load, client);
    if (load->is_ending) return;
    if (load->pause)
        client_sleep(load, client, load->pause * millisecond);
    else if (client->state == CLIENT_CLOSED)
        client_connect(load, client);
    else
        client_send(load, client, load->now);
}

/* The first reconnection is at once: whether it succeeds is what is measured. */
static void reconnect_closed(load_run *load, load_client *client)
{
    if (!load->is_ending) client_sleep(load, client, client->streak > 1 ? 10 * millisecond : 1);
}

static volatile sig_atomic_t is_told_to_end;

static void end_early(int signal)
{
    (void)signal;
    is_told_to_end = 1;
}

static void reconnect_run(load_run *load)
{
    struct sigaction action = {.sa_handler = end_early};
    if (sigaction(SIGTERM, &action, NULL) < 0) die("sigaction");
    uint64_t until = load->now + load->seconds * second;
    while (load->now < until && !is_told_to_end) {
        connect_more(load);
        load_turn(load, until);
    }
    finish_answers(load);
}

static const load_mode modes[] = {
    {"connections", 0, connections_run, NULL, NULL, NULL},
    {"open-loop", 0, open_loop_run, client_is_free, client_is_free, open_loop_closed},
    {"slowloris", 0, slowloris_run, NULL, NULL, NULL},
    {"stalled", 4096, stalled_run, stalled_opened, NULL, NULL},
    {"reconnect", 0, reconnect_run, reconnect_opened, reconnect_answered, reconnect_closed},
};

static double seconds_between(uint64_t from, uint64_t to)
{
    return from && to > from ? (double)(to - from) / (double)second : 0;
}

static void print_statuses(const load_run *load)
{
    const char *separator = "";
    printf("\"status\":{");
    for (int i = 0; i < status_count; i++) {
        if (!load->statuses[i]) continue;
        printf("%s\"%d\":%" PRIu64, separator, i, load->statuses[i]);
        separator = ",";
    }
    printf("}");
}

static void print_result(const load_run *load)
{
    uint64_t failures = 0, streak = 0;
    for (size_t i = 0; i < load->clients_wanted; i++) {
        const load_client *client = &load->clients[i];
        failures = client->failures > failures ? client->failures : failures;
        streak = client->worst_streak > streak ? client->worst_streak : streak;
    }
    printf("{\"mode\":\"%s\",\"clients\":%" PRIu64 ",\"seconds\":%.3f,\"open\":%zu,",
           load->mode->name, load->clients_wanted, seconds_between(load->started, clock_now()),
           load->open);
    printf("\"connects\":%" PRIu64 ",\"connect_failures\":%" PRIu64 ",\"requests\":%" PRIu64
           ",\"answers\":%" PRIu64 ",",
           load->connects, load->connect_failures, load->requests, load->answers);
    printf("\"unanswered\":%" PRIu64 ",\"cut\":%" PRIu64 ",\"timed_out\":%zu,\"unsent\":%" PRIu64
           ",\"closed_by_server\":%" PRIu64 ",",
           load->unanswered, load->cut, load->in_flight, load->unsent, load->closed_by_server);
    printf("\"worst_failures\":%" PRIu64 ",\"worst_streak\":%" PRIu64
           ",\"first_close\":%.3f,\"last_close\":%.3f,\"first_to_last\":%.3f,",
           failures, streak, seconds_between(load->started, load->first_close),
           seconds_between(load->started, load->last_close),
           seconds_between(load->first_request, load->last_answer));
    printf("\"p50\":%.6f,\"p99\":%.6f,\"max\":%.6f,", latencies_percentile(&load->latencies, 0.50),
           latencies_percentile(&load->latencies, 0.99),
           (double)load->latencies.slowest / (double)second);
    print_statuses(load);
    printf("}\n");
}

typedef struct load_option {
    const char *name;
    size_t offset;
    uint64_t initial, minimum, maximum;
} load_option;

static const load_option options[] = {
    {"clients", offsetof(load_run, clients_wanted), 64, 1, 20000},
    {"seconds", offsetof(load_run, seconds), 3, 1, 120},
    {"rate", offsetof(load_run, rate), 1000, 1, 200000},
    {"pause", offsetof(load_run, pause), 0, 0, 10000},
    {"timeout", offsetof(load_run, timeout), 10, 0, 120},
    {"idle", offsetof(load_run, idle), 0, 0, 120},
    {"wait", offsetof(load_run, wait), 0, 0, 1},
    {"warm", offsetof(load_run, warm), 0, 0, 1},
    {"close", offsetof(load_run, close), 0, 0, 1},
};

enum { option_count = sizeof(options) / sizeof(options[0]) };

static void usage(const char *what)
{
    (void)fprintf(stderr,
                  "load: %s\n"
                  "usage: load connections|open-loop|slowloris|stalled|reconnect ADDRESS:PORT "
                  "[key=value]...\n",
                  what);
    exit(2);
}

static uint64_t *option_value(load_run *load, const load_option *option)
{
    return (uint64_t *)(void *)((char *)load + option->offset);
}

static void read_option(load_run *load, const char *text)
{
    const char *value = strchr(text, '=');
    if (!value) usage(text);
    size_t size = (size_t)(value++ - text);
    if (size == 4 && strncmp(text, "path", size) == 0) {
        load->path = value;
        return;
    }
    for (size_t i = 0; i < option_count; i++) {
        const load_option *option = &options[i];
        if (strlen(option->name) != size || strncmp(option->name, text, size) != 0) continue;
        char *end = NULL;
        uint64_t number = strtoull(value, &end, 10);
        if (*end || number < option->minimum || number > option->maximum) usage(text);
        *option_value(load, option) = number;
        return;
    }
    usage(text);
}

static void read_address(load_run *load, const char *text)
{
    char host[INET_ADDRSTRLEN] = "";
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof(host)) usage(text);
    memcpy(host, text, (size_t)(colon - text));
    load->address.sin_family = AF_INET;
    load->address.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &load->address.sin_addr) != 1) usage(text);
}

static void read_arguments(load_run *load, int argc, char **argv)
{
    if (argc < 3) usage("too few arguments");
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        if (strcmp(modes[i].name, argv[1]) == 0) load->mode = &modes[i];
    if (!load->mode) usage(argv[1]);
    read_address(load, argv[2]);
    load->path = "/";
    for (size_t i = 0; i < option_count; i++) *option_value(load, &options[i]) = options[i].initial;
    for (int i = 3; i < argc; i++) read_option(load, argv[i]);
    int size = snprintf(load->request, sizeof(load->request),
                        "GET %s HTTP/1.1\r\nHost: load\r\nConnection: %s\r\n\r\n", load->path,
                        load->close ? "close" : "keep-alive");
    if (size < 0 || (size_t)size >= sizeof(load->request)) usage("path is too long");
    load->request_size = (size_t)size;
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) die("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) die("setrlimit");
}

int main(int argc, char **argv)
{
    load_run load = {0};
    read_arguments(&load, argc, argv);
    raise_descriptor_limit();
    load.clients = calloc(load.clients_wanted, sizeof(*load.clients));
    load.free_clients = calloc(load.clients_wanted, sizeof(*load.free_clients));
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!load.clients || !load.free_clients || load.epoll < 0) die("start");
    load.started = load.now = clock_now();
    load.mode->run(&load);
    print_result(&load);
    return 0;
}
