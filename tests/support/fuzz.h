/* fuzz: what fuzzers share: the entry point, and the end of a run whose promise is broken. */
#ifndef FL_FUZZ_H
#define FL_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void demand(bool promise)
{
    if (!promise) abort();
}

#endif
