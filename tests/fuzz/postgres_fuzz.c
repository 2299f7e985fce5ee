/* Any bytes are read as what a server sends: message after message, and each as all that it may
 * be. What is taken for a value reads as one, to its end. */
#include "drivers/postgres/columns.h"
#include "drivers/postgres/known.h"
#include "drivers/postgres/wire.h"
#include "fuzz.h"
#include "values.h"

static const uint32_t types[] = {FL_PG_BOOL,
                                 FL_PG_INT2,
                                 FL_PG_INT4,
                                 FL_PG_INT8,
                                 FL_PG_OID,
                                 FL_PG_FLOAT4,
                                 FL_PG_FLOAT8,
                                 FL_PG_TEXT,
                                 FL_PG_JSON,
                                 FL_PG_JSONB,
                                 FL_PG_UUID,
                                 FL_PG_DATE,
                                 FL_PG_TIMESTAMP,
                                 FL_PG_TIMESTAMPTZ,
                                 FL_PG_TIME,
                                 FL_PG_NUMERIC,
                                 1005,
                                 1009,
                                 1231,
                                 3807};

static void read_back(const char **at, const char *end, int depth)
{
    demand(*at < end && depth < 8);
    fl_value value = fl_values_read(at);
    demand(*at <= end);
    if (value.tag != FL_VALUE_LIST) return;
    for (uint32_t i = 0; i < value.count; i++) read_back(at, end, depth + 1);
}

static void read_column(fl_slice bytes, uint32_t type)
{
    fl_buffer out;
    fl_buffer_init(&out);
    if (fl_pg_column_read(&out, type, bytes) == 0 && !out.failed) {
        const char *at = out.data;
        read_back(&at, out.data + out.size, 0);
        demand(at == out.data + out.size);
    }
    fl_buffer_close(&out);
}

static void read_row(fl_slice body)
{
    fl_pg_reader reader = fl_pg_reader_of(body);
    uint16_t count = fl_pg_read_int16(&reader);
    for (uint16_t i = 0; i < count && !reader.failed; i++) {
        fl_slice value = fl_pg_read_value(&reader);
        if (!value.data || reader.failed) continue;
        read_column(value, types[i % (sizeof(types) / sizeof(*types))]);
    }
}

static void read_description(fl_slice body)
{
    fl_pg_known *known;
    if (fl_pg_known_new(&known, FL_SLICE("\0\0"), body) == 0) fl_pg_known_release(known);
    if (fl_pg_known_new(&known, body, FL_SLICE("\0\0")) == 0) fl_pg_known_release(known);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fl_slice rest = fl_slice_of((const char *)data, size);
    fl_pg_message message;
    while (fl_pg_message_read(&message, rest) > 0) {
        fl_pg_error error;
        demand(message.size > 0 && message.size <= rest.size);
        (void)fl_pg_error_read(&error, message.body);
        (void)fl_pg_affected(message.body);
        read_row(message.body);
        read_description(message.body);
        for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
            read_column(message.body, types[i]);
        rest = fl_slice_of(rest.data + message.size, rest.size - message.size);
    }
    return 0;
}
