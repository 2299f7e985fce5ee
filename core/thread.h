/* thread: what every thread that runs Lua has: a loop, a claim, a mailbox, timers, Lua states, and
 * the requests and tasks that run in them. A web thread adds connections (web.h), a pool's thread
 * jobs (pool.h).
 *
 * Owner: whoever embeds it. Everything in it is touched by its own thread only, except what is
 * atomic, the mailbox, and, once the thread is retired, by whoever took it over. Nothing of it
 * lives in statics or thread-locals. */
#ifndef FL_THREAD_H
#define FL_THREAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "buffer.h"
#include "claim.h"
#include "deadline.h"
#include "exile.h"
#include "interruption.h"
#include "ledger.h"
#include "log.h"
#include "mailbox.h"
#include "metrics.h"
#include "request.h"
#include "router.h"
#include "settings.h"
#include "slots.h"
#include "state.h"

typedef struct fl_server fl_server;
typedef struct fl_thread fl_thread;
typedef struct fl_turn_end fl_turn_end;

/* Something to be done once before the loop polls, for a Lua state: so that what its tasks asked
 * for in this turn is written at once. Embedded in what it concerns; *loop*. It moves with its
 * state, and is left behind with one that is given up. */
struct fl_turn_end {
    fl_turn_end *next, **link; /* link NULL: nothing is to be done */
    fl_state *state;
    void (*call)(fl_turn_end *self); /* it may start it again, for the next turn */
};

struct fl_thread {
    unsigned number; /* from 0: its row of the metrics, its part of the ledger */
    fl_server *server;
    const fl_settings *settings;
    fl_log *log;
    fl_thread_metrics *metrics;
    fl_metrics *all_metrics;
    fl_exile *exile;
    fl_ledger *ledger;
    fl_ledger_slot *slots; /* this thread's part of the ledger */
    uint32_t slot_count;
    fl_claim claim;
    pthread_t id;
    clockid_t cpu_clock;
    _Atomic int tid;
    _Atomic uint64_t stuck_after, blocked_after; /* ns, of the turn that runs; 0: never */
    _Atomic uint32_t running; /* 1 + slot of the request whose Lua runs; 0: none */
    fl_interruption interruption;
    fl_mailbox *mailbox;
    fl_mailbox **mailboxes; /* its own first, then those of the threads whose place it has taken */
    unsigned mailbox_count;

    uv_loop_t loop;
    uv_timer_t alarm; /* rings for the wheel */
    uint64_t alarm_at;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle; /* active while tasks are ready: keeps the loop from sleeping */
    fl_wheel wheel;
    uint64_t now;        /* ns, taken when a batch is read or written */
    uint64_t turn_began; /* ms; the loop's turn whose length is being taken */
    uint64_t longest_turn, lag_second;
    fl_deadline tell_again; /* the gauges of a loop that has fallen idle */

    fl_state **states; /* one per app, in the server's order; NULL: not made yet */
    unsigned state_count;
    fl_state *discarded;      /* not needed any more; freed when their tasks and ops have ended */
    bool is_spare;            /* a web thread without a place: nothing of it is counted */
    void (*owed)(void *data); /* to be called when no task is ready any more */
    void *owed_data;
    fl_turn_end *turn_ends; /* the last first */
    unsigned starting;      /* start hooks still running: nothing counts as stuck meanwhile */
    bool draining;          /* somebody waits until requests and tasks have ended */
    void (*ended)(fl_thread *thread); /* while draining, whenever one of them has */

    fl_slots request_slots;
    fl_request *free_requests;
    unsigned free_request_count, requests_alive;
    bool timing; /* somebody looks at durations: access log or metrics */
    uint64_t next_number;

    fl_buffer out;     /* the answers of the present batch */
    fl_buffer scratch; /* decoded path of the present match */
    fl_match match;
    char date[30]; /* "Sun, 06 Nov 1994 08:49:37 GMT" */
    int64_t date_second;
};

/* *boot*: the loop with its handles and the mailbox, whose messages get `owner`; the fields up to
 * the claim are the caller's to set before. 0 or a negative uv code. */
int fl_thread_init(fl_thread *thread, void *owner);
/* Starts run(data) on a thread of its own, with the stack that Lua needs. */
int fl_thread_start(fl_thread *thread, void *(*run)(void *data), void *data);
void fl_thread_join(fl_thread *thread);
void fl_thread_close(fl_thread *thread); /* after the loop's handles are closed */
/* uv_loop_close, which ThreadSanitizer is told of. */
int fl_thread_close_loop(uv_loop_t *loop);

/* *loop*. */
void fl_thread_begin(fl_thread *thread);          /* first thing in `run` */
bool fl_thread_is_quiet(const fl_thread *thread); /* no task and no op needs its loop */
void fl_thread_close_state(fl_thread *thread, unsigned number);
void fl_thread_discard_state(fl_thread *thread, unsigned number); /* the same, without waiting */
void fl_thread_take_deadlines(fl_thread *thread, fl_wheel *from, const fl_state *except);
void fl_thread_end_loop(fl_thread *thread); /* closes states, mailbox and all handles */
void fl_thread_start_deadline(fl_thread *thread, fl_deadline *deadline, uint64_t milliseconds,
                              fl_deadline_callback callback); /* from now */
void fl_thread_task_ready(fl_thread *thread);                 /* something is in a run queue */
uint64_t fl_thread_waited(fl_thread *thread); /* ns that its loop has slept in all */
/* Any thread, once it has begun: ns of processor time that it has used. */
uint64_t fl_thread_cpu_time(const fl_thread *thread);

/* Something that may wait until the tasks that are ready have run; one thing at a time. */
void fl_thread_owe(fl_thread *thread, void (*call)(void *data), void *data);

void fl_turn_end_start(fl_turn_end *self, fl_state *state, void (*call)(fl_turn_end *self));
void fl_turn_end_stop(fl_turn_end *self); /* harmless when not started */
void fl_thread_take_turn_ends(fl_thread *thread, fl_thread *from, const fl_state *except);

const char *fl_thread_date(fl_thread *thread);
void fl_thread_tick(fl_thread *thread); /* now = the clock */

#endif
