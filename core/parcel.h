/* parcel: what one call carries from one Lua state to another: the function, its arguments, or its
 * results.
 *
 * Owner: whoever holds the struct; init ⇒ close. It may be packed on one thread and unpacked on
 * another. Plain values travel as pack says; strings of more than 64 KiB beside them, copied once
 * out and once in. An object whose metatable has `__crossing` is a *handle*: the field is called
 * with the object and returns the name of a module and plain values, and arrives as what
 * require(module).from_crossing(values …) returns.
 *
 * A Lua function travels as bytecode (code), with its upvalues as they are at that moment: plain
 * data and handles are copied, Lua functions follow by the same rules; recursion, and upvalues that
 * several functions of the parcel share, are kept. Functions and tables that are found by name
 * (in the standard library, in a loaded module, as a module or one field deep) travel as that name
 * wherever an upvalue leads to them, and are looked up with `require` where they arrive: so a
 * module's functions keep the state that their module has there. All else is refused at packing,
 * with the path: `upvalue "conn" of function at app.lua:12 is a userdata`.
 *
 * What the states know of names and functions is their border, which must be open. The sender's
 * names are made anew when a value has none and modules were loaded since; changes within a loaded
 * module are noticed when a function is met whose code is new, and before anything is refused.
 *
 * Bytecode is trusted: a parcel is read only from a process of our own.
 *
 * The second half is for parcel_pack.c and parcel_unpack.c, which fill and empty the struct. */
#ifndef FL_PARCEL_H
#define FL_PARCEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lua.h>

#include "buffer.h"
#include "code.h"
#include "names.h"
#include "pack.h"
#include "slice.h"

#define FL_PARCEL_LARGE 65536 /* bytes of the longest string that is packed between the others */
#define FL_PARCEL_FUNCTIONS_MOST 1000
#define FL_PARCEL_HANDLE_MOST 60 /* values of a handle */

typedef struct fl_parcel_blob {
    char *data;
    size_t size;
} fl_parcel_blob;

typedef struct fl_parcel_cell { /* an upvalue, which functions may share */
    const void *id;
    uint32_t function, upvalue;
} fl_parcel_cell;

typedef struct fl_parcel_function {
    fl_code *code;
    const void *id; /* in the sender */
} fl_parcel_function;

typedef struct fl_parcel {
    fl_buffer bytes;
    uint32_t values;
    bool linked;           /* its functions refer to each other */
    fl_parcel_blob *blobs; /* in the order in which `bytes` needs them, as the next */
    size_t blob_count, blob_capacity;
    fl_parcel_function *functions;
    size_t function_count, function_capacity;
    fl_parcel_cell *cells; /* while it is packed */
    size_t cell_count, cell_capacity;
} fl_parcel;

void fl_parcel_init(fl_parcel *parcel);  /* allocates nothing */
void fl_parcel_reset(fl_parcel *parcel); /* empties it; a small buffer is kept */
void fl_parcel_close(fl_parcel *parcel);

/* Adds `count` values from index `first` on, called "argument 1" … in messages when `noun` is
 * "argument". Returns 0, or UV_EINVAL or UV_ENOMEM with a message pushed, the parcel then being
 * what it was. Handles' `__crossing` runs, protected. Lua's memory errors are raised: the parcel
 * must be reset then.  [-0, +0|1, m] */
int fl_parcel_pack(fl_parcel *parcel, lua_State *L, int first, int count, const char *noun);

/* Adds the function to call: a function, or a string "module:function". Errors as above; `name` is
 * what messages call it.  [-0, +0|1, m] */
int fl_parcel_pack_function(fl_parcel *parcel, lua_State *L, int index, const char *name);

/* Pushes everything in order. Returns the number of values; or UV_EINVAL or UV_ENOMEM with a
 * message pushed. Modules are loaded and handles made, protected; raises Lua's memory errors.
 * [-0, +values|1, m] */
int fl_parcel_unpack(const fl_parcel *parcel, lua_State *L);

/* For another process: appends everything, code and large strings included. 0 or UV_ENOMEM. */
int fl_parcel_write(const fl_parcel *parcel, fl_buffer *out);

/* Into an empty parcel; copies. 0, UV_ENOMEM, or UV_EINVAL when the bytes are no parcel; it is
 * empty again then. What lies within is checked when it is unpacked. */
int fl_parcel_read(fl_parcel *parcel, fl_slice bytes);

enum {                                        /* kinds beside the plain ones, and those of names */
       FL_PARCEL_BLOB = FL_PACK_SPECIAL,      /* the next blob */
       FL_PARCEL_HANDLE = FL_NAME_CALLED + 1, /* module, number of values (1 byte), values */
       FL_PARCEL_FUNCTION,       /* the next function: number of upvalues (1 byte), upvalues */
       FL_PARCEL_FUNCTION_AGAIN, /* its number */
       FL_PARCEL_UPVALUE_AGAIN   /* in place of an upvalue: a function's number, which one of it */
};

/* To the end of the lists; the first copies, the second holds. 0 or UV_ENOMEM. */
int fl_parcel_add_blob(fl_parcel *parcel, fl_slice text);
int fl_parcel_add_function(fl_parcel *parcel, fl_code *code, const void *id);
int fl_parcel_add_cell(fl_parcel *parcel, const void *id, uint32_t function, int upvalue);

/* Drops what has been added since the parcel was as in `to`. */
void fl_parcel_cut(fl_parcel *parcel, const fl_parcel *to);

#endif
