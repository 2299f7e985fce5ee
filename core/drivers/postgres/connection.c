#include "connection.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <uv.h>

#include "answers.h"
#include "cancelling.h"
#include "connecting.h"
#include "exchange.h"
#include "item.h"
#include "pool.h"
#include "streaming.h"

#define READ_SIZE 65536
#define READS_MOST 16 /* in a row, before others have their turn */
#define MESSAGE_MOST ((size_t)16 << 20)
#define IN_KEPT 65536
#define OUT_KEPT 65536

/* its life */

static void close_buffers(fl_pg_connection *self)
{
    fl_buffer *all[] = {&self->in,        &self->out,   &self->parameters, &self->hosts,
                        &self->addresses, &self->ports, &self->copy_error};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) fl_buffer_close(all[i]);
}

static void leave_list(fl_pg_connection *self)
{
    *self->link = self->next;
    if (self->next) self->next->link = self->link;
    self->link = NULL;
}

static void enter_list(fl_pg_connection *self)
{
    self->next = self->pg->connections;
    if (self->next) self->next->link = &self->next;
    self->link = &self->pg->connections;
    self->pg->connections = self;
}

/* Afterwards it waits to be freed. */
static void shut(fl_pg_connection *self)
{
    self->phase = FL_PG_CLOSED;
    fl_readiness_close(&self->readiness);
    fl_turn_end_stop(&self->turn_end);
    fl_deadline_stop(&self->deadline);
    if (self->resolve) fl_resolve_cancel(self->resolve);
    fl_pg_cancelling_close(self);
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

/* writing */

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
        fl_pg_item_begin_first(self);
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

static void end_turn(fl_turn_end *turn_end)
{
    fl_pg_connection_flush(
        (fl_pg_connection *)((char *)turn_end - offsetof(fl_pg_connection, turn_end)));
}

/* reading */

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
    fl_pg_answers_too_large(self);
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
        fl_pg_answers_take(self, &message);
    }
    return at;
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
        if (self->phase == FL_PG_READY) fl_pg_streaming_written(self);
    }
    if (events & UV_READABLE) read_all(self);
    fl_pg_connection_release(self);
}

static void prepare_tls(fl_pg_connection *self)
{
    if (!PQsslInUse(self->conn)) return;
    self->tls = PQsslStruct(self->conn, "OpenSSL");
    if (self->tls)
        (void)SSL_set_mode(self->tls,
                           SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
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
    fl_pg_connecting_start(self);
    return 0;
}

/* libpq has read up to ReadyForQuery. PQisBusy takes in what may have come behind it; the rare half
 * of a message would be taken for nonsense, and the connection for lost. */
int fl_pg_connection_open(fl_pg_connection *self)
{
    (void)PQisBusy(self->conn);
    (void)PQsetnonblocking(self->conn, 1);
    prepare_tls(self);
    fl_readiness_close(&self->readiness);
    int status =
        fl_readiness_open(&self->readiness, self->pg->db.state, PQsocket(self->conn), ready);
    if (status < 0) return status;
    fl_readiness_want(&self->readiness, UV_READABLE);
    fl_deadline_stop(&self->deadline);
    self->phase = FL_PG_READY;
    self->status = 'I';
    self->since = self->idle_since = uv_hrtime();
    return 0;
}

void fl_pg_connection_refused(fl_pg_connection *self)
{
    fl_pg *pg = self->pg;
    fl_pg_connection_hold(self);
    bool needs_password = self->conn && PQconnectionNeedsPassword(self->conn);
    shut(self);
    fl_pg_pool_refused(pg, self->why, needs_password);
    fl_pg_connection_release(self);
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

void fl_pg_connection_free(fl_pg_connection *self)
{
    close_buffers(self);
    free(self);
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

void fl_pg_connection_flush_soon(fl_pg_connection *self)
{
    if (self->phase == FL_PG_READY && (fl_pg_connection_unwritten(self) || self->out.failed))
        fl_turn_end_start(&self->turn_end, self->pg->db.state, end_turn);
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

void fl_pg_connection_parse(fl_pg_connection *self)
{
    if (self->is_parsing || self->phase != FL_PG_READY || self->is_paused) return;
    self->is_parsing = true;
    fl_pg_connection_hold(self);
    fl_buffer_consume(&self->in, parse_all(self));
    self->is_parsing = false;
    if (self->in.size == 0) fl_buffer_reset(&self->in, IN_KEPT);
    if (self->phase == FL_PG_READY) fl_pg_streaming_tell(self);
    fl_pg_connection_release(self);
}
