/* json: Lua values to JSON bytes and back.
 *
 * Stateless; the thread of L. Encoding: integers up to 2^53 without a fraction are written as
 * integers, other numbers with the fewest digits that read back as the same number (17 at most,
 * and with a point or an exponent, so that they are no int64 afterwards); int64 and uint64 cdata
 * exactly; fl.null and JSON null are lightuserdata NULL; a row of a database (rows.h) has its
 * columns in their order, null for nil; any other table is a list when its keys are 1 … n, an
 * object when all keys are strings, and when empty `{}`, or `[]` if it is marked with fl.array.
 * Refused with the path in the message: NaN and infinities, cycles and nesting beyond 96, mixed or
 * sparse keys, invalid UTF-8, functions, userdata, threads, futures, and more than `most` bytes.
 * Other metatables are not looked at: no metamethod runs.
 *
 * Decoding is RFC 8259 to the letter: no trailing bytes, no control characters, UTF-8 checked,
 * surrogates paired, depth and node count limited, integers beyond 2^53 that fit become int64
 * cdata, numbers beyond a double's range are errors, an empty list comes back marked, duplicate
 * keys: the last one wins. */
#ifndef FL_JSON_H
#define FL_JSON_H

#include <stdint.h>

#include <lua.h>

#include "buffer.h"
#include "slice.h"

#define FL_JSON_DEPTH 96
#define FL_JSON_BYTES (64u << 20)       /* of what is written, where no settings say otherwise */
#define FL_JSON_ARRAY "fasterlua.array" /* registry name of the metatable that marks a list */

/* Registers what the others need in this state (the mark's metatable, int64 access). Once per
 * state, before app code runs, after Lua's libraries were opened: it requires `ffi`, which may be
 * hidden afterwards. */
void fl_json_open(lua_State *L);

/* What encode() of the Lua module writes at most, FL_JSON_BYTES otherwise; before the module is
 * required.  [-0, +0, m] */
void fl_json_limit(lua_State *L, size_t most);

/* Appends the value at `index` to `out`, `most` bytes at most; a string's escapes may take six
 * times its room before that is noticed. Returns 0, or UV_EINVAL with a message pushed ("cannot
 * encode items[3].name: invalid UTF-8"), or UV_ENOMEM with one when `out` cannot grow; `out` is
 * then cut back to its former size. Raises nothing but Lua's own memory errors, when the Lua stack
 * cannot grow.  [-0, +0|1, m] */
int fl_json_encode(lua_State *L, int index, fl_buffer *out, size_t most);

/* Pushes the decoded value; or returns UV_EINVAL with a message naming the byte offset (from 1)
 * pushed instead. `depth` counts lists and objects within each other (FL_JSON_DEPTH at most),
 * `nodes` values of any kind (2^26 at most). Allocates in the Lua heap only.  [-0, +1, m] */
int fl_json_decode(lua_State *L, fl_slice text, unsigned depth, size_t nodes);

/* Pushes a number where that is exact, else int64 cdata.  [-0, +1, m] */
void fl_json_push_integer(lua_State *L, int64_t number);

/* Lua module "fasterlua.json": encode(value) -> string (raises), decode(text) -> value (raises),
 * null, array(t|nil) -> t marked, is_array(value) -> is it marked? */
int fl_json_module(lua_State *L);

#endif
