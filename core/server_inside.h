/* server_inside: what a server (server.h) is made of, for the files that make it up: server.c,
 * server_control.c (what the supervisor tells, from listeners to the last call) and
 * server_process.c (starting and ending the kinds of processes).
 *
 * Owner: the process. Functions: the main thread, *boot* and the housekeeping loop. */
#ifndef FL_SERVER_INSIDE_H
#define FL_SERVER_INSIDE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <uv.h>

#include "admin.h"
#include "control.h"
#include "exile.h"
#include "ledger.h"
#include "log.h"
#include "metrics.h"
#include "pool_child.h"
#include "server.h"
#include "slice.h"
#include "watch.h"

#define FL_SERVER_START_FAILED 3           /* exit status */
#define FL_SERVER_LOG_PATIENCE 1000000000u /* ns */

typedef enum {
    FL_SERVER_LOADING,
    FL_SERVER_LISTENING,
    FL_SERVER_SERVING,
    FL_SERVER_DRAINING,
    FL_SERVER_ENDING
} fl_server_phase;

struct fl_server {
    const fl_settings *settings;
    char **arguments;
    fl_pool_child *pool_child; /* NULL: this is a server process */
    fl_log *log;
    fl_ledger *ledger;
    fl_segment *segment;
    fl_metrics *metrics;
    fl_channels *channels;
    fl_topics *topics;
    fl_pools *pools;
    fl_quota *quota; /* of connections to databases */
    fl_pool *cpu_pool, *blocking_pool;
    fl_modules *modules;
    const fl_app_place **apps; /* longest prefix first */
    _Atomic(fl_web *) *webs;   /* by their places */
    unsigned web_count, worker;
    fl_spares *spares;
    fl_profiler *profiler;
    fl_exile exile;
    uint64_t restarts, started; /* started: CLOCK_MONOTONIC ns of the supervisor */
    time_t start_time;
    fl_watch watch;
    bool watching;
    fl_admin *admin;
    uv_loop_t loop;
    uv_poll_t control;
    uv_timer_t drain, admin_retry;
    fl_mailbox *mailbox;
    fl_server_phase phase;
    unsigned loaded, closed, drained, ended, listeners;
    char address[128]; /* "http://127.0.0.1:8000" */
};

/* Obeys the supervisor from now on. 0 or a negative uv code. */
int fl_server_open_control(fl_server *server);
void fl_server_say(fl_control_kind kind, const char *text); /* to the supervisor */
void fl_server_stop_admin(fl_server *server);               /* harmless when it was not started */
/* What fl_profiler_new wants: the answer to who asked at the admin address. */
void fl_server_answer_profile(fl_server *server, uint64_t ticket, int status, fl_slice text);
/* Ends the process now. */
_Noreturn void fl_server_leave(fl_server *server, int status);

#endif
