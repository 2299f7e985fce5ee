/* definitions: what a Lua function is called where its source defines it.
 *
 * LuaJIT names a function by the call that runs, and that is the wrong one after a tail call
 * (`return compute(n)`). Owner: who holds the struct; init ⇒ close. One thread at a time; reads
 * files, each once, and waits for them. */
#ifndef FL_DEFINITIONS_H
#define FL_DEFINITIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "buffer.h"

#define FL_DEFINITIONS_FILES 64

typedef struct fl_definitions {
    struct {
        char *path;
        fl_buffer text;
    } files[FL_DEFINITIONS_FILES];
    size_t count;
} fl_definitions;

void fl_definitions_init(fl_definitions *definitions);
void fl_definitions_close(fl_definitions *definitions);

/* The name of the function that begins in that line, from 1: "" for one without. It points into the
 * struct. False: it cannot be told, as when the line has two functions, or has changed. */
bool fl_definitions_find(fl_definitions *definitions, const char *path, unsigned line,
                         fl_slice *name);

/* The same of the line's text. Pure. */
bool fl_definitions_parse(fl_slice line, fl_slice *name);

#endif
