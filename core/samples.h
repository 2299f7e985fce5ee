/* samples: how often each stack was seen: what a profile consists of.
 *
 * Owner: who holds the struct; init ⇒ close. One thread at a time. Bounded: stacks beyond the
 * bounds are counted together. */
#ifndef FL_SAMPLES_H
#define FL_SAMPLES_H

#include <stdint.h>

#include "buffer.h"

typedef struct fl_sample {
    size_t at, size; /* of its stack, in `text` */
    uint32_t hash;
    uint64_t count; /* 0: free */
} fl_sample;

typedef struct fl_samples {
    fl_sample *entries;
    size_t count, capacity; /* capacity: a power of two, or 0 */
    fl_buffer text;
    uint64_t others; /* of stacks that did not fit */
} fl_samples;

void fl_samples_init(fl_samples *samples); /* allocates nothing */
void fl_samples_close(fl_samples *samples);

/* A stack is its frames from the bottom, "a;b;c". */
void fl_samples_add(fl_samples *samples, fl_slice stack, uint64_t count);

/* Appends them folded: a line "a;b;c 12" for each stack, in no order. */
void fl_samples_render(const fl_samples *samples, fl_buffer *out);

#endif
