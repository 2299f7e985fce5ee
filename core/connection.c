#include "connection.h"

#include <assert.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "batch.h"
#include "output.h"
#include "response.h"
#include "web.h"

#define HALF_CLOSE_MS 500
#define LINGER_MS 2000
#define LINGER_BYTES (256 * 1024)
#define BODY_LOOK_MS 1000
#define RESET_LOOK_MS 1000 /* while nothing is read, a reset is only found by looking */
#define NEVER UINT64_MAX

/* waiting */

static void expired(fl_deadline *deadline);

static uint64_t loop_now(const fl_connection *connection)
{
    return uv_now(&connection->web->thread.loop);
}

/* Only ever moves the wheel's deadline forward in time when it is too late: a keep-alive connection
 * stores a number per request and touches the wheel once per timeout. */
static void expire_at(fl_connection *connection, uint64_t at)
{
    connection->expires = at;
    if (at == NEVER) return;
    fl_deadline *deadline = &connection->deadline;
    if (fl_deadline_started(deadline) && deadline->at <= at) return;
    fl_web *web = connection->web;
    uint64_t now = loop_now(connection);
    fl_thread_start_deadline(&web->thread, deadline, at > now ? at - now : 0, expired);
}

static void expire_in(fl_connection *connection, uint64_t nanoseconds)
{
    expire_at(connection, loop_now(connection) + nanoseconds / 1000000);
}

/* closing */

static void connection_unlink(fl_connection *connection)
{
    *connection->link = connection->next;
    if (connection->next) connection->next->link = connection->link;
}

static void socket_closed(uv_handle_t *handle)
{
    fl_connection *connection = handle->data;
    fl_web *web = connection->web;
    fl_output_free(connection->output);
    fl_buffer_close(&connection->ahead);
    connection_unlink(connection);
    free(connection->socket);
    free(connection);
    if (web->phase == FL_WEB_DRAINING) fl_web_maybe_drained(web);
}

static void count_connections(fl_web *web, int change)
{
    unsigned count = atomic_load_explicit(&web->counts->connections, memory_order_relaxed);
    count = (unsigned)((int)count + change);
    atomic_store_explicit(&web->counts->connections, count, memory_order_relaxed);
    atomic_store_explicit(&web->thread.metrics->connections, count, memory_order_relaxed);
}

/* What was answered but not written yet: its background tasks start all the same. */
static void release_unwritten(fl_connection *connection)
{
    while (connection->unwritten) {
        fl_request *request = connection->unwritten;
        connection->unwritten = request->next;
        fl_request_written(request);
        fl_request_release(request);
    }
}

/* Ends all but the socket. */
static void let_go(fl_connection *connection)
{
    connection->phase = FL_CONNECTION_CLOSED;
    fl_deadline_stop(&connection->deadline);
    fl_batch_end(connection);
    release_unwritten(connection);
    count_connections(connection->web, -1);
}

void fl_connection_close(fl_connection *connection)
{
    if (connection->phase == FL_CONNECTION_CLOSED) return;
    let_go(connection);
    uv_close((uv_handle_t *)connection->socket, socket_closed);
    if (connection->web->listeners) fl_listener_pause(connection->web->listeners, false);
}

/* reading on, or not */

static void allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    (void)suggested;
    fl_connection *connection = handle->data;
    *buffer = uv_buf_init(connection->web->read_buffer, FL_READ_BUFFER);
}

static void received(uv_stream_t *stream, ssize_t size, const uv_buf_t *buffer);

static void set_reading(fl_connection *connection, bool reading)
{
    if (connection->reading == reading || connection->phase == FL_CONNECTION_CLOSED) return;
    if (reading && connection->half_closed) return;
    connection->reading = reading;
    if (reading)
        uv_read_start((uv_stream_t *)connection->socket, allocate, received);
    else
        uv_read_stop((uv_stream_t *)connection->socket);
}

/* RFC 9112 section 9.6: closes the write side first and reads on for a while, so that the answer is
 * not lost to a reset. */
static void linger(fl_connection *connection)
{
    if (connection->phase != FL_CONNECTION_OPEN) return;
    uv_os_fd_t fd;
    if (connection->half_closed || uv_fileno((uv_handle_t *)connection->socket, &fd) < 0) {
        fl_connection_close(connection);
        return;
    }
    connection->phase = FL_CONNECTION_LINGERING;
    fl_buffer_close(&connection->ahead);
    shutdown(fd, SHUT_WR);
    connection->expires = loop_now(connection) + LINGER_MS;
    fl_deadline_stop(&connection->deadline);
    expire_at(connection, connection->expires);
    set_reading(connection, true);
}

/* writing */

/* Everything queued is with the kernel now. */
static void drained(fl_connection *connection)
{
    release_unwritten(connection);
    fl_request *request = connection->request;
    if (request && request->drain_ticket != 0) {
        fl_task_wake(request->state, request->drain_ticket);
        request->drain_ticket = 0;
    }
    if (connection->close_after && !request) {
        linger(connection);
        return;
    }
    if (!request)
        expire_in(connection, connection->web->thread.settings->keep_alive);
    else
        expire_at(connection, request->complete ? NEVER : loop_now(connection) + BODY_LOOK_MS);
    if (!connection->processing) fl_batch_read(connection, (fl_slice){0});
}

static void wrote(uv_write_t *write, int status);

static int start_write(fl_connection *connection)
{
    connection->stalled = SIZE_MAX;
    expire_in(connection, connection->web->thread.settings->write_stall);
    return fl_output_start(connection->output, (uv_stream_t *)connection->socket, wrote,
                           connection);
}

static void wrote(uv_write_t *write, int status)
{
    fl_connection *connection = write->data;
    fl_output *output = connection->output;
    if (connection->phase == FL_CONNECTION_CLOSED) return; /* freed with the socket */
    if (status < 0) {
        fl_connection_close(connection);
        return;
    }
    fl_thread_tick(&connection->web->thread);
    if (fl_output_next(output)) {
        if (start_write(connection) < 0) fl_connection_close(connection);
        return;
    }
    connection->output = NULL;
    fl_output_free(output);
    drained(connection);
}

static int write_pieces(fl_connection *connection, const fl_slice *pieces, unsigned count)
{
    size_t total = 0;
    for (unsigned i = 0; i < count; i++) total += pieces[i].size;
    if (total == 0) return 0;
    fl_metric_add(&connection->web->thread.metrics->bytes_out, total);
    bool under_way = connection->output != NULL;
    uv_stream_t *socket = (uv_stream_t *)connection->socket;
    int status = fl_output_write(&connection->output, socket, pieces, count);
    if (status < 0 || under_way || !connection->output) return status;
    return start_write(connection);
}

void fl_connection_flush(fl_connection *connection)
{
    fl_buffer *out = &connection->web->thread.out;
    int status = out->failed ? UV_ENOMEM : 0;
    if (!status && out->size && connection->phase == FL_CONNECTION_OPEN) {
        fl_slice piece = fl_slice_of(out->data, out->size);
        status = write_pieces(connection, &piece, 1);
    }
    fl_buffer_reset(out, FL_BATCH_BYTES);
    if (status < 0) fl_connection_close(connection);
}

int fl_connection_write(fl_connection *connection, fl_slice prefix, fl_slice piece, fl_slice suffix)
{
    const fl_slice pieces[FL_OUTPUT_PIECES] = {prefix, piece, suffix};
    return write_pieces(connection, pieces, FL_OUTPUT_PIECES);
}

size_t fl_connection_queued(const fl_connection *connection)
{
    return fl_output_size(connection->output);
}

bool fl_connection_is_idle(const fl_connection *connection)
{
    return !connection->request && connection->ahead.size == 0 && !connection->output;
}

/* after a batch */

/* Whether to go on reading: always for what somebody waits for, else a bounded way ahead. */
static bool wants_bytes(const fl_connection *connection)
{
    const fl_request *request = connection->request;
    uint64_t most = connection->web->thread.settings->read_ahead;
    if (!request || request->complete) return !connection->output && connection->ahead.size < most;
    if (!connection->http.head_done) return true;
    if (request->body_use == FL_BODY_WHOLE || request->body_use == FL_BODY_DISCARD) return true;
    return request->body_kept.size < most;
}

/* A client that has closed its side, with nothing pipelined left: what may be cancelled is soon. */
static bool is_leaving(const fl_connection *connection)
{
    const fl_request *request = connection->request;
    bool cancel = request->route && request->route->cancel;
    return connection->half_closed && connection->ahead.size == 0 && cancel;
}

/* The deadline while a handler runs and nothing is to be written. */
static void watch_client(fl_connection *connection)
{
    if (is_leaving(connection))
        expire_at(connection, loop_now(connection) + HALF_CLOSE_MS);
    else if (!connection->reading)
        expire_at(connection, loop_now(connection) + RESET_LOOK_MS);
    else
        expire_at(connection, NEVER);
}

static bool is_reset(const fl_connection *connection)
{
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)connection->socket, &fd) < 0) return false;
    struct pollfd entry = {.fd = fd};
    return poll(&entry, 1, 0) > 0 && (entry.revents & (POLLERR | POLLHUP));
}

void fl_connection_settle(fl_connection *connection)
{
    if (connection->phase != FL_CONNECTION_OPEN) return;
    const fl_settings *settings = connection->web->thread.settings;
    fl_request *request = connection->request;
    set_reading(connection, wants_bytes(connection));
    if (connection->output) return;
    if (connection->close_after && !request) {
        release_unwritten(connection);
        linger(connection);
        return;
    }
    if (!request) release_unwritten(connection);
    if (connection->half_closed && (!request || !request->complete)) {
        fl_connection_close(connection); /* what is not all there will not come */
    } else if (!request) {
        expire_in(connection, settings->keep_alive);
    } else if (!connection->http.head_done) {
        if (!connection->in_head) expire_in(connection, settings->head_timeout);
    } else if (request->complete) {
        watch_client(connection);
    }
    connection->in_head = request && !connection->http.head_done;
}

/* what comes in */

static void receive_failed(fl_connection *connection, int status)
{
    connection->reading = false;
    fl_request *request = connection->request;
    bool answering = request && request->complete && request->dispatched;
    if (connection->phase == FL_CONNECTION_OPEN && status == UV_EOF && answering) {
        connection->half_closed = true; /* it may still read the answer */
        if (!connection->output) watch_client(connection);
        return;
    }
    if (connection->phase == FL_CONNECTION_OPEN && status == UV_EOF && connection->output &&
        !request) {
        connection->half_closed = true;
        connection->close_after = true;
        return;
    }
    fl_connection_close(connection);
}

static void received(uv_stream_t *stream, ssize_t size, const uv_buf_t *buffer)
{
    fl_connection *connection = stream->data;
    fl_web *web = connection->web;
    if (size == 0) return;
    fl_thread_tick(&web->thread);
    if (size < 0) {
        receive_failed(connection, (int)size);
        return;
    }
    fl_metric_add(&web->thread.metrics->bytes_in, (uint64_t)size);
    if (connection->phase == FL_CONNECTION_LINGERING) {
        connection->lingered += (uint64_t)size;
        if (connection->lingered > LINGER_BYTES) fl_connection_close(connection);
        return;
    }
    fl_batch_read(connection, fl_slice_of(buffer->base, (size_t)size));
}

void fl_connection_read_on(fl_connection *connection)
{
    set_reading(connection, true);
}

void fl_connection_await_body(fl_connection *connection)
{
    connection->body_since = loop_now(connection);
    expire_in(connection, connection->web->thread.settings->body_grace);
}

void fl_connection_want_body(fl_connection *connection)
{
    fl_request *request = connection->request;
    if (request->expects_continue && request->body_size == 0) {
        request->expects_continue = false;
        fl_connection_await_body(connection);
        if (fl_connection_write(connection, FL_SLICE("HTTP/1.1 100 Continue\r\n\r\n"),
                                (fl_slice){0}, (fl_slice){0}) < 0)
            return;
    }
    set_reading(connection, true);
}

/* waited for too long */

/* A body that trickles: 500 bytes a second from the tenth second on, unless we do not read it. */
static void look_at_body(fl_connection *connection)
{
    const fl_settings *settings = connection->web->thread.settings;
    fl_request *request = connection->request;
    if (!connection->reading && is_reset(connection)) {
        fl_connection_close(connection);
        return;
    }
    uint64_t elapsed = loop_now(connection) - connection->body_since;
    bool waiting = request->expects_continue || !connection->reading;
    if (waiting || request->body_size >= settings->body_rate * elapsed / 1000) {
        uint64_t grace = settings->body_grace / 1000000;
        expire_at(connection, loop_now(connection) + (grace < BODY_LOOK_MS ? grace : BODY_LOOK_MS));
        return;
    }
    request->refused = 408;
    fl_batch_refuse(connection, 408);
}

static void look_at_output(fl_connection *connection)
{
    size_t left = uv_stream_get_write_queue_size((uv_stream_t *)connection->socket);
    if (left >= connection->stalled) {
        fl_connection_close(connection);
        return;
    }
    connection->stalled = left;
    expire_in(connection, connection->web->thread.settings->write_stall);
}

static void expired(fl_deadline *deadline)
{
    fl_connection *connection =
        (fl_connection *)((char *)deadline - offsetof(fl_connection, deadline));
    fl_request *request = connection->request;
    if (connection->expires == NEVER) return;
    if (loop_now(connection) < connection->expires) {
        expire_at(connection, connection->expires);
        return;
    }
    fl_thread_tick(&connection->web->thread);
    if (connection->phase != FL_CONNECTION_OPEN) {
        fl_connection_close(connection);
    } else if (connection->output) {
        look_at_output(connection);
    } else if (request && !connection->http.head_done) {
        fl_batch_refuse(connection, 408);
    } else if (request && !request->complete) {
        look_at_body(connection);
    } else if (request && !is_leaving(connection) && !is_reset(connection)) {
        watch_client(connection);
    } else {
        fl_connection_close(connection); /* idle for too long, or half-closed */
    }
}

/* opening */

static int open_socket(fl_connection *connection, int fd)
{
    int status = uv_tcp_init(&connection->web->thread.loop, connection->socket);
    if (status < 0) return status;
    connection->socket->data = connection;
    return uv_tcp_open(connection->socket, fd);
}

static void link_into(fl_connection *connection, fl_web *web)
{
    connection->next = web->connections;
    if (connection->next) connection->next->link = &connection->next;
    connection->link = &web->connections;
    web->connections = connection;
}

void fl_connection_open(fl_web *web, int fd)
{
    fl_connection *connection = calloc(1, sizeof(*connection));
    uv_tcp_t *socket = malloc(sizeof(*socket));
    if (!connection || !socket) goto fail;
    connection->web = web;
    connection->socket = socket;
    connection->peer = fl_peer_of(fd);
    if (open_socket(connection, fd) < 0) goto fail;
    if (connection->peer.family != AF_UNIX) uv_tcp_nodelay(socket, 1);
    fl_http1_init(&connection->http, connection);
    link_into(connection, web);
    count_connections(web, 1);
    fl_metric_add(&web->thread.metrics->accepted, 1);
    set_reading(connection, true);
    expire_in(connection, web->thread.settings->keep_alive);
    return;
fail:
    free(connection);
    free(socket);
    close(fd);
}

/* evacuation */

/* Requests of that state, answered already, have nothing to do any more. */
void fl_connection_leave_behind(fl_connection *connection, const fl_state *state)
{
    fl_request **link = &connection->unwritten;
    while (*link) {
        if ((*link)->state == state)
            *link = (*link)->next;
        else
            link = &(*link)->next;
    }
}

/* It was closed, but the dead loop will never say so. */
static void bury(fl_connection *connection)
{
    fl_output_free(connection->output);
    fl_buffer_close(&connection->ahead);
    free(connection);
}

/* The write under way belongs to the dead loop: what it has not sent is sent anew. */
static int move_socket(fl_connection *connection, int fd, size_t left)
{
    uv_tcp_t *socket = malloc(sizeof(*socket));
    if (!socket) return UV_ENOMEM;
    connection->socket = socket;
    int status = open_socket(connection, fd);
    if (status < 0 || !connection->output) return status;
    fl_output *output = fl_output_anew(connection->output, left);
    if (!output) return UV_ENOMEM;
    connection->output = output;
    return 0;
}

int fl_connection_take_over(fl_connection *connection, fl_web *web)
{
    uv_os_fd_t fd;
    uv_stream_t *old = (uv_stream_t *)connection->socket;
    if (connection->phase == FL_CONNECTION_CLOSED || uv_fileno((uv_handle_t *)old, &fd) < 0) {
        bury(connection);
        return UV_ECANCELED;
    }
    bool reading = connection->reading;
    connection->web = web;
    connection->reading = false;
    fl_batch_move(connection);
    int status = move_socket(connection, fd, uv_stream_get_write_queue_size(old));
    if (status < 0) { /* no memory for its handle */
        close(fd);
        if (connection->request && connection->request->thread != &web->thread)
            connection->request = NULL; /* nobody's any more */
        let_go(connection);
        bury(connection);
        return status;
    }
    link_into(connection, web);
    set_reading(connection, reading);
    if (connection->output && start_write(connection) < 0) fl_connection_close(connection);
    return 0;
}
