/* arguments: values (values.h) as parameters of a statement, in the message Bind.
 *
 * Pure functions, *any* thread. In binary where the type of the parameter and the value go
 * together: integers, floats, booleans, text, bytea; as text that the server reads otherwise. A
 * list, or the JSON of one, becomes an array where the parameter is one. */
#ifndef FL_PG_ARGUMENTS_H
#define FL_PG_ARGUMENTS_H

#include <stdint.h>

#include "buffer.h"
#include "slice.h"

typedef struct fl_pg_bind {
    const char *portal, *statement;
    const uint32_t *types; /* of the parameters, `count` of them */
    uint16_t count;
    const char *values; /* as many */
    fl_slice formats;   /* of the columns: their count and the formats, as the message has them */
} fl_pg_bind;

/* Appends Bind. 0, or UV_EINVAL with a message about the argument that does not fit; `out` is then
 * as it was. */
int fl_pg_write_bind(fl_buffer *out, const fl_pg_bind *bind, char *why, size_t why_size);

#endif
