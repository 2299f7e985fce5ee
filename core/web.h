/* web: a web thread: a loop, a Lua state per app, and its connections.
 *
 * Owner: the server. Everything in it is touched by its own thread only, except what is atomic, the
 * mailbox, and, once the thread is retired, by whoever took it over. Nothing of it lives in statics
 * or thread-locals. */
#ifndef FL_WEB_H
#define FL_WEB_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "buffer.h"
#include "claim.h"
#include "deadline.h"
#include "ledger.h"
#include "listener.h"
#include "log.h"
#include "mailbox.h"
#include "metrics.h"
#include "request.h"
#include "router.h"
#include "settings.h"
#include "slots.h"
#include "state.h"

#define FL_READ_BUFFER 65536

typedef struct fl_server fl_server;

typedef enum { FL_WEB_LOADING, FL_WEB_SERVING, FL_WEB_DRAINING, FL_WEB_ENDED } fl_web_phase;

struct fl_web {
    unsigned number; /* from 0 */
    fl_server *server;
    const fl_settings *settings;
    fl_log *log;
    fl_thread_metrics *metrics;
    fl_metrics *all_metrics;
    fl_ledger *ledger;
    fl_ledger_slot *slots; /* this thread's part of the ledger */
    uint32_t slot_count;
    unsigned connections_most;
    fl_claim claim;
    pthread_t thread;
    clockid_t cpu_clock;
    _Atomic int tid;
    _Atomic uint64_t stuck_after, blocked_after; /* ns, of the turn that runs; 0: never */
    _Atomic uint32_t running; /* 1 + slot of the request whose Lua runs; 0: none */
    fl_mailbox *mailbox;

    uv_loop_t loop;
    uv_tcp_t first_stream;
    uv_timer_t alarm; /* rings for the wheel */
    uint64_t alarm_at;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle; /* active while tasks are ready: keeps the loop from sleeping */
    fl_wheel wheel;
    uint64_t now;        /* ns, taken when a batch is read or written */
    uint64_t late_since; /* ns; since when the queueing delay is above the bound; 0: it is not */
    uint64_t last_late;
    bool shedding;       /* new requests are refused */
    uint64_t turn_began; /* ms; the loop's turn whose length is being taken */
    uint64_t longest_turn, lag_second;
    fl_deadline tell_again; /* the gauges of a loop that has fallen idle */

    fl_state *states; /* one per app, in the server's order */
    unsigned state_count;
    unsigned starting; /* start hooks still running */
    fl_web_phase phase;
    bool closing_idle; /* draining for a stop: idle connections go at once */

    fl_listener *listeners;
    int own_listener; /* the socket that only this thread accepts on; -1: none. Set at boot */
    fl_connection *connections;
    _Atomic unsigned connection_count; /* read by other threads to balance */
    _Atomic unsigned arriving;         /* handed over by others, not opened yet */
    _Atomic bool draining;             /* takes no more of them */
    int spare_fd;                      /* given up for a moment when descriptors run out */

    fl_slots request_slots;
    fl_request *free_requests;
    unsigned free_request_count, requests_alive;
    bool timing; /* somebody looks at durations: access log or metrics */
    uint64_t next_number;

    char *read_buffer;
    fl_buffer out;     /* the answers of the present batch */
    fl_buffer scratch; /* decoded path of the present match */
    fl_match match;
    char date[30]; /* "Sun, 06 Nov 1994 08:49:37 GMT" */
    int64_t date_second;
};

/* *boot*, the server's main thread: makes the loop and mailbox. */
int fl_web_init(fl_web *web, fl_server *server, unsigned number);
/* Starts the thread, which loads the apps and tells the server (fl_server_loaded). */
int fl_web_start(fl_web *web);
void fl_web_join(fl_web *web);
void fl_web_close(fl_web *web); /* after join */

/* Any thread. */
void fl_web_listen(fl_web *web, int fd);
void fl_web_drain(fl_web *web, bool close_idle);
void fl_web_stop(fl_web *web);              /* runs the stop hooks and ends the thread */
bool fl_web_hand_over(fl_web *web, int fd); /* false: it takes no more, fd is still the caller's */
void fl_web_help_accept(fl_web *web, int fd, bool start);

/* *loop*. */
void fl_web_start_deadline(fl_web *web, fl_deadline *deadline, uint64_t milliseconds,
                           fl_deadline_callback callback); /* from now */
void fl_web_task_ready(fl_web *web);                       /* something is in a run queue */
void fl_web_maybe_drained(fl_web *web);
fl_state *fl_web_mount(fl_web *web, fl_slice path, fl_slice *rest); /* NULL: no app there */
const char *fl_web_date(fl_web *web);
void fl_web_tick(fl_web *web); /* now = the clock */
bool fl_web_overloaded(fl_web *web);

#endif
