#include "remote.h"

#include <stdlib.h>

#include "connection.h"
#include "handler.h"
#include "pool.h"
#include "pool_thread.h"
#include "response.h"
#include "server.h"
#include "web.h"

/* the web thread's side */

static bool fill(fl_remote *remote, const fl_request *request)
{
    remote->headers = calloc(request->header_count + 1u, sizeof(*remote->headers));
    if (!remote->headers) return false;
    remote->head.headers = remote->headers;
    fl_request_copy_head(&remote->head, request);
    fl_buffer_append(&remote->text, request->base, request->head_size);
    remote->host_size = request->host.size;
    if (request->host.size) remote->host = (size_t)(request->host.data - request->base);
    fl_buffer_slice(&remote->body, fl_request_body(request));
    fl_buffer_append(&remote->trailers, request->trailers.data, request->trailers.size);
    return !remote->text.failed && !remote->body.failed && !remote->trailers.failed;
}

static fl_remote *remote_new(const fl_request *request)
{
    fl_remote *remote = calloc(1, sizeof(*remote));
    if (!remote || fill(remote, request)) return remote;
    fl_remote_free(remote);
    return NULL;
}

void fl_remote_free(fl_remote *remote)
{
    fl_buffer_close(&remote->text);
    fl_buffer_close(&remote->body);
    fl_buffer_close(&remote->trailers);
    fl_buffer_close(&remote->type);
    fl_buffer_close(&remote->lines);
    fl_buffer_close(&remote->answer);
    free(remote->headers);
    free(remote);
}

static fl_slice all_of(const fl_buffer *buffer)
{
    return fl_slice_of(buffer->data, buffer->size);
}

static int status_of(fl_job_outcome outcome)
{
    switch (outcome) {
    case FL_JOB_TIMED_OUT: return 504;
    case FL_JOB_CANCELLED:
    case FL_JOB_EXHAUSTED: return 503;
    case FL_JOB_RETURNED:
    case FL_JOB_RAISED:
    case FL_JOB_OUT_OF_MEMORY:
    case FL_JOB_LOST: return 500;
    }
    return 500;
}

static void log_failure(const fl_request *request, const fl_job *job)
{
    char id[40];
    fl_slice what = job->outcome == FL_JOB_OUT_OF_MEMORY
                        ? FL_SLICE("not enough memory; the pool's state is replaced")
                        : fl_slice_from_string(job->text);
    const fl_log_field fields[] = {
        fl_field_text("request_id", fl_request_shown_id(request, id)),
        fl_field_text("route", fl_slice_from_string(request->route->title)),
        fl_field_text("error", what)};
    fl_log_line(request->thread->log, FL_LOG_ERROR, FL_SLICE("unhandled error in a pool"), fields,
                sizeof(fields) / sizeof(*fields));
}

/* Said once, however many of its requests are there. */
static void come_home(const fl_request *request, const fl_remote *remote)
{
    const fl_thread *thread = request->thread;
    const fl_route *route = request->route;
    bool is_news = remote->for_good ? fl_exile_exempt(thread->exile, route->ledger)
                                    : fl_exile_recall(thread->exile, route->ledger);
    if (!is_news) return;
    fl_log_printf(thread->log, FL_LOG_WARN, "%s comes home from the cpu pool%s: it %s",
                  route->title, remote->for_good ? " and stays on its web thread" : "",
                  remote->unfit);
}

static bool is_whole(const fl_remote *remote)
{
    return remote->status && !remote->type.failed && !remote->lines.failed &&
           !remote->answer.failed;
}

/* Who has timed out may still be about to find it out. */
static bool is_found_unfit(const fl_job *job)
{
    return job->outcome == FL_JOB_RETURNED && job->remote->unfit;
}

static void answer(fl_request *request, const fl_job *job)
{
    const fl_remote *remote = job->remote;
    bool is_unfit = is_found_unfit(job);
    if (is_unfit && (!remote->status || remote->status >= 500)) {
        fl_handler_fail(request, 503);
        return;
    }
    if (job->outcome == FL_JOB_RETURNED && is_whole(remote)) {
        fl_response_send(request, remote->status, all_of(&remote->type), all_of(&remote->lines),
                         all_of(&remote->answer));
        fl_handler_end(request);
        return;
    }
    if (job->outcome == FL_JOB_LOST || job->outcome == FL_JOB_OUT_OF_MEMORY)
        log_failure(request, job);
    fl_handler_fail(request, status_of(job->outcome));
}

static void job_ended(fl_job *job)
{
    fl_request *request = job->waiter;
    job->waiter = NULL;
    request->away = NULL;
    fl_thread_tick(request->thread);
    if (is_found_unfit(job)) come_home(request, job->remote);
    if (request->connection && !request->ended) {
        answer(request, job);
    } else {
        request->status = 499; /* nobody to tell */
        fl_handler_end(request);
    }
    fl_request_release(request);
    fl_job_release(job);
}

/* The route's own, or the default one for what is in exile. */
static fl_pool *pool_of(const fl_request *request)
{
    fl_pool *own = request->route->pool;
    return own ? own : fl_server_pool(request->thread->server, "cpu");
}

static fl_job *job_new(fl_request *request)
{
    fl_state *state = request->state;
    fl_pool *pool = pool_of(request);
    fl_job *job = fl_job_new(pool, FL_JOB_REQUEST, state->address);
    if (!job) return NULL;
    job->app = state->number;
    job->request_number = request->number;
    job->timeout = fl_pool_options_of(pool)->timeout;
    job->ended = job_ended;
    job->remote = remote_new(request);
    if (job->remote) {
        job->remote->is_exiled = !request->route->pool;
        return job;
    }
    fl_job_release(job);
    return NULL;
}

void fl_remote_submit(fl_request *request)
{
    fl_job *job = job_new(request);
    int status = job ? fl_pool_submit(job->pool, job, false) : UV_ENOMEM;
    if (status < 0) {
        if (job) fl_job_release(job);
        fl_handler_fail(request, 503);
        return;
    }
    job->waiter = request;
    request->away = job;
    fl_request_hold(request);
    if (job->timeout) fl_handler_hurry(request, (job->timeout + 999999) / 1000000);
}

void fl_remote_give_up(fl_request *request, const char *reason)
{
    fl_job *job = request->away;
    request->away = NULL;
    job->waiter = NULL;
    if (request->gone) request->status = 499;
    fl_pool_cancel(job->pool, job, reason);
    fl_job_release(job);
    fl_request_release(request);
}

/* the pool's side */

static bool take_head(fl_request *request, fl_remote *remote)
{
    fl_request_copy_head(request, &remote->head);
    fl_buffer_append(&request->head, remote->text.data, remote->text.size);
    fl_buffer_close(&request->body_kept);
    request->body_kept = remote->body; /* not copied again */
    fl_buffer_init(&remote->body);
    fl_buffer_append(&request->trailers, remote->trailers.data, remote->trailers.size);
    if (request->head.failed || request->trailers.failed) return false;
    request->base = request->head.data;
    if (remote->host_size)
        request->host = fl_slice_of(request->base + remote->host, remote->host_size);
    request->body_size = request->body_kept.size;
    request->complete = true;
    request->dispatched = true;
    return true;
}

/* NULL: it is not there by exile. */
static fl_remote *exiled(const fl_request *request)
{
    fl_remote *remote = request->job ? request->job->remote : NULL;
    return remote && remote->is_exiled ? remote : NULL;
}

bool fl_remote_send_home(fl_request *request, const char *why)
{
    fl_remote *remote = exiled(request);
    if (!remote) return false;
    remote->unfit = why;
    remote->for_good = true;
    return true;
}

bool fl_remote_recall(fl_request *request, const char *why)
{
    fl_remote *remote = exiled(request);
    if (!remote) return false;
    if (!remote->unfit) remote->unfit = why;
    return true;
}

/* An answer that the app's code has no part in. */
static void answer_lost(fl_request *request, const char *why)
{
    fl_log_printf(request->thread->log, FL_LOG_ERROR, "a pool cannot run %s: %s",
                  request->route ? request->route->title : "a request", why);
    fl_handler_fail(request, 500);
}

static void refuse_unknown(fl_request *request)
{
    (void)fl_remote_send_home(request, "is not one of the routes that its app has there");
    answer_lost(request, "its routes are not those of the web thread");
}

void fl_remote_run(fl_request *request, fl_job *job)
{
    char error[512];
    if (!take_head(request, job->remote)) {
        answer_lost(request, "not enough memory");
    } else if (fl_state_load(request->state, error, sizeof(error)) < 0) {
        fl_pool_thread_broken(request);
        (void)fl_remote_recall(request, "belongs to an app that cannot be loaded there");
        answer_lost(request, error);
    } else {
        fl_request_route(request);
        if (request->route)
            fl_pool_thread_handle(request);
        else
            refuse_unknown(request);
    }
}

void fl_remote_answer(fl_request *request, int status, fl_slice type, fl_slice lines, fl_slice body)
{
    fl_remote *remote = request->job->remote;
    if (remote->status) return;
    remote->status = status;
    request->status = status;
    request->answered = true;
    fl_buffer_slice(&remote->type, type);
    fl_buffer_slice(&remote->lines, lines);
    fl_buffer_slice(&remote->lines, fl_slice_of(request->extra.data, request->extra.size));
    fl_buffer_slice(&remote->answer, body);
}
