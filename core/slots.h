/* slots: a table that turns objects into numbers which a stale copy cannot misuse.
 *
 * Owner: whoever embeds it; one thread. A handle is life * 2^20 + slot, exact in a Lua number; the
 * life of a slot grows each time it is given back. */
#ifndef FL_SLOTS_H
#define FL_SLOTS_H

#include <stdint.h>
#include <stdlib.h>
#include <uv.h>

#define FL_SLOTS_MOST (1u << 20)

typedef struct fl_slot {
    void *object;
    uint64_t life;
    uint32_t next_free; /* 1 + slot */
} fl_slot;

typedef struct fl_slots {
    fl_slot *entries;
    uint32_t count, capacity;
    uint32_t first_free; /* 1 + slot; 0: none */
} fl_slots;

static inline int fl_slots_grow(fl_slots *slots)
{
    uint32_t capacity = slots->capacity ? slots->capacity * 2 : 64;
    if (capacity > FL_SLOTS_MOST) return UV_ENOBUFS;
    fl_slot *entries = realloc(slots->entries, capacity * sizeof(*entries));
    if (!entries) return UV_ENOMEM;
    slots->entries = entries;
    slots->capacity = capacity;
    return 0;
}

static inline int fl_slots_take(fl_slots *slots, void *object, uint32_t *slot)
{
    if (slots->first_free) {
        *slot = slots->first_free - 1;
        slots->first_free = slots->entries[*slot].next_free;
    } else {
        if (slots->count == slots->capacity) {
            int status = fl_slots_grow(slots);
            if (status < 0) return status;
        }
        *slot = slots->count++;
        slots->entries[*slot].life = 1;
    }
    slots->entries[*slot].object = object;
    return 0;
}

static inline void fl_slots_give(fl_slots *slots, uint32_t slot)
{
    slots->entries[slot].object = NULL;
    slots->entries[slot].life++;
    slots->entries[slot].next_free = slots->first_free;
    slots->first_free = slot + 1;
}

static inline double fl_slots_handle(const fl_slots *slots, uint32_t slot)
{
    return (double)(slots->entries[slot].life * FL_SLOTS_MOST + slot);
}

static inline void *fl_slots_find(const fl_slots *slots, double handle)
{
    if (!(handle >= FL_SLOTS_MOST && handle < 9007199254740992.0)) return NULL;
    uint64_t number = (uint64_t)handle;
    uint32_t slot = (uint32_t)(number % FL_SLOTS_MOST);
    if (slot >= slots->count || slots->entries[slot].life != number / FL_SLOTS_MOST) return NULL;
    return slots->entries[slot].object;
}

static inline void fl_slots_close(fl_slots *slots)
{
    free(slots->entries);
    *slots = (fl_slots){0};
}

#endif
