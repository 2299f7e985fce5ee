/* json_string: the bytes of JSON's strings: which of them stand for themselves, and writing one.
 *
 * Pure functions, *any* thread. */
#ifndef FL_JSON_STRING_H
#define FL_JSON_STRING_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "slice.h"

/* ASCII that needs no escape */
static inline bool fl_json_is_plain(uint8_t byte)
{
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

/* The first byte a JSON string cannot hold as it is: a quote, a backslash, a control character or
 * one that starts no valid UTF-8 sequence; or `end`. */
const uint8_t *fl_json_string_stop(const uint8_t *at, const uint8_t *end);

/* Appends the text between quotes, escaped. False, with half of it appended, for invalid UTF-8. */
bool fl_json_string_write(fl_buffer *out, fl_slice text);

#endif
