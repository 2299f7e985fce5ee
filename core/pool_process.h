/* pool_process: the child process in which one thread of a pool with isolation = "process" runs its
 * jobs (pool_child.h is its other side).
 *
 * Owner: that thread, on its *loop*. The process is started when it is needed, before a job if need
 * be, and again when it has ended; it is ended after `recycle_after` jobs, and when one ran out of
 * memory. A job is told when its time is over or its waiter has gone; when it has not ended a
 * moment after its time, its process is killed. A job is sent only to a process that has said that
 * it is ready: one that takes long to start costs jobs time, and no more.
 *
 * The process is started by executing the program anew with the server's arguments, so that nothing
 * of this one is in it, and with the sockets and files of no one. It ends when the socket between
 * them closes, and when the thread that has started it does. */
#ifndef FL_POOL_PROCESS_H
#define FL_POOL_PROCESS_H

#include "job.h"
#include "thread.h"

/* The descriptors that the process finds beside 0, 1 and 2: this one, and the ledger and the
 * segment where a server process finds them (control.h). */
#define FL_POOL_FD 3
#define FL_POOL_MARGIN ((uint64_t)128 << 20) /* bytes besides the Lua heap */

typedef struct fl_pool_process fl_pool_process;

typedef struct fl_pool_process_job { /* the head of a FL_FRAME_JOB; app's name and parcel follow */
    uint64_t request_number;
    uint32_t kind, app_size;
} fl_pool_process_job;

typedef struct fl_pool_process_outcome { /* the head of a FL_FRAME_OUTCOME; a parcel may follow */
    uint64_t ran;                        /* ns */
    uint32_t outcome;
    char text[sizeof(((fl_job *)0)->text)];
} fl_pool_process_outcome;

/* `ended` is told when the job's outcome is there, also within fl_pool_process_run. */
int fl_pool_process_new(fl_pool_process **out, fl_pool *pool, fl_thread *thread,
                        void (*ended)(fl_thread *thread, uint64_t ran));

void fl_pool_process_run(fl_pool_process *process, fl_job *job);
void fl_pool_process_cancel(fl_pool_process *process, const char *reason); /* what it runs */

/* Between two jobs: a process that is worn out, or has ended with its job, makes way for another
 * one. true: the one before has been given up. */
bool fl_pool_process_settle(fl_pool_process *process);

void fl_pool_process_free(fl_pool_process *process); /* ends it; the loop has to run once more */

#endif
