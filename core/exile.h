/* exile: the routes whose handlers have cost a web thread lately; they run in the cpu pool for a
 * while, where a job past its time harms nobody else.
 *
 * Owner: the server. The watch thread writes, web threads read: one relaxed load per request while
 * nobody is in exile. A route is known by its number in the ledger. */
#ifndef FL_EXILE_H
#define FL_EXILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define FL_EXILE_MOST 32 /* when there are more, the oldest comes home early */

typedef struct fl_exile {
    _Atomic uint64_t until; /* ns; after this nobody is in exile */
    struct {
        _Atomic uint32_t route;
        _Atomic uint64_t until;
    } entries[FL_EXILE_MOST];
    unsigned next;
} fl_exile;

/* The watch thread. */
static inline void fl_exile_send(fl_exile *exile, uint32_t route, uint64_t until)
{
    unsigned place = exile->next++ % FL_EXILE_MOST;
    atomic_store(&exile->entries[place].until, until);
    atomic_store(&exile->entries[place].route, route);
    atomic_store(&exile->until, until);
}

static inline bool fl_exile_has(fl_exile *exile, uint32_t route, uint64_t now)
{
    if (now >= atomic_load_explicit(&exile->until, memory_order_relaxed)) return false;
    for (unsigned i = 0; i < FL_EXILE_MOST; i++)
        if (atomic_load(&exile->entries[i].route) == route &&
            now < atomic_load(&exile->entries[i].until))
            return true;
    return false;
}

#endif
