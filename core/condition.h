/* condition: a pthread condition whose waits may end at a time of the monotonic clock (uv_hrtime).
 *
 * Owner: whoever embeds the pthread_cond_t, which pthread_cond_destroy ends; *any* thread, with the
 * lock that goes with it held. */
#ifndef FL_CONDITION_H
#define FL_CONDITION_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

static inline void fl_condition_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* false: it is `until`, in ns (0: for ever). Else there may be news. */
static inline bool fl_condition_wait(pthread_cond_t *condition, pthread_mutex_t *lock,
                                     uint64_t until)
{
    if (!until) return pthread_cond_wait(condition, lock) == 0;
    struct timespec at = {.tv_sec = (time_t)(until / 1000000000u),
                          .tv_nsec = (long)(until % 1000000000u)};
    return pthread_cond_timedwait(condition, lock, &at) == 0;
}

#endif
