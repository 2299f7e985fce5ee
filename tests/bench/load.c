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
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "clients.h"

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
