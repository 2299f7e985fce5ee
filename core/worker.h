/* worker: one place of `--workers`: the server process that serves there, the one that is to
 * replace it, and those that still drain. Starts it again when it dies.
 *
 * Owner: the supervisor, on its *loop*. A worker's timers are closed with the loop. Nothing here
 * calls `changed` but from the loop's callbacks, so the functions below may be called from it. */
#ifndef FL_WORKER_H
#define FL_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "child.h"
#include "log.h"

typedef struct fl_worker_context { /* what all workers share */
    fl_child_program program;
    fl_log *log;
    uint64_t drain; /* ms */
    uint64_t retry; /* ms before a stuck process is tried to be replaced again, at first */
    void *data;
    void (*changed)(void *data); /* look at the workers and take the next step */
} fl_worker_context;

typedef struct fl_worker {
    const fl_worker_context *context;
    unsigned number;
    fl_child *children; /* all that have not ended */
    fl_child *current, *replacement;
    bool has_started; /* has been READY once: from now on it is started again when it ends */
    bool stopping;
    /* a replacement is to be started, by the supervisor */
    bool wants_new_version;        /* of a reload; the supervisor's, until it is */
    bool wants_unstuck;            /* whatever becomes of a reload or of other workers */
    bool refused;                  /* the replacement failed; the supervisor clears it */
    char failure[FL_CONTROL_TEXT]; /* why the first start failed */

    const int *listeners;  /* the supervisor's */
    size_t listener_count; /* 0 = not yet bound */
    bool listeners_shared;

    unsigned restarts;               /* in all */
    unsigned deaths;                 /* of late */
    uint64_t last_death, last_stuck; /* ms of the loop's clock; 0 = never */
    uint64_t stuck_delay;            /* ms, before the next attempt to replace a stuck one */
    uv_timer_t restart, stuck;
} fl_worker;

void fl_worker_init(fl_worker *worker, const fl_worker_context *context, unsigned number);

/* Starts the first process; `failure` is set when even that fails. */
void fl_worker_start(fl_worker *worker);

/* Gives these to the process that is LOADED and to every later one. */
void fl_worker_listen(fl_worker *worker, const int *fds, size_t count, bool shared);

/* Starts a replacement, which is then wanted no more; there must be none. 0 or a negative uv code:
 * a stuck process will want one again. */
int fl_worker_replace(fl_worker *worker);

/* Sends STOP or NOW to all its processes and starts no more. */
void fl_worker_stop(fl_worker *worker, fl_control_kind kind);

bool fl_worker_wants_another(const fl_worker *worker);
bool fl_worker_is_loaded(const fl_worker *worker);
bool fl_worker_has_room(const fl_worker *worker);  /* for one more that drains */
bool fl_worker_is_closed(const fl_worker *worker); /* none of its processes holds a listener */

#endif
