#include "quota.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <uv.h>

#define NOBODY UINT_MAX

typedef struct place {          /* in a list */
    struct place *next, **link; /* link NULL: in none */
    fl_quota_member *member;
} place;

typedef struct list {
    place *first, **last;
} list;

struct fl_quota {
    pthread_mutex_t lock;
    fl_quota_clock *clock;
    uint64_t most, taken; /* taken: with those that are granted */
    list members;         /* who is to be asked next first */
    list line;
    unsigned waiting, owed;
    /* what members see without the lock */
    _Atomic unsigned in_line;
    _Atomic unsigned unmet;    /* in line, without anybody who owes them a slot */
    _Atomic unsigned fewest;   /* connections that serve, of those in line; NOBODY: it is empty */
    _Atomic unsigned pressing; /* the same, of those that are unmet */
};

struct fl_quota_member {
    fl_quota *quota;
    fl_address *address; /* held */
    const fl_quota_calls *calls;
    void *owner; /* the loop's; NULL: it has left */
    fl_lease lease;
    _Atomic unsigned references;
    _Atomic unsigned idle, serving, owes;
    _Atomic bool in_line;
    /* under the lock */
    place member, line;
    unsigned granted, parting;          /* parting: of what is owed, on its way */
    uint64_t owes_since, granted_since; /* ns */
    bool is_deaf;                       /* not to be asked */
    bool is_gone;
    bool ask_posted, grant_posted;
    fl_letter ask, grant;
};

/* lists */

static void list_init(list *self)
{
    *self = (list){.last = &self->first};
}

static void append(list *self, place *entry)
{
    entry->next = NULL;
    entry->link = self->last;
    *self->last = entry;
    self->last = &entry->next;
}

static void take_out(list *self, place *entry)
{
    *entry->link = entry->next;
    *(entry->next ? &entry->next->link : &self->last) = entry->link;
    entry->link = NULL;
}

/* members */

static void hold(fl_quota_member *member)
{
    atomic_fetch_add_explicit(&member->references, 1, memory_order_relaxed);
}

static void release(fl_quota_member *member)
{
    if (atomic_fetch_sub(&member->references, 1) != 1) return;
    fl_address_release(member->address);
    free(member);
}

static void lock(fl_quota *quota)
{
    (void)pthread_mutex_lock(&quota->lock);
}

static void unlock(fl_quota *quota)
{
    (void)pthread_mutex_unlock(&quota->lock);
}

/* the line */

static void enter_line(fl_quota_member *member)
{
    if (member->line.link) return;
    append(&member->quota->line, &member->line);
    member->quota->waiting++;
    atomic_store(&member->in_line, true);
}

static void leave_line(fl_quota_member *member)
{
    if (!member->line.link) return;
    take_out(&member->quota->line, &member->line);
    member->quota->waiting--;
    atomic_store(&member->in_line, false);
}

static fl_quota_member *next_in_line(fl_quota *quota)
{
    for (place *each = quota->line.first; each; each = each->next)
        if (atomic_load(&each->member->serving) == 0) return each->member;
    return quota->line.first ? quota->line.first->member : NULL;
}

/* what is owed */

static void owe(fl_quota_member *member)
{
    atomic_fetch_add(&member->owes, 1);
    member->quota->owed++;
    member->owes_since = member->quota->clock();
}

static void forgive(fl_quota_member *member)
{
    member->quota->owed -= atomic_exchange(&member->owes, 0);
}

static void has_given(fl_quota_member *member)
{
    if (member->parting > 0)
        member->parting--;
    else if (atomic_load(&member->owes) > 0)
        atomic_fetch_sub(&member->owes, 1);
    else
        return;
    member->quota->owed--;
}

static void pass_on(fl_quota_member *member)
{
    member->quota->taken -= member->granted;
    member->granted = 0;
}

/* letters */

static void post_grant(fl_quota_member *member);
static void post_ask(fl_quota_member *member);

/* granting */

static void grant(fl_quota_member *member)
{
    leave_line(member);
    member->quota->taken++;
    member->granted++;
    member->granted_since = member->quota->clock();
    post_grant(member);
}

static void grant_all(fl_quota *quota)
{
    while (quota->waiting > 0 && quota->taken < quota->most) grant(next_in_line(quota));
}

/* asking */

static unsigned unmet_of(const fl_quota *quota)
{
    return quota->waiting > quota->owed ? quota->waiting - quota->owed : 0;
}

/* Others than itself may have what it gives. */
static bool is_of_use(const fl_quota_member *member)
{
    return member->quota->waiting > (member->line.link ? 1 : 0);
}

static bool has_to_spare(const fl_quota_member *member)
{
    return atomic_load(&member->idle) > atomic_load(&member->owes) && is_of_use(member);
}

static fl_quota_member *find_holder(fl_quota *quota, const fl_quota_member *except)
{
    for (place *each = quota->members.first; each; each = each->next) {
        fl_quota_member *member = each->member;
        if (member != except && !member->is_deaf && !member->ask_posted && has_to_spare(member))
            return member;
    }
    return NULL;
}

static void ask_holders(fl_quota *quota, const fl_quota_member *except)
{
    fl_quota_member *holder;
    while (unmet_of(quota) > 0 && (holder = find_holder(quota, except)) != NULL) {
        take_out(&quota->members, &holder->member);
        append(&quota->members, &holder->member);
        post_ask(holder);
    }
}

/* What a member looks at when it has told that a connection is idle; who has entered the line
 * publishes first and looks for idle ones afterwards: one of them sees the other. */
static void publish(fl_quota *quota)
{
    unsigned hungry = 0, least = NOBODY;
    for (const place *each = quota->line.first; each; each = each->next) {
        unsigned serving = atomic_load(&each->member->serving);
        hungry += serving == 0;
        if (serving > 0 && serving < least) least = serving;
    }
    unsigned unmet = unmet_of(quota);
    if (unmet == 0)
        atomic_store(&quota->pressing, NOBODY);
    else
        atomic_store(&quota->pressing, hungry > quota->owed ? 0 : least);
    atomic_store(&quota->fewest, hungry ? 0 : least);
    atomic_store(&quota->in_line, quota->waiting);
    atomic_store(&quota->unmet, unmet);
}

/* After all that has changed. */
static void settle(fl_quota *quota, const fl_quota_member *except)
{
    grant_all(quota);
    publish(quota);
    if (unmet_of(quota) == 0) return;
    ask_holders(quota, except);
    publish(quota);
}

/* Those whose state does not answer. */
static void pass_over(fl_quota *quota)
{
    uint64_t now = quota->clock();
    for (place *each = quota->members.first; each; each = each->next) {
        fl_quota_member *member = each->member;
        if (member->granted && now - member->granted_since > FL_QUOTA_PATIENCE) pass_on(member);
        if (!atomic_load(&member->owes) || now - member->owes_since <= FL_QUOTA_PATIENCE) continue;
        forgive(member);
        member->is_deaf = true;
    }
}

/* letters */

static void tell_granted(fl_letter *letter, fl_state *state)
{
    (void)state;
    fl_quota_member *member =
        (fl_quota_member *)((char *)letter - offsetof(fl_quota_member, grant));
    fl_quota *quota = member->quota;
    lock(quota);
    member->grant_posted = false;
    unlock(quota);
    if (member->owner) member->calls->granted(member->owner);
    lock(quota);
    pass_on(member);
    settle(quota, NULL);
    unlock(quota);
    release(member);
}

static void tell_asked(fl_letter *letter, fl_state *state)
{
    (void)state;
    fl_quota_member *member = (fl_quota_member *)((char *)letter - offsetof(fl_quota_member, ask));
    lock(member->quota);
    member->ask_posted = member->is_deaf = false;
    unlock(member->quota);
    if (member->owner) member->calls->asked(member->owner);
    release(member);
}

/* The state is gone, and its lease released or about to be. */
static void drop_grant(fl_letter *letter)
{
    release((fl_quota_member *)((char *)letter - offsetof(fl_quota_member, grant)));
}

static void drop_ask(fl_letter *letter)
{
    release((fl_quota_member *)((char *)letter - offsetof(fl_quota_member, ask)));
}

static void post_grant(fl_quota_member *member)
{
    if (member->grant_posted) return;
    member->grant = (fl_letter){.deliver = tell_granted, .drop = drop_grant};
    hold(member);
    member->grant_posted = fl_address_post(member->address, &member->grant) == 0;
    if (member->grant_posted) return;
    pass_on(member);
    release(member);
}

static void post_ask(fl_quota_member *member)
{
    member->ask = (fl_letter){.deliver = tell_asked, .drop = drop_ask};
    hold(member);
    member->ask_posted = fl_address_post(member->address, &member->ask) == 0;
    if (member->ask_posted) {
        owe(member);
        return;
    }
    member->is_deaf = true;
    release(member);
}

/* in order of life */

int fl_quota_new(fl_quota **out, uint64_t most, fl_quota_clock *clock)
{
    fl_quota *quota = calloc(1, sizeof(*quota));
    *out = quota;
    if (!quota) return UV_ENOMEM;
    (void)pthread_mutex_init(&quota->lock, NULL);
    quota->clock = clock;
    quota->most = most;
    list_init(&quota->members);
    list_init(&quota->line);
    publish(quota);
    return 0;
}

void fl_quota_free(fl_quota *quota)
{
    if (!quota) return;
    (void)pthread_mutex_destroy(&quota->lock);
    free(quota);
}

fl_quota_counts fl_quota_count(fl_quota *quota)
{
    lock(quota);
    fl_quota_counts counts = {.slots = quota->taken, .waiting = quota->waiting};
    unlock(quota);
    return counts;
}

/* The state ends or is given up; any thread. */
static void expel(fl_quota_member *member)
{
    fl_quota *quota = member->quota;
    lock(quota);
    member->is_gone = true;
    leave_line(member);
    take_out(&quota->members, &member->member);
    forgive(member);
    quota->owed -= member->parting;
    member->parting = 0;
    pass_on(member);
    settle(quota, NULL);
    unlock(quota);
    release(member);
}

static void released(fl_lease *lease)
{
    expel((fl_quota_member *)((char *)lease - offsetof(fl_quota_member, lease)));
}

int fl_quota_join(fl_quota_member **out, fl_quota *quota, fl_address *address,
                  const fl_quota_calls *calls, void *owner)
{
    fl_quota_member *member = calloc(1, sizeof(*member));
    if (!member) return UV_ENOMEM;
    *member = (fl_quota_member){.quota = quota, .address = address, .calls = calls, .owner = owner};
    member->member.member = member->line.member = member;
    member->lease.released = released;
    atomic_init(&member->references, 2); /* the caller's and the lease's */
    fl_address_hold(address);
    lock(quota);
    append(&quota->members, &member->member);
    unlock(quota);
    if (fl_address_lend(address, &member->lease) == 0) {
        *out = member;
        return 0;
    }
    expel(member);
    release(member);
    return UV_ECANCELED;
}

/* Nobody stands in line while a slot is free. */
static int take(fl_quota_member *member)
{
    fl_quota *quota = member->quota;
    if (member->is_gone) return UV_ECANCELED;
    if (member->granted > 0) {
        member->granted--;
    } else if (quota->taken < quota->most) {
        quota->taken++;
    } else {
        enter_line(member);
        settle(quota, NULL);
        return UV_EAGAIN;
    }
    hold(member);
    return 0;
}

int fl_quota_take(fl_quota_member *member)
{
    lock(member->quota);
    int status = take(member);
    unlock(member->quota);
    return status;
}

bool fl_quota_is_in_line(const fl_quota_member *member)
{
    return atomic_load_explicit(&member->in_line, memory_order_relaxed);
}

void fl_quota_withdraw(fl_quota_member *member)
{
    if (!fl_quota_is_in_line(member)) return;
    lock(member->quota);
    leave_line(member);
    settle(member->quota, NULL);
    unlock(member->quota);
}

void fl_quota_tell(fl_quota_member *member, unsigned idle, unsigned serving)
{
    fl_quota *quota = member->quota;
    atomic_store_explicit(&member->serving, serving, memory_order_relaxed);
    if (atomic_load_explicit(&member->idle, memory_order_relaxed) != idle)
        atomic_store(&member->idle, idle);
    bool may_owe = idle > 0 && atomic_load(&quota->unmet) > 0;
    if (!may_owe && !fl_quota_is_in_line(member)) return;
    lock(quota);
    member->is_deaf = member->is_gone;
    if (!member->is_gone && unmet_of(quota) > 0 && has_to_spare(member)) owe(member);
    if (member->line.link) pass_over(quota);
    settle(quota, member);
    unlock(quota);
}

bool fl_quota_owes(const fl_quota_member *member)
{
    return atomic_load_explicit(&member->owes, memory_order_relaxed) > 0;
}

void fl_quota_decline(fl_quota_member *member)
{
    lock(member->quota);
    forgive(member);
    settle(member->quota, member);
    unlock(member->quota);
}

bool fl_quota_is_wanted(const fl_quota_member *member)
{
    return atomic_load_explicit(&member->quota->in_line, memory_order_relaxed) > 0;
}

static bool has_more(const fl_quota_member *member, unsigned than)
{
    if (than == NOBODY || than == 0) return than == 0;
    return atomic_load_explicit(&member->serving, memory_order_relaxed) > than + 1;
}

bool fl_quota_is_pressed(const fl_quota_member *member, uint64_t since)
{
    const fl_quota *quota = member->quota;
    unsigned pressing = atomic_load_explicit(&quota->pressing, memory_order_relaxed);
    if (fl_quota_owes(member))
        pressing = atomic_load_explicit(&quota->fewest, memory_order_relaxed);
    return has_more(member, pressing) && quota->clock() >= since + FL_QUOTA_TURN;
}

uint64_t fl_quota_ripe_at(const fl_quota_member *member, uint64_t since, uint64_t idle_since)
{
    uint64_t lingered = idle_since + FL_QUOTA_LINGER, served = since + FL_QUOTA_TURN;
    unsigned fewest = atomic_load_explicit(&member->quota->fewest, memory_order_relaxed);
    return served < lingered && has_more(member, fewest) ? served : lingered;
}

void fl_quota_leave(fl_quota_member *member)
{
    member->owner = NULL;
    if (fl_address_give_back(member->address, &member->lease)) expel(member);
    release(member);
}

void fl_quota_part(fl_quota_member *member)
{
    lock(member->quota);
    if (!member->is_gone && atomic_load(&member->owes) > 0) {
        atomic_fetch_sub(&member->owes, 1);
        member->parting++;
    }
    unlock(member->quota);
}

void fl_quota_give(fl_quota_member *member)
{
    fl_quota *quota = member->quota;
    lock(quota);
    quota->taken--;
    has_given(member);
    settle(quota, NULL);
    unlock(quota);
    release(member);
}
