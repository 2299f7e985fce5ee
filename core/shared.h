/* shared: a dictionary in the segment: one for all Lua states of all server processes.
 *
 * A handle (fl_shared) is its user's memory and owns nothing; it lives as long as the segment is
 * mapped, one thread at a time. The dictionary itself is never given back. Operations may be called
 * on *any* thread of any process, at once; each is atomic, unless it says otherwise, and holds the
 * lock of one shard for as long as it takes to copy the key and value at hand. It calls no Lua and
 * allocates nothing meanwhile, so a bound function may call it while its thread is *in Lua*
 * (claim.h).
 *
 * A dictionary has a fixed size, which its first user decides. When it is full, the entries that
 * were used longest ago go. When a process dies in the middle of a change (well under a
 * microsecond), the shard at hand is emptied by the next one that comes, values and leases.
 *
 * Leases are apart from the values: they have names of their own, are never evicted and always end:
 * those of a process that has died, when somebody asks for them. Each has a fencing token, larger
 * than any that its name had before.
 *
 * Times are ns from now; FL_SHARD_FOREVER is no end. */
#ifndef FL_SHARED_H
#define FL_SHARED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "segment.h"
#include "shard.h"
#include "slice.h"

#define FL_SHARED_NAME_MOST 64
#define FL_SHARED_LEAST ((size_t)65536)
#define FL_SHARED_DEFAULT ((size_t)1 << 20)
#define FL_SHARED_KEY_MOST FL_SHARD_KEY_MOST

typedef enum { /* from 1; what bytes mean is the user's to say */
               FL_SHARED_NUMBER = 1,
               FL_SHARED_BOOLEAN, /* in `number` */
               FL_SHARED_STRING,
               FL_SHARED_PACKED
} fl_shared_kind;

typedef struct fl_shared_value {
    fl_shared_kind kind;
    double number;
    fl_slice bytes;
} fl_shared_value;

typedef struct fl_shared {
    fl_segment *segment;
    struct fl_shared_head *head;
    char name[FL_SHARED_NAME_MOST + 1];
    unsigned emptied; /* shards, of which this handle was the one to notice; its user clears it */
} fl_shared;

typedef enum { FL_SHARED_SET, FL_SHARED_ADD, FL_SHARED_REPLACE } fl_shared_mode;

typedef struct fl_shared_stats {
    uint64_t entries; /* some may have expired */
    uint64_t leases, bytes, bytes_used, evicted, expired, hits, misses, emptied;
} fl_shared_stats;

/* Finds the dictionary or makes it. `bytes` 0: whatever it has, else FL_SHARED_DEFAULT. 0, or a
 * negative uv code with a sentence in `why`. `name`: 1 to FL_SHARED_NAME_MOST bytes. */
int fl_shared_open(fl_shared *shared, fl_segment *segment, fl_slice name, size_t bytes, char *why,
                   size_t why_size);
size_t fl_shared_bytes(const fl_shared *shared);
size_t fl_shared_value_most(const fl_shared *shared, size_t key_size);

/* 0 or UV_ENOENT; UV_ENOMEM. The value's bytes lie in `buffer` from its beginning. A peek is no use
 * and counts neither as a hit nor as a miss. */
int fl_shared_get(fl_shared *shared, fl_slice key, bool peek, fl_shared_value *value,
                  fl_buffer *buffer);

/* 0; UV_EEXIST when ADD finds one, UV_ENOENT when REPLACE finds none; UV_E2BIG for a value beyond
 * fl_shared_value_most. */
int fl_shared_store(fl_shared *shared, fl_slice key, const fl_shared_value *value, uint64_t ttl,
                    fl_shared_mode mode);

/* Adds `by` to the number there, or makes it `initial` + `by` with this ttl, and tells the result.
 * UV_EINVAL when a value of another kind is there, UV_ERANGE when the sum is not finite, or an
 * integer beyond 2^53. */
int fl_shared_increment(fl_shared *shared, fl_slice key, double by, double initial, uint64_t ttl,
                        double *result);

/* Stores `number` when there is none or a lesser one: 0. Else UV_EEXIST. */
int fl_shared_raise(fl_shared *shared, fl_slice key, double number);

/* 0 or UV_ENOENT. */
int fl_shared_expire(fl_shared *shared, fl_slice key, uint64_t ttl);
int fl_shared_ttl(fl_shared *shared, fl_slice key, uint64_t *ttl);
int fl_shared_delete(fl_shared *shared, fl_slice key);

/* Appends the keys of values that begin with `prefix`, at most `limit`: each as a byte that is its
 * size, and its bytes. Not atomic, and it looks at every entry: what is there all the while is
 * found. UV_ENOMEM. */
int fl_shared_keys(fl_shared *shared, fl_slice prefix, size_t limit, fl_buffer *out);

/* Removes the values that are there, not the leases. Not atomic. */
void fl_shared_clear(fl_shared *shared);
void fl_shared_get_stats(fl_shared *shared, fl_shared_stats *stats);

/* 0; UV_EEXIST when somebody has it; UV_ENOSPC when there are too many leases. */
int fl_shared_lease_take(fl_shared *shared, fl_space space, fl_slice key, uint64_t ttl,
                         double *token);
/* 0, or UV_ENOENT when it is no longer that token's. */
int fl_shared_lease_extend(fl_shared *shared, fl_space space, fl_slice key, double token,
                           uint64_t ttl);
int fl_shared_lease_give(fl_shared *shared, fl_space space, fl_slice key, double token);
int fl_shared_lease_check(fl_shared *shared, fl_space space, fl_slice key, double token);

#endif
