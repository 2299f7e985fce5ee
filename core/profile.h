/* profile: where the Lua of one app spends its processor time on one web thread, while it serves.
 *
 * LuaJIT samples one VM of a process at a time. Its own timer is one of the whole process and
 * interrupts any thread; ours measures the processor time of the profiled thread and interrupts no
 * other, so that a sample is taken where the time was spent. Time that the thread spent outside of
 * the app's Lua is counted as the server's or as that of other apps.
 *
 * Owner: the server; one in a process, as is the signal that it uses (SIGPROF). Asked on the
 * housekeeping loop (*loop*), it starts and stops in the state's own thread, by messages. When the
 * state has to be given up, what was seen so far is told, and as LuaJIT believes that it still
 * profiles that VM, no other can be profiled in this process. */
#ifndef FL_PROFILE_H
#define FL_PROFILE_H

#include <stdint.h>

#include "slice.h"

typedef struct fl_profiler fl_profiler;
typedef struct fl_server fl_server;
typedef struct fl_state fl_state;
typedef struct fl_thread fl_thread;

/* On the housekeeping loop: an HTTP status; `text` has the stacks (samples.h) after a line of
 * totals, or says what was wrong. */
typedef void (*fl_profile_told)(fl_server *server, uint64_t ticket, int status, fl_slice text);

/* *boot*: takes the signal. `home` is the installation's folder. 0 or a negative uv code. */
int fl_profiler_new(fl_profiler **out, fl_server *server, const char *home, fl_profile_told told);
void fl_profiler_free(fl_profiler *profiler); /* once all threads and the loop have ended */

/* *loop*. The query is an order (profile_order.h); without an app it is the only one, without a
 * thread the one that has computed most. 0: `told` is called with that ticket; else an HTTP status,
 * and why. */
int fl_profiler_ask(fl_profiler *profiler, fl_slice query, uint64_t ticket, char *why, size_t size);
void fl_profiler_cancel(fl_profiler *profiler, uint64_t ticket); /* nobody waits any more */

/* *loop* of the thread that takes the place of another: `gone` is left behind there. */
void fl_profiler_evacuated(fl_profiler *profiler, fl_thread *from, fl_thread *to,
                           const fl_state *gone);
/* *loop* of the state's thread: it is about to be closed. */
void fl_profiler_state_closes(fl_profiler *profiler, const fl_state *state);

#endif
