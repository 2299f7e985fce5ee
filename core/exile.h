/* exile: the routes whose handlers have cost a web thread lately; they run in the cpu pool for a
 * while, where a job past its time harms nobody else.
 *
 * Not all of them can: who answers with a stream, or calls the cpu pool itself, is served by web
 * threads alone. Such a route is *exempt* from the moment it is found out, as long as the process
 * lives: it stays at home, and comes home when it is in exile. Whom the pool fails to serve for a
 * reason that may pass, as when its app cannot be loaded there just now, is only *recalled*: the
 * next time that it costs a thread, it is sent again.
 *
 * Owner: the server. The watch thread writes, web threads read: one relaxed load per request while
 * nobody is in exile. Any thread exempts and recalls. A route is known by its number in the ledger;
 * 0 is what those share for whom there was no number. */
#ifndef FL_EXILE_H
#define FL_EXILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ledger.h"

#define FL_EXILE_MOST 32 /* when there are more, the oldest comes home early */

typedef struct fl_exile {
    _Atomic uint64_t until; /* ns; after this nobody is in exile */
    struct {
        _Atomic uint32_t route;
        _Atomic uint64_t until;
    } entries[FL_EXILE_MOST];
    unsigned next;
    _Atomic uint64_t exempt[FL_LEDGER_ROUTES / 64]; /* a bit for each route */
} fl_exile;

static inline bool fl_exile_is_exempt(fl_exile *exile, uint32_t route)
{
    if (route >= FL_LEDGER_ROUTES) return false;
    uint64_t bits = atomic_load_explicit(&exile->exempt[route / 64], memory_order_relaxed);
    return bits >> route % 64 & 1;
}

/* Any thread. true: it was not until now. */
static inline bool fl_exile_exempt(fl_exile *exile, uint32_t route)
{
    if (!route || route >= FL_LEDGER_ROUTES || fl_exile_is_exempt(exile, route)) return false;
    uint64_t bit = (uint64_t)1 << route % 64;
    return !(atomic_fetch_or(&exile->exempt[route / 64], bit) & bit);
}

/* The watch thread. false: it is exempt. */
static inline bool fl_exile_send(fl_exile *exile, uint32_t route, uint64_t until)
{
    if (fl_exile_is_exempt(exile, route)) return false;
    unsigned place = exile->next++ % FL_EXILE_MOST;
    atomic_store(&exile->entries[place].until, until);
    atomic_store(&exile->entries[place].route, route);
    atomic_store(&exile->until, until);
    return true;
}

/* Any thread: it comes home before its time. true: it was to stay. */
static inline bool fl_exile_recall(fl_exile *exile, uint32_t route)
{
    bool was_sent = false;
    for (unsigned i = 0; i < FL_EXILE_MOST; i++)
        if (atomic_load(&exile->entries[i].route) == route)
            was_sent |= atomic_exchange(&exile->entries[i].until, 0) != 0;
    return was_sent;
}

static inline bool fl_exile_has(fl_exile *exile, uint32_t route, uint64_t now)
{
    if (now >= atomic_load_explicit(&exile->until, memory_order_relaxed)) return false;
    for (unsigned i = 0; i < FL_EXILE_MOST; i++)
        if (atomic_load(&exile->entries[i].route) == route &&
            now < atomic_load(&exile->entries[i].until))
            return !fl_exile_is_exempt(exile, route);
    return false;
}

#endif
