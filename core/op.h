/* op: something C is doing for Lua (a sleep, a file read, a program): a userdata that Lua waits
 * for.
 *
 * Owner: Lua's collector; while pending it is anchored in the registry, so C may keep the pointer.
 * *loop* of its state's thread. A driver embeds fl_op as its first member, makes it with fl_op_new
 * inside a function called from Lua, and calls fl_op_done exactly once. A state is closed only when
 * none of its ops is pending (fl_op_cancel_all, then the loop runs on). */
#ifndef FL_OP_H
#define FL_OP_H

#include <stdbool.h>
#include <stddef.h>

#include <lua.h>

#include "slice.h"
#include "task.h"

typedef struct fl_op fl_op;

typedef struct fl_op_kind {
    const char *name;
    /* Pushes true and the values, or false and the error; may be called again, unless `once`.
     * [-0, +n, e] */
    int (*take)(fl_op *op, lua_State *L);
    /* Asks the driver to stop early; fl_op_done must still follow. May be NULL. No Lua API. */
    void (*cancel)(fl_op *op);
    /* Frees what the result holds; called by the collector once done. May be NULL. */
    void (*close)(fl_op *op);
    bool once; /* its result is taken once: it is closed then, and the collector does nothing */
} fl_op_kind;

/* What an op has failed by, for the log. */
typedef struct fl_op_failure {
    fl_slice code, error;
    const char *subject; /* the name of what it was about: "sql", "path" … */
    fl_slice text;       /* that */
} fl_op_failure;

struct fl_op {
    const fl_op_kind *kind;
    fl_state *state;
    fl_op *next, **link; /* the state's pending ops */
    double ticket;       /* the first waiter; 0: none */
    double *more;        /* further waiters */
    unsigned more_count;
    int anchor; /* in the registry; 0: it has not begun; kept when it is done */
    bool done;
    bool cancelled;
    bool taken; /* somebody has got its result */
};

/* Pushes a new zeroed op of `size` bytes, pending and anchored.  [-0, +1, e] */
fl_op *fl_op_new(lua_State *L, size_t size, const fl_op_kind *kind);
/* The same in two steps: until it has begun, the collector closes it should anything raise.
 * prepare: [-0, +1, e]; begin, with the op on top: [-0, +0, m] */
fl_op *fl_op_prepare(lua_State *L, size_t size, const fl_op_kind *kind);
void fl_op_begin(lua_State *L, fl_op *op);
void fl_op_done(fl_op *op);
/* For a kind's `close`: it had begun, nobody has got the result, and nobody has said that he does
 * not want it. If the op has failed, that is to be logged. */
bool fl_op_is_lost(const fl_op *op);
void fl_op_tell_lost(const fl_op *op, const fl_op_failure *failure);
/* The same for a negative uv code; 0: it has not failed, and nothing is logged. */
void fl_op_tell_lost_status(const fl_op *op, int error, const char *subject, const char *text);
/* Raises, at the app's line, that where no state is served nothing can wait: a file is being loaded
 * to be looked at.  [-0, +0, e] */
int fl_op_refuse(lua_State *L, const char *what);
fl_op *fl_op_check(lua_State *L, int index); /* the argument must be one  [-0, +0, e] */

/* Registers op_done, op_wait, op_await, op_take, op_cancel in the table on top.  [-0, +0, e] */
void fl_op_functions(lua_State *L);
void fl_op_cancel_all(fl_state *state);

#endif
