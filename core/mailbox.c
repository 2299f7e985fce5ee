#include "mailbox.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct fl_mailbox {
    uv_async_t *wake; /* held by pointer: a loop that is given up keeps its handle */
    pthread_mutex_t lock;
    _Atomic(fl_message *) first;
    fl_message **last;
    _Atomic bool awake; /* the owner will look before it sleeps */
    bool closed;
    fl_leases leases;
    _Atomic unsigned references;
    void *owner;
};

static fl_message *take_all(fl_mailbox *mailbox, bool close)
{
    pthread_mutex_lock(&mailbox->lock);
    fl_message *first = atomic_load_explicit(&mailbox->first, memory_order_relaxed);
    atomic_store_explicit(&mailbox->first, NULL, memory_order_relaxed);
    mailbox->last = NULL;
    mailbox->closed |= close;
    pthread_mutex_unlock(&mailbox->lock);
    return first;
}

static void deliver_all(fl_mailbox *mailbox)
{
    if (!atomic_load_explicit(&mailbox->first, memory_order_relaxed)) return;
    fl_message *message = take_all(mailbox, false);
    while (message) {
        fl_message *next = message->next;
        message->deliver(message, mailbox->owner);
        message = next;
    }
}

static void woken(uv_async_t *wake)
{
    deliver_all(wake->data);
}

static int hang(fl_mailbox *mailbox, uv_loop_t *loop)
{
    uv_async_t *wake = malloc(sizeof(*wake));
    if (!wake) return UV_ENOMEM;
    int status = uv_async_init(loop, wake, woken);
    if (status < 0) {
        free(wake);
        return status;
    }
    wake->data = mailbox;
    mailbox->wake = wake;
    return 0;
}

int fl_mailbox_new(fl_mailbox **out, uv_loop_t *loop, void *owner)
{
    fl_mailbox *mailbox = calloc(1, sizeof(*mailbox));
    if (!mailbox) return UV_ENOMEM;
    int status = hang(mailbox, loop);
    if (status < 0) {
        free(mailbox);
        return status;
    }
    pthread_mutex_init(&mailbox->lock, NULL);
    fl_leases_init(&mailbox->leases);
    mailbox->owner = owner;
    atomic_init(&mailbox->references, 2); /* the owner's, and the async handle's until it closed */
    *out = mailbox;
    return 0;
}

void fl_mailbox_hold(fl_mailbox *mailbox)
{
    atomic_fetch_add(&mailbox->references, 1);
}

void fl_mailbox_release(fl_mailbox *mailbox)
{
    if (atomic_fetch_sub(&mailbox->references, 1) != 1) return;
    pthread_mutex_destroy(&mailbox->lock);
    fl_leases_close(&mailbox->leases);
    free(mailbox);
}

fl_leases *fl_mailbox_leases(fl_mailbox *mailbox)
{
    return &mailbox->leases;
}

static void append(fl_mailbox *mailbox, fl_message *message)
{
    if (mailbox->last) {
        *mailbox->last = message;
    } else {
        atomic_store(&mailbox->first, message); /* before `awake` is read: see fl_mailbox_doze */
        if (!atomic_load(&mailbox->awake)) uv_async_send(mailbox->wake);
    }
    mailbox->last = &message->next;
}

int fl_mailbox_post(fl_mailbox *mailbox, fl_message *message)
{
    message->next = NULL;
    pthread_mutex_lock(&mailbox->lock);
    bool closed = mailbox->closed;
    if (!closed) append(mailbox, message);
    pthread_mutex_unlock(&mailbox->lock);
    return closed ? UV_ECANCELED : 0;
}

void fl_mailbox_wake(fl_mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->lock);
    if (!mailbox->closed) uv_async_send(mailbox->wake);
    pthread_mutex_unlock(&mailbox->lock);
}

/* Says first that it sleeps and looks afterwards, as a poster stores first and asks afterwards: one
 * of them sees the other. */
bool fl_mailbox_doze(fl_mailbox *mailbox)
{
    deliver_all(mailbox);
    atomic_store(&mailbox->awake, false);
    return atomic_load(&mailbox->first) == NULL;
}

void fl_mailbox_rise(fl_mailbox *mailbox)
{
    atomic_store_explicit(&mailbox->awake, true, memory_order_relaxed);
    deliver_all(mailbox);
}

int fl_mailbox_move(fl_mailbox *mailbox, uv_loop_t *loop, void *owner)
{
    pthread_mutex_lock(&mailbox->lock);
    int status = hang(mailbox, loop);
    if (status == 0) {
        mailbox->owner = owner;
        atomic_store(&mailbox->awake, false);
        if (mailbox->first) uv_async_send(mailbox->wake);
    }
    pthread_mutex_unlock(&mailbox->lock);
    return status;
}

static void wake_closed(uv_handle_t *handle)
{
    fl_mailbox_release(handle->data);
    free(handle);
}

void fl_mailbox_close(fl_mailbox *mailbox)
{
    fl_message *message = take_all(mailbox, true);
    while (message) {
        fl_message *next = message->next;
        message->drop(message);
        message = next;
    }
    uv_close((uv_handle_t *)mailbox->wake, wake_closed);
    fl_mailbox_release(mailbox);
}
