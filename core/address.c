#include "address.h"

#include <stdatomic.h>
#include <stdlib.h>

struct fl_address {
    _Atomic unsigned references;
    _Atomic bool closed;
    fl_mailbox *mailbox;
    fl_state *state; /* the mailbox's thread only; NULL: given up */
};

int fl_address_new(fl_address **out, fl_mailbox *mailbox, fl_state *state)
{
    fl_address *address = calloc(1, sizeof(*address));
    *out = address;
    if (!address) return UV_ENOMEM;
    atomic_init(&address->references, 1);
    address->mailbox = mailbox;
    address->state = state;
    fl_mailbox_hold(mailbox);
    return 0;
}

void fl_address_hold(fl_address *address)
{
    atomic_fetch_add_explicit(&address->references, 1, memory_order_relaxed);
}

void fl_address_release(fl_address *address)
{
    if (atomic_fetch_sub_explicit(&address->references, 1, memory_order_acq_rel) != 1) return;
    fl_mailbox_release(address->mailbox);
    free(address);
}

static void deliver(fl_message *message, void *owner)
{
    (void)owner;
    fl_letter *letter = (fl_letter *)message;
    fl_address *address = letter->to;
    if (address->state)
        letter->deliver(letter, address->state);
    else
        letter->drop(letter);
    fl_address_release(address);
}

static void drop(fl_message *message)
{
    fl_letter *letter = (fl_letter *)message;
    fl_address *address = letter->to;
    letter->drop(letter);
    fl_address_release(address);
}

int fl_address_post(fl_address *address, fl_letter *letter)
{
    if (atomic_load_explicit(&address->closed, memory_order_relaxed)) return UV_ECANCELED;
    letter->message = (fl_message){.deliver = deliver, .drop = drop};
    letter->to = address;
    fl_address_hold(address);
    int status = fl_mailbox_post(address->mailbox, &letter->message);
    if (status < 0) fl_address_release(address);
    return status;
}

int fl_address_lend(fl_address *address, fl_lease *lease)
{
    return fl_lease_lend(fl_mailbox_leases(address->mailbox), lease, address, &address->closed);
}

bool fl_address_give_back(fl_address *address, fl_lease *lease)
{
    return fl_lease_give_back(fl_mailbox_leases(address->mailbox), lease);
}

bool fl_address_is_closed(const fl_address *address)
{
    return atomic_load(&address->closed);
}

void fl_address_close(fl_address *address)
{
    atomic_store(&address->closed, true); /* before the leases are looked at: none comes later */
    address->state = NULL;
    fl_leases_release(fl_mailbox_leases(address->mailbox), address);
}
