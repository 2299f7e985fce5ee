/* exec: a program run on the housekeeping loop for a Lua state.
 *
 * The state's thread makes an fl_exec and starts it, which posts it to the server; when the program
 * has ended, `ended` is called on the thread that runs the state, unless the state has gone.
 * Reference-counted: the maker holds one until fl_exec_release, the run another one. Between start
 * and `ended` the housekeeping loop owns everything in it; the maker may only cancel and release.
 *
 * The program gets a process group of its own, which SIGTERM and a second later SIGKILL end on
 * time-out and cancelling. It has ended when it has exited and its outputs are closed. */
#ifndef FL_EXEC_H
#define FL_EXEC_H

#include <stdbool.h>
#include <stdint.h>

#include "address.h"
#include "buffer.h"
#include "slice.h"

typedef struct fl_server fl_server;

typedef struct fl_exec_program {
    fl_slice arguments;   /* a NUL behind each; at least one */
    fl_slice environment; /* NAME=value, a NUL behind each; no data: the server's own */
    fl_slice folder;      /* to run in */
    fl_slice input;       /* no data: /dev/null */
    uint64_t timeout;     /* ms; 0: none */
    uint64_t output_most; /* bytes kept of each output; what follows is dropped */
} fl_exec_program;

typedef struct fl_exec_result {
    int error;    /* negative uv code: it did not run, or was cancelled */
    int64_t code; /* exit status */
    int signal;   /* that ended it; 0: none */
    fl_buffer output, errors;
    bool timed_out, truncated;
} fl_exec_result;

typedef struct fl_exec fl_exec;

/* Copies the program. 0 or UV_ENOMEM. *any* */
int fl_exec_new(fl_exec **out, const fl_exec_program *program);

/* *loop* of the thread of the state that `reply` leads to. 0: `ended` will be called, after which
 * the result stays as it is. Or a negative uv code, when the server has closed. */
int fl_exec_start(fl_exec *exec, fl_server *server, fl_address *reply, void (*ended)(void *data),
                  void *data);

/* *loop* of that thread, at most once, before `ended`. */
void fl_exec_cancel(fl_exec *exec);

const fl_exec_result *fl_exec_result_of(const fl_exec *exec); /* after `ended` */
void fl_exec_release(fl_exec *exec);                          /* *any* */

/* *loop* of the server, which is ending: kills what still runs there. A loop that runs on then
 * closes the handles and gives everything back. */
void fl_exec_end_all(uv_loop_t *loop);

#endif
