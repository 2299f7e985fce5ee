/* pack: plain Lua values to bytes and back.
 *
 * Stateless; the thread of L. The bytes hold no pointer and no offset, so they may lie anywhere: in
 * a parcel, in shared memory, in a pipe to a child process of the same machine (numbers are in its
 * byte order). What is plain: nil, booleans, numbers (integers compact, others exact with NaN,
 * infinities and -0), int64 and uint64 cdata, strings with any bytes, fl.null (lightuserdata NULL),
 * tables up to 96 levels deep, with or without the mark of fl.array, whose keys are strings,
 * numbers, booleans or fl.null. A table reached twice arrives as two. All else is refused with the
 * path to it in the message. No metamethod runs.
 *
 * The second half is for what adds kinds of its own (parcel). */
#ifndef FL_PACK_H
#define FL_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include <lua.h>

#include "buffer.h"
#include "slice.h"

#define FL_PACK_DEPTH 96

/* Appends the value at `index` to `out`. Returns 0, or UV_EINVAL with a message pushed (`argument
 * 2.user.conn is a function`, where `name` is "argument 2"), or UV_ENOMEM with one when `out`
 * cannot grow; `out` is then cut back to its former size. Raises nothing but Lua's own memory
 * errors.  [-0, +0|1, m] */
int fl_pack_value(lua_State *L, int index, const char *name, fl_buffer *out);

/* Pushes the value that the bytes begin with, and says how many it `used`; or returns UV_EINVAL
 * with a message pushed: the bytes may be anything. A table takes no more room than its bytes
 * can fill. Allocates in the Lua heap only.  [-0, +1, m] */
int fl_unpack_value(lua_State *L, fl_slice bytes, size_t *used);

/* The first byte of a value. */
typedef enum {
    FL_PACK_SMALL = 0x00,  /* 0 … 127: the number itself */
    FL_PACK_SHORT = 0x80,  /* … 0xbf: a string of 0 … 63 bytes */
    FL_PACK_NIL = 0xc0,    /* from here on nothing but the tag */
    FL_PACK_FALSE,         //
    FL_PACK_TRUE,          //
    FL_PACK_NULL,          //
    FL_PACK_POSITIVE,      /* varint */
    FL_PACK_NEGATIVE,      /* varint: the magnitude */
    FL_PACK_DOUBLE,        /* 8 bytes, as the next two */
    FL_PACK_INT64,         //
    FL_PACK_UINT64,        //
    FL_PACK_STRING,        /* varint, bytes */
    FL_PACK_TABLE,         /* counts of list elements and of pairs, 1 byte each; the elements from 1
                              on; the pairs */
    FL_PACK_MARKED,        /* likewise, marked with fl.array */
    FL_PACK_LARGE_TABLE,   /* likewise, the counts in 4 bytes each */
    FL_PACK_LARGE_MARKED,  //
    FL_PACK_SPECIAL = 0xe0 /* and above: the extension's */
} fl_pack_tag;

typedef struct fl_pack_step { /* from a value to what it holds; on the C stack */
    const struct fl_pack_step *up;
    const void *table;   /* that is being packed */
    const char *upvalue; /* instead: name of the upvalue … */
    int index;           /* … of the function there; of the table, where its present key is */
} fl_pack_step;

typedef enum { FL_PACK_REFUSED, FL_PACK_DONE, FL_PACK_PLAIN } fl_pack_verdict;

typedef struct fl_packer fl_packer;
struct fl_packer {
    lua_State *L;
    fl_buffer *out;
    const char *name; /* of what is packed … */
    int number;       /* … and which of them; 0: there is but one */
    /* NULL, or asked first about each table, function, userdata and string of more than `large`
     * bytes on top of the stack; leaves the stack as it is unless it refuses */
    fl_pack_verdict (*special)(fl_packer *packer, int type);
    size_t large;
    const fl_pack_step *path;
    const void *mark; /* the metatable of lists, once it was needed */
    unsigned depth;
    int error;
    size_t said;
    char message[512];
};

void fl_packer_init(fl_packer *packer, lua_State *L, const char *name, fl_buffer *out);

/* Packs the value at `index`. False: `error` and `message` say why, and more may lie on the
 * stack. */
bool fl_packer_value(fl_packer *packer, int index);

/* Packs the value on top of the stack, which stays there, one step further in; `here` needs no
 * `up`. */
bool fl_packer_inner(fl_packer *packer, fl_pack_step *here);

/* Writes the message: the path of the value on top, then `what` (" is a function"). */
bool fl_packer_refuse(fl_packer *packer, const char *what);

void fl_pack_string(fl_buffer *out, fl_slice text);
void fl_pack_size(fl_buffer *out, uint64_t size); /* a varint */

typedef struct fl_unpacker fl_unpacker;
struct fl_unpacker {
    lua_State *L;
    const char *start, *at, *end;
    size_t promised; /* bytes, at least, that tables begun will still need */
    unsigned depth;
    bool (*special)(fl_unpacker *unpacker, uint8_t tag); /* NULL: there are no others */
    int error;
    char message[512];
};

void fl_unpacker_init(fl_unpacker *unpacker, lua_State *L, fl_slice bytes);

/* Pushes one value. False: `error` and `message` say why, and more may lie on the stack. */
bool fl_unpacker_value(fl_unpacker *unpacker);

bool fl_unpacker_byte(fl_unpacker *unpacker, uint8_t *byte);
bool fl_unpacker_size(fl_unpacker *unpacker, uint64_t *size);
bool fl_unpacker_string(fl_unpacker *unpacker, fl_slice *text); /* in the bytes */
bool fl_unpacker_bytes(fl_unpacker *unpacker, uint64_t size, fl_slice *bytes);
bool fl_unpacker_malformed(fl_unpacker *unpacker);

#endif
