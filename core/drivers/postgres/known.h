/* known: what PostgreSQL has told of a statement: the types of its parameters and its columns.
 *
 * Reference-counted, by the state's thread alone: the statement (statements.h) holds what was
 * learned last, what has been prepared and queries under way hold what they go by. */
#ifndef FL_PG_KNOWN_H
#define FL_PG_KNOWN_H

#include <stdint.h>

#include "buffer.h"
#include "slice.h"

typedef struct fl_pg_known {
    unsigned references;
    uint16_t parameter_count, column_count;
    uint32_t *parameters, *columns; /* types */
    fl_buffer names;                /* of the columns: values, all text */
    fl_buffer formats;              /* for Bind */
    uint64_t confirmed;             /* ns: it was asked for anew and came out the same; 0: never */
    uint64_t schema;                /* what `schemas` of the database was then */
} fl_pg_known;

/* From the bodies of ParameterDescription and RowDescription (data NULL: it gives no rows).
 * 0, UV_EPROTO or UV_ENOMEM. */
int fl_pg_known_new(fl_pg_known **out, fl_slice parameters, fl_slice columns);
fl_pg_known *fl_pg_known_hold(fl_pg_known *known);
void fl_pg_known_release(void *known); /* NULL: nothing */
/* Instead of what is there; either may be NULL. */
void fl_pg_known_keep(fl_pg_known **place, fl_pg_known *known);

#endif
