/* lease: something that a Lua state has for the time being, and that goes back when the state is
 * given up: an item of a channel that no task has received yet, a place among a topic's readers.
 *
 * A list of them (fl_leases) belongs to a mailbox; who has one of them is known by its address.
 * *Any* thread may lend, give back and release. A lease lies in memory that lives until it is given
 * back or released, and it ends by exactly one of them. */
#ifndef FL_LEASE_H
#define FL_LEASE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

typedef struct fl_lease fl_lease;
struct fl_lease {
    fl_lease *next, **link; /* link NULL: not lent */
    const void *holder;
    void (*released)(fl_lease *lease); /* by any thread, which holds no lock of the list's */
};

typedef struct fl_leases {
    pthread_mutex_t lock;
    fl_lease *first;
    bool ended; /* nothing is lent any more */
} fl_leases;

void fl_leases_init(fl_leases *leases);
void fl_leases_close(fl_leases *leases); /* when none is left */

/* 0, or UV_ECANCELED when all have been released, or `gone` is true. */
int fl_lease_lend(fl_leases *leases, fl_lease *lease, const void *holder, _Atomic bool *gone);
/* true: it was still lent, and is over. */
bool fl_lease_give_back(fl_leases *leases, fl_lease *lease);

/* Ends all leases of the holder; NULL: of everybody, for good. */
void fl_leases_release(fl_leases *leases, const void *holder);

#endif
