#include "shard.h"

#include <assert.h>
#include <string.h>

#include "segment.h"

#define BLOCK 128u
#define FIRST_ROOM (BLOCK - sizeof(fl_entry))
#define ROOM (BLOCK - sizeof(uint32_t)) /* of each further block, behind the number of the next */
#define SWEEP 2                         /* buckets looked at whenever an entry is added */

static_assert(sizeof(fl_entry) == 48, "the layout, which FL_SEGMENT_VERSION names");

static char *block_at(fl_shard *shard, uint32_t number)
{
    return (char *)shard + shard->blocks + (size_t)(number - 1) * BLOCK;
}

/* Of a block, entry or not: what its first four bytes say. */
static uint32_t *next_of(fl_shard *shard, uint32_t number)
{
    return (uint32_t *)(void *)block_at(shard, number);
}

static fl_entry *entry_at(fl_shard *shard, uint32_t number)
{
    return number ? (fl_entry *)(void *)block_at(shard, number) : NULL;
}

static uint32_t number_of(fl_shard *shard, const fl_entry *entry)
{
    return entry ? (uint32_t)(((const char *)entry - block_at(shard, 1)) / BLOCK) + 1 : 0;
}

static uint32_t *bucket_of(fl_shard *shard, uint32_t hash)
{
    return &shard->buckets[hash & (shard->bucket_count - 1)];
}

static uint32_t blocks_for(size_t bytes)
{
    if (bytes <= FIRST_ROOM) return 1;
    return 1 + (uint32_t)((bytes - FIRST_ROOM + ROOM - 1) / ROOM);
}

static uint32_t blocks_of(const fl_entry *entry)
{
    return blocks_for((size_t)entry->key_size + entry->size);
}

/* the lock */

void fl_shard_init(void *memory, size_t bytes)
{
    assert(bytes >= FL_SHARD_LEAST && bytes <= UINT32_MAX);
    fl_shard *shard = memory;
    uint32_t buckets = FL_SHARD_BUCKETS_LEAST;
    while ((size_t)buckets * 2 * BLOCK <= bytes) buckets *= 2;
    size_t head = sizeof(*shard) + buckets * sizeof(*shard->buckets);
    fl_segment_lock_init(&shard->lock);
    shard->bucket_count = buckets;
    shard->blocks = (head + 63) / 64 * 64;
    shard->block_count = (uint32_t)((bytes - shard->blocks) / BLOCK);
}

/* The token's count stays: what was given out before must not be given out again. */
static void make_empty(fl_shard *shard)
{
    shard->fresh = shard->free = shard->used = shard->lease_blocks = 0;
    shard->newest = shard->oldest = shard->swept = shard->entries = shard->leases = 0;
    memset(shard->buckets, 0, shard->bucket_count * sizeof(*shard->buckets));
    shard->emptied++;
}

bool fl_shard_lock(fl_shard *shard)
{
    if (!fl_segment_lock(&shard->lock)) return false;
    if (!atomic_load_explicit(&shard->changing, memory_order_acquire)) return false;
    make_empty(shard);
    atomic_store_explicit(&shard->changing, 0, memory_order_release);
    return true;
}

/* The fences keep the compiler from moving a change out of what marks it. */
void fl_shard_change(fl_shard *shard)
{
    atomic_store_explicit(&shard->changing, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
}

void fl_shard_unlock(fl_shard *shard)
{
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&shard->changing, 0, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    fl_segment_unlock(&shard->lock);
}

/* the bytes of an entry, which lie in several blocks */

typedef struct cursor {
    fl_shard *shard;
    uint32_t block;
    char *at;
    size_t left; /* in this block */
} cursor;

static cursor cursor_begin(fl_shard *shard, fl_entry *entry)
{
    return (cursor){shard, number_of(shard, entry), (char *)(entry + 1), FIRST_ROOM};
}

/* The next bytes that lie together, at most `wanted`, which is not 0. */
static size_t cursor_run(cursor *self, size_t wanted, char **bytes)
{
    if (self->left == 0) {
        self->block = *next_of(self->shard, self->block);
        self->at = block_at(self->shard, self->block) + sizeof(uint32_t);
        self->left = ROOM;
    }
    size_t size = wanted < self->left ? wanted : self->left;
    *bytes = self->at;
    self->at += size;
    self->left -= size;
    return size;
}

static void cursor_skip(cursor *self, size_t size)
{
    char *bytes;
    while (size > 0) size -= cursor_run(self, size, &bytes);
}

static void cursor_write(cursor *self, const char *data, size_t size)
{
    char *bytes;
    for (size_t done = 0, run; done < size; done += run) {
        run = cursor_run(self, size - done, &bytes);
        memcpy(bytes, data + done, run);
    }
}

static void cursor_read(cursor *self, char *data, size_t size)
{
    char *bytes;
    for (size_t done = 0, run; done < size; done += run) {
        run = cursor_run(self, size - done, &bytes);
        memcpy(data + done, bytes, run);
    }
}

static bool cursor_equal(cursor *self, fl_slice text)
{
    char *bytes;
    for (size_t done = 0, run; done < text.size; done += run) {
        run = cursor_run(self, text.size - done, &bytes);
        if (memcmp(text.data + done, bytes, run) != 0) return false;
    }
    return true;
}

void fl_shard_write(fl_shard *shard, fl_entry *entry, const char *value)
{
    fl_shard_change(shard);
    cursor at = cursor_begin(shard, entry);
    cursor_skip(&at, entry->key_size);
    cursor_write(&at, value, entry->size);
}

void fl_shard_read(fl_shard *shard, fl_entry *entry, char *value)
{
    cursor at = cursor_begin(shard, entry);
    cursor_skip(&at, entry->key_size);
    cursor_read(&at, value, entry->size);
}

void fl_shard_read_key(fl_shard *shard, fl_entry *entry, char *key)
{
    cursor at = cursor_begin(shard, entry);
    cursor_read(&at, key, entry->key_size);
}

/* blocks */

static uint32_t take_block(fl_shard *shard)
{
    uint32_t number = shard->free;
    if (number)
        shard->free = *next_of(shard, number);
    else
        number = ++shard->fresh;
    shard->used++;
    return number;
}

static uint32_t take_chain(fl_shard *shard, uint32_t count)
{
    uint32_t chain = 0;
    while (count-- > 0) {
        uint32_t block = take_block(shard);
        *next_of(shard, block) = chain;
        chain = block;
    }
    return chain;
}

static void give_chain(fl_shard *shard, uint32_t first)
{
    uint32_t last = first, count = 1;
    for (; *next_of(shard, last); count++) last = *next_of(shard, last);
    *next_of(shard, last) = shard->free;
    shard->free = first;
    shard->used -= count;
}

/* the order of use, which leases are not part of */

static void link_newest(fl_shard *shard, fl_entry *entry)
{
    uint32_t number = number_of(shard, entry);
    entry->newer = 0;
    entry->older = shard->newest;
    if (shard->newest)
        entry_at(shard, shard->newest)->newer = number;
    else
        shard->oldest = number;
    shard->newest = number;
}

static void unlink_use(fl_shard *shard, fl_entry *entry)
{
    if (entry->newer)
        entry_at(shard, entry->newer)->older = entry->older;
    else
        shard->newest = entry->older;
    if (entry->older)
        entry_at(shard, entry->older)->newer = entry->newer;
    else
        shard->oldest = entry->newer;
}

void fl_shard_use(fl_shard *shard, fl_entry *entry)
{
    if (entry->space != FL_SPACE_VALUES || shard->newest == number_of(shard, entry)) return;
    fl_shard_change(shard);
    unlink_use(shard, entry);
    link_newest(shard, entry);
}

/* entries */

static void unlink_bucket(fl_shard *shard, const fl_entry *entry)
{
    uint32_t number = number_of(shard, entry);
    uint32_t *link = bucket_of(shard, entry->hash);
    while (*link != number) link = &entry_at(shard, *link)->chained;
    *link = entry->chained;
}

void fl_shard_remove(fl_shard *shard, fl_entry *entry)
{
    fl_shard_change(shard);
    unlink_bucket(shard, entry);
    if (entry->space == FL_SPACE_VALUES) {
        unlink_use(shard, entry);
    } else {
        shard->leases--;
        shard->lease_blocks -= blocks_of(entry);
    }
    shard->entries--;
    give_chain(shard, number_of(shard, entry));
}

static bool drop_expired(fl_shard *shard, fl_entry *entry, uint64_t now)
{
    if (entry->expires > now) return false;
    fl_shard_remove(shard, entry);
    shard->expired++;
    return true;
}

static bool is_named(fl_shard *shard, fl_entry *entry, const fl_shard_key *key)
{
    if (entry->hash != key->hash || entry->space != (uint8_t)key->space) return false;
    cursor at = cursor_begin(shard, entry);
    return entry->key_size == key->text.size && cursor_equal(&at, key->text);
}

fl_entry *fl_shard_find(fl_shard *shard, const fl_shard_key *key, uint64_t now)
{
    fl_entry *entry = entry_at(shard, *bucket_of(shard, key->hash));
    while (entry && !is_named(shard, entry, key)) entry = entry_at(shard, entry->chained);
    return entry && !drop_expired(shard, entry, now) ? entry : NULL;
}

fl_entry *fl_shard_walk(fl_shard *shard, uint32_t bucket, fl_entry *entry)
{
    return entry_at(shard, entry ? entry->chained : shard->buckets[bucket]);
}

/* What has expired and is never asked for again goes little by little. */
static void sweep(fl_shard *shard, uint64_t now)
{
    for (unsigned i = 0; i < SWEEP; i++) {
        uint32_t bucket = shard->swept;
        shard->swept = (bucket + 1) & (shard->bucket_count - 1);
        fl_entry *entry = fl_shard_walk(shard, bucket, NULL);
        while (entry) {
            fl_entry *next = fl_shard_walk(shard, bucket, entry);
            (void)drop_expired(shard, entry, now);
            entry = next;
        }
    }
}

static uint32_t most_blocks(const fl_shard *shard)
{
    return shard->block_count / 2;
}

size_t fl_shard_value_most(const fl_shard *shard, size_t key_size)
{
    return FIRST_ROOM + (most_blocks(shard) - 1) * ROOM - key_size;
}

static bool make_room(fl_shard *shard, uint32_t blocks, bool is_lease)
{
    if (blocks > most_blocks(shard)) return false;
    if (is_lease && shard->lease_blocks + blocks > most_blocks(shard)) return false;
    while (shard->block_count - shard->used < blocks) {
        fl_entry *oldest = entry_at(shard, shard->oldest);
        if (!oldest) return false;
        fl_shard_remove(shard, oldest);
        shard->evicted++;
    }
    return true;
}

static void begin_entry(fl_shard *shard, fl_entry *entry, const fl_shard_key *key, size_t size)
{
    uint32_t next = entry->next, *bucket = bucket_of(shard, key->hash);
    *entry = (fl_entry){.next = next,
                        .chained = *bucket,
                        .expires = FL_SHARD_FOREVER,
                        .hash = key->hash,
                        .size = (uint32_t)size,
                        .key_size = (uint8_t)key->text.size,
                        .space = (uint8_t)key->space};
    *bucket = number_of(shard, entry);
    cursor at = cursor_begin(shard, entry);
    cursor_write(&at, key->text.data, key->text.size);
}

fl_entry *fl_shard_add(fl_shard *shard, const fl_shard_key *key, size_t size, uint64_t now)
{
    bool is_lease = key->space != FL_SPACE_VALUES;
    if (size > fl_shard_value_most(shard, key->text.size)) return NULL;
    uint32_t blocks = blocks_for(key->text.size + size);
    fl_shard_change(shard);
    sweep(shard, now);
    if (!make_room(shard, blocks, is_lease)) return NULL;
    fl_entry *entry = entry_at(shard, take_chain(shard, blocks));
    begin_entry(shard, entry, key, size);
    shard->entries++;
    if (is_lease) {
        shard->leases++;
        shard->lease_blocks += blocks;
    } else {
        link_newest(shard, entry);
    }
    return entry;
}

size_t fl_shard_bytes_used(const fl_shard *shard)
{
    return (size_t)shard->used * BLOCK;
}

bool fl_shard_clear(fl_shard *shard, unsigned most)
{
    for (; most > 0 && shard->oldest; most--)
        fl_shard_remove(shard, entry_at(shard, shard->oldest));
    return shard->oldest != 0;
}
