#include "mailbox.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

struct fl_mailbox {
    uv_async_t wake;
    pthread_mutex_t lock;
    fl_message *first, **last;
    bool closed;
    _Atomic unsigned references;
    void *owner;
};

static fl_message *take_all(fl_mailbox *mailbox, bool close)
{
    pthread_mutex_lock(&mailbox->lock);
    fl_message *first = mailbox->first;
    mailbox->first = NULL;
    mailbox->last = &mailbox->first;
    mailbox->closed |= close;
    pthread_mutex_unlock(&mailbox->lock);
    return first;
}

static void woken(uv_async_t *wake)
{
    fl_mailbox *mailbox = wake->data;
    fl_message *message = take_all(mailbox, false);
    while (message) {
        fl_message *next = message->next;
        message->deliver(message, mailbox->owner);
        message = next;
    }
}

int fl_mailbox_new(fl_mailbox **out, uv_loop_t *loop, void *owner)
{
    fl_mailbox *mailbox = calloc(1, sizeof(*mailbox));
    if (!mailbox) return UV_ENOMEM;
    int status = uv_async_init(loop, &mailbox->wake, woken);
    if (status < 0) {
        free(mailbox);
        return status;
    }
    mailbox->wake.data = mailbox;
    pthread_mutex_init(&mailbox->lock, NULL);
    mailbox->last = &mailbox->first;
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
    free(mailbox);
}

int fl_mailbox_post(fl_mailbox *mailbox, fl_message *message)
{
    message->next = NULL;
    pthread_mutex_lock(&mailbox->lock);
    bool closed = mailbox->closed;
    if (!closed) {
        if (!mailbox->first) uv_async_send(&mailbox->wake);
        *mailbox->last = message;
        mailbox->last = &message->next;
    }
    pthread_mutex_unlock(&mailbox->lock);
    return closed ? UV_ECANCELED : 0;
}

static void wake_closed(uv_handle_t *handle)
{
    fl_mailbox_release(handle->data);
}

void fl_mailbox_close(fl_mailbox *mailbox)
{
    fl_message *message = take_all(mailbox, true);
    while (message) {
        fl_message *next = message->next;
        message->drop(message);
        message = next;
    }
    uv_close((uv_handle_t *)&mailbox->wake, wake_closed);
    fl_mailbox_release(mailbox);
}
