/* pool_overdue: stops what a pool's thread runs past its time, step by step.
 *
 * A job past its deadline is told so at its next await; soon after, the thread is interrupted by a
 * signal, again and again; when that does not help either, the thread has to be retired, which is
 * the pool's to do. What jobs have left behind may run no longer at a stretch than a job. A pool of
 * processes only tells: the thread itself kills its process.
 *
 * The watch thread, with the lock of the thread's pool held. What it remembers of a thread from one
 * look to the next lies in the thread. */
#ifndef FL_POOL_OVERDUE_H
#define FL_POOL_OVERDUE_H

#include <stdbool.h>
#include <stdint.h>

#include "pool.h"

/* Does what is due now, in ns; true: it cannot be stopped. */
bool fl_pool_overdue(fl_pool_thread *thread, const fl_pool_options *options, uint64_t now);

#endif
