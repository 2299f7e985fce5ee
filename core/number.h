/* number: doubles and 64-bit integers as decimal text and back, exactly and in every locale.
 *
 * The text is that of RFC 8259 section 6. Writing takes the fewest digits that read back as the
 * same number (17 at most); reading gives the double that is nearest. Pure functions, *any* thread.
 */
#ifndef FL_NUMBER_H
#define FL_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "slice.h"

#define FL_NUMBER_EXACT (INT64_C(1) << 53) /* up to here a double holds every integer */

typedef struct fl_number {
    bool is_int64;   /* a whole number beyond 2^53 that an int64 holds: `integer`, not `value` */
    int64_t integer; /* if so */
    double value;    /* if not */
    const char *end; /* behind the number; of a malformed one the byte that is wrong */
    const char *problem; /* of a malformed one */
} fl_number;

/* Appends a finite number: without a fraction up to 2^53 as an integer, else with a point or an
 * exponent, so that it is no int64 when read back. */
void fl_number_write(fl_buffer *out, double number);

/* Reads the number that `text` begins with; what follows is the caller's to judge. False when it is
 * malformed or beyond a double's range (then `end` is where it begins). */
bool fl_number_read(fl_slice text, fl_number *number);

#endif
