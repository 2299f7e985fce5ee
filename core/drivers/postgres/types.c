#include "types.h"

#include <stddef.h>

typedef struct known_type {
    uint32_t type, array;
    const char *name;
} known_type;

/* Text is the same in both formats. */
static const known_type known[] = {{FL_PG_BOOL, 1000, "boolean"},
                                   {FL_PG_BYTEA, 1001, "bytea"},
                                   {FL_PG_CHAR, 1002, "\"char\""},
                                   {FL_PG_NAME, 1003, "name"},
                                   {FL_PG_INT8, 1016, "bigint"},
                                   {FL_PG_INT2, 1005, "smallint"},
                                   {FL_PG_INT4, 1007, "integer"},
                                   {FL_PG_TEXT, 1009, "text"},
                                   {FL_PG_OID, 1028, "oid"},
                                   {FL_PG_JSON, 199, "json"},
                                   {FL_PG_FLOAT4, 1021, "real"},
                                   {FL_PG_FLOAT8, 1022, "double precision"},
                                   {FL_PG_UNKNOWN, 0, "unknown"},
                                   {FL_PG_BPCHAR, 1014, "character"},
                                   {FL_PG_VARCHAR, 1015, "character varying"},
                                   {FL_PG_DATE, 1182, "date"},
                                   {FL_PG_TIME, 1183, "time"},
                                   {FL_PG_TIMESTAMP, 1115, "timestamp"},
                                   {FL_PG_TIMESTAMPTZ, 1185, "timestamp with time zone"},
                                   {FL_PG_NUMERIC, 1231, "numeric"},
                                   {FL_PG_UUID, 2951, "uuid"},
                                   {FL_PG_JSONB, 3807, "jsonb"}};

static const known_type *find(uint32_t type)
{
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (known[i].type == type || (type && known[i].array == type)) return &known[i];
    return NULL;
}

uint32_t fl_pg_item_of(uint32_t type)
{
    const known_type *item = find(type);
    return item && item->type != type ? item->type : 0;
}

bool fl_pg_is_binary(uint32_t type)
{
    return find(type) != NULL;
}

const char *fl_pg_name_of(uint32_t type)
{
    const known_type *item = find(type);
    if (!item) return "another type";
    return item->type == type ? item->name : "an array";
}
