/* slot: which part of a cluster a key belongs to.
 *
 * Stateless. *any* */
#ifndef FL_REDIS_SLOT_H
#define FL_REDIS_SLOT_H

#include "slice.h"

/* CRC-16/XMODEM of the key, or of what its first {braces} hold. */
unsigned fl_redis_slot(fl_slice key);

#endif
