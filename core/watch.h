/* watch: the thread that sees what a web thread stuck in Lua cannot say itself.
 *
 * Owner: the server. Every few milliseconds it compares each web thread's claim and turn with what
 * it saw before: no clock is read per request. A turn that holds its loop longer than slow_handler
 * is logged with its route and another thread accepts on its listener meanwhile. A turn that used
 * stuck_handler of CPU time, or was blocked in the kernel for blocked_handler, is interrupted
 * (interruption.h), and when it still runs 50 ms later, its thread is retired and evacuated. What
 * runs on for 5 s after that has the process replaced. Time spent waiting for a processor, or while
 * the whole process was stopped, counts for neither. Looks after jobs past their time, too. */
#ifndef FL_WATCH_H
#define FL_WATCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct fl_web fl_web;
typedef struct fl_server fl_server;
typedef struct fl_spares fl_spares;

typedef struct fl_watched { /* what the watch thread remembers of one web thread */
    uint64_t turn;
    uint64_t since;  /* ns, when this turn was first seen; 0: not in Lua */
    uint64_t cpu;    /* ns of CPU time then */
    uint64_t waited; /* ns of waiting for a processor then */
    fl_web *web;
    uint64_t interrupted; /* ns, when; 0: not yet */
    bool told;            /* slow: logged, another thread accepts */
    bool given_up;        /* nothing can be done but to replace the process */
} fl_watched;

typedef struct fl_watch {
    fl_server *server;
    fl_spares *spares;
    unsigned count;
    fl_watched *watched;
    pthread_t thread;
    _Atomic bool stopping;
    bool asked;                     /* to be replaced */
    _Atomic uint64_t interruptions; /* turns that ended after they had been interrupted */
} fl_watch;

int fl_watch_start(fl_watch *watch, fl_server *server);
void fl_watch_stop(fl_watch *watch);

#endif
