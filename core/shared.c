#include "shared.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>
#include <uv.h>

#define SHARD_BYTES ((size_t)1 << 20) /* a dictionary has as many shards as it has of these, */
#define SHARDS_MOST 16u               /* up to here */
#define SHARD_MOST ((size_t)UINT32_MAX / 64 * 64)
#define PREFIX "shared/"
#define CLEAR_STEP 64
#define KEYS_STEP 64                  /* buckets */
#define KEYS_ROOM 16384               /* bytes, at first */
#define EXACT_MOST 9007199254740992.0 /* 2^53 */

typedef struct fl_shared_head { /* the region's beginning; shards follow */
    uint64_t bytes, shard_bytes, first_shard;
    uint64_t seed[2]; /* of the hash: clients must not choose which keys collide */
    uint32_t shard_count;
} head;

static fl_shard *shard_at(const fl_shared *shared, uint32_t number)
{
    head *self = shared->head;
    char *first = (char *)self + self->first_shard;
    return (fl_shard *)(void *)(first + number * self->shard_bytes);
}

/* SipHash-1-3 (Aumasson, Bernstein: SipHash, 2012), of the space and the key. */

typedef struct sip {
    uint64_t a, b, c, d;
} sip;

static uint64_t rotate(uint64_t word, unsigned bits)
{
    return word << bits | word >> (64 - bits);
}

static void sip_round(sip *s)
{
    s->a += s->b;
    s->c += s->d;
    s->b = rotate(s->b, 13) ^ s->a;
    s->d = rotate(s->d, 16) ^ s->c;
    s->a = rotate(s->a, 32);
    s->c += s->b;
    s->a += s->d;
    s->b = rotate(s->b, 17) ^ s->c;
    s->d = rotate(s->d, 21) ^ s->a;
    s->c = rotate(s->c, 32);
}

static void sip_word(sip *s, uint64_t word)
{
    s->d ^= word;
    sip_round(s);
    s->a ^= word;
}

static uint64_t hash(const uint64_t seed[2], fl_space space, fl_slice text)
{
    sip s = {seed[0] ^ 0x736f6d6570736575u, seed[1] ^ 0x646f72616e646f6du,
             seed[0] ^ 0x6c7967656e657261u, seed[1] ^ 0x7465646279746573u};
    size_t done = 0;
    uint64_t word;
    sip_word(&s, (uint64_t)space);
    for (; text.size - done >= sizeof(word); done += sizeof(word)) {
        memcpy(&word, text.data + done, sizeof(word));
        sip_word(&s, word);
    }
    word = (uint64_t)text.size << 56;
    for (unsigned i = 0; done + i < text.size; i++)
        word |= (uint64_t)(unsigned char)text.data[done + i] << (8 * i);
    sip_word(&s, word);
    s.c ^= 0xff;
    for (unsigned i = 0; i < 3; i++) sip_round(&s);
    return s.a ^ s.b ^ s.c ^ s.d;
}

/* opening */

static void init_region(void *region, size_t bytes)
{
    head *self = region;
    size_t count = bytes / SHARD_BYTES;
    if (count < 1) count = 1;
    if (count > SHARDS_MOST) count = SHARDS_MOST;
    self->bytes = bytes;
    self->first_shard = (sizeof(*self) + 63) / 64 * 64;
    self->shard_count = (uint32_t)count;
    self->shard_bytes = (bytes - self->first_shard) / count / 64 * 64;
    if (getrandom(self->seed, sizeof(self->seed), 0) != sizeof(self->seed))
        self->seed[0] = uv_hrtime(); /* never so for so few bytes */
    for (size_t i = 0; i < count; i++)
        fl_shard_init((char *)region + self->first_shard + i * self->shard_bytes,
                      self->shard_bytes);
}

static int refuse(int error, const fl_shared *shared, size_t wanted, size_t has, char *why,
                  size_t size)
{
    fl_segment *segment = shared->segment;
    if (error == UV_EEXIST)
        (void)snprintf(why, size,
                       "shared \"%s\" has %zu bytes, not %zu: its size is decided when it is first "
                       "opened, until the server is restarted",
                       shared->name, has, wanted);
    else if (error == UV_ENOSPC)
        (void)snprintf(why, size,
                       "shared \"%s\": no room for %zu bytes: of the setting shared_memory, %zu "
                       "are left",
                       shared->name, wanted ? wanted : FL_SHARED_DEFAULT, fl_segment_left(segment));
    else
        (void)snprintf(why, size, "shared \"%s\": there are %d shared things already", shared->name,
                       FL_SEGMENT_REGIONS);
    return error;
}

static int check_request(fl_slice name, size_t bytes, char *why, size_t size)
{
    if (name.size < 1 || name.size > FL_SHARED_NAME_MOST || memchr(name.data, 0, name.size)) {
        (void)snprintf(why, size, "shared: a name of 1 to %d bytes expected, got one of %zu",
                       FL_SHARED_NAME_MOST, name.size);
        return UV_EINVAL;
    }
    if (bytes == 0 || (bytes >= FL_SHARED_LEAST && bytes <= SHARD_MOST * SHARDS_MOST)) return 0;
    (void)snprintf(why, size, "shared \"%.*s\": from %zu to %zu bytes expected, got %zu",
                   (int)name.size, name.data, FL_SHARED_LEAST, SHARD_MOST * SHARDS_MOST, bytes);
    return UV_EINVAL;
}

int fl_shared_open(fl_shared *shared, fl_segment *segment, fl_slice name, size_t bytes, char *why,
                   size_t why_size)
{
    char region[FL_SEGMENT_NAME_MOST + 1];
    void *memory = NULL;
    size_t has = bytes;
    int error = check_request(name, bytes, why, why_size);
    if (error) return error;
    *shared = (fl_shared){.segment = segment};
    memcpy(shared->name, name.data, name.size);
    int size = snprintf(region, sizeof(region), PREFIX "%s", shared->name);
    error = fl_segment_region(segment, fl_slice_of(region, (size_t)size), &has, FL_SHARED_DEFAULT,
                              init_region, &memory);
    if (error) return refuse(error, shared, bytes, has, why, why_size);
    shared->head = memory;
    return 0;
}

size_t fl_shared_bytes(const fl_shared *shared)
{
    return shared->head->bytes;
}

size_t fl_shared_value_most(const fl_shared *shared, size_t key_size)
{
    return fl_shard_value_most(shard_at(shared, 0), key_size);
}

/* operations: each has a shard locked, and its key's entry at hand, for as long as it lasts */

typedef struct operation {
    fl_shard *shard;
    fl_shard_key key;
    uint64_t now;
    fl_entry *entry; /* NULL: there is none */
} operation;

static void lock(fl_shared *shared, fl_shard *shard)
{
    if (fl_shard_lock(shard)) shared->emptied++;
}

static void begin(operation *op, fl_shared *shared, fl_space space, fl_slice key)
{
    assert(key.size <= FL_SHARED_KEY_MOST);
    uint64_t hashed = hash(shared->head->seed, space, key);
    op->shard = shard_at(shared, (uint32_t)(hashed >> 32) % shared->head->shard_count);
    op->key = (fl_shard_key){.text = key, .space = space, .hash = (uint32_t)hashed};
    op->now = fl_segment_clock();
    lock(shared, op->shard);
    op->entry = fl_shard_find(op->shard, &op->key, op->now);
}

static int end(operation *op, int result)
{
    fl_shard_unlock(op->shard);
    return result;
}

static uint64_t time_after(const operation *op, uint64_t ttl)
{
    return ttl < FL_SHARD_FOREVER - op->now ? op->now + ttl : FL_SHARD_FOREVER;
}

/* These are one store each, which is never half done. */
static void expire(operation *op, uint64_t ttl)
{
    op->entry->expires = time_after(op, ttl);
}

static void set_number(operation *op, double number)
{
    op->entry->number = number;
}

static bool make(operation *op, fl_shared_kind kind, size_t size, uint64_t ttl)
{
    op->entry = fl_shard_add(op->shard, &op->key, size, op->now);
    if (!op->entry) return false;
    op->entry->kind = (uint8_t)kind;
    op->entry->expires = time_after(op, ttl);
    return true;
}

/* Copies what is there when it fits: 0. Else tells in *size how much room it needs: UV_ENOBUFS. */
static int copy_value(operation *op, fl_shared_value *value, char *room, size_t *size)
{
    fl_entry *entry = op->entry;
    size_t capacity = *size;
    *size = entry->size;
    if (entry->size > capacity) return UV_ENOBUFS;
    value->kind = (fl_shared_kind)entry->kind;
    value->number = entry->number;
    if (entry->size > 0) fl_shard_read(op->shard, entry, room);
    return 0;
}

static int look_up(fl_shared *shared, fl_slice key, bool peek, fl_shared_value *value, char *room,
                   size_t *size)
{
    operation op;
    begin(&op, shared, FL_SPACE_VALUES, key);
    int error = op.entry ? copy_value(&op, value, room, size) : UV_ENOENT;
    if (!peek && error != UV_ENOBUFS) {
        if (op.entry)
            op.shard->hits++;
        else
            op.shard->misses++;
        if (op.entry) fl_shard_use(op.shard, op.entry);
    }
    return end(&op, error);
}

int fl_shared_get(fl_shared *shared, fl_slice key, bool peek, fl_shared_value *value,
                  fl_buffer *buffer)
{
    size_t size;
    int error;
    buffer->size = 0;
    do {
        size = buffer->capacity;
        error = look_up(shared, key, peek, value, buffer->data, &size);
    } while (error == UV_ENOBUFS && fl_buffer_room(buffer, size));
    if (error == UV_ENOBUFS) return UV_ENOMEM;
    if (error) return error;
    buffer->size = size;
    value->bytes = fl_slice_of(buffer->data, size);
    return 0;
}

static int check_mode(const operation *op, fl_shared_mode mode)
{
    if (mode == FL_SHARED_ADD && op->entry) return UV_EEXIST;
    if (mode == FL_SHARED_REPLACE && !op->entry) return UV_ENOENT;
    return 0;
}

/* Numbers over numbers stay where they are. */
static int put(operation *op, const fl_shared_value *value, uint64_t ttl)
{
    size_t size = value->bytes.size;
    if (size > fl_shard_value_most(op->shard, op->key.text.size)) return UV_E2BIG;
    if (op->entry && (size > 0 || op->entry->size > 0)) {
        fl_shard_remove(op->shard, op->entry);
        op->entry = NULL;
    }
    if (!op->entry && !make(op, value->kind, size, ttl)) return UV_E2BIG;
    fl_shard_change(op->shard);
    op->entry->kind = (uint8_t)value->kind;
    op->entry->number = value->number;
    op->entry->expires = time_after(op, ttl);
    if (size > 0) fl_shard_write(op->shard, op->entry, value->bytes.data);
    fl_shard_use(op->shard, op->entry);
    return 0;
}

int fl_shared_store(fl_shared *shared, fl_slice key, const fl_shared_value *value, uint64_t ttl,
                    fl_shared_mode mode)
{
    operation op;
    begin(&op, shared, FL_SPACE_VALUES, key);
    int error = check_mode(&op, mode);
    return end(&op, error ? error : put(&op, value, ttl));
}

static bool is_integer(double number)
{
    return floor(number) == number;
}

static bool is_exact(double sum, double a, double b)
{
    if (!isfinite(sum)) return false;
    if (!is_integer(a) || !is_integer(b)) return true;
    return fabs(sum) <= EXACT_MOST && sum - a == b;
}

static int increment(operation *op, double by, double initial, uint64_t ttl, double *result)
{
    if (op->entry && op->entry->kind != FL_SHARED_NUMBER) return UV_EINVAL;
    double from = op->entry ? op->entry->number : initial;
    if (!is_exact(from + by, from, by)) return UV_ERANGE;
    *result = from + by;
    if (!op->entry && !make(op, FL_SHARED_NUMBER, 0, ttl)) return UV_E2BIG;
    set_number(op, *result);
    fl_shard_use(op->shard, op->entry);
    return 0;
}

int fl_shared_increment(fl_shared *shared, fl_slice key, double by, double initial, uint64_t ttl,
                        double *result)
{
    operation op;
    begin(&op, shared, FL_SPACE_VALUES, key);
    return end(&op, increment(&op, by, initial, ttl, result));
}

static int raise_number(operation *op, double number)
{
    if (op->entry && op->entry->number >= number) return UV_EEXIST;
    if (!op->entry && !make(op, FL_SHARED_NUMBER, 0, FL_SHARD_FOREVER)) return UV_E2BIG;
    set_number(op, number);
    fl_shard_use(op->shard, op->entry);
    return 0;
}

int fl_shared_raise(fl_shared *shared, fl_slice key, double number)
{
    operation op;
    begin(&op, shared, FL_SPACE_VALUES, key);
    return end(&op, raise_number(&op, number));
}

int fl_shared_expire(fl_shared *shared, fl_slice key, uint64_t ttl)
{
    operation op;
    begin(&op, shared, FL_SPACE_VALUES, key);
    if (op.entry) expire(&op, ttl);
    return end(&op, op.entry ? 0 : UV_ENOENT);
}

int fl_shared_ttl(fl_shared *shared, fl_slice key, uint64_t *ttl)
{
    operation op;
    begin(&op, shared, FL_SPACE_VALUES, key);
    if (op.entry) {
        uint64_t expires = op.entry->expires;
        *ttl = expires == FL_SHARD_FOREVER ? FL_SHARD_FOREVER : expires - op.now;
    }
    return end(&op, op.entry ? 0 : UV_ENOENT);
}

int fl_shared_delete(fl_shared *shared, fl_slice key)
{
    operation op;
    begin(&op, shared, FL_SPACE_VALUES, key);
    bool was_there = op.entry != NULL;
    if (was_there) fl_shard_remove(op.shard, op.entry);
    return end(&op, was_there ? 0 : UV_ENOENT);
}

/* all entries: a few at a time, so that nobody waits for the lock for long */

typedef struct listing {
    fl_slice prefix;
    size_t left; /* keys that may still come */
    uint64_t now;
    fl_buffer *out;
    bool is_full; /* it needs more room than it has */
} listing;

static void list_entry(listing *self, fl_shard *shard, fl_entry *entry)
{
    char key[1 + UINT8_MAX];
    if (entry->space != FL_SPACE_VALUES || entry->expires <= self->now || self->left == 0) return;
    if (entry->key_size < self->prefix.size) return;
    fl_shard_read_key(shard, entry, key + 1);
    if (self->prefix.size > 0 && memcmp(key + 1, self->prefix.data, self->prefix.size) != 0) return;
    memcpy(key, &entry->key_size, 1);
    size_t size = 1 + (size_t)entry->key_size;
    self->is_full |= self->out->capacity - self->out->size < size;
    if (self->is_full) return;
    fl_buffer_append(self->out, key, size);
    self->left--;
}

static void list_buckets(listing *self, fl_shard *shard, uint32_t first)
{
    for (uint32_t bucket = first; bucket < first + KEYS_STEP; bucket++) {
        fl_entry *entry = NULL;
        while ((entry = fl_shard_walk(shard, bucket, entry)) != NULL)
            list_entry(self, shard, entry);
    }
}

/* Once more with more room when there is too little, which is made while nothing is locked. */
static bool list_step(listing *self, fl_shared *shared, fl_shard *shard, uint32_t first)
{
    const listing before = *self;
    size_t size = self->out->size, room = KEYS_ROOM;
    do {
        *self = before;
        self->out->size = size;
        if (!fl_buffer_room(self->out, room)) return false;
        lock(shared, shard);
        list_buckets(self, shard, first);
        fl_shard_unlock(shard);
        room *= 2;
    } while (self->is_full);
    return true;
}

int fl_shared_keys(fl_shared *shared, fl_slice prefix, size_t limit, fl_buffer *out)
{
    static_assert(KEYS_STEP <= FL_SHARD_BUCKETS_LEAST, "a step is within a shard");
    listing self = {.prefix = prefix, .left = limit, .now = fl_segment_clock(), .out = out};
    for (uint32_t i = 0; i < shared->head->shard_count; i++) {
        fl_shard *shard = shard_at(shared, i);
        for (uint32_t at = 0; at < shard->bucket_count && self.left > 0; at += KEYS_STEP)
            if (!list_step(&self, shared, shard, at)) return UV_ENOMEM;
    }
    return 0;
}

/* No more than are there now, or writers could keep it busy for ever. */
static void clear_shard(fl_shared *shared, fl_shard *shard)
{
    bool more = true;
    lock(shared, shard);
    for (uint32_t left = shard->entries; more && left > 0;) {
        uint32_t step = left < CLEAR_STEP ? left : CLEAR_STEP;
        more = fl_shard_clear(shard, step);
        left -= step;
        fl_shard_unlock(shard);
        lock(shared, shard);
    }
    fl_shard_unlock(shard);
}

void fl_shared_clear(fl_shared *shared)
{
    for (uint32_t i = 0; i < shared->head->shard_count; i++)
        clear_shard(shared, shard_at(shared, i));
}

static void add_stats(fl_shared_stats *stats, const fl_shard *shard)
{
    stats->entries += shard->entries - shard->leases;
    stats->leases += shard->leases;
    stats->bytes_used += fl_shard_bytes_used(shard);
    stats->evicted += shard->evicted;
    stats->expired += shard->expired;
    stats->hits += shard->hits;
    stats->misses += shard->misses;
    stats->emptied += shard->emptied;
}

void fl_shared_get_stats(fl_shared *shared, fl_shared_stats *stats)
{
    *stats = (fl_shared_stats){.bytes = shared->head->bytes};
    for (uint32_t i = 0; i < shared->head->shard_count; i++) {
        fl_shard *shard = shard_at(shared, i);
        lock(shared, shard);
        add_stats(stats, shard);
        fl_shard_unlock(shard);
    }
}

/* leases */

/* A number that another process has got since counts as alive: then the ttl ends the lease. */
static bool is_dead(uint32_t process)
{
    return process && kill((pid_t)process, 0) != 0 && errno == ESRCH;
}

static int take_lease(operation *op, uint64_t ttl, double *token)
{
    if (op->entry && !is_dead(op->entry->holder)) return UV_EEXIST;
    if (op->entry) fl_shard_remove(op->shard, op->entry);
    if (!make(op, FL_SHARED_NUMBER, 0, ttl)) return UV_ENOSPC;
    *token = (double)++op->shard->tokens;
    set_number(op, *token);
    op->entry->holder = (uint32_t)getpid();
    return 0;
}

int fl_shared_lease_take(fl_shared *shared, fl_space space, fl_slice key, uint64_t ttl,
                         double *token)
{
    operation op;
    begin(&op, shared, space, key);
    return end(&op, take_lease(&op, ttl, token));
}

static bool begin_lease(operation *op, fl_shared *shared, fl_space space, fl_slice key,
                        double token)
{
    begin(op, shared, space, key);
    return op->entry && op->entry->number == token;
}

int fl_shared_lease_extend(fl_shared *shared, fl_space space, fl_slice key, double token,
                           uint64_t ttl)
{
    operation op;
    bool is_held = begin_lease(&op, shared, space, key, token);
    if (is_held) expire(&op, ttl);
    return end(&op, is_held ? 0 : UV_ENOENT);
}

int fl_shared_lease_give(fl_shared *shared, fl_space space, fl_slice key, double token)
{
    operation op;
    bool is_held = begin_lease(&op, shared, space, key, token);
    if (is_held) fl_shard_remove(op.shard, op.entry);
    return end(&op, is_held ? 0 : UV_ENOENT);
}

int fl_shared_lease_check(fl_shared *shared, fl_space space, fl_slice key, double token)
{
    operation op;
    bool is_held = begin_lease(&op, shared, space, key, token);
    return end(&op, is_held ? 0 : UV_ENOENT);
}
