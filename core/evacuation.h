/* evacuation: another thread takes over what a web thread that is stuck in Lua cannot serve.
 *
 * The watch thread has turned the stuck thread's claim into *retired* (claim.h) and sends this to a
 * spare web thread, whose loop runs it. Moved are the mailbox, the listeners, all connections with
 * what they have read and not yet written, the timers, and the states of other apps with their
 * tasks and pending operations. The stuck state stays behind: what its code may still read is not
 * touched and not freed. Its requests are answered here: those that can be repeated run once more
 * in a fresh state, others get 503, and answers already begun are cut.
 *
 * The old loop is never run, walked or closed again: its poll descriptor becomes an empty one.
 * What stays behind lives as long as the process, which is replaced when that becomes much. */
#ifndef FL_EVACUATION_H
#define FL_EVACUATION_H

#include <stdint.h>

typedef struct fl_web fl_web;

typedef struct fl_evacuation { /* what was done, for the log */
    unsigned connections, replayed, refused, cut, tasks;
} fl_evacuation;

/* *loop* of `spare`, which has a fresh state of the stuck one's app, and nothing else yet. The
 * claim of `stuck` is retired. 0, or a negative uv code: nothing has been moved. */
int fl_evacuate(fl_web *spare, fl_web *stuck, fl_evacuation *done);

#endif
