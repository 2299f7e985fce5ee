/* pools: all pools of a server (pool.h), found by name or number, and the census of their threads.
 *
 * Owner: the server, from its start to its end; *any* thread, but for the start and the end. Pools
 * are made when they are first asked for and stay until the end, so a pointer to one is good for as
 * long as the server is. The lock guards the list and the census, and may be taken while a pool's
 * is held. */
#ifndef FL_POOLS_H
#define FL_POOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pool.h"

typedef struct fl_pools fl_pools;

#define FL_POOLS_MOST 64 /* in one process: a job's chain has a bit for each */

/* *boot* and *end* of the server. */
int fl_pools_new(fl_pools **out, fl_server *server);
/* Refuses jobs, sends home what is queued, cancels what runs and tells all threads to end; true
 * when all have within `patience` ns. */
bool fl_pools_stop(fl_pools *pools, uint64_t patience);
void fl_pools_free(fl_pools *pools); /* after stop was true */

/* Finds the pool of that name, of `app` or (UINT_MAX) of all apps, or makes it. UV_EEXIST: there is
 * one with other options, `error` says which. */
int fl_pools_open(fl_pool **out, fl_pools *pools, unsigned app, const fl_pool_options *options,
                  char *error, size_t error_size);
fl_pool *fl_pools_at(fl_pools *pools, unsigned number); /* NULL: none */

/* As fl_pool_cancel, for all jobs of states that have been given up. */
void fl_pools_drop_orphans(fl_pools *pools);

/* The watch thread, every few milliseconds: jobs past their time, and threads that are missing. */
void fl_pools_look(fl_pools *pools, uint64_t now);
/* The watch thread: for how many ns the first of the retired threads that still run has. */
uint64_t fl_pools_retired(fl_pools *pools, uint64_t now);

/* The census. A thread is counted while the lock of its pool is held, which it needs before it may
 * end; that it has ended is the last thing that it says. */
unsigned fl_pools_new_number(fl_pools *pools); /* of a thread, unlike that of any web thread */
void fl_pools_thread_started(fl_pools *pools);
void fl_pools_thread_ended(fl_pools *pools);

#endif
