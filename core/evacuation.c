#include "evacuation.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "batch.h"
#include "handler.h"
#include "pools.h"
#include "profile.h"
#include "readiness.h"
#include "server.h"
#include "web.h"

/* Whatever still happens to the old loop's descriptors concerns nobody. */
static int silence(uv_loop_t *loop)
{
    int empty = epoll_create1(EPOLL_CLOEXEC);
    if (empty < 0) return UV_EMFILE;
    int status = dup2(empty, uv_backend_fd(loop)) < 0 ? UV_EBADF : 0;
    close(empty);
    return status;
}

/* One that is not needed any more may be it, too: its tasks end by running. */
static fl_state *stuck_state(const fl_thread *stuck)
{
    for (unsigned i = 0; i < stuck->state_count; i++)
        if (stuck->states[i]->running) return stuck->states[i];
    for (fl_state *state = stuck->discarded; state; state = state->next)
        if (state->running) return state;
    return NULL;
}

/* What it counted by itself while it was nobody. */
static void bring_metrics(fl_thread_metrics *to, const fl_thread_metrics *own)
{
    fl_metric_add(&to->tasks, atomic_load_explicit(&own->tasks, memory_order_relaxed));
    fl_metric_add(&to->jit_flushes, atomic_load_explicit(&own->jit_flushes, memory_order_relaxed));
}

/* Others find it at its place from here on, with all that they may look at. */
static void take_place(fl_web *spare, fl_web *stuck)
{
    fl_thread *thread = &spare->thread, *old = &stuck->thread;
    bring_metrics(old->metrics, thread->metrics);
    thread->number = old->number;
    thread->metrics = old->metrics;
    thread->slots = old->slots;
    thread->slot_count = old->slot_count;
    thread->next_number = old->next_number;
    thread->draining = old->draining;
    thread->is_spare = false;
    thread->starting = 0; /* hooks of states that are not needed any more */
    spare->counts = stuck->counts;
    spare->connections_most = stuck->connections_most;
    spare->own_listener = atomic_load(&stuck->own_listener);
    spare->help_fd = atomic_load(&stuck->help_fd);
    spare->phase = stuck->phase;
    spare->closing_idle = stuck->closing_idle;
    fl_server_set_web(thread->server, thread->number, spare);
}

static int take_mailboxes(fl_thread *thread, fl_thread *old, void *owner)
{
    unsigned count = old->mailbox_count + thread->mailbox_count;
    fl_mailbox **all = malloc(count * sizeof(*all));
    if (!all) return UV_ENOMEM;
    memcpy(all, thread->mailboxes, thread->mailbox_count * sizeof(*all));
    memcpy(all + thread->mailbox_count, old->mailboxes, old->mailbox_count * sizeof(*all));
    for (unsigned i = 0; i < old->mailbox_count; i++) {
        int status = fl_mailbox_move(old->mailboxes[i], &thread->loop, owner);
        if (status < 0) return status; /* no memory for a handle: there is no going back */
    }
    free(thread->mailboxes);
    thread->mailboxes = all;
    thread->mailbox_count = count;
    return 0;
}

static void take_discarded(fl_thread *thread, fl_thread *old, const fl_state *stuck)
{
    for (fl_state *state = old->discarded, *next; state; state = next) {
        next = state->next;
        if (state == stuck) continue;
        state->next = thread->discarded;
        state->thread = thread;
        fl_readiness_move_all(state);
        thread->discarded = state;
        fl_thread_task_ready(thread); /* frees it when its tasks have ended */
    }
    old->discarded = NULL;
}

/* Those of other apps go on as they are. The spare's own ones of these apps are not needed. */
static void take_states(fl_thread *thread, fl_thread *old, const fl_state *stuck)
{
    for (unsigned i = 0; i < old->state_count; i++) {
        fl_state *state = old->states[i];
        if (state == stuck) continue;
        if (thread->states[i]) fl_thread_discard_state(thread, i);
        thread->states[i] = state;
        state->thread = thread;
        fl_readiness_move_all(state);
        if (state->ready) fl_thread_task_ready(thread);
    }
    take_discarded(thread, old, stuck);
    fl_thread_take_turn_ends(thread, old, stuck);
}

/* What was put off to the end of the turn that never ended. */
static void take_owed(fl_thread *thread, fl_thread *old)
{
    if (!old->owed) return;
    fl_thread_owe(thread, old->owed, old->owed_data);
    fl_thread_task_ready(thread);
}

static void take_deadlines(fl_thread *thread, fl_thread *old, const fl_state *stuck)
{
    fl_deadline_stop(&old->tell_again);
    fl_thread_take_deadlines(thread, &old->wheel, stuck);
}

/* A copy of the table: the old one is what the stuck code looks its requests up in. */
static int copy_slots(fl_slots *to, const fl_slots *from)
{
    *to = *from;
    to->entries = malloc((from->capacity ? from->capacity : 1) * sizeof(*to->entries));
    if (!to->entries) {
        *to = (fl_slots){0};
        return UV_ENOMEM;
    }
    if (from->count) memcpy(to->entries, from->entries, from->count * sizeof(*to->entries));
    return 0;
}

/* One whose client has left is answered to nobody. */
static void leave_request_behind(fl_thread *thread, const fl_request *request)
{
    if (!request->connection && request->dispatched && !request->ended)
        fl_metric_subtract(&thread->metrics->in_flight, 1);
    if (request->slot < thread->slot_count)
        fl_ledger_note_request(&thread->slots[request->slot], 0);
    fl_slots_give(&thread->request_slots, request->slot);
    thread->requests_alive--;
}

static void take_requests(fl_thread *thread, fl_thread *old, const fl_state *stuck)
{
    thread->requests_alive = old->requests_alive;
    for (uint32_t i = 0; i < thread->request_slots.count; i++) {
        fl_request *request = thread->request_slots.entries[i].object;
        if (!request) continue;
        if (request->state == stuck)
            leave_request_behind(thread, request);
        else
            request->thread = thread;
    }
    thread->free_requests = old->free_requests;
    thread->free_request_count = old->free_request_count;
    old->free_requests = NULL;
}

static void take_listeners(fl_web *spare, fl_web *stuck)
{
    for (fl_listener *listener = stuck->listeners; listener; listener = listener->next) {
        int status = fl_listener_open(spare, listener->fd, listener->helping);
        if (status == 0)
            spare->listeners->helps_fd = listener->helps_fd;
        else if (!listener->helping)
            fl_web_cannot_accept(spare, status);
    }
}

/* a request of the stuck state */

/* As a whole: what its handler has read in chunks is gone. */
static bool may_run_again(const fl_request *request, bool is_culprit)
{
    if (is_culprit || !request->route || !request->route->replay) return false;
    if (request->answered || !request->dispatched || request->refused) return false;
    return request->complete && fl_request_body(request).size == request->body_size;
}

/* The same request with memory of its own: nobody but the stuck thread touches the old one. */
static fl_request *copy_request(fl_web *spare, fl_connection *connection, const fl_request *old)
{
    fl_thread *thread = &spare->thread;
    fl_request *request = fl_request_new(thread, connection);
    if (!request) return NULL;
    fl_request_copy_head(request, old);
    fl_buffer_append(&request->head, old->base, old->head_size);
    fl_slice body = fl_request_body(old);
    fl_buffer_slice(&request->body_kept, body);
    fl_buffer_append(&request->trailers, old->trailers.data, old->trailers.size);
    if (request->head.failed || request->body_kept.failed || request->trailers.failed) {
        fl_request_release(request);
        return NULL;
    }
    request->base = request->head.data;
    if (old->host.size)
        request->host = fl_slice_of(request->base + (old->host.data - old->base), old->host.size);
    request->started = old->started;
    request->body_size = old->body_size;
    request->max_body = old->max_body;
    request->complete = old->complete;
    request->expects_continue = old->expects_continue;
    request->dispatched = true;
    if (request->slot < thread->slot_count)
        fl_ledger_note_request(&thread->slots[request->slot], request->number);
    return request;
}

/* Begun and not ended: there is nothing to make up for it. Ended, but its body still comes: that
 * cannot be read to its end without it. */
static void cut(fl_web *spare, fl_connection *connection, fl_evacuation *done)
{
    if (!connection->request->ended) {
        fl_metric_subtract(&spare->thread.metrics->in_flight, 1);
        done->cut++;
    }
    connection->request = NULL;
    fl_connection_close(connection);
}

static void answer_again(fl_web *spare, fl_connection *connection, fl_state *fresh, bool is_culprit,
                         fl_evacuation *done)
{
    const fl_request *old = connection->request;
    bool again = may_run_again(old, is_culprit);
    if (old->answered || old->ended) {
        cut(spare, connection, done);
        return;
    }
    fl_request *request = copy_request(spare, connection, old);
    connection->request = request;
    if (!request) {
        fl_metric_subtract(&spare->thread.metrics->in_flight, 1);
        fl_connection_close(connection);
        return;
    }
    request->state = fresh;
    fl_request_route(request);
    fl_request_hold(request);
    if (again && request->route) {
        done->replayed++;
        fl_handler_run_again(request);
    } else {
        done->refused++;
        fl_handler_fail(request, 503);
    }
    fl_request_release(request);
}

/* connections */

static void take_connection(fl_web *spare, fl_web *stuck, fl_connection *connection,
                            const fl_state *gone, const fl_request *culprit, fl_evacuation *done)
{
    bool in_batch = connection->processing;
    fl_request *request = connection->request;
    bool is_stuck = request && request->state == gone;
    fl_connection_leave_behind(connection, gone);
    if (fl_connection_take_over(connection, spare) < 0) {
        if (is_stuck && !request->ended) fl_metric_subtract(&spare->thread.metrics->in_flight, 1);
        return;
    }
    done->connections++;
    if (in_batch) fl_batch_take_over(connection, &stuck->thread.out);
    if (is_stuck)
        answer_again(spare, connection, spare->thread.states[gone->number], request == culprit,
                     done);
    if (in_batch) fl_connection_flush(connection); /* what is not out yet concerns nobody else */
}

static void take_connections(fl_web *spare, fl_web *stuck, const fl_state *gone,
                             fl_evacuation *done)
{
    const fl_request *culprit = gone->running->request;
    fl_connection *list = stuck->connections;
    stuck->connections = NULL;
    for (fl_connection *connection = list, *next; connection; connection = next) {
        next = connection->next;
        take_connection(spare, stuck, connection, gone, culprit, done);
    }
}

int fl_evacuate(fl_web *spare, fl_web *stuck, fl_evacuation *done)
{
    fl_thread *thread = &spare->thread, *old = &stuck->thread;
    fl_state *gone = stuck_state(old);
    *done = (fl_evacuation){0};
    if (!gone || !thread->states[gone->number]) return UV_EINVAL;
    fl_slots_close(&thread->request_slots);
    int status = copy_slots(&thread->request_slots, &old->request_slots);
    if (status == 0) status = silence(&old->loop);
    if (status == 0) status = take_mailboxes(thread, old, spare);
    if (status < 0) return status;
    fl_address_close(gone->address);
    fl_readiness_abandon_all(gone);
    done->tasks = gone->live_tasks;
    take_place(spare, stuck);
    fl_thread_tick(thread);
    fl_metric_subtract(&thread->metrics->tasks, gone->live_tasks);
    if (old->states[gone->number] == gone) fl_state_register_routes(thread->states[gone->number]);
    take_states(thread, old, gone);
    fl_profiler_evacuated(fl_server_profiler(thread->server), old, thread, gone);
    take_requests(thread, old, gone);
    take_owed(thread, old);
    take_deadlines(thread, old, gone);
    take_listeners(spare, stuck);
    take_connections(spare, stuck, gone, done);
    fl_pools_drop_orphans(fl_server_pools(thread->server));
    return 0;
}
