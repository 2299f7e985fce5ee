/* console: one Lua function, run in a state with a loop by a process that serves nothing: for
 * commands that wait, as those of databases do.
 *
 * Owner: the command, on the main thread, before or instead of serving; fl_server_run_console does
 * all of it. The function runs in the blocking pool of a server without web threads, listeners and
 * watch thread, in a state of its first app, which is not loaded there. */
#ifndef FL_CONSOLE_H
#define FL_CONSOLE_H

#include "job.h"
#include "state.h"

typedef struct fl_server fl_server;

typedef struct fl_console {
    fl_parcel call;   /* packed by the caller */
    fl_parcel result; /* of FL_JOB_RETURNED and FL_JOB_RAISED: the caller's to close */
    fl_job_outcome outcome;
    char text[sizeof(((fl_job *)0)->text)]; /* of FL_JOB_LOST */
    /* its own */
    fl_server *server;
    fl_state stub; /* in the place of a state that would wait for the job */
    fl_address *address;
    fl_job *job;
} fl_console;

/* The server's housekeeping loop. The function is begun; the loop stops when it has ended. 0 or a
 * negative uv code. */
int fl_console_start(fl_console *console, fl_server *server);
/* After the loop has stopped, before the server's mailbox is closed. */
void fl_console_end(fl_console *console);

#endif
