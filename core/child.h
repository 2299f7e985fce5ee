/* child: one server process as the supervisor sees it: started, spoken to, told to leave, and
 * killed when it does not.
 *
 * Owner: the worker that started it, on the supervisor's *loop*. It lives until fl_child_free,
 * which may be called once `ended` has been, also from within it. */
#ifndef FL_CHILD_H
#define FL_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "control.h"
#include "ledger.h"

typedef enum {
    FL_CHILD_LOADING,  /* runs, loads the apps */
    FL_CHILD_LOADED,   /* waits for the listeners */
    FL_CHILD_STARTING, /* has the listeners */
    FL_CHILD_READY,    /* accepts */
    FL_CHILD_LEAVING,  /* told to go, or going by itself */
    FL_CHILD_ENDED
} fl_child_state;

typedef struct fl_child fl_child;

typedef struct fl_child_events {
    void *data;
    /* After `state`, `closed`, `stuck` and `reason` have been brought up to date. */
    void (*message)(void *data, fl_child *child, fl_control_kind kind, const char *text);
    void (*ended)(void *data, fl_child *child);
} fl_child_events;

typedef struct fl_child_program { /* what is the same for all of them */
    uv_loop_t *loop;
    const char *path; /* executable */
    char **argv;
    uint64_t started; /* when the supervisor was, ns; 0 once it serves: the child's own start */
    unsigned threads, slots; /* of the ledger */
    int segment_fd;          /* the supervisor's */
} fl_child_program;

struct fl_child {
    fl_child *next; /* the owner's list */
    fl_child_state state;
    fl_child_events events;
    bool closed; /* has no listeners: not yet, or no longer */
    bool stuck;  /* asked to be replaced */
    bool killed; /* by us, at the deadline */
    bool was_ready;
    int64_t status;               /* ended with this, */
    int signal;                   /* or by this */
    char reason[FL_CONTROL_TEXT]; /* what it FAILED with; "" = it did not say */
    fl_ledger *ledger;
    int control_fd; /* -1 = closed */
    unsigned open_handles;
    uv_process_t process;
    uv_poll_t control;
    uv_timer_t deadline;
};

/* Starts one for `worker`. 0 or a negative uv code. */
int fl_child_start(fl_child **out, const fl_child_program *program, unsigned worker,
                   unsigned restarts, fl_child_events events);

/* Hands the listeners over. 0 or a negative uv code. */
int fl_child_listen(fl_child *child, const int *fds, size_t count, bool shared);

/* Says `kind` (STOP, REPLACED or NOW), and kills it when it is still there after `patience` ms. A
 * deadline is only ever advanced. */
void fl_child_leave(fl_child *child, fl_control_kind kind, uint64_t patience);

/* Appends "killed by SIGKILL" or "ended with status 1". */
void fl_child_describe_end(const fl_child *child, fl_buffer *out);
void fl_child_free(fl_child *child);

#endif
