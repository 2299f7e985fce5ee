/* spares: the web thread that stands by to take a stuck one's place, and those that were given up.
 *
 * Owner: the server. A spare is parked from the start on; when a handler is slow it gets a fresh
 * state of that handler's app, and when it has been sent another one is made. A thread that was
 * given up is *retired*: it is joined when it ends, and all it had stays until the process ends. */
#ifndef FL_SPARES_H
#define FL_SPARES_H

#include <stdbool.h>
#include <stdint.h>

#include "evacuation.h"

typedef struct fl_server fl_server;
typedef struct fl_spares fl_spares;

int fl_spares_new(fl_spares **out, fl_server *server, unsigned apps); /* *boot* */
/* *end*: stops the parked one. false: a retired thread still has its memory, or runs, or the
 * parked one may not end: the process has to end as it is. */
bool fl_spares_close(fl_spares *spares);

/* The watch thread. Is there one with a fresh state of that app, whose loop turns? If not it is
 * being made, unless making it `failed`. */
bool fl_spares_ready(fl_spares *spares, unsigned app, bool *failed);
/* The claim of `stuck` is retired: the spare takes its place. */
void fl_spares_send(fl_spares *spares, fl_web *stuck, const char *what);
/* How many retired threads still run, or have a place that nobody has taken, and for how many ns
 * the first of them has. */
unsigned fl_spares_retired(fl_spares *spares, uint64_t now, uint64_t *longest);

/* The spare thread. Starting: it is loaded, its start hooks run. */
void fl_spares_starting(fl_spares *spares, const fl_web *spare, unsigned app);
void fl_spares_loaded(fl_spares *spares, const fl_web *spare, unsigned app, bool loaded);
void fl_spares_taken(fl_spares *spares, fl_web *spare, fl_web *stuck, int status,
                     const fl_evacuation *done);

bool fl_spares_has_parked(fl_spares *spares); /* any thread */

/* Any thread: since the process began. */
uint64_t fl_spares_evacuations(fl_spares *spares);

#endif
