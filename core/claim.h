/* claim: who may touch a web thread's C structures right now.
 *
 * A thread claims *in C* or *in Lua* for itself; the watch thread can only turn *in Lua* into
 * *retired*. While a thread is in Lua it touches none of its C structures, so once it is retired
 * another thread may take them. A bound function that needs them (an *owning* function) claims them
 * back for its duration with fl_claim_take and gives them up with fl_claim_give; in between it is
 * bounded and calls no Lua API that can allocate, raise or run Lua. A thread that finds itself
 * retired ends here, never with a Lua error: its structures belong to somebody else. */
#ifndef FL_CLAIM_H
#define FL_CLAIM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum { FL_CLAIM_C, FL_CLAIM_LUA, FL_CLAIM_RETIRED } fl_claim_state;

typedef struct fl_claim {
    /* turn * 4 + state, in one word: who retires the thread means a turn, not whichever runs */
    _Atomic uint64_t word;
    uint64_t turn; /* its thread's own count of turns and of the pauses between them */
    int given; /* its thread's own count: 1 in Lua, 0 in C, less when owning functions nest there,
                  as when C makes the collector run a finalizer */
} fl_claim;

/* *loop* of the thread the claim belongs to */
static inline void fl_claim_give(fl_claim *claim)
{
    if (++claim->given == 1)
        atomic_store_explicit(&claim->word, claim->turn * 4 + FL_CLAIM_LUA, memory_order_release);
}

static inline void fl_claim_take(fl_claim *claim)
{
    if (--claim->given != 0) return;
    uint64_t expected = claim->turn * 4 + FL_CLAIM_LUA;
    if (!atomic_compare_exchange_strong_explicit(&claim->word, &expected,
                                                 claim->turn * 4 + FL_CLAIM_C, memory_order_acq_rel,
                                                 memory_order_acquire))
        pthread_exit(NULL);
}

static inline void fl_claim_enter_lua(fl_claim *claim)
{
    claim->turn++;
    fl_claim_give(claim);
}

/* The count is odd in a turn and even between two: in C with an odd count is an owning function. */
static inline void fl_claim_leave_lua(fl_claim *claim)
{
    fl_claim_take(claim);
    claim->turn++;
    if (claim->given == 0)
        atomic_store_explicit(&claim->word, claim->turn * 4 + FL_CLAIM_C, memory_order_release);
}

/* Any thread */
static inline fl_claim_state fl_claim_look(fl_claim *claim, uint64_t *turn)
{
    uint64_t word = atomic_load_explicit(&claim->word, memory_order_acquire);
    *turn = word / 4;
    return (fl_claim_state)(word % 4);
}

/* The watch thread: false when that turn is not in Lua, or is over. */
static inline bool fl_claim_retire(fl_claim *claim, uint64_t turn)
{
    uint64_t expected = turn * 4 + FL_CLAIM_LUA;
    return atomic_compare_exchange_strong(&claim->word, &expected, turn * 4 + FL_CLAIM_RETIRED);
}

#endif
