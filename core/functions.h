/* functions: the Lua functions that one Lua state sends to others and receives from them.
 *
 * Owner: its border, so one Lua state and that state's thread; open ⇒ close.
 *
 * The sender dumps a closure once and keeps its code in a userdata, for as long as the caller keeps
 * that (in a note of names); closures of the same bytecode share one code. The receiver loads a
 * code once, and makes each call a closure of its own from that. */
#ifndef FL_FUNCTIONS_H
#define FL_FUNCTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include <lua.h>

#include "buffer.h"
#include "code.h"
#include "code_cache.h"

typedef struct fl_functions {
    int codes;             /* by registry reference: digest → userdata; weak values */
    int metatable;         /* of those userdata */
    int factories;         /* by place in `cache`, from 1 */
    uint64_t dumps, loads; /* since it was opened */
    fl_code_cache cache;   /* of what was loaded */
    bool
        bare[FL_CODE_CACHE]; /* by place too: the function has no upvalues, and itself lies there */
    fl_buffer template;      /* made when the first function is sent */
    fl_buffer scratch;
} fl_functions;

/* Into a struct of zeroes, which may be closed whatever happens. Once per state.  [-0, +0, e] */
void fl_functions_open(fl_functions *functions, lua_State *L);
void fl_functions_close(fl_functions *functions); /* with its state */

/* Pushes a userdata that holds the code of the Lua function on top. `is_new`: no function with this
 * code was met before, or not lately. 0, UV_ENOMEM, or UV_EINVAL when its bytecode is not
 * understood; nothing is pushed then.  [-0, +0|1, m] */
int fl_functions_dump(fl_functions *functions, lua_State *L, bool *is_new);

/* The code that such a userdata, of which this is the block, holds. */
fl_code *fl_functions_code(void *block);

/* Pushes a closure of the function, whose upvalues nobody else has. One without any serves again,
 * unless it has got another environment. 0, or UV_EINVAL or UV_ENOMEM with a message pushed.
 * [-0, +1, m] */
int fl_functions_push(fl_functions *functions, lua_State *L, fl_code *code);

/* Has the function on top an environment of its own (setfenv)?  [-0, +0, -] */
bool fl_functions_has_environment(lua_State *L);

#endif
