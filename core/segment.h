/* segment: memory that all server processes of one server share, and that outlives each of them:
 * it is there from the supervisor's start to its end, over reloads and crashes.
 *
 * The supervisor makes one (a memfd, whose untouched pages cost nothing) and passes it to every
 * server process it starts (FL_SEGMENT_FD), which maps it, each at an address of its own: what lies
 * in it holds offsets, never pointers. Regions have names and are never given back. Any thread of
 * any of the processes may call fl_segment_region; a process that dies meanwhile leaves the segment
 * whole, because a region counts only once it is complete.
 *
 * Locks in it are fl_segment_lock's: robust, so that the death of who holds one is told to the next
 * one. A thread that holds one runs no Lua, waits for nothing and does not end. */
#ifndef FL_SEGMENT_H
#define FL_SEGMENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "slice.h"

#define FL_SEGMENT_VERSION 2u   /* of the layout of all that lies in it: raise it with any change */
#define FL_SEGMENT_NAME_MOST 80 /* bytes of a region's name */
#define FL_SEGMENT_REGIONS 256

typedef struct fl_segment fl_segment;

/* The supervisor: makes one of `bytes`, rounded up to pages; the descriptor is the caller's. 0 or a
 * negative uv code. */
int fl_segment_create(int *fd, size_t bytes);

/* Maps it; the descriptor stays the caller's. 0, or a negative uv code with why in `why`: UV_EPROTO
 * when a program with another layout has made it. */
int fl_segment_map(fl_segment **out, int fd, char *why, size_t why_size);
void fl_segment_close(fl_segment *segment);

size_t fl_segment_size(const fl_segment *segment);   /* of what regions can have */
size_t fl_segment_left(fl_segment *segment);         /* of it */
uint64_t fl_segment_born(const fl_segment *segment); /* fl_segment_clock when it was made */

/* ns since the machine started, the same for all of its processes; goes on while it sleeps. */
uint64_t fl_segment_clock(void);

/* Finds the region `name`, or makes it: *bytes of zeroes, aligned to pages, given to `init` before
 * anybody else sees them. *bytes is set to what it has; 0 asks for what it has or else
 * `otherwise`. Returns 0; UV_EEXIST when it has not *bytes; UV_ENOSPC when there is no room;
 * UV_ENFILE when there are FL_SEGMENT_REGIONS. */
typedef void (*fl_segment_init)(void *region, size_t bytes);
int fl_segment_region(fl_segment *segment, fl_slice name, size_t *bytes, size_t otherwise,
                      fl_segment_init init, void **region);

void fl_segment_lock_init(pthread_mutex_t *lock);

/* Returns true when who held it last has died holding it: what it guards may be half done. */
bool fl_segment_lock(pthread_mutex_t *lock);
void fl_segment_unlock(pthread_mutex_t *lock);

#endif
