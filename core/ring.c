/* `end` and `tail` only grow: positions in an endless sequence of bytes, of which the ring keeps
 * the last ones. Both are written in the order in which the ring stays whole: first the tail, then
 * the bytes behind the end, then the end. */
#include "ring.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#define NAME FL_SLICE("topics")
#define PAGE ((size_t)4096)
#define READ_STEP ((size_t)65536)

typedef struct reader {
    pthread_mutex_t alive; /* the reading thread holds it */
    uint64_t origin;       /* 0: free */
} reader;

typedef struct head { /* the region's beginning; the bytes follow */
    pthread_mutex_t lock;
    uint64_t capacity, sequence;
    _Atomic uint64_t tail, end;
    _Atomic uint32_t word; /* futex: changes with every message */
    _Atomic uint32_t count;
    reader readers[FL_RING_READERS];
} head;

typedef struct entry { /* before a message's bytes */
    uint64_t sequence, origin;
    uint64_t size;
} entry;

struct fl_ring {
    head *head;
    char *bytes;
    uint64_t capacity, origin;
    _Atomic bool joined;
    /* the head's lock */
    uint64_t own; /* messages that this process has written since it joined */
    /* the reading thread */
    reader *place;
    uint64_t position, sequence; /* of what comes next */
    uint64_t own_met;
};

size_t fl_ring_room(size_t bytes)
{
    return (sizeof(head) + bytes + PAGE - 1) / PAGE * PAGE; /* regions are pages */
}

static void init_region(void *region, size_t bytes)
{
    head *self = region;
    fl_segment_lock_init(&self->lock);
    self->capacity = bytes - sizeof(*self);
    for (unsigned i = 0; i < FL_RING_READERS; i++) fl_segment_lock_init(&self->readers[i].alive);
}

int fl_ring_open(fl_ring **out, fl_segment *segment, size_t bytes)
{
    size_t size = 0;
    void *region = NULL;
    fl_ring *ring = *out = calloc(1, sizeof(*ring));
    if (!ring) return UV_ENOMEM;
    int status =
        fl_segment_region(segment, NAME, &size, sizeof(head) + bytes, init_region, &region);
    if (status == 0 && getrandom(&ring->origin, sizeof(ring->origin), 0) < 0) status = UV_EIO;
    if (status < 0) {
        free(ring);
        *out = NULL;
        return status;
    }
    ring->origin |= 1; /* never 0 */
    ring->head = region;
    ring->bytes = (char *)region + sizeof(head);
    ring->capacity = ring->head->capacity;
    return 0;
}

void fl_ring_close(fl_ring *ring)
{
    free(ring);
}

size_t fl_ring_most(const fl_ring *ring)
{
    return ring->capacity / 4 - sizeof(entry);
}

bool fl_ring_has_others(fl_ring *ring)
{
    return atomic_load(&ring->head->count) > (atomic_load(&ring->joined) ? 1u : 0u);
}

/* bytes, with the lock held */

static void copy_in(fl_ring *ring, uint64_t position, const void *data, size_t size)
{
    size_t at = position % ring->capacity;
    size_t first = ring->capacity - at < size ? ring->capacity - at : size;
    memcpy(ring->bytes + at, data, first);
    if (size > first) memcpy(ring->bytes, (const char *)data + first, size - first);
}

static void copy_out(const fl_ring *ring, uint64_t position, void *data, size_t size)
{
    size_t at = position % ring->capacity;
    size_t first = ring->capacity - at < size ? ring->capacity - at : size;
    memcpy(data, ring->bytes + at, first);
    if (size > first) memcpy((char *)data + first, ring->bytes, size - first);
}

static entry entry_at(const fl_ring *ring, uint64_t position)
{
    entry found;
    copy_out(ring, position, &found, sizeof(found));
    return found;
}

static void make_room(fl_ring *ring, size_t size)
{
    head *self = ring->head;
    uint64_t end = atomic_load(&self->end), tail = atomic_load(&self->tail);
    while (end + size - tail > ring->capacity) tail += sizeof(entry) + entry_at(ring, tail).size;
    atomic_store(&self->tail, tail);
}

static void write_message(fl_ring *ring, fl_slice message)
{
    head *self = ring->head;
    const entry written = {self->sequence++, ring->origin, message.size};
    size_t size = sizeof(written) + message.size;
    make_room(ring, size);
    uint64_t end = atomic_load(&self->end);
    copy_in(ring, end, &written, sizeof(written));
    copy_in(ring, end + sizeof(written), message.data, message.size);
    atomic_store(&self->end, end + size);
    ring->own++;
}

int fl_ring_write(fl_ring *ring, fl_slice message)
{
    if (message.size > fl_ring_most(ring)) return UV_E2BIG;
    (void)fl_segment_lock(&ring->head->lock);
    write_message(ring, message);
    fl_segment_unlock(&ring->head->lock);
    fl_ring_wake(ring);
    return 0;
}

/* readers */

/* With the lock held. A mutex that nobody holds has no living reader. */
static void forget_dead(fl_ring *ring)
{
    head *self = ring->head;
    uint32_t count = 0;
    for (unsigned i = 0; i < FL_RING_READERS; i++) {
        reader *each = &self->readers[i];
        if (each->origin == 0) continue;
        int error = each == ring->place ? EBUSY : pthread_mutex_trylock(&each->alive);
        if (error == EBUSY) {
            count++;
            continue;
        }
        if (error == EOWNERDEAD) pthread_mutex_consistent(&each->alive);
        each->origin = 0;
        pthread_mutex_unlock(&each->alive);
    }
    atomic_store(&self->count, count);
}

static reader *find_place(head *self)
{
    for (unsigned i = 0; i < FL_RING_READERS; i++)
        if (self->readers[i].origin == 0) return &self->readers[i];
    return NULL;
}

static int take_place(fl_ring *ring)
{
    head *self = ring->head;
    reader *place = find_place(self);
    if (!place) return UV_ENFILE;
    int error = pthread_mutex_trylock(&place->alive); /* nobody has it */
    if (error == EOWNERDEAD) pthread_mutex_consistent(&place->alive);
    place->origin = ring->origin;
    ring->place = place;
    ring->position = atomic_load(&self->end);
    ring->sequence = self->sequence;
    ring->own = ring->own_met = 0;
    atomic_store(&ring->joined, true);
    return 0;
}

int fl_ring_join(fl_ring *ring)
{
    (void)fl_segment_lock(&ring->head->lock);
    forget_dead(ring);
    int status = take_place(ring);
    forget_dead(ring); /* counts */
    fl_segment_unlock(&ring->head->lock);
    return status;
}

void fl_ring_leave(fl_ring *ring)
{
    (void)fl_segment_lock(&ring->head->lock);
    ring->place->origin = 0;
    pthread_mutex_unlock(&ring->place->alive);
    ring->place = NULL;
    forget_dead(ring);
    atomic_store(&ring->joined, false);
    fl_segment_unlock(&ring->head->lock);
}

void fl_ring_sweep(fl_ring *ring)
{
    (void)fl_segment_lock(&ring->head->lock);
    forget_dead(ring);
    fl_segment_unlock(&ring->head->lock);
}

/* reading */

static uint64_t own_ahead(const fl_ring *ring, uint64_t from, uint64_t end)
{
    uint64_t count = 0;
    while (from < end) {
        entry found = entry_at(ring, from);
        if (found.origin == ring->origin) count++;
        from += sizeof(found) + found.size;
    }
    return count;
}

/* What was overwritten before it was read, but for its own. */
static uint64_t skip_missed(fl_ring *ring, uint64_t tail, uint64_t end)
{
    uint64_t next = tail < end ? entry_at(ring, tail).sequence : ring->head->sequence;
    uint64_t own = ring->own - ring->own_met - own_ahead(ring, tail, end);
    uint64_t gone = next - ring->sequence;
    ring->position = tail;
    ring->sequence = next;
    ring->own_met += own;
    return gone > own ? gone - own : 0;
}

static void append(const fl_ring *ring, uint64_t position, size_t size, fl_buffer *out)
{
    uint32_t prefix = (uint32_t)size;
    fl_buffer_append(out, (const char *)&prefix, sizeof(prefix));
    if (!fl_buffer_room(out, size)) return;
    copy_out(ring, position, out->data + out->size, size);
    out->size += size;
}

static unsigned read_all(fl_ring *ring, fl_buffer *out, uint64_t *missed)
{
    unsigned count = 0;
    size_t start = out->size;
    uint64_t tail = atomic_load(&ring->head->tail), end = atomic_load(&ring->head->end);
    if (ring->position < tail) *missed += skip_missed(ring, tail, end);
    while (ring->position < end && out->size - start < READ_STEP) {
        entry found = entry_at(ring, ring->position);
        if (found.origin == ring->origin)
            ring->own_met++;
        else
            append(ring, ring->position + sizeof(found), found.size, out);
        count++;
        ring->position += sizeof(found) + found.size;
        ring->sequence = found.sequence + 1;
    }
    return count;
}

/* Room is made before: nothing is allocated while the lock is held. */
unsigned fl_ring_read(fl_ring *ring, fl_buffer *out, uint64_t *missed)
{
    if (!fl_buffer_room(out, READ_STEP + fl_ring_most(ring) + 64)) return 0;
    (void)fl_segment_lock(&ring->head->lock);
    unsigned count = read_all(ring, out, missed);
    fl_segment_unlock(&ring->head->lock);
    return count;
}

/* waiting */

uint32_t fl_ring_mark(fl_ring *ring)
{
    return atomic_load(&ring->head->word);
}

bool fl_ring_wait(fl_ring *ring, uint32_t mark, unsigned milliseconds)
{
    struct timespec time = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000};
    long result = syscall(SYS_futex, &ring->head->word, FUTEX_WAIT, mark, &time, NULL, 0);
    return !(result < 0 && errno == ETIMEDOUT);
}

void fl_ring_wake(fl_ring *ring)
{
    atomic_fetch_add(&ring->head->word, 1);
    (void)syscall(SYS_futex, &ring->head->word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
