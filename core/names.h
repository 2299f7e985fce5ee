/* names: functions and tables that two Lua states know by the same name: `string.format`, what
 * `require "counter"` returned, a field of it. Such a value crosses as its name.
 *
 * Owner: its border, so one Lua state and that state's thread; open ⇒ close.
 *
 * The sender looks values up in a map made from package.loaded: modules, and their fields one deep.
 * Of the standard library only what was there at fl_names_open has a name: that is what the name
 * means in every state. The map is made anew by fl_names_renew, which says when; beside the names
 * it keeps notes that others make of values which have none, so that one look tells all.
 *
 * The receiver resolves a name with `require`, to what it means there. */
#ifndef FL_NAMES_H
#define FL_NAMES_H

#include <stdbool.h>
#include <stdint.h>

#include <lua.h>

#include "buffer.h"
#include "pack.h"
#include "slice.h"

typedef enum { /* the first byte of a packed name; of two names the lesser one is used */
               FL_NAME_STANDARD = FL_PACK_SPECIAL + 1, /* in the standard library */
               FL_NAME_LOADED,                         /* elsewhere */
               FL_NAME_CALLED /* "module:function": it must be a function */
} fl_name_kind;

typedef struct fl_name {
    fl_name_kind kind;
    fl_slice module, field; /* an empty field: the module itself */
} fl_name;

void fl_name_pack(const fl_name *name, fl_buffer *out);

typedef struct fl_names {
    int loaded, standard, map;           /* tables, by their registry references */
    uint64_t loaded_print, fields_print; /* of package.loaded when `map` was made */
    uint64_t maps;                       /* made since it was opened */
    fl_buffer scratch;
} fl_names;

/* Into a struct of zeroes, which may be closed whatever happens. Once per state, when nothing but
 * the standard library is loaded.  [-0, +0, e] */
void fl_names_open(fl_names *names, lua_State *L);
void fl_names_close(fl_names *names); /* with its state */

typedef enum { FL_KNOWN_NOT, FL_KNOWN_BY_NAME, FL_KNOWN_BY_NOTE, FL_KNOWN_NAMELESS } fl_known_kind;

typedef struct fl_known {
    fl_known_kind kind;
    fl_slice name; /* packed; lives until the map is made anew */
    void *note;    /* the block of the userdata, likewise */
} fl_known;

/* What is known of the value on top.  [-0, +0, -] */
fl_known fl_names_look_up(const fl_names *names, lua_State *L);

/* Takes a note off the top, a userdata, or false for "nameless", about the value below it, until
 * that is collected or the map is made anew.  [-1, +0, m] */
void fl_names_note(const fl_names *names, lua_State *L);

/* Makes the map anew if modules have come or gone since; `thorough`: or if one of their fields has
 * changed. Says whether it did.  [-0, +0, m] */
bool fl_names_renew(fl_names *names, lua_State *L, bool thorough);

/* Pushes what the name means here, loading its module if need be. 0, or UV_EINVAL or UV_ENOMEM with
 * a message pushed.  [-0, +1, m] */
int fl_names_push(const fl_names *names, lua_State *L, const fl_name *name);

#endif
