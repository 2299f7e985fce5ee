/* latencies: how long many answers took, each within 1/32 of its value. */
#ifndef BENCH_LATENCIES_H
#define BENCH_LATENCIES_H

#include <stddef.h>
#include <stdint.h>

enum { bucket_bits = 5, bucket_count = 64 << bucket_bits };

typedef struct latencies { /* ns; zeros to begin with */
    uint64_t buckets[bucket_count], count, slowest;
} latencies;

static inline size_t bucket_of(uint64_t value)
{
    if (value < 1u << bucket_bits) return value;
    unsigned power = 63u - (unsigned)__builtin_clzll(value);
    uint64_t part = (value >> (power - bucket_bits)) & ((1u << bucket_bits) - 1);
    return ((size_t)(power - bucket_bits + 1) << bucket_bits) + part;
}

static inline uint64_t bucket_value(size_t bucket)
{
    size_t power = bucket >> bucket_bits, part = bucket & ((1u << bucket_bits) - 1);
    if (power == 0) return part;
    return (uint64_t)((1u << bucket_bits) + part) << (power - 1);
}

static inline void latencies_add(latencies *all, uint64_t latency)
{
    all->count++;
    all->buckets[bucket_of(latency)]++;
    if (latency > all->slowest) all->slowest = latency;
}

/* Seconds that such a part of them took at most. */
static inline double latencies_percentile(const latencies *all, double part)
{
    uint64_t seen = 0, wanted = (uint64_t)((double)all->count * part);
    for (size_t i = 0; i < bucket_count; i++) {
        seen += all->buckets[i];
        if (seen > wanted) return (double)bucket_value(i) / 1e9;
    }
    return (double)all->slowest / 1e9;
}

#endif
