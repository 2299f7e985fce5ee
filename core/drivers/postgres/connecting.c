#include "connecting.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <uv.h>

#include "connection.h"
#include "pool.h"

#define OPTIONS_MOST 64

static void refuse_late(fl_deadline *deadline)
{
    fl_pg_connection_refused(
        (fl_pg_connection *)((char *)deadline - offsetof(fl_pg_connection, deadline)));
}

/* It may have been called by who has just asked for the connection. */
static void refuse_soon(fl_pg_connection *self, const char *why)
{
    (void)snprintf(self->why, sizeof(self->why), "%s", why);
    fl_readiness_close(&self->readiness);
    fl_deadline_stop(&self->deadline);
    fl_thread_start_deadline(self->pg->db.state->thread, &self->deadline, 0, refuse_late);
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
    fl_pg_connection_refused(self);
}

static void connect_ready(fl_readiness *readiness, int status, int events);

static void wait_for(fl_pg_connection *self, int events)
{
    int status = fl_readiness_open(&self->readiness, self->pg->db.state, PQsocket(self->conn),
                                   connect_ready);
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

static void connected(fl_pg_connection *self)
{
    if (!is_standard(self->conn)) {
        refuse_soon(self, "standard_conforming_strings is off, so statements could be misread");
        return;
    }
    int status = fl_pg_line_open(self->line, self->conn);
    if (status == 0) status = fl_pg_connection_open(self);
    if (status < 0)
        refuse_soon(self, status == UV_ENOMEM ? "not enough memory" : uv_strerror(status));
    else
        fl_pg_pool_connected(self);
}

/* libpq may take another socket at each step. */
static void connect_step(fl_pg_connection *self)
{
    fl_readiness_close(&self->readiness);
    switch (PQconnectPoll(self->conn)) {
    case PGRES_POLLING_READING: wait_for(self, UV_READABLE); break;
    case PGRES_POLLING_WRITING: wait_for(self, UV_WRITABLE); break;
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
    wait_for(self, UV_WRITABLE);
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

void fl_pg_connecting_start(fl_pg_connection *self)
{
    fl_pg *pg = self->pg;
    self->deadline.state = pg->db.state;
    fl_thread_start_deadline(pg->db.state->thread, &self->deadline, pg->db.connect_timeout,
                             too_slow);
    if (pg->host)
        resolve_hosts(self);
    else
        begin_connecting(self);
}
