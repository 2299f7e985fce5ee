/* task: a coroutine that the server runs: a request's handler, what it spawned, a background task,
 * a start hook. This module is the only caller of lua_resume.
 *
 * Owner: the fl_state; *loop* of its thread. Tasks are pooled with their coroutines: a task ends
 * when its function returns or raises, and both are used again (a coroutine that app code has seen,
 * or that died with an error, is not). Outside C a task is named by its handle, a suspension by its
 * ticket: numbers that a stale copy cannot misuse.
 *
 * Entering Lua always happens here: claim given up, allocator cap enforced, claim taken back,
 * collection when memory runs high. */
#ifndef FL_TASK_H
#define FL_TASK_H

#include <stdbool.h>
#include <stdint.h>

#include <lua.h>

typedef struct fl_state fl_state;
typedef struct fl_request fl_request;
typedef struct fl_task fl_task;

typedef enum { FL_TASK_FREE, FL_TASK_READY, FL_TASK_RUNNING, FL_TASK_WAITING } fl_task_status;

/* Called when the task's function has ended. status: 0 with `results` values on co's stack, or a
 * LUA_ERR* with the error value on top. The task is freed when it returns. */
typedef void (*fl_task_ended)(fl_task *task, int status, int results);

struct fl_task {
    fl_task *next;    /* run queue, or the free list */
    fl_task *sibling; /* other tasks of the same request, or the state's own ones */
    fl_task **sibling_link;
    fl_state *state;
    fl_request *request; /* held; NULL for hooks and detached tasks */
    lua_State *co;
    int anchor;            /* registry reference of co */
    uint32_t slot;         /* in state->task_slots */
    uint64_t suspension;   /* counts suspensions: part of the ticket */
    const char *cancelled; /* reason, static text; NULL: not cancelled */
    uint64_t shield_until; /* loop ms; while shielded and before this, cancelling waits */
    unsigned shields;
    int arguments; /* values on co's stack for the next resume */
    fl_task_status status;
    bool woken; /* its ticket was used before it suspended */
    bool seen;  /* app code holds the coroutine */
    fl_task_ended ended;
};

/* Takes a free task or makes one. NULL: no memory. Push function and arguments on task->co, then
 * fl_task_run (now) or fl_task_ready (next in the queue). Holds `request` when given. */
fl_task *fl_task_new(fl_state *state, fl_request *request, fl_task_ended ended);

/* Resumes it with `arguments` values until it suspends or ends. Not while another one runs. */
void fl_task_run(fl_task *task, int arguments);
void fl_task_ready(fl_task *task, int arguments);

/* Ends a task that has not run: the error value is on top of its stack. */
void fl_task_fail(fl_task *task, int status);

/* Ends the named suspension. false: it is over. */
bool fl_task_wake(fl_state *state, double ticket);

/* Makes it raise at its present and every later await. `reason` is static text. */
void fl_task_cancel(fl_task *task, const char *reason);
void fl_task_cancel_list(fl_task *first, const char *reason);

/* What becomes of a task nobody waits for: its error is logged. */
void fl_task_ended_alone(fl_task *task, int status, int results);

/* It ended with an error because it was cancelled, or because its client left. */
bool fl_task_was_cancelled(const fl_task *task);

/* Logs an error value and the traceback of the coroutine it ended.  Pops nothing. */
void fl_task_log_error(fl_task *task, const char *message);

double fl_task_handle(const fl_task *task);

/* Lua, in a task, is about to wait: the ticket that ends this suspension; 0: the task was
 * cancelled,
 * `*reason` says why.  [-0, +0, e] */
double fl_task_prepare_wait(lua_State *L, const char **reason);
/* Suspends it: to be returned by the C function that Lua has called, which returns nothing then, or
 * why the task was cancelled.  [-0, +0, e] */
int fl_task_wait(lua_State *L);

/* Runs everything that is ready, and what that makes ready, but no longer than one loop turn's fair
 * share. true: some are left. */
bool fl_task_run_ready(fl_state *state);

void fl_task_free_all(fl_state *state);

int fl_task_module(lua_State *L); /* Lua module "fasterlua.core.task" */

#endif
