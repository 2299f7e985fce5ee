#include "resolve.h"

#include <netdb.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"
#include "thread.h"

#define NAME_MOST 255 /* RFC 1035 section 2.3.4 */

struct fl_resolve {
    _Atomic unsigned references; /* whoever started it, and the look-up */
    fl_address *reply;           /* held while it works */
    fl_message message;          /* to the server */
    fl_letter letter;            /* back */
    uv_getaddrinfo_t request;    /* the housekeeping loop's */
    char name[NAME_MOST + 1], port[8];
    fl_resolved result;
    /* the state's thread */
    fl_deadline deadline;
    fl_resolve_ended ended; /* NULL: nobody waits any more */
    void *data;
};

static void release(fl_resolve *resolve)
{
    if (atomic_fetch_sub(&resolve->references, 1) == 1) free(resolve);
}

/* back at the state */

static void end(fl_resolve *resolve, const fl_resolved *result)
{
    fl_resolve_ended ended = resolve->ended;
    resolve->ended = NULL;
    fl_deadline_stop(&resolve->deadline);
    if (!ended) return;
    ended(resolve->data, result);
    release(resolve);
}

static fl_resolve *resolve_of_letter(fl_letter *letter)
{
    return (fl_resolve *)((char *)letter - offsetof(fl_resolve, letter));
}

static void deliver_reply(fl_letter *letter, fl_state *state)
{
    (void)state;
    fl_resolve *resolve = resolve_of_letter(letter);
    end(resolve, &resolve->result);
    release(resolve);
}

static void drop_reply(fl_letter *letter)
{
    release(resolve_of_letter(letter));
}

static void timed_out(fl_deadline *deadline)
{
    fl_resolve *resolve = (fl_resolve *)((char *)deadline - offsetof(fl_resolve, deadline));
    const fl_resolved late = {.error = UV_ETIMEDOUT};
    end(resolve, &late);
}

/* on the housekeeping loop */

static void reply(fl_resolve *resolve)
{
    fl_address *address = resolve->reply;
    resolve->reply = NULL;
    resolve->letter = (fl_letter){.deliver = deliver_reply, .drop = drop_reply};
    if (fl_address_post(address, &resolve->letter) < 0) release(resolve);
    fl_address_release(address);
}

static void keep(fl_resolved *result, const struct addrinfo *found)
{
    for (; found && result->count < FL_RESOLVE_MOST; found = found->ai_next) {
        if (found->ai_addrlen > sizeof(result->addresses[0])) continue;
        memcpy(&result->addresses[result->count++], found->ai_addr, found->ai_addrlen);
    }
    if (result->count == 0) result->error = UV_EAI_NODATA;
}

static void looked_up(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
    fl_resolve *resolve = request->data;
    resolve->result.error = status;
    if (status == 0) keep(&resolve->result, found);
    uv_freeaddrinfo(found);
    reply(resolve);
}

static fl_resolve *resolve_of_message(fl_message *message)
{
    return (fl_resolve *)((char *)message - offsetof(fl_resolve, message));
}

static void deliver_start(fl_message *message, void *owner)
{
    fl_resolve *resolve = resolve_of_message(message);
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    resolve->request.data = resolve;
    resolve->result.error = uv_getaddrinfo(fl_server_loop(owner), &resolve->request, looked_up,
                                           resolve->name, resolve->port, &hints);
    if (resolve->result.error) reply(resolve);
}

static void drop_start(fl_message *message)
{
    fl_resolve *resolve = resolve_of_message(message);
    resolve->result.error = UV_ECANCELED;
    reply(resolve);
}

bool fl_resolve_number(const char *name, uint16_t port, fl_resolved *result)
{
    fl_resolved_address address;
    if (uv_ip4_addr(name, port, &address.v4) < 0 && uv_ip6_addr(name, port, &address.v6) < 0)
        return false;
    *result = (fl_resolved){.count = 1, .addresses = {address}};
    return true;
}

static int post(fl_resolve *resolve, const fl_state *state)
{
    resolve->message = (fl_message){.deliver = deliver_start, .drop = drop_start};
    resolve->reply = state->address;
    fl_address_hold(resolve->reply);
    int status = fl_mailbox_post(fl_server_mailbox(state->thread->server), &resolve->message);
    if (status < 0) fl_address_release(resolve->reply);
    return status;
}

int fl_resolve_start(fl_resolve **out, fl_state *state, const char *name, uint16_t port,
                     fl_resolve_ended ended, void *data)
{
    if (strlen(name) > NAME_MOST) return UV_ENAMETOOLONG;
    fl_resolve *resolve = calloc(1, sizeof(*resolve));
    if (!resolve) return UV_ENOMEM;
    (void)snprintf(resolve->name, sizeof(resolve->name), "%s", name);
    (void)snprintf(resolve->port, sizeof(resolve->port), "%u", port);
    atomic_init(&resolve->references, 2);
    resolve->ended = ended;
    resolve->data = data;
    int status = post(resolve, state);
    if (status < 0) {
        free(resolve);
        return status;
    }
    resolve->deadline.state = state;
    fl_thread_start_deadline(state->thread, &resolve->deadline, FL_RESOLVE_PATIENCE, timed_out);
    *out = resolve;
    return 0;
}

void fl_resolve_cancel(fl_resolve *resolve)
{
    resolve->ended = NULL;
    fl_deadline_stop(&resolve->deadline);
    release(resolve);
}
