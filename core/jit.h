/* jit: LuaJIT's compiler in one state: how it is set, and whether it threw its machine code away.
 *
 * Owner: a state (state.h), on its thread, while no Lua of it runs. No handler of trace events is
 * attached (jit.attach): with any at all, the LuaJIT of Debian 13 never returns when a Lua stack
 * overflows while a trace is recorded. Instead a small loop of our own is compiled once the state
 * has compiled something, and never run again: a flush, which takes all machine code at once, gives
 * it back its bytecode. Several flushes between two looks count as one.
 *
 * That one call of the loop enters Lua outside of a task, with the claim in C: nothing in it can
 * last, unless the app itself has attached a handler of trace events: that then runs where nobody
 * interrupts it or takes over what waits. A known exception. */
#ifndef FL_JIT_H
#define FL_JIT_H

#include <stdbool.h>

#include <lua.h>

typedef struct fl_jit {
    lua_CFunction bytecode_of, trace_part; /* of jit.util */
    int loop;                              /* registry reference; 0: there is none */
    int plain;                             /* its instruction while it is not compiled */
    bool is_compiled;
    unsigned attempts;
} fl_jit;

/* Sets the compiler's bounds; `jit` comes zeroed and is usable from here on.  [-0, +0, e] */
void fl_jit_open(fl_jit *jit, lua_State *L);

/* Whether it flushed since the last call; false when it was not opened. The stack is empty, as
 * between two turns: it stays so.  [-0, +0, -] */
bool fl_jit_has_flushed(fl_jit *jit, lua_State *L);

#endif
