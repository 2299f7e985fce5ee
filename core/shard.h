/* shard: a part of a shared dictionary (shared.h), with a lock of its own: a hash table of entries,
 * the order in which they were used, and the blocks of memory that they are made of.
 *
 * Lies in a segment and knows places in itself by number only. Memory comes in blocks of one size;
 * an entry is a chain of them, so nothing is ever moved or joined, and what is free is of use for
 * anything. When there is not enough, the entries that were used longest ago go. Leases (entries of
 * another space than FL_SPACE_VALUES) never do; they end, and may have half of the blocks.
 *
 * Any thread of any process, between fl_shard_lock and fl_shard_unlock. Who dies in between after
 * beginning a change leaves a shard that the next one finds empty. Every call is bounded: by the
 * size of the key and value at hand, as is the number of entries that must go for it. */
#ifndef FL_SHARD_H
#define FL_SHARD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "slice.h"

#define FL_SHARD_KEY_MOST 250
#define FL_SHARD_FOREVER UINT64_MAX
#define FL_SHARD_BUCKETS_LEAST 64 /* a power of two, as all counts of buckets */

typedef enum { FL_SPACE_VALUES, FL_SPACE_LOCKS, FL_SPACE_FLIGHTS } fl_space;

typedef struct fl_shard_key {
    fl_slice text; /* FL_SHARD_KEY_MOST bytes at most */
    fl_space space;
    uint32_t hash;
} fl_shard_key;

typedef struct fl_entry {  /* the beginning of its first block */
    uint32_t next;         /* block: the rest of it; 0: none */
    uint32_t chained;      /* entry: the next one in its bucket */
    uint32_t newer, older; /* entries: by use */
    uint64_t expires;      /* fl_segment_clock, or FL_SHARD_FOREVER */
    double number;         /* for the owner, as is `kind` */
    uint32_t hash;
    uint32_t size; /* of the value, which follows the key */
    uint8_t key_size, space, kind, unused;
    uint32_t holder; /* for the owner, too: the process that has a lease */
} fl_entry;

typedef struct fl_shard {
    pthread_mutex_t lock;
    _Atomic uint32_t changing; /* 1: a change was begun */
    uint32_t bucket_count;     /* a power of two */
    uint32_t block_count;      /* they are numbered from 1 */
    uint32_t fresh;            /* blocks that have been in use at some time: the first ones */
    uint32_t free;             /* block: those of them that are free */
    uint32_t used;             /* blocks */
    uint32_t lease_blocks;     /* of them */
    uint32_t newest, oldest;   /* entries */
    uint32_t swept;            /* bucket: the next one to be looked at for what has expired */
    uint32_t entries;          /* leases included */
    uint32_t leases;           /* of them */
    uint64_t tokens;           /* fencing tokens given out; survives being emptied */
    uint64_t hits, misses, evicted, expired, emptied;
    size_t blocks;      /* where they begin, from here */
    uint32_t buckets[]; /* entries */
} fl_shard;

/* `memory`: `bytes` of zeroes, aligned to 64; at least FL_SHARD_LEAST and less than 4 GB. */
#define FL_SHARD_LEAST ((size_t)16384)
void fl_shard_init(void *memory, size_t bytes);

/* Returns true when the shard had to be emptied. */
bool fl_shard_lock(fl_shard *shard);
void fl_shard_unlock(fl_shard *shard);

/* The largest value that fits beside a key of this size. */
size_t fl_shard_value_most(const fl_shard *shard, size_t key_size);

/* The entry of that key that has not expired, or NULL. It lives until the next call that adds one,
 * or until it is removed. */
fl_entry *fl_shard_find(fl_shard *shard, const fl_shard_key *key, uint64_t now);

/* Makes an entry; the key must not be in it. NULL: larger than fl_shard_value_most says, or for a
 * lease: there are too many. The value's `size` bytes may be anything until fl_shard_write. */
fl_entry *fl_shard_add(fl_shard *shard, const fl_shard_key *key, size_t size, uint64_t now);
void fl_shard_remove(fl_shard *shard, fl_entry *entry);

/* Marks it as used just now. */
void fl_shard_use(fl_shard *shard, fl_entry *entry);

/* Before an entry's own fields are changed. */
void fl_shard_change(fl_shard *shard);

void fl_shard_write(fl_shard *shard, fl_entry *entry, const char *value); /* entry->size bytes */
void fl_shard_read(fl_shard *shard, fl_entry *entry, char *value);
void fl_shard_read_key(fl_shard *shard, fl_entry *entry, char *key); /* entry->key_size bytes */

/* The next entry of `bucket` after `entry`, or its first one after NULL; NULL: no more. */
fl_entry *fl_shard_walk(fl_shard *shard, uint32_t bucket, fl_entry *entry);

size_t fl_shard_bytes_used(const fl_shard *shard); /* of its blocks */

/* Removes up to `most` values, oldest first; true: there are more. */
bool fl_shard_clear(fl_shard *shard, unsigned most);

#endif
