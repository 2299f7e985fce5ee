/* A hierarchical wheel: level n has 64 slots of 64^n milliseconds. A deadline sits in the lowest
 * level whose span reaches it and moves down as its time comes nearer, so it is touched at most
 * five times. Deadlines beyond 64^5 ms (12 days) wait in the last slot and are looked at again. */
#include "deadline.h"

#include <stddef.h>

#define SLOT_BITS 6
#define SLOT_MASK (FL_WHEEL_SLOTS - 1)

void fl_wheel_init(fl_wheel *wheel, uint64_t now)
{
    *wheel = (fl_wheel){.now = now};
}

static unsigned level_of(uint64_t distance)
{
    unsigned level = 0;
    while (level < FL_WHEEL_LEVELS - 1 && distance >> (SLOT_BITS * (level + 1))) level++;
    return level;
}

static void insert(fl_wheel *wheel, fl_deadline *deadline)
{
    uint64_t at = deadline->at > wheel->now ? deadline->at : wheel->now + 1;
    uint64_t farthest = wheel->now + (1ULL << (SLOT_BITS * FL_WHEEL_LEVELS)) - 1;
    if (at > farthest) at = farthest;
    unsigned level = level_of(at - wheel->now);
    unsigned slot = (unsigned)(at >> (SLOT_BITS * level)) & SLOT_MASK;
    fl_deadline **head = &wheel->slots[level][slot];
    deadline->next = *head;
    if (deadline->next) deadline->next->link = &deadline->next;
    deadline->link = head;
    *head = deadline;
    wheel->occupied[level] |= 1ULL << slot;
}

void fl_deadline_start(fl_wheel *wheel, fl_deadline *deadline, uint64_t at,
                       fl_deadline_callback callback)
{
    fl_deadline_stop(deadline);
    deadline->at = at;
    deadline->callback = callback;
    insert(wheel, deadline);
}

void fl_deadline_stop(fl_deadline *deadline)
{
    if (!deadline->link) return;
    *deadline->link = deadline->next;
    if (deadline->next) deadline->next->link = deadline->link;
    deadline->link = NULL;
    deadline->next = NULL;
}

static void move_list(fl_wheel *to, fl_deadline *list, const fl_state *except)
{
    for (fl_deadline *deadline = list, *next; deadline; deadline = next) {
        next = deadline->next;
        if (except && deadline->state == except) continue;
        fl_deadline_stop(deadline);
        insert(to, deadline);
    }
}

void fl_wheel_move(fl_wheel *to, fl_wheel *from, const fl_state *except)
{
    for (unsigned level = 0; level < FL_WHEEL_LEVELS; level++)
        for (unsigned slot = 0; slot < FL_WHEEL_SLOTS; slot++)
            move_list(to, from->slots[level][slot], except);
}

/* How many slots from `from` (exclusive) to the first occupied one, 1 … 64. */
static unsigned slots_until(uint64_t occupied, unsigned from)
{
    unsigned first = (from + 1) & SLOT_MASK;
    uint64_t turned = first ? (occupied >> first) | (occupied << (64 - first)) : occupied;
    return (unsigned)__builtin_ctzll(turned) + 1;
}

uint64_t fl_wheel_next(const fl_wheel *wheel)
{
    uint64_t next = UINT64_MAX;
    for (unsigned level = 0; level < FL_WHEEL_LEVELS; level++) {
        if (!wheel->occupied[level]) continue;
        unsigned shift = SLOT_BITS * level;
        uint64_t current = wheel->now >> shift;
        uint64_t steps = slots_until(wheel->occupied[level], (unsigned)current & SLOT_MASK);
        uint64_t at = (current + steps) << shift;
        if (at < next) next = at;
    }
    return next;
}

/* Takes a slot's list out, so that callbacks may start deadlines into the same slot. */
static void empty_slot(fl_wheel *wheel, unsigned level, unsigned slot)
{
    fl_deadline *list = wheel->slots[level][slot];
    wheel->slots[level][slot] = NULL;
    wheel->occupied[level] &= ~(1ULL << slot);
    if (list) list->link = &list;
    while (list) {
        fl_deadline *deadline = list;
        fl_deadline_stop(deadline);
        if (deadline->at <= wheel->now)
            deadline->callback(deadline);
        else
            insert(wheel, deadline);
    }
}

void fl_wheel_advance(fl_wheel *wheel, uint64_t now)
{
    for (;;) {
        uint64_t next = fl_wheel_next(wheel);
        if (next > now) break;
        wheel->now = next;
        for (unsigned level = FL_WHEEL_LEVELS; level-- > 0;) {
            unsigned shift = SLOT_BITS * level;
            if (next & ((1ULL << shift) - 1)) continue; /* not at this level's boundary */
            unsigned slot = (unsigned)(next >> shift) & SLOT_MASK;
            if (wheel->occupied[level] >> slot & 1) empty_slot(wheel, level, slot);
        }
    }
    if (now > wheel->now) wheel->now = now;
}
