#include "samples.h"

#include <stdlib.h>

#define STACKS_MOST 16384
#define TEXT_MOST (4u << 20)
#define CAPACITY_FIRST 256

static uint32_t hash_of(fl_slice stack)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < stack.size; i++)
        hash = (hash ^ (unsigned char)stack.data[i]) * 16777619u;
    return hash;
}

static fl_slice stack_of(const fl_samples *samples, const fl_sample *entry)
{
    return fl_slice_of(samples->text.data + entry->at, entry->size);
}

/* Its entry, or the free one where it belongs. There is always a free one. */
static fl_sample *find(const fl_samples *samples, fl_slice stack, uint32_t hash)
{
    size_t mask = samples->capacity - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        fl_sample *entry = &samples->entries[i];
        if (entry->count == 0) return entry;
        if (entry->hash == hash && fl_slice_equal(stack_of(samples, entry), stack)) return entry;
    }
}

/* At most half full. */
static bool make_room(fl_samples *samples)
{
    if (2 * (samples->count + 1) <= samples->capacity) return true;
    if (samples->count >= STACKS_MOST) return false;
    fl_samples larger = *samples;
    larger.capacity = samples->capacity ? 2 * samples->capacity : CAPACITY_FIRST;
    larger.entries = calloc(larger.capacity, sizeof(*larger.entries));
    if (!larger.entries) return false;
    for (size_t i = 0; i < samples->capacity; i++) {
        const fl_sample *entry = &samples->entries[i];
        if (entry->count) *find(&larger, stack_of(samples, entry), entry->hash) = *entry;
    }
    free(samples->entries);
    *samples = larger;
    return true;
}

static bool keep_text(fl_samples *samples, fl_slice stack)
{
    if (samples->text.size + stack.size > TEXT_MOST) return false;
    return fl_buffer_room(&samples->text, stack.size);
}

void fl_samples_init(fl_samples *samples)
{
    *samples = (fl_samples){0};
    fl_buffer_init(&samples->text);
}

void fl_samples_close(fl_samples *samples)
{
    free(samples->entries);
    fl_buffer_close(&samples->text);
    fl_samples_init(samples);
}

void fl_samples_add(fl_samples *samples, fl_slice stack, uint64_t count)
{
    uint32_t hash = hash_of(stack);
    fl_sample *entry = samples->capacity ? find(samples, stack, hash) : NULL;
    if (entry && entry->count) {
        entry->count += count;
        return;
    }
    if (count == 0) return;
    if (!make_room(samples) || !keep_text(samples, stack)) {
        samples->others += count;
        return;
    }
    *find(samples, stack, hash) =
        (fl_sample){.at = samples->text.size, .size = stack.size, .hash = hash, .count = count};
    fl_buffer_slice(&samples->text, stack);
    samples->count++;
}

void fl_samples_render(const fl_samples *samples, fl_buffer *out)
{
    for (size_t i = 0; i < samples->capacity; i++) {
        const fl_sample *entry = &samples->entries[i];
        if (!entry->count) continue;
        fl_buffer_slice(out, stack_of(samples, entry));
        fl_buffer_printf(out, " %llu\n", (unsigned long long)entry->count);
    }
    if (samples->others)
        fl_buffer_printf(out, "[other stacks] %llu\n", (unsigned long long)samples->others);
}
