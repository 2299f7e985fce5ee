/* columns: what PostgreSQL sends in binary, as values (values.h).
 *
 * Pure functions, *any* thread. The bytes are the server's: what is malformed is refused.
 *
 *   integers and oid → integers; real, double precision → numbers (a real as the shortest decimal
 * that names it); boolean; text of all kinds and bytea → their bytes; json, jsonb → JSON; uuid →
 *   its canonical text; numeric → exact decimal text; arrays → lists, one in another;
 *   date, time, timestamp → ISO 8601 text, with microseconds when there are any; timestamp with
 *   time zone the same in UTC with a `Z`; "infinity" and "-infinity". Years before 1 are counted
 *   as ISO 8601 does: 1 BC is 0000, 2 BC is -0001. */
#ifndef FL_PG_COLUMNS_H
#define FL_PG_COLUMNS_H

#include "buffer.h"
#include "slice.h"
#include "types.h"

/* Appends the value of a column, in binary if fl_pg_is_binary(type), else its text. 0 or UV_EPROTO,
 * which may leave a part behind. */
int fl_pg_column_read(fl_buffer *out, uint32_t type, fl_slice bytes);

#endif
