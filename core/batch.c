#include "batch.h"

#include <lauxlib.h>

#include "handler.h"
#include "web.h"

#define DISCARD_BYTES (256 * 1024) /* of a body that nobody reads, for a client that sends it */

/* one request after the other */

static void detach_request(fl_connection *connection)
{
    fl_request *request = connection->request;
    connection->request = NULL;
    /* its tasks go on without us: the buffers that its bytes lie in do not */
    if (request->holds > 1 && !fl_request_keep(request)) fl_request_forget(request);
    request->connection = NULL;
    fl_request_release(request);
}

/* The answer is complete. What is left of the message is read and dropped, or the connection ends.
 */
static void request_done(fl_connection *connection)
{
    fl_request *request = connection->request;
    if (!request->keep_alive) connection->close_after = true;
    if (!request->complete && !connection->close_after) {
        request->body_use = FL_BODY_DISCARD;
        fl_buffer_reset(&request->body_kept, 0);
        request->body = (fl_slice){0};
        fl_connection_read_on(connection);
        return;
    }
    connection->served++;
    if (request->background != LUA_NOREF) {
        fl_request_hold(request);
        request->next = connection->unwritten;
        connection->unwritten = request;
    }
    detach_request(connection);
}

static bool may_parse(const fl_connection *connection)
{
    if (connection->phase != FL_CONNECTION_OPEN || connection->close_after) return false;
    if (connection->request && connection->request->complete) return false; /* in order */
    return !connection->output || connection->request; /* the client does not read: wait for it */
}

/* Refuses the request in the making. The connection is beyond repair. */
static void give_up(fl_connection *connection, int status)
{
    fl_web *web = connection->web;
    fl_metric_add(&web->thread.metrics->protocol_errors, 1);
    connection->close_after = true;
    fl_request *request = connection->request;
    if (!request) {
        request = fl_request_new(&web->thread, connection);
        if (!request) return;
        request->base = "";
        connection->request = request;
    }
    request->keep_alive = false;
    bool head_done = connection->http.head_done;
    request->complete = true;
    if (request->dispatched) {
        request->refused = status; /* the handler learns it when it reads the body */
        if (request->body_ticket != 0) fl_task_wake(request->state, request->body_ticket);
        return;
    }
    if (!head_done) request->state = NULL;
    fl_request_hold(request);
    request->dispatched = true;
    fl_metric_add(&web->thread.metrics->requests, 1);
    fl_metric_add(&web->thread.metrics->in_flight, 1);
    fl_handler_refuse(request, status);
    fl_request_release(request);
}

/* The same, and ends it where its handler has nothing to say. */
static void refuse(fl_connection *connection, int status)
{
    give_up(connection, status);
    if (connection->request && connection->request->ended) request_done(connection);
}

/* New bytes of a body whose handler runs. */
static void body_arrived(fl_connection *connection, fl_request *request)
{
    if (!fl_request_keep(request)) {
        fl_connection_close(connection);
        return;
    }
    if (request->body_ticket != 0 && (request->complete || request->body_use == FL_BODY_CHUNKS)) {
        fl_task_wake(request->state, request->body_ticket);
        request->body_ticket = 0;
    }
    if (request->complete) fl_handler_body_complete(request);
    if (request->body_use == FL_BODY_DISCARD && request->body_size > DISCARD_BYTES &&
        !request->complete) {
        connection->close_after = true;
        request->complete = true;
    }
}

static void request_progress(fl_connection *connection)
{
    fl_request *request = connection->request;
    if (!request) return;
    if (connection->http.head_done && !request->dispatched) {
        fl_request_hold(request);
        if (!request->complete) fl_connection_await_body(connection);
        fl_handler_dispatch(request);
        fl_request_release(request);
    } else if (request->dispatched) {
        body_arrived(connection, request);
    }
    request = connection->request;
    if (request && request->ended) request_done(connection);
}

/* reading */

/* Feeds the parser until the data is spent or something has to be waited for. Returns the rest. */
static fl_slice parse(fl_connection *connection, fl_slice data)
{
    while (data.size && may_parse(connection)) {
        size_t used = 0;
        int status = fl_http1_read(&connection->http, data, &used);
        data = fl_slice_of(data.data + used, data.size - used);
        connection->unread = data;
        if (status) {
            refuse(connection, status);
            return (fl_slice){0};
        }
        request_progress(connection);
        if (connection->web->thread.out.size > FL_BATCH_BYTES) fl_connection_flush(connection);
    }
    return data;
}

static void keep_rest(fl_connection *connection, fl_slice rest)
{
    fl_buffer *ahead = &connection->ahead;
    connection->unread = (fl_slice){0};
    if (connection->phase != FL_CONNECTION_OPEN || connection->close_after) rest.size = 0;
    if (ahead->size) {
        fl_buffer_consume(ahead, ahead->size - rest.size);
    } else {
        fl_buffer_slice(ahead, rest);
    }
    if (ahead->size == 0) fl_buffer_close(ahead);
    if (ahead->failed) fl_connection_close(connection);
}

void fl_batch_read(fl_connection *connection, fl_slice data)
{
    connection->processing = true;
    if (connection->ahead.size) {
        fl_buffer_slice(&connection->ahead, data);
        data = fl_slice_of(connection->ahead.data, connection->ahead.size);
    }
    fl_slice rest = parse(connection, data);
    if (connection->request && !fl_request_keep(connection->request))
        fl_connection_close(connection);
    keep_rest(connection, rest);
    fl_connection_flush(connection);
    connection->processing = false;
    fl_connection_settle(connection);
}

/* what was read ahead */

static void go_on(uv_idle_t *idle);

static void leave_ahead(fl_connection *connection)
{
    if (!connection->ahead_link) return;
    *connection->ahead_link = connection->next_ahead;
    if (connection->next_ahead) connection->next_ahead->ahead_link = connection->ahead_link;
    connection->ahead_link = NULL;
}

static void enter_ahead(fl_connection *connection)
{
    fl_web *web = connection->web;
    connection->next_ahead = web->ahead;
    if (connection->next_ahead) connection->next_ahead->ahead_link = &connection->next_ahead;
    connection->ahead_link = &web->ahead;
    web->ahead = connection;
    web->go_on.data = web;
    uv_idle_start(&web->go_on, go_on);
}

/* A handler will run, and beneath it must lie no frame that evacuation would lose: the end of the
 * task that answered, a deadline, a message. So the loop parses, in its next turn. */
static void go_on_later(fl_connection *connection)
{
    fl_connection_flush(connection);
    if (connection->phase == FL_CONNECTION_OPEN && !connection->ahead_link) enter_ahead(connection);
}

static void go_on(uv_idle_t *idle)
{
    fl_web *web = idle->data;
    uv_idle_stop(idle);
    fl_thread_tick(&web->thread);
    while (web->ahead) {
        fl_connection *connection = web->ahead;
        leave_ahead(connection);
        fl_batch_read(connection, (fl_slice){0});
    }
}

void fl_batch_refuse(fl_connection *connection, int status)
{
    refuse(connection, status);
    fl_batch_read(connection, (fl_slice){0});
}

void fl_batch_answered(fl_connection *connection)
{
    if (connection->processing) return; /* the batch looks */
    request_done(connection);
    if (connection->ahead.size && may_parse(connection))
        go_on_later(connection);
    else
        fl_batch_read(connection, (fl_slice){0});
}

void fl_batch_end(fl_connection *connection)
{
    leave_ahead(connection);
    fl_request *request = connection->request;
    if (!request) return;
    fl_request_hold(request);
    if (request->dispatched && !request->ended) fl_handler_client_left(request);
    detach_request(connection);
    fl_handler_detached(request);
    fl_request_release(request);
}

void fl_batch_move(fl_connection *connection)
{
    if (!connection->ahead_link) return;
    leave_ahead(connection);
    enter_ahead(connection);
}

void fl_batch_take_over(fl_connection *connection, const fl_buffer *out)
{
    fl_buffer_append(&connection->web->thread.out, out->data, out->size);
    connection->processing = false;
    keep_rest(connection, connection->unread);
}
