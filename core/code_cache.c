/* Entries are kept in a ring by their last use, which begins and ends at NONE. */
#include "code_cache.h"

#include <stdlib.h>
#include <uv.h>

#define BUCKETS 1024
#define NONE FL_CODE_CACHE

void fl_code_cache_init(fl_code_cache *cache)
{
    *cache = (fl_code_cache){0};
}

void fl_code_cache_close(fl_code_cache *cache)
{
    for (uint16_t i = 0; i < cache->count; i++) fl_code_release(cache->entries[i].code);
    free(cache->entries);
    free(cache->buckets);
    fl_code_cache_init(cache);
}

static uint16_t *bucket_of(fl_code_cache *cache, const fl_code *code)
{
    return &cache->buckets[code->digest[0] % BUCKETS];
}

static void ring_remove(fl_code_entry *entries, uint16_t at)
{
    entries[entries[at].newer].older = entries[at].older;
    entries[entries[at].older].newer = entries[at].newer;
}

/* As the newest. */
static void ring_insert(fl_code_entry *entries, uint16_t at)
{
    uint16_t newest = entries[NONE].older;
    entries[at].newer = NONE;
    entries[at].older = newest;
    entries[newest].newer = at;
    entries[NONE].older = at;
}

uint16_t fl_code_cache_find(fl_code_cache *cache, const fl_code *code)
{
    if (!cache->entries) return NONE;
    fl_code_entry *entries = cache->entries;
    for (uint16_t at = *bucket_of(cache, code); at != NONE; at = entries[at].next) {
        if (!fl_code_equal(entries[at].code, code)) continue;
        if (entries[NONE].older != at) {
            ring_remove(entries, at);
            ring_insert(entries, at);
        }
        return at;
    }
    return NONE;
}

static int cache_open(fl_code_cache *cache)
{
    cache->entries = calloc(FL_CODE_CACHE + 1, sizeof(*cache->entries));
    cache->buckets = malloc(BUCKETS * sizeof(*cache->buckets));
    if (!cache->entries || !cache->buckets) {
        fl_code_cache_close(cache);
        return UV_ENOMEM;
    }
    for (size_t i = 0; i < BUCKETS; i++) cache->buckets[i] = NONE;
    cache->entries[NONE].newer = cache->entries[NONE].older = NONE;
    return 0;
}

int fl_code_cache_place(fl_code_cache *cache, uint16_t *place)
{
    if (!cache->entries && cache_open(cache) < 0) return UV_ENOMEM;
    *place = cache->count < FL_CODE_CACHE ? cache->count : cache->entries[NONE].newer;
    return 0;
}

static void cache_drop(fl_code_cache *cache, uint16_t at)
{
    fl_code_entry *entry = &cache->entries[at];
    uint16_t *link = bucket_of(cache, entry->code);
    while (*link != at) link = &cache->entries[*link].next;
    *link = entry->next;
    ring_remove(cache->entries, at);
    fl_code_release(entry->code);
}

void fl_code_cache_put(fl_code_cache *cache, fl_code *code)
{
    uint16_t place;
    if (fl_code_cache_place(cache, &place) < 0) return;
    if (place == cache->count)
        cache->count++;
    else
        cache_drop(cache, place);
    uint16_t *bucket = bucket_of(cache, code);
    cache->entries[place].code = code;
    cache->entries[place].next = *bucket;
    *bucket = place;
    ring_insert(cache->entries, place);
    fl_code_hold(code);
}
