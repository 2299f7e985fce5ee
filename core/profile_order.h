/* profile_order: what shall be profiled, as the query of a request says it:
 * seconds=2.5&app=shop&thread=0&interval=5.
 *
 * Pure; any thread. */
#ifndef FL_PROFILE_ORDER_H
#define FL_PROFILE_ORDER_H

#include <stddef.h>

#include "slice.h"

typedef struct fl_profile_order {
    char app[256];         /* "": not said */
    int thread;            /* -1: not said */
    unsigned milliseconds; /* 100 to 300,000; 10,000 by default */
    unsigned interval;     /* ms of processor time between samples: 1 to 1,000; 4 by default */
} fl_profile_order;

/* 0, or UV_EINVAL and why. */
int fl_profile_order_parse(fl_profile_order *order, fl_slice query, char *why, size_t size);

#endif
