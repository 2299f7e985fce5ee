#include "connection.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <uv.h>

#include "exchange.h"
#include "pool.h"

#define READ_SIZE 65536
#define READS_MOST 16 /* in a row, before others have their turn */
#define MESSAGE_MOST ((size_t)16 << 20)
#define OPTIONS_MOST 64
#define IN_KEPT 65536
#define OUT_KEPT 65536

static fl_thread *thread_of(const fl_pg_connection *self)
{
    return self->pg->db.state->thread;
}

/* the end */

static void close_buffers(fl_pg_connection *self)
{
    fl_buffer *all[] = {&self->in,        &self->out,   &self->parameters, &self->hosts,
                        &self->addresses, &self->ports, &self->copy_error};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) fl_buffer_close(all[i]);
}

static void maybe_free(fl_pg_connection *self)
{
    if (self->phase != FL_PG_CLOSED || self->held) return;
    close_buffers(self);
    free(self);
}

void fl_pg_connection_hold(fl_pg_connection *self)
{
    self->held++;
}

void fl_pg_connection_release(fl_pg_connection *self)
{
    self->held--;
    maybe_free(self);
}

static void leave_list(fl_pg_connection *self)
{
    *self->link = self->next;
    if (self->next) self->next->link = self->link;
    self->link = NULL;
}

/* Afterwards it waits to be freed. */
static void shut(fl_pg_connection *self)
{
    self->phase = FL_PG_CLOSED;
    fl_readiness_close(&self->readiness);
    fl_turn_end_stop(&self->turn_end);
    fl_deadline_stop(&self->deadline);
    if (self->resolve) fl_resolve_cancel(self->resolve);
    fl_pg_line_close(self->line);
    PQfinish(self->conn);
    leave_list(self);
}

static void drop_contents(fl_pg_connection *self)
{
    fl_pg_prepared_clear(&self->prepared);
    fl_pg_known_release(self->stream_known);
    self->stream_known = NULL;
}

void fl_pg_connection_lost(fl_pg_connection *self, const char *why, bool not_run)
{
    if (self->phase == FL_PG_CLOSED) return;
    fl_pg *pg = self->pg;
    char reason[sizeof(self->why)];
    (void)snprintf(reason, sizeof(reason), "%s", why);
    fl_pg_connection_hold(self);
    shut(self);
    fl_pg_pool_lost(pg, self, reason);
    fl_pg_exchange_lost(self, reason, not_run);
    drop_contents(self);
    fl_pg_connection_release(self);
    fl_pg_pool_serve(pg);
}

void fl_pg_connection_close(fl_pg_connection *self)
{
    if (self->phase == FL_PG_CLOSED) return;
    fl_pg_connection_hold(self);
    shut(self);
    fl_pg_exchange_lost(self, "the database is closed", false);
    drop_contents(self);
    fl_pg_connection_release(self);
}

/* connecting */

static void refuse(fl_pg_connection *self)
{
    fl_pg *pg = self->pg;
    fl_pg_connection_hold(self);
    bool needs_password = self->conn && PQconnectionNeedsPassword(self->conn);
    shut(self);
    fl_pg_pool_refused(pg, self->why, needs_password);
    fl_pg_connection_release(self);
}

static void refuse_late(fl_deadline *deadline)
{
    refuse((fl_pg_connection *)((char *)deadline - offsetof(fl_pg_connection, deadline)));
}

/* It may have been called by who has just asked for the connection. */
static void refuse_soon(fl_pg_connection *self, const char *why)
{
    (void)snprintf(self->why, sizeof(self->why), "%s", why);
    fl_readiness_close(&self->readiness);
    fl_deadline_stop(&self->deadline);
    fl_thread_start_deadline(thread_of(self), &self->deadline, 0, refuse_late);
}

/* Messages of libpq have several lines: the last may say where in the server's source it was. */
static void refuse_for_library(fl_pg_connection *self)
{
    char text[sizeof(self->why)];
    (void)snprintf(text, sizeof(text), "%s", PQerrorMessage(self->conn));
    char *location = strstr(text, "\nLOCATION:");
    if (location) *location = '\0';
    size_t size = strlen(text);
    while (size && isspace((unsigned char)text[size - 1])) text[--size] = '\0';
    for (char *at = text; *at; at++)
        if (*at == '\n' || *at == '\t') *at = ' ';
    refuse_soon(self, text);
}

static void too_slow(fl_deadline *deadline)
{
    fl_pg_connection *self =
        (fl_pg_connection *)((char *)deadline - offsetof(fl_pg_connection, deadline));
    (void)snprintf(self->why, sizeof(self->why), "it did not answer within %llu ms",
                   (unsigned long long)self->pg->db.connect_timeout);
    refuse(self);
}

static void connect_ready(fl_readiness *readiness, int status, int events);
static void ready(fl_readiness *readiness, int status, int events);

static void watch_for(fl_pg_connection *self, int events, fl_readiness_ready callback)
{
    int status =
        fl_readiness_open(&self->readiness, self->pg->db.state, PQsocket(self->conn), callback);
    if (status < 0)
        refuse_soon(self, uv_strerror(status));
    else
        fl_readiness_want(&self->readiness, events);
}

/* What is read is understood as strings with backslashes or without: sql.h says without. */
static bool is_standard(PGconn *conn)
{
    const char *value = PQparameterStatus(conn, "standard_conforming_strings");
    return !value || strcmp(value, "on") == 0;
}

static void prepare_tls(fl_pg_connection *self)
{
    if (!PQsslInUse(self->conn)) return;
    self->tls = PQsslStruct(self->conn, "OpenSSL");
    if (self->tls)
        (void)SSL_set_mode(self->tls,
                           SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

/* libpq has read up to ReadyForQuery. PQisBusy takes in what may have come behind it; the rare half
 * of a message would be taken for nonsense, and the connection for lost. */
static void connected(fl_pg_connection *self)
{
    if (!is_standard(self->conn)) {
        refuse_soon(self, "standard_conforming_strings is off, so statements could be misread");
        return;
    }
    if (fl_pg_line_open(self->line, self->conn) < 0) {
        refuse_soon(self, "not enough memory");
        return;
    }
    (void)PQisBusy(self->conn);
    (void)PQsetnonblocking(self->conn, 1);
    prepare_tls(self);
    fl_deadline_stop(&self->deadline);
    self->phase = FL_PG_READY;
    self->status = 'I';
    self->since = self->idle_since = fl_db_now(&self->pg->db);
    watch_for(self, UV_READABLE, ready);
    if (self->readiness.link) fl_pg_pool_connected(self);
}

/* libpq may take another socket at each step. */
static void connect_step(fl_pg_connection *self)
{
    fl_readiness_close(&self->readiness);
    switch (PQconnectPoll(self->conn)) {
    case PGRES_POLLING_READING: watch_for(self, UV_READABLE, connect_ready); break;
    case PGRES_POLLING_WRITING: watch_for(self, UV_WRITABLE, connect_ready); break;
    case PGRES_POLLING_OK: connected(self); break;
    case PGRES_POLLING_FAILED:
    case PGRES_POLLING_ACTIVE: refuse_for_library(self); break;
    }
}

static void connect_ready(fl_readiness *readiness, int status, int events)
{
    fl_pg_connection *self =
        (fl_pg_connection *)((char *)readiness - offsetof(fl_pg_connection, readiness));
    (void)status; /* a connection that is refused: libpq knows why, and goes on to the next host */
    (void)events;
    fl_pg_connection_hold(self);
    connect_step(self);
    fl_pg_connection_release(self);
}

static void ignore_notice(void *data, const char *message)
{
    (void)data;
    (void)message;
}

static void begin_connecting(fl_pg_connection *self)
{
    fl_pg *pg = self->pg;
    const char *names[OPTIONS_MOST + 4], *values[OPTIONS_MOST + 4];
    size_t count = 0;
    for (; count < pg->option_count && count < OPTIONS_MOST; count++) {
        names[count] = pg->names[count];
        values[count] = pg->values[count];
    }
    if (pg->host) {
        const char *own[] = {"host", self->hosts.data, "hostaddr", self->addresses.data,
                             "port", self->ports.data};
        for (size_t i = 0; i < 6; i += 2, count++) {
            names[count] = own[i];
            values[count] = own[i + 1];
        }
    }
    names[count] = values[count] = NULL;
    self->phase = FL_PG_CONNECTING;
    self->conn = PQconnectStartParams(names, values, 0);
    if (!self->conn || PQstatus(self->conn) == CONNECTION_BAD) {
        if (self->conn)
            refuse_for_library(self);
        else
            refuse_soon(self, "not enough memory");
        return;
    }
    (void)PQsetErrorVerbosity(self->conn, PQERRORS_VERBOSE);
    (void)PQsetNoticeProcessor(self->conn, ignore_notice, NULL);
    watch_for(self, UV_WRITABLE, connect_ready);
}

/* hosts: each name becomes as many as it has addresses */

static void add_part(fl_buffer *list, bool is_first, fl_slice part)
{
    if (!is_first) fl_buffer_byte(list, ',');
    fl_buffer_slice(list, part);
}

static void add_host(fl_pg_connection *self, fl_slice name, fl_slice address, fl_slice port)
{
    bool is_first = self->hosts.size == 0;
    add_part(&self->hosts, is_first, name);
    add_part(&self->addresses, is_first, address);
    add_part(&self->ports, is_first, port);
}

static fl_slice part_of(const char *list, size_t at)
{
    return fl_slice_of(list + at, strcspn(list + at, ","));
}

/* The port of the host at `at`: the only one, or the one in its place. */
static fl_slice port_of(const fl_pg *pg, size_t at)
{
    size_t place = 0, offset = 0;
    if (!pg->port || !strchr(pg->port, ',')) return fl_slice_from_string(pg->port ? pg->port : "");
    for (size_t i = 0; i < at; i++) place += pg->host[i] == ',';
    for (; place > 0 && pg->port[offset]; place--) {
        offset += part_of(pg->port, offset).size;
        if (pg->port[offset] == ',') offset++;
    }
    return part_of(pg->port, offset);
}

static void add_addresses(fl_pg_connection *self, fl_slice name, fl_slice port,
                          const fl_resolved *found)
{
    for (unsigned i = 0; i < found->count; i++) {
        char text[INET6_ADDRSTRLEN] = "";
        const fl_resolved_address *address = &found->addresses[i];
        if (address->any.sa_family == AF_INET6)
            (void)uv_ip6_name(&address->v6, text, sizeof(text));
        else
            (void)uv_ip4_name(&address->v4, text, sizeof(text));
        add_host(self, name, fl_slice_from_string(text), port);
    }
}

static void resolve_hosts(fl_pg_connection *self);

static void resolved(void *data, const fl_resolved *found)
{
    fl_pg_connection *self = data;
    const fl_pg *pg = self->pg;
    fl_slice name = part_of(pg->host, self->next_host);
    self->resolve = NULL;
    if (found->error)
        (void)snprintf(self->why, sizeof(self->why), "its host \"%.*s\" is not found: %s",
                       (int)name.size, name.data, uv_strerror(found->error));
    else
        add_addresses(self, name, port_of(pg, self->next_host), found);
    self->next_host += name.size + 1;
    resolve_hosts(self);
}

static bool is_path(fl_slice name)
{
    return name.size == 0 || name.data[0] == '/' || name.data[0] == '@';
}

/* Says whether that has to be waited for. */
static bool resolve_host(fl_pg_connection *self, fl_slice name)
{
    char text[256];
    fl_resolved found;
    fl_slice port = port_of(self->pg, self->next_host);
    (void)snprintf(text, sizeof(text), "%.*s", (int)name.size, name.data);
    if (is_path(name))
        add_host(self, name, FL_SLICE(""), port);
    else if (fl_resolve_number(text, 0, &found))
        add_host(self, name, name, port);
    else
        return fl_resolve_start(&self->resolve, self->pg->db.state, text, 0, resolved, self) == 0;
    return false;
}

static void resolve_hosts(fl_pg_connection *self)
{
    const char *list = self->pg->host;
    while (self->next_host <= strlen(list)) {
        fl_slice name = part_of(list, self->next_host);
        if (resolve_host(self, name)) return;
        self->next_host += name.size + 1;
    }
    bool is_found = self->hosts.size > 0 || self->ports.size > 0;
    fl_buffer_byte(&self->hosts, '\0');
    fl_buffer_byte(&self->addresses, '\0');
    fl_buffer_byte(&self->ports, '\0');
    if (self->hosts.failed || self->addresses.failed || self->ports.failed)
        refuse_soon(self, "not enough memory");
    else if (is_found)
        begin_connecting(self);
    else
        refuse_soon(self, self->why[0] ? self->why : "its host cannot be looked up");
}

static void enter_list(fl_pg_connection *self)
{
    self->next = self->pg->connections;
    if (self->next) self->next->link = &self->next;
    self->link = &self->pg->connections;
    self->pg->connections = self;
}

int fl_pg_connection_new(fl_pg *pg, bool is_shared)
{
    fl_pg_connection *self = calloc(1, sizeof(*self));
    if (!self) return UV_ENOMEM;
    self->pg = pg;
    self->is_shared = is_shared;
    self->last = &self->first;
    self->last_notice = &self->notices;
    self->copy_data.last = &self->copy_data.first;
    int status = fl_pg_line_new(&self->line, &pg->db, self);
    if (status < 0) {
        free(self);
        return status;
    }
    enter_list(self);
    self->deadline.state = pg->db.state;
    fl_thread_start_deadline(thread_of(self), &self->deadline, pg->db.connect_timeout, too_slow);
    if (pg->host)
        resolve_hosts(self);
    else
        begin_connecting(self);
    return 0;
}

/* reading and writing */

/* Bytes, 0 at the end, or a negative uv code. */
static ssize_t tls_result(fl_pg_connection *self, int size)
{
    if (size > 0) return size;
    switch (SSL_get_error(self->tls, size)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: return UV_EAGAIN;
    case SSL_ERROR_ZERO_RETURN: return 0;
    default: ERR_clear_error(); return UV_ECONNRESET;
    }
}

static ssize_t result_of(ssize_t size)
{
    if (size >= 0) return size;
    return errno == EWOULDBLOCK || errno == EINTR ? UV_EAGAIN : -errno;
}

static ssize_t receive(fl_pg_connection *self, char *to, size_t size)
{
    if (!self->tls) return result_of(recv(self->readiness.fd, to, size, 0));
    ERR_clear_error();
    return tls_result(self, SSL_read(self->tls, to, (int)size));
}

static ssize_t transmit(fl_pg_connection *self, const char *data, size_t size)
{
    if (!self->tls) return result_of(send(self->readiness.fd, data, size, MSG_NOSIGNAL));
    ERR_clear_error();
    int most = size < INT32_MAX ? (int)size : INT32_MAX;
    return tls_result(self, SSL_write(self->tls, data, most));
}

static void want(fl_pg_connection *self)
{
    int events = self->is_paused ? 0 : UV_READABLE;
    if (fl_pg_connection_unwritten(self) && !self->is_mute) events |= UV_WRITABLE;
    fl_readiness_want(&self->readiness, events);
}

/* The server can begin with the first item when its first byte has been sent. */
static void note_sent(fl_pg_connection *self, size_t size)
{
    const fl_pg_item *item = self->first;
    if (item && item->is_written && item->began_at >= self->sent &&
        item->began_at < self->sent + size)
        fl_pg_exchange_begin_first(self);
    self->written += size;
    self->sent += (uint64_t)size;
}

/* What the server has said before it went is still to be read: that ends the connection. */
static void write_some(fl_pg_connection *self)
{
    while (fl_pg_connection_unwritten(self) && !self->is_mute) {
        ssize_t size =
            transmit(self, self->out.data + self->written, fl_pg_connection_unwritten(self));
        if (size == UV_EAGAIN) return;
        if (size <= 0) {
            self->is_mute = true;
            return;
        }
        note_sent(self, (size_t)size);
    }
    self->written = 0;
    fl_buffer_reset(&self->out, OUT_KEPT);
}

void fl_pg_connection_flush(fl_pg_connection *self)
{
    if (self->phase != FL_PG_READY) return;
    if (self->out.failed) {
        fl_pg_connection_lost(self, "not enough memory for what is to be sent", false);
        return;
    }
    write_some(self);
    want(self);
}

static void end_turn(fl_turn_end *turn_end)
{
    fl_pg_connection_flush(
        (fl_pg_connection *)((char *)turn_end - offsetof(fl_pg_connection, turn_end)));
}

void fl_pg_connection_flush_soon(fl_pg_connection *self)
{
    if (self->phase == FL_PG_READY && (fl_pg_connection_unwritten(self) || self->out.failed))
        fl_turn_end_start(&self->turn_end, self->pg->db.state, end_turn);
}

static size_t most_of(const fl_pg_connection *self, char type)
{
    if (type != 'D' && type != 'd') return MESSAGE_MOST;
    return self->pg->db.most_bytes + MESSAGE_MOST;
}

/* The message that is not complete yet: it is waited for, or, if too large, passed over. */
static void check_size(fl_pg_connection *self, const fl_pg_message *message, size_t have)
{
    if (message->size <= most_of(self, message->type)) return;
    if (message->type != 'D' && message->type != 'd') {
        fl_pg_connection_lost(self, "the server's message is too large to be one", false);
        return;
    }
    self->skip = message->size - have;
    self->in.size -= have;
    fl_pg_exchange_too_large(self);
}

static size_t parse_all(fl_pg_connection *self)
{
    size_t at = 0;
    while (self->phase == FL_PG_READY && !self->is_paused) {
        fl_pg_message message;
        fl_slice rest = fl_slice_of(self->in.data + at, self->in.size - at);
        int status = fl_pg_message_read(&message, rest);
        if (status < 0) fl_pg_connection_lost(self, "the server broke the protocol", false);
        if (status == 0) check_size(self, &message, rest.size);
        if (status <= 0) break;
        at += message.size;
        fl_pg_exchange_message(self, &message);
    }
    return at;
}

void fl_pg_connection_parse(fl_pg_connection *self)
{
    if (self->is_parsing || self->phase != FL_PG_READY || self->is_paused) return;
    self->is_parsing = true;
    fl_pg_connection_hold(self);
    fl_buffer_consume(&self->in, parse_all(self));
    self->is_parsing = false;
    if (self->in.size == 0) fl_buffer_reset(&self->in, IN_KEPT);
    if (self->phase == FL_PG_READY) fl_pg_exchange_parsed(self);
    fl_pg_connection_release(self);
}

static void keep_read(fl_pg_connection *self, size_t size)
{
    char *data = self->in.data + self->in.size;
    size_t skipped = size < self->skip ? size : self->skip;
    self->skip -= skipped;
    if (skipped) memmove(data, data + skipped, size - skipped);
    self->in.size += size - skipped;
}

/* Says whether there may be more. */
static bool read_some(fl_pg_connection *self)
{
    if (!fl_buffer_room(&self->in, READ_SIZE)) {
        fl_pg_connection_lost(self, "not enough memory for what the server sends", false);
        return false;
    }
    size_t room = self->in.capacity - self->in.size;
    ssize_t size =
        receive(self, self->in.data + self->in.size, room < INT32_MAX ? room : INT32_MAX);
    if (size == UV_EAGAIN) return false;
    if (size <= 0) {
        fl_pg_connection_lost(self, size ? uv_strerror((int)size) : "the server closed it", false);
        return false;
    }
    keep_read(self, (size_t)size);
    fl_pg_connection_parse(self);
    if (self->phase != FL_PG_READY || self->is_paused) return false;
    return self->tls ? true : (size_t)size == room;
}

/* What TLS has read already makes no descriptor ready: nothing of it may be left. */
static void read_all(fl_pg_connection *self)
{
    int reads = self->tls ? INT32_MAX : READS_MOST;
    while (reads-- > 0 && self->phase == FL_PG_READY && !self->is_paused && read_some(self)) {
    }
}

void fl_pg_connection_pause(fl_pg_connection *self)
{
    self->is_paused = true;
    want(self);
}

void fl_pg_connection_resume(fl_pg_connection *self)
{
    fl_pg_connection_hold(self);
    self->is_paused = false;
    want(self);
    fl_pg_connection_parse(self);
    if (self->tls && !self->is_parsing) read_all(self);
    fl_pg_connection_release(self);
}

static void ready(fl_readiness *readiness, int status, int events)
{
    fl_pg_connection *self =
        (fl_pg_connection *)((char *)readiness - offsetof(fl_pg_connection, readiness));
    fl_pg_connection_hold(self);
    if (status < 0) {
        read_all(self); /* what it has said before, and why it is gone */
        fl_pg_connection_lost(self, uv_strerror(status), false);
    }
    if (self->phase == FL_PG_READY && events & UV_WRITABLE) {
        fl_pg_connection_flush(self);
        if (self->phase == FL_PG_READY) fl_pg_exchange_written(self);
    }
    if (events & UV_READABLE) read_all(self);
    fl_pg_connection_release(self);
}
