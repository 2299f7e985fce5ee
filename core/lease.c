#include "lease.h"

#include <stddef.h>
#include <uv.h>

void fl_leases_init(fl_leases *leases)
{
    *leases = (fl_leases){0};
    pthread_mutex_init(&leases->lock, NULL);
}

void fl_leases_close(fl_leases *leases)
{
    pthread_mutex_destroy(&leases->lock);
}

static void insert(fl_lease **first, fl_lease *lease)
{
    lease->next = *first;
    if (lease->next) lease->next->link = &lease->next;
    lease->link = first;
    *first = lease;
}

static void take_out(fl_lease *lease)
{
    *lease->link = lease->next;
    if (lease->next) lease->next->link = lease->link;
    lease->link = NULL;
}

int fl_lease_lend(fl_leases *leases, fl_lease *lease, const void *holder, _Atomic bool *gone)
{
    pthread_mutex_lock(&leases->lock);
    bool refused = leases->ended || atomic_load(gone);
    if (!refused) {
        lease->holder = holder;
        insert(&leases->first, lease);
    }
    pthread_mutex_unlock(&leases->lock);
    return refused ? UV_ECANCELED : 0;
}

bool fl_lease_give_back(fl_leases *leases, fl_lease *lease)
{
    pthread_mutex_lock(&leases->lock);
    bool lent = lease->link != NULL;
    if (lent) take_out(lease);
    pthread_mutex_unlock(&leases->lock);
    return lent;
}

static fl_lease *take_out_all(fl_leases *leases, const void *holder)
{
    fl_lease *found = NULL;
    pthread_mutex_lock(&leases->lock);
    if (!holder) leases->ended = true;
    for (fl_lease *lease = leases->first, *next; lease; lease = next) {
        next = lease->next;
        if (holder && lease->holder != holder) continue;
        take_out(lease);
        lease->next = found;
        found = lease;
    }
    pthread_mutex_unlock(&leases->lock);
    return found;
}

void fl_leases_release(fl_leases *leases, const void *holder)
{
    fl_lease *lease = take_out_all(leases, holder);
    while (lease) {
        fl_lease *next = lease->next;
        lease->released(lease);
        lease = next;
    }
}
