/* types: those of PostgreSQL that the driver knows, by the numbers (OIDs) that they have in every
 * server (pg_type.dat), and what becomes of their values. */
#ifndef FL_PG_TYPES_H
#define FL_PG_TYPES_H

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    FL_PG_BOOL = 16,
    FL_PG_BYTEA = 17,
    FL_PG_CHAR = 18,
    FL_PG_NAME = 19,
    FL_PG_INT8 = 20,
    FL_PG_INT2 = 21,
    FL_PG_INT4 = 23,
    FL_PG_TEXT = 25,
    FL_PG_OID = 26,
    FL_PG_JSON = 114,
    FL_PG_FLOAT4 = 700,
    FL_PG_FLOAT8 = 701,
    FL_PG_UNKNOWN = 705,
    FL_PG_BPCHAR = 1042,
    FL_PG_VARCHAR = 1043,
    FL_PG_DATE = 1082,
    FL_PG_TIME = 1083,
    FL_PG_TIMESTAMP = 1114,
    FL_PG_TIMESTAMPTZ = 1184,
    FL_PG_NUMERIC = 1700,
    FL_PG_UUID = 2950,
    FL_PG_JSONB = 3802
} fl_pg_type;

/* The type of an array's items; 0: it is no array whose items we know. */
uint32_t fl_pg_item_of(uint32_t type);
/* Whether its values are asked for in binary; what is not comes as the server writes it. */
bool fl_pg_is_binary(uint32_t type);
const char *fl_pg_name_of(uint32_t type); /* for messages */

#endif
