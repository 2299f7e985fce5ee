/* code: a Lua function's bytecode on its way from state to state.
 *
 * Immutable and reference-counted: any thread may hold it. The bytes are those of a *factory*: a
 * chunk that returns a new closure of the function each time it is called. The function itself,
 * loaded, would be one closure for all calls, and its upvalues could not be set anew for the next
 * call: LuaJIT compiles the value of an upvalue that Lua never assigns into the machine code, and a
 * former call's closures still use the upvalues. Loaded anew for each call it would never stay
 * compiled. The factory gives each call upvalues of its own and keeps one prototype. */
#ifndef FL_CODE_H
#define FL_CODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lua.h>

#include "buffer.h"
#include "slice.h"

typedef struct fl_code {
    _Atomic unsigned holders;
    uint64_t digest[2];
    size_t size;
    char bytes[];
} fl_code;

/* Copies the bytes; the caller holds it. 0 or UV_ENOMEM. */
int fl_code_new(fl_slice bytes, fl_code **code);
void fl_code_hold(fl_code *code);
void fl_code_release(fl_code *code);
bool fl_code_equal(const fl_code *a, const fl_code *b);

void fl_code_digest(fl_slice bytes, uint64_t digest[2]);

/* Appends what makes a factory of a function's bytecode; the same in all states. 0, or UV_EINVAL
 * when this LuaJIT's bytecode is not the one known here.  [-0, +0, m] */
int fl_code_template(lua_State *L, fl_buffer *out);

/* Appends the factory of the Lua function on top of the stack, debug information included. 0,
 * UV_ENOMEM, or UV_EINVAL when its bytecode is not understood or the template is empty.
 * [-0, +0, m] */
int fl_code_dump(lua_State *L, fl_slice template, fl_buffer *out);

/* Pushes the factory; or an error message, and returns UV_EINVAL or UV_ENOMEM. Bytecode is not
 * verified: it must come from fl_code_dump.  [-0, +1, m] */
int fl_code_load(lua_State *L, const fl_code *code);

#endif
