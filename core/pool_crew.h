/* pool_crew: the threads of one pool: those that take jobs, those of them that are idle, and those
 * that were retired and still run.
 *
 * Owner: the pool; *any* thread that holds the pool's lock. A thread belongs to the crew from its
 * start until it finds nothing to do or is retired; it is in the list of the retired until it has
 * left. What is retired is replaced at once, but no more than `retire_rate` threads in a window:
 * those beyond it are missing until the window is over. */
#ifndef FL_POOL_CREW_H
#define FL_POOL_CREW_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "pool.h"

typedef struct fl_pool_crew {
    fl_pool *pool;
    const fl_pool_options *options;
    fl_pool_thread *threads;
    fl_pool_thread *idle, **idle_last; /* in the order in which they are to be used */
    fl_pool_thread *retired;           /* that still run */
    unsigned count, idle_count, retired_count;
    uint64_t retirements, jit_flushes; /* jit_flushes: of those that have left */
    uint64_t window;                   /* ns, when the present window of retirements began */
    unsigned retired_in_window;
} fl_pool_crew;

void fl_pool_crew_init(fl_pool_crew *crew, fl_pool *pool);

void fl_pool_crew_add(fl_pool_crew *crew);  /* one more thread, if it can be started */
void fl_pool_crew_call(fl_pool_crew *crew); /* an idle one looks for work, or one more is started */
void fl_pool_crew_call_idle(fl_pool_crew *crew); /* all of them */

/* The thread is idle until there may be work; the lock is given up meanwhile. false: nobody needed
 * it for as long as idle threads stay. */
bool fl_pool_crew_rest(fl_pool_crew *crew, fl_pool_thread *thread, pthread_mutex_t *lock);

/* It cannot be stopped. Releases what others wait for and tells the log; true: to be replaced. */
bool fl_pool_crew_retire(fl_pool_crew *crew, fl_pool_thread *thread, uint64_t now);
bool fl_pool_crew_is_exhausted(const fl_pool_crew *crew); /* so many were retired: none is left */
uint64_t fl_pool_crew_retired(const fl_pool_crew *crew, uint64_t now); /* ns; the first of them */

void fl_pool_crew_forget(fl_pool_crew *crew, fl_pool_thread *thread); /* it takes no more jobs */
void fl_pool_crew_left(fl_pool_crew *crew, fl_pool_thread *thread);   /* it may be freed */

void fl_pool_crew_get_stats(const fl_pool_crew *crew, fl_pool_stats *stats); /* its part of them */

#endif
