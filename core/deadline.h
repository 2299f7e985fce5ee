/* deadline: a timer wheel of our own, so that timers do not hang from a loop that may be abandoned,
 * and starting or stopping one allocates nothing and costs a few instructions.
 *
 * Owner: a web thread; *loop* only. An fl_deadline is embedded in what it guards and must be
 * stopped before that memory goes. Times are milliseconds of the loop's clock, absolute. */
#ifndef FL_DEADLINE_H
#define FL_DEADLINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FL_WHEEL_LEVELS 5
#define FL_WHEEL_SLOTS 64

typedef struct fl_deadline fl_deadline;
typedef struct fl_state fl_state;
typedef void (*fl_deadline_callback)(fl_deadline *deadline);

struct fl_deadline {
    fl_deadline *next;
    fl_deadline **link; /* what points at this one; NULL when not started */
    uint64_t at;
    fl_deadline_callback callback;
    fl_state *state; /* whose it is: left behind with a state that is given up; NULL: nobody's */
};

typedef struct fl_wheel {
    uint64_t now;
    uint64_t occupied[FL_WHEEL_LEVELS]; /* one bit per slot, cleared lazily */
    fl_deadline *slots[FL_WHEEL_LEVELS][FL_WHEEL_SLOTS];
} fl_wheel;

void fl_wheel_init(fl_wheel *wheel, uint64_t now);

/* Calls back at the first fl_wheel_advance that reaches `at`; a past `at` means the next one. */
void fl_deadline_start(fl_wheel *wheel, fl_deadline *deadline, uint64_t at,
                       fl_deadline_callback callback);
void fl_deadline_stop(fl_deadline *deadline); /* harmless when not started */

/* Moves all that are started from one wheel to another, but those of `except` (NULL: nobody). */
void fl_wheel_move(fl_wheel *to, fl_wheel *from, const fl_state *except);

/* No deadline fires before this time (it may be early, never late); UINT64_MAX: none is started. */
uint64_t fl_wheel_next(const fl_wheel *wheel);
void fl_wheel_advance(fl_wheel *wheel, uint64_t now);

static inline bool fl_deadline_started(const fl_deadline *deadline)
{
    return deadline->link != NULL;
}

#endif
