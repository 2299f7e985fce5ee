/* ring: messages from each server process to all others, in memory that they share (segment.h).
 *
 * A bounded ring of bytes behind a robust process-shared lock. Who writes never waits for readers:
 * the oldest messages go when there is no room, and a reader that has not read them yet is told how
 * many it missed. A message counts once it is written, so who dies while writing has written
 * nothing. A process does not read what it wrote itself.
 *
 * Owner: fl_ring is the process's own; open ⇒ close. Any thread may write; one thread of the
 * process, if any, joins, reads and leaves. While nobody else reads, nothing needs to be written:
 * fl_ring_has_others. A reader that died is noticed by who joins next, or sweeps. */
#ifndef FL_RING_H
#define FL_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "segment.h"
#include "slice.h"

#define FL_RING_READERS 512

typedef struct fl_ring fl_ring;

/* What a segment must have for a ring of so many bytes. */
size_t fl_ring_room(size_t bytes);

/* Finds the segment's ring, or makes it. 0 or a negative uv code. */
int fl_ring_open(fl_ring **out, fl_segment *segment, size_t bytes);
void fl_ring_close(fl_ring *ring);

size_t fl_ring_most(const fl_ring *ring); /* bytes of a message: a quarter of the ring */
bool fl_ring_has_others(fl_ring *ring);

/* 0, or UV_E2BIG. Tells the readers. */
int fl_ring_write(fl_ring *ring, fl_slice message);

/* The reading thread. From now on it reads what others write. 0; UV_ENFILE: too many readers. */
int fl_ring_join(fl_ring *ring);
void fl_ring_leave(fl_ring *ring);

/* Appends what has come, about 64 KB at most, each as its size (uint32_t) and its bytes. Returns
 * how many it has passed, its own included, and adds those that were missed. */
unsigned fl_ring_read(fl_ring *ring, fl_buffer *out, uint64_t *missed);

/* Waits until something was written since fl_ring_mark, fl_ring_wake was called, or the time is
 * over: then false. */
uint32_t fl_ring_mark(fl_ring *ring);
bool fl_ring_wait(fl_ring *ring, uint32_t mark, unsigned milliseconds);
void fl_ring_wake(fl_ring *ring); /* any thread: every reader of every process */

void fl_ring_sweep(fl_ring *ring); /* forgets readers that have died */

#endif
