/* utf8: tells text from other bytes (Unicode 15 table 3-7: no surrogates, no overlong forms, up to
 * U+10FFFF), and code points to bytes and back.
 *
 * Pure functions, *any* thread. */
#ifndef FL_UTF8_H
#define FL_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "slice.h"

/* true when the bytes are valid UTF-8 */
bool fl_utf8_valid(fl_slice text);

/* Skips well-formed sequences of more than one byte: returns the first byte that is ASCII or that
 * starts no such sequence, or `end`. */
const uint8_t *fl_utf8_skip(const uint8_t *at, const uint8_t *end);

/* Bytes of the sequence at `at`, of which there is one at least, and its code point; 0 when it is
 * malformed. */
size_t fl_utf8_decode(const uint8_t *at, const uint8_t *end, uint32_t *code);

/* Writes the code point, one to four bytes; returns the place behind it. */
uint8_t *fl_utf8_encode(uint8_t *out, uint32_t code);

#endif
