/* interruption: makes Lua code that runs too long raise an error, by a signal to its thread.
 *
 * The signal's handler sets a count hook if the same turn of Lua still runs; the hook raises in the
 * running coroutine. This stops interpreted code, not a compiled loop and not one long C call: who
 * asks has to look again, and may ask again: the signal may find the thread in one of our own
 * functions, where it does nothing. The first error leaves room for clean-up; when the code goes
 * on, as a loop around pcall does, every further instruction raises. */
#ifndef FL_INTERRUPTION_H
#define FL_INTERRUPTION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <lua.h>

typedef struct fl_thread fl_thread;

typedef struct fl_interruption { /* of one thread */
    _Atomic(lua_State *) inside; /* the state whose Lua runs */
    _Atomic uint64_t turn;       /* to be interrupted; 0: none */
    _Atomic bool hooked;         /* the hook is set: to be cleared when the turn is over */
    _Atomic(const char *) kind;  /* of the error to raise: static text */
    _Atomic int status;
    _Atomic unsigned app; /* of that state: the number */
    unsigned raised;      /* times, in this turn */
} fl_interruption;

/* *boot*, once in a process: installs the handler. 0 or a negative uv code. */
int fl_interruption_open(void);

/* Any thread but its own: the present turn of `thread` shall raise { kind =, status = }. */
void fl_interrupt(fl_thread *thread, uint64_t turn, const char *kind, int status);

/* *loop*: the turn is over. */
void fl_interruption_clear(fl_thread *thread, lua_State *L);

#endif
