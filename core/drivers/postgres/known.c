#include "known.h"

#include <stdlib.h>
#include <uv.h>

#include "types.h"
#include "values.h"
#include "wire.h"

static int read_parameters(fl_pg_known *known, fl_slice body)
{
    fl_pg_reader reader = fl_pg_reader_of(body);
    known->parameter_count = fl_pg_read_int16(&reader);
    if ((size_t)(reader.end - reader.at) != known->parameter_count * (size_t)4) return UV_EPROTO;
    known->parameters = calloc(known->parameter_count + (size_t)1, sizeof(uint32_t));
    if (!known->parameters) return UV_ENOMEM;
    for (uint16_t i = 0; i < known->parameter_count; i++)
        known->parameters[i] = fl_pg_read_int32(&reader);
    return reader.failed ? UV_EPROTO : 0;
}

static void read_column(fl_pg_known *known, fl_pg_reader *reader, uint16_t number)
{
    fl_values_text(&known->names, fl_pg_read_string(reader));
    (void)fl_pg_read_int32(reader); /* table */
    (void)fl_pg_read_int16(reader); /* its column */
    known->columns[number] = fl_pg_read_int32(reader);
    (void)fl_pg_read_int16(reader); /* the type's size and modifier, the format */
    (void)fl_pg_read_int32(reader);
    (void)fl_pg_read_int16(reader);
    fl_pg_write_int16(&known->formats, fl_pg_is_binary(known->columns[number]));
}

static int read_columns(fl_pg_known *known, fl_slice body)
{
    fl_pg_reader reader = fl_pg_reader_of(body.data ? body : fl_slice_of("\0", 2));
    known->column_count = fl_pg_read_int16(&reader);
    known->columns = calloc(known->column_count + (size_t)1, sizeof(uint32_t));
    if (!known->columns) return UV_ENOMEM;
    fl_pg_write_int16(&known->formats, known->column_count);
    for (uint16_t i = 0; i < known->column_count && !reader.failed; i++)
        read_column(known, &reader, i);
    return reader.failed || reader.at != reader.end ? UV_EPROTO : 0;
}

int fl_pg_known_new(fl_pg_known **out, fl_slice parameters, fl_slice columns)
{
    fl_pg_known *known = calloc(1, sizeof(*known));
    if (!known) return UV_ENOMEM;
    known->references = 1;
    int status = read_parameters(known, parameters);
    if (status == 0) status = read_columns(known, columns);
    if (known->names.failed || known->formats.failed) status = UV_ENOMEM;
    if (status < 0)
        fl_pg_known_release(known);
    else
        *out = known;
    return status;
}

fl_pg_known *fl_pg_known_hold(fl_pg_known *known)
{
    known->references++;
    return known;
}

void fl_pg_known_release(void *data)
{
    fl_pg_known *known = data;
    if (!known || --known->references > 0) return;
    free(known->parameters);
    free(known->columns);
    fl_buffer_close(&known->names);
    fl_buffer_close(&known->formats);
    free(known);
}

void fl_pg_known_keep(fl_pg_known **place, fl_pg_known *known)
{
    fl_pg_known *old = *place;
    *place = known ? fl_pg_known_hold(known) : NULL;
    fl_pg_known_release(old);
}
