/* floor_db: the least that endpoints over a database can cost. Raw epoll, a thread per core, each
 * with its own listener (SO_REUSEPORT) and one connection to PostgreSQL that all its requests
 * share: statements are prepared, binary and pipelined, each with a Sync of its own, and flushed
 * once per turn of the loop. Answers of the database come in the order of its questions, so a
 * queue of the clients that asked is all the bookkeeping.
 *
 *     floor_db PORT THREADS     PGHOST (a directory), PGPORT, PGUSER and PGDATABASE say where
 *
 * It takes a request that comes whole in one read, without a pipeline, and trusts the database and
 * its schema: nothing here is a model for the core. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "fortunes.h"
#include "postgres_messages.h"

enum {
    world_size = 10000,
    row_limit = 500,      /* of one request */
    queue_size = 1 << 18, /* statements in flight on a connection; a power of two */
    request_size = 16 * 1024,
    read_size = 64 * 1024,
    events_per_turn = 256,
    int4_type = 23,
};

typedef enum db_endpoint {
    ENDPOINT_DB,
    ENDPOINT_QUERIES,
    ENDPOINT_UPDATES,
    ENDPOINT_FORTUNES,
    ENDPOINT_CACHED,
    ENDPOINT_UNKNOWN,
    ENDPOINT_COUNT
} db_endpoint;

static const char *const request_lines[ENDPOINT_UNKNOWN] = {
    "GET /db ", "GET /queries?n=", "GET /updates?n=", "GET /fortunes ", "GET /cached-queries?n=",
};

typedef struct db_row {
    uint32_t id, number;
} db_row;

typedef struct db_client {
    int fd;
    db_endpoint endpoint;
    bool is_closed, is_written;
    unsigned pending; /* statements without an answer */
    size_t row_count;
    db_row *rows;
    db_fortunes fortunes;
} db_client;

typedef struct db_database {
    int fd;
    bool is_full; /* the socket took only a part: we wait until it is writable */
    floor_buffer input, output;
    db_client **queue; /* who asked, oldest first */
    unsigned first, last;
} db_database;

typedef struct db_worker {
    uint16_t port;
    int epoll, listener;
    uint32_t seed;
    time_t second;
    char date[date_size + 1];
    char request[request_size + 1];
    floor_buffer find_row, body, output;
    db_database database;
    db_row cache[world_size];
} db_worker;

/* What every request for a row sends but for the row's number, which ends the Bind's parameters. */
static const size_t id_offset = 22;

static void put_find_row(floor_buffer *output)
{
    size_t start = bind_begin(output, "world", 1);
    put_int32(output, 4);
    put_int32(output, 0);
    bind_end(output, start);
    put_execute_and_sync(output);
}

static void put_array(floor_buffer *output, const db_row *rows, size_t count, bool is_ids)
{
    put_int32(output, (uint32_t)(20 + 8 * count));
    put_int32(output, 1); /* dimensions */
    put_int32(output, 0); /* no nulls */
    put_int32(output, int4_type);
    put_int32(output, (uint32_t)count);
    put_int32(output, 1); /* the first index */
    for (size_t i = 0; i < count; i++) {
        put_int32(output, 4);
        put_int32(output, is_ids ? rows[i].id : rows[i].number);
    }
}

/* Questions. */

static uint32_t random_number(db_worker *worker)
{
    worker->seed ^= worker->seed << 13;
    worker->seed ^= worker->seed >> 17;
    worker->seed ^= worker->seed << 5;
    return 1 + worker->seed % world_size;
}

static void expect_answer(db_database *database, db_client *client)
{
    if (database->last - database->first == queue_size) {
        (void)fprintf(stderr, "floor_db: more than %d statements in flight\n", queue_size);
        exit(1);
    }
    database->queue[database->last++ % queue_size] = client;
    client->pending++;
}

static void ask_row(db_worker *worker, db_client *client)
{
    floor_buffer *output = &worker->database.output;
    uint32_t id = htonl(random_number(worker));
    put(output, worker->find_row.bytes, worker->find_row.used);
    memcpy(output->bytes + output->used - worker->find_row.used + id_offset, &id, sizeof(id));
    expect_answer(&worker->database, client);
}

static void ask_all(db_worker *worker, db_client *client, const char *statement)
{
    floor_buffer *output = &worker->database.output;
    bind_end(output, bind_begin(output, statement, 0));
    put_execute_and_sync(output);
    expect_answer(&worker->database, client);
}

static int compare_rows(const void *left, const void *right)
{
    const db_row *a = left, *b = right;
    return (a->id > b->id) - (a->id < b->id);
}

/* In the order of their ids: transactions that lock rows in one order do not deadlock. */
static void write_rows(db_worker *worker, db_client *client)
{
    floor_buffer *output = &worker->database.output;
    for (size_t i = 0; i < client->row_count; i++) client->rows[i].number = random_number(worker);
    qsort(client->rows, client->row_count, sizeof(*client->rows), compare_rows);
    size_t start = bind_begin(output, "update", 2);
    put_array(output, client->rows, client->row_count, true);
    put_array(output, client->rows, client->row_count, false);
    bind_end(output, start);
    put_execute_and_sync(output);
    expect_answer(&worker->database, client);
    client->is_written = true;
}

/* Answers to clients. */

static void put_rows(floor_buffer *body, const db_client *client)
{
    bool is_list = client->endpoint != ENDPOINT_DB;
    if (is_list) put(body, "[", 1);
    for (size_t i = 0; i < client->row_count; i++) {
        if (i) put(body, ",", 1);
        put_text(body, "{\"id\":");
        put_number(body, client->rows[i].id);
        put_text(body, ",\"randomNumber\":");
        put_number(body, client->rows[i].number);
        put(body, "}", 1);
    }
    if (is_list) put(body, "]", 1);
}

static void put_head(db_worker *worker, floor_buffer *output, db_endpoint endpoint)
{
    put_text(output, endpoint == ENDPOINT_UNKNOWN ? "HTTP/1.1 404 Not Found" : "HTTP/1.1 200 OK");
    put_text(output, "\r\nDate: ");
    put(output, worker->date, date_size);
    put_text(output, endpoint == ENDPOINT_FORTUNES ? "\r\nContent-Type: text/html; charset=utf-8"
                                                   : "\r\nContent-Type: application/json");
    put_text(output, "\r\nContent-Length: ");
    put_number(output, worker->body.used);
    put_text(output, "\r\n\r\n");
}

static void client_answer(db_worker *worker, db_client *client)
{
    worker->body.used = worker->output.used = 0;
    if (client->endpoint == ENDPOINT_FORTUNES)
        fortunes_put(&worker->body, &client->fortunes);
    else if (client->endpoint != ENDPOINT_UNKNOWN)
        put_rows(&worker->body, client);
    put_head(worker, &worker->output, client->endpoint);
    put(&worker->output, worker->body.bytes, worker->body.used);
    /* A client that does not read sees an answer that is cut, and then no other. */
    ssize_t sent = send(client->fd, worker->output.bytes, worker->output.used, MSG_NOSIGNAL);
    if (sent != (ssize_t)worker->output.used) (void)shutdown(client->fd, SHUT_RDWR);
}

static void client_free(db_client *client)
{
    free(client->fortunes.text.bytes);
    free(client->rows);
    free(client);
}

static db_client *client_new(int fd, size_t row_count)
{
    db_client *client = calloc(1, sizeof(*client));
    if (!client) die("calloc");
    client->fd = fd;
    client->rows = calloc(row_count, sizeof(*client->rows));
    if (!client->rows) die("calloc");
    return client;
}

/* The database. */

static void row_arrived(db_client *client, const char *row)
{
    /* A count of columns (2 bytes), then each column's length (4 bytes) and bytes. */
    if (client->endpoint == ENDPOINT_FORTUNES)
        fortunes_add(&client->fortunes, int32_at(row + 6), row + 14, int32_at(row + 10));
    else
        client->rows[client->row_count++] = (db_row){int32_at(row + 6), int32_at(row + 14)};
}

static void statements_done(db_worker *worker, db_client *client)
{
    if (client->is_closed)
        client_free(client);
    else if (client->endpoint == ENDPOINT_UPDATES && !client->is_written)
        write_rows(worker, client);
    else if (client->endpoint != ENDPOINT_COUNT)
        client_answer(worker, client);
}

static void message_arrived(db_worker *worker, char type, const char *content)
{
    db_database *database = &worker->database;
    db_client *client = database->queue[database->first % queue_size];
    if (type == 'D') {
        row_arrived(client, content);
    } else if (type == 'Z') {
        database->first++;
        if (--client->pending == 0) statements_done(worker, client);
    } else if (type == 'E') {
        (void)fprintf(stderr, "floor_db: the database says %s\n", content);
        exit(1);
    }
}

static void messages_arrived(db_worker *worker)
{
    floor_buffer *input = &worker->database.input;
    size_t done = 0;
    while (input->used - done >= 5) {
        size_t size = 1 + int32_at(input->bytes + done + 1);
        if (input->used - done < size) break;
        message_arrived(worker, input->bytes[done], input->bytes + done + 5);
        done += size;
    }
    buffer_consume(input, done);
}

static void database_readable(db_worker *worker)
{
    floor_buffer *input = &worker->database.input;
    ssize_t count = 0;
    do {
        buffer_reserve(input, read_size);
        count = read(worker->database.fd, input->bytes + input->used, read_size);
        if (count < 0 && errno == EAGAIN) return;
        if (count <= 0) die("the database's connection");
        input->used += (size_t)count;
        messages_arrived(worker);
    } while (count == read_size);
}

static void database_watch(db_worker *worker, int operation)
{
    db_database *database = &worker->database;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = database};
    if (database->is_full) event.events |= EPOLLOUT;
    if (epoll_ctl(worker->epoll, operation, database->fd, &event)) die("epoll_ctl");
}

static void database_flush(db_worker *worker)
{
    db_database *database = &worker->database;
    if (!database->output.used) return;
    ssize_t sent = send(database->fd, database->output.bytes, database->output.used, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) die("the database's connection");
    if (sent > 0) buffer_consume(&database->output, (size_t)sent);
    bool was_full = database->is_full;
    database->is_full = database->output.used > 0;
    if (database->is_full != was_full) database_watch(worker, EPOLL_CTL_MOD);
}

static int database_connect(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int written = snprintf(address.sun_path, sizeof(address.sun_path), "%s/.s.PGSQL.%s",
                           getenv("PGHOST"), getenv("PGPORT"));
    if (written < 0 || (size_t)written >= sizeof(address.sun_path)) die("PGHOST");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address))) die(address.sun_path);
    return fd;
}

static void prepare(db_worker *worker, db_client *asker, const char *name, const char *statement)
{
    put_parse(&worker->database.output, name, statement);
    put_sync(&worker->database.output);
    expect_answer(&worker->database, asker);
}

/* The socket blocks until all is prepared and the cache is filled: it asks as a client that no
 * endpoint answers. */
static void database_open(db_worker *worker)
{
    db_database *database = &worker->database;
    db_client *asker = client_new(-1, world_size);
    asker->endpoint = ENDPOINT_COUNT;
    database->queue = calloc(queue_size, sizeof(*database->queue));
    if (!database->queue) die("calloc");
    database->fd = database_connect();
    put_start_up(&database->output);
    expect_answer(database, asker);
    prepare(worker, asker, "world", "select id, randomnumber from world where id = $1");
    prepare(worker, asker, "all", "select id, randomnumber from world order by id");
    prepare(worker, asker, "fortune", "select id, message from fortune");
    prepare(worker, asker, "update",
            "update world set randomnumber = new.number "
            "from unnest($1::int[], $2::int[]) as new(id, number) where world.id = new.id");
    ask_all(worker, asker, "all");
    database_watch(worker, EPOLL_CTL_ADD);
    database_flush(worker);
    while (asker->pending) database_readable(worker);
    memcpy(worker->cache, asker->rows, sizeof(worker->cache));
    client_free(asker);
    if (fcntl(database->fd, F_SETFL, O_NONBLOCK) < 0) die("fcntl");
}

/* Requests. */

static size_t rows_wanted(const char *number)
{
    long wanted = strtol(number, NULL, 10);
    return wanted < 1 ? 1 : wanted > row_limit ? row_limit : (size_t)wanted;
}

static void answer_from_cache(db_worker *worker, db_client *client, size_t wanted)
{
    while (client->row_count < wanted)
        client->rows[client->row_count++] = worker->cache[random_number(worker) - 1];
    client_answer(worker, client);
}

static db_endpoint find_endpoint(const char *request)
{
    int endpoint = 0;
    while (endpoint < ENDPOINT_UNKNOWN &&
           strncmp(request, request_lines[endpoint], strlen(request_lines[endpoint])) != 0)
        endpoint++;
    return (db_endpoint)endpoint;
}

static void request_arrived(db_worker *worker, db_client *client)
{
    db_endpoint endpoint = client->endpoint = find_endpoint(worker->request);
    client->row_count = client->fortunes.count = client->fortunes.text.used = 0;
    client->is_written = false;
    size_t wanted = 1;
    if (endpoint == ENDPOINT_QUERIES || endpoint == ENDPOINT_UPDATES || endpoint == ENDPOINT_CACHED)
        wanted = rows_wanted(worker->request + strlen(request_lines[endpoint]));
    switch (endpoint) {
    case ENDPOINT_DB:
    case ENDPOINT_QUERIES:
    case ENDPOINT_UPDATES:
        while (wanted--) ask_row(worker, client);
        break;
    case ENDPOINT_FORTUNES: ask_all(worker, client, "fortune"); break;
    case ENDPOINT_CACHED: answer_from_cache(worker, client, wanted); break;
    case ENDPOINT_UNKNOWN:
    case ENDPOINT_COUNT: client_answer(worker, client); break;
    }
}

static void client_readable(db_worker *worker, db_client *client)
{
    ssize_t count = recv(client->fd, worker->request, request_size, 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
        (void)close(client->fd);
        client->is_closed = true;
        if (!client->pending) client_free(client);
        return;
    }
    worker->request[count] = '\0';
    if (!client->pending) request_arrived(worker, client);
}

static void clients_waiting(db_worker *worker)
{
    int on = 1, fd = 0;
    while ((fd = accept4(worker->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client_new(fd, row_limit)};
        if (epoll_ctl(worker->epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
}

static void listener_open(db_worker *worker)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    worker->listener = listening_socket(worker->port);
    if (epoll_ctl(worker->epoll, EPOLL_CTL_ADD, worker->listener, &event)) die("epoll_ctl");
}

static void update_date(db_worker *worker)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec == worker->second) return;
    worker->second = now.tv_sec;
    write_date(worker->date, now.tv_sec);
}

static void turn(db_worker *worker)
{
    struct epoll_event events[events_per_turn];
    int count = epoll_wait(worker->epoll, events, events_per_turn, -1);
    update_date(worker);
    for (int i = 0; i < count; i++) {
        void *source = events[i].data.ptr;
        if (!source)
            clients_waiting(worker);
        else if (source == &worker->database)
            database_readable(worker);
        else
            client_readable(worker, source);
    }
    database_flush(worker);
}

static void *worker_run(void *argument)
{
    db_worker *worker = argument;
    worker->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (worker->epoll < 0) die("epoll_create1");
    put_find_row(&worker->find_row);
    database_open(worker);
    listener_open(worker);
    while (true) turn(worker);
    return NULL;
}

static db_worker *worker_new(uint16_t port, int index)
{
    db_worker *worker = calloc(1, sizeof(*worker));
    if (!worker) die("calloc");
    worker->port = port;
    worker->seed = 77 + (uint32_t)index;
    return worker;
}

int main(int argc, char **argv)
{
    if (argc != 3 || !getenv("PGHOST") || !getenv("PGPORT") || !getenv("PGUSER") ||
        !getenv("PGDATABASE")) {
        (void)fprintf(stderr, "usage: PGHOST=… PGPORT=… PGUSER=… PGDATABASE=… %s PORT THREADS\n",
                      argv[0]);
        return 2;
    }
    uint16_t port = (uint16_t)strtoul(argv[1], NULL, 10);
    (void)signal(SIGPIPE, SIG_IGN);
    for (int i = 1; i < atoi(argv[2]); i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker_run, worker_new(port, i))) die("pthread_create");
    }
    worker_run(worker_new(port, 0));
    return 0;
}
