/* quota: how many connections all Lua states of a server process together may have to databases
 * (the setting db_connections), and whose turn it is when they want more.
 *
 * A *member* is one database handle of one state; a *slot* is the right to have one connection. Who
 * finds no slot stands in line, once; each slot that comes back goes to one in line: to the first
 * whose connections serve nobody (it has none, or they are all bound for long: it is *hungry*),
 * else to the first. A slot that comes back late, to somebody who wants none any more, goes on.
 *
 * Nobody waits while somebody has an idle connection: for each that stands in line, one other
 * member *owes* a slot. Members that have idle connections are asked in turn, by a letter; one
 * whose connection becomes idle later owes one by itself (fl_quota_tell). An idle connection is
 * closed once it has been idle for FL_QUOTA_LINGER, so that a client that asks again at once finds
 * it there and connections are not made anew for each query. One that always has something to do is
 * given up for somebody hungry, or for somebody who has two less, when it has served for
 * FL_QUOTA_TURN (fl_quota_is_pressed): what runs on it ends, then it goes, though others of its own
 * state wait. So one in line waits for about as many turns as others stand before it, divided by
 * the slots; those who all have connections and want more do not take them from each other. Who
 * owes a slot and does not answer within FL_QUOTA_PATIENCE, as its state computes, is passed over
 * until it is back.
 *
 * Owner: the server. A member is reference-counted: its handle, its lease, its slots and its
 * letters hold it. When its state ends or is given up, it leaves line and list (a lease, see
 * lease.h), and nobody is called any more; slots come back by leases of their own. */
#ifndef FL_QUOTA_H
#define FL_QUOTA_H

#include <stdbool.h>
#include <stdint.h>

#include "address.h"

#define FL_QUOTA_LINGER UINT64_C(5000000) /* ns */
#define FL_QUOTA_TURN UINT64_C(50000000)
#define FL_QUOTA_PATIENCE UINT64_C(100000000)

typedef struct fl_quota fl_quota;
typedef struct fl_quota_member fl_quota_member;

typedef struct fl_quota_calls {   /* *loop* of the member's state */
    void (*granted)(void *owner); /* it is its turn: what it does not take now goes on */
    void (*asked)(void *owner);   /* it owes a slot: see fl_quota_owes */
} fl_quota_calls;

typedef struct fl_quota_counts {
    uint64_t slots, waiting; /* taken; members in line */
} fl_quota_counts;

typedef uint64_t fl_quota_clock(void); /* ns */

/* 0 or UV_ENOMEM. The clock is uv_hrtime, but for tests. */
int fl_quota_new(fl_quota **out, uint64_t most, fl_quota_clock *clock);
void fl_quota_free(fl_quota *quota);             /* nobody takes or gives any more */
fl_quota_counts fl_quota_count(fl_quota *quota); /* any thread */

/* *loop* of the member's state, or owning, up to fl_quota_leave. 0, UV_ENOMEM, or UV_ECANCELED: the
 * state is ending. `calls` live as long as the quota. */
int fl_quota_join(fl_quota_member **out, fl_quota *quota, fl_address *address,
                  const fl_quota_calls *calls, void *owner);
/* Has one more slot. 0; UV_EAGAIN: it stands in line and will be called; UV_ECANCELED. */
int fl_quota_take(fl_quota_member *member);
bool fl_quota_is_in_line(const fl_quota_member *member);
/* It needs no more: leaves the line, passes on what it was granted. */
void fl_quota_withdraw(fl_quota_member *member);
/* How many of its connections are idle, and how many serve whoever comes: are idle, connecting, or
 * busy only for a moment. To be told whenever one becomes idle or does not stay so, and now and
 * then in line. */
void fl_quota_tell(fl_quota_member *member, unsigned idle, unsigned serving);
/* A slot is to be given, or, when that cannot be, declined soon. */
bool fl_quota_owes(const fl_quota_member *member);
void fl_quota_decline(fl_quota_member *member);         /* all that it owes */
bool fl_quota_is_wanted(const fl_quota_member *member); /* somebody stands in line */
/* A connection that became ready at `since` (ns) has had its turn. */
bool fl_quota_is_pressed(const fl_quota_member *member, uint64_t since);
/* When one that is idle may be closed for others, ns. */
uint64_t fl_quota_ripe_at(const fl_quota_member *member, uint64_t since, uint64_t idle_since);
void fl_quota_leave(fl_quota_member *member); /* all but slots are over */

/* The connection that a slot was owed from is being closed: the debt is paid once the slot is
 * given, and nobody else is asked for it meanwhile. */
void fl_quota_part(fl_quota_member *member);

/* Any thread: one slot comes back. */
void fl_quota_give(fl_quota_member *member);

#endif
