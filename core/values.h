/* values: what SQL databases take and give, as bytes: the arguments of a statement and its rows.
 *
 * Stateless, but for the buffer that is written to or read from. A value is a tag and what follows
 * it, in the machine's byte order; values follow each other without gaps. */
#ifndef FL_VALUES_H
#define FL_VALUES_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "slice.h"

typedef enum {
    FL_VALUE_NULL,
    FL_VALUE_FALSE,
    FL_VALUE_TRUE,
    FL_VALUE_INTEGER, /* int64_t */
    FL_VALUE_NUMBER,  /* double */
    FL_VALUE_TEXT,    /* any bytes */
    FL_VALUE_JSON, /* the text of a JSON value: a table given as argument, a column of that type */
    FL_VALUE_LIST  /* so many values follow: an array of the database's */
} fl_value_tag;

typedef struct fl_value {
    fl_value_tag tag;
    union {
        int64_t integer;
        double number;
        fl_slice text;  /* in the buffer: text, JSON */
        uint32_t count; /* of a list */
    };
} fl_value;

/* Should memory run out, `failed` of the buffer says so. */
void fl_values_null(fl_buffer *out);
void fl_values_bool(fl_buffer *out, bool value);
void fl_values_integer(fl_buffer *out, int64_t value);
void fl_values_number(fl_buffer *out, double value);
void fl_values_text(fl_buffer *out, fl_slice text); /* less than 4 GiB */
void fl_values_json(fl_buffer *out, fl_slice text);
/* The same of a text that is appended to `out` in between; `at` is what begin has returned. end
 * says whether it has less than 4 GiB. */
size_t fl_values_begin_json(fl_buffer *out);
bool fl_values_end_json(fl_buffer *out, size_t at);
void fl_values_list(fl_buffer *out, uint32_t count); /* its values are to follow */

/* Reads the value at `*at` and moves it behind that (behind the head alone of a list). Only for
 * what the functions above have written: `*at` must be before the end. */
fl_value fl_values_read(const char **at);

#endif
