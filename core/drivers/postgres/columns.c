#include "columns.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "values.h"
#include "wire.h"

#define DIMENSIONS_MOST 6
#define SECOND INT64_C(1000000) /* in µs, PostgreSQL's unit */
#define DAY (86400 * SECOND)
#define EPOCH_DAYS 10957 /* 2000-01-01 in days from 1970-01-01 */
#define NUMERIC_NEGATIVE 0x4000
#define NUMERIC_NAN 0xC000
#define NUMERIC_INFINITY 0xD000
#define NUMERIC_MINUS_INFINITY 0xF000
#define NUMERIC_SCALE_MOST 0x3FFF

static void put_text(fl_buffer *out, const char *text)
{
    fl_values_text(out, fl_slice_from_string(text));
}

static int read_integer(fl_buffer *out, fl_slice bytes, size_t size)
{
    if (bytes.size != size) return UV_EPROTO;
    fl_pg_reader reader = fl_pg_reader_of(bytes);
    if (size == 2)
        fl_values_integer(out, (int16_t)fl_pg_read_int16(&reader));
    else if (size == 4)
        fl_values_integer(out, (int32_t)fl_pg_read_int32(&reader));
    else
        fl_values_integer(out, (int64_t)fl_pg_read_int64(&reader));
    return 0;
}

static int read_oid(fl_buffer *out, fl_slice bytes)
{
    if (bytes.size != 4) return UV_EPROTO;
    fl_pg_reader reader = fl_pg_reader_of(bytes);
    fl_values_integer(out, (int64_t)fl_pg_read_int32(&reader));
    return 0;
}

static int read_bool(fl_buffer *out, fl_slice bytes)
{
    if (bytes.size != 1) return UV_EPROTO;
    fl_values_bool(out, bytes.data[0] != 0);
    return 0;
}

/* 0.1, not 0.10000000149011612. */
static double widen(float value)
{
    char digits[32];
    if (!isfinite(value)) return (double)value;
    for (int precision = 6; precision < 9; precision++) {
        (void)snprintf(digits, sizeof(digits), "%.*g", precision, (double)value);
        if (strtof(digits, NULL) == value) return strtod(digits, NULL);
    }
    (void)snprintf(digits, sizeof(digits), "%.9g", (double)value);
    return strtod(digits, NULL);
}

static int read_float4(fl_buffer *out, fl_slice bytes)
{
    if (bytes.size != 4) return UV_EPROTO;
    fl_pg_reader reader = fl_pg_reader_of(bytes);
    uint32_t bits = fl_pg_read_int32(&reader);
    float value;
    memcpy(&value, &bits, sizeof(value));
    fl_values_number(out, widen(value));
    return 0;
}

static int read_float8(fl_buffer *out, fl_slice bytes)
{
    if (bytes.size != 8) return UV_EPROTO;
    fl_pg_reader reader = fl_pg_reader_of(bytes);
    uint64_t bits = fl_pg_read_int64(&reader);
    double value;
    memcpy(&value, &bits, sizeof(value));
    fl_values_number(out, value);
    return 0;
}

static int read_jsonb(fl_buffer *out, fl_slice bytes)
{
    if (bytes.size < 1 || bytes.data[0] != 1) return UV_EPROTO;
    fl_values_json(out, fl_slice_of(bytes.data + 1, bytes.size - 1));
    return 0;
}

static int read_uuid(fl_buffer *out, fl_slice bytes)
{
    static const char digits[] = "0123456789abcdef";
    char text[36];
    size_t at = 0;
    if (bytes.size != 16) return UV_EPROTO;
    for (size_t i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text[at++] = '-';
        text[at++] = digits[(unsigned char)bytes.data[i] >> 4];
        text[at++] = digits[(unsigned char)bytes.data[i] & 15];
    }
    fl_values_text(out, fl_slice_of(text, sizeof(text)));
    return 0;
}

/* dates and times */

typedef struct civil_date {
    int64_t year;
    int month, day;
} civil_date;

/* Of days since 1970-01-01 in the Gregorian calendar: H. Hinnant, "chrono-Compatible Low-Level Date
 * Algorithms". Years there begin in March. */
static civil_date civil_of(int64_t days)
{
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    int64_t in_era = days - era * 146097;
    int64_t year = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
    int64_t in_year = in_era - (365 * year + year / 4 - year / 100);
    int month = (int)((5 * in_year + 2) / 153);
    civil_date date = {.day = (int)(in_year - (153 * month + 2) / 5) + 1,
                       .month = month < 10 ? month + 3 : month - 9};
    date.year = year + era * 400 + (date.month <= 2);
    return date;
}

static void print_date(char *text, size_t size, int64_t days)
{
    civil_date date = civil_of(days + EPOCH_DAYS);
    (void)snprintf(text, size, "%s%04" PRId64 "-%02d-%02d", date.year < 0 ? "-" : "",
                   date.year < 0 ? -date.year : date.year, date.month, date.day);
}

static void print_time(char *text, size_t size, int64_t time)
{
    int64_t seconds = time / SECOND, rest = time % SECOND;
    int used = snprintf(text, size, "%02d:%02d:%02d", (int)(seconds / 3600),
                        (int)(seconds / 60 % 60), (int)(seconds % 60));
    if (rest && used > 0) (void)snprintf(text + used, size - (size_t)used, ".%06d", (int)rest);
}

static int read_date(fl_buffer *out, fl_slice bytes)
{
    char text[40];
    if (bytes.size != 4) return UV_EPROTO;
    fl_pg_reader reader = fl_pg_reader_of(bytes);
    int32_t days = (int32_t)fl_pg_read_int32(&reader);
    print_date(text, sizeof(text), days);
    put_text(out, days == INT32_MAX ? "infinity" : days == INT32_MIN ? "-infinity" : text);
    return 0;
}

static int read_time(fl_buffer *out, fl_slice bytes)
{
    char text[32];
    if (bytes.size != 8) return UV_EPROTO;
    fl_pg_reader reader = fl_pg_reader_of(bytes);
    int64_t time = (int64_t)fl_pg_read_int64(&reader);
    if (time < 0 || time > DAY) return UV_EPROTO;
    print_time(text, sizeof(text), time);
    put_text(out, text);
    return 0;
}

static void print_timestamp(char *text, size_t size, int64_t at, const char *zone)
{
    char date[40], time[32];
    int64_t days = at / DAY, rest = at % DAY;
    if (rest < 0) {
        days--;
        rest += DAY;
    }
    print_date(date, sizeof(date), days);
    print_time(time, sizeof(time), rest);
    (void)snprintf(text, size, "%sT%s%s", date, time, zone);
}

static int read_timestamp(fl_buffer *out, fl_slice bytes, const char *zone)
{
    char text[80];
    if (bytes.size != 8) return UV_EPROTO;
    fl_pg_reader reader = fl_pg_reader_of(bytes);
    int64_t at = (int64_t)fl_pg_read_int64(&reader);
    print_timestamp(text, sizeof(text), at, zone);
    put_text(out, at == INT64_MAX ? "infinity" : at == INT64_MIN ? "-infinity" : text);
    return 0;
}

/* numeric: groups of four decimal digits, the first of which has `weight` groups between itself and
 * the point; `scale` digits are shown behind it. */

typedef struct numeric {
    int groups, weight, scale;
    unsigned sign;
    fl_pg_reader digits;
} numeric;

static unsigned next_group(numeric *number, int place)
{
    int at = number->weight - place;
    return at >= 0 && at < number->groups ? fl_pg_read_int16(&number->digits) : 0;
}

static void print_numeric(fl_buffer *out, numeric *number)
{
    char group[8];
    if (number->sign == NUMERIC_NEGATIVE) fl_buffer_byte(out, '-');
    for (int place = number->weight < 0 ? 0 : number->weight; place >= 0; place--) {
        bool is_first = place == (number->weight < 0 ? 0 : number->weight);
        (void)snprintf(group, sizeof(group), is_first ? "%u" : "%04u", next_group(number, place));
        fl_buffer_slice(out, fl_slice_from_string(group));
    }
    if (number->scale) fl_buffer_byte(out, '.');
    for (int shown = 0, place = -1; shown < number->scale; shown += 4, place--) {
        (void)snprintf(group, sizeof(group), "%04u", next_group(number, place));
        int rest = number->scale - shown;
        fl_buffer_append(out, group, rest < 4 ? (size_t)rest : 4);
    }
}

static bool is_numeric(const numeric *number, size_t left)
{
    if (number->groups < 0 || left != (size_t)number->groups * 2) return false;
    if (number->scale > NUMERIC_SCALE_MOST) return false;
    fl_pg_reader digits = number->digits;
    for (int i = 0; i < number->groups; i++)
        if (fl_pg_read_int16(&digits) > 9999) return false;
    return true;
}

static int read_finite(fl_buffer *out, numeric *number)
{
    fl_buffer text;
    fl_buffer_init(&text);
    print_numeric(&text, number);
    if (text.failed)
        out->failed = true;
    else
        fl_values_text(out, fl_slice_of(text.data, text.size));
    fl_buffer_close(&text);
    return 0;
}

static int read_numeric(fl_buffer *out, fl_slice bytes)
{
    fl_pg_reader reader = fl_pg_reader_of(bytes);
    numeric number = {.groups = (int16_t)fl_pg_read_int16(&reader)};
    number.weight = (int16_t)fl_pg_read_int16(&reader);
    number.sign = fl_pg_read_int16(&reader);
    number.scale = fl_pg_read_int16(&reader);
    number.digits = reader;
    if (reader.failed || !is_numeric(&number, (size_t)(reader.end - reader.at))) return UV_EPROTO;
    switch (number.sign) {
    case 0:
    case NUMERIC_NEGATIVE: return read_finite(out, &number);
    case NUMERIC_NAN: put_text(out, "NaN"); return 0;
    case NUMERIC_INFINITY: put_text(out, "Infinity"); return 0;
    case NUMERIC_MINUS_INFINITY: put_text(out, "-Infinity"); return 0;
    default: return UV_EPROTO;
    }
}

/* arrays */

static int read_item(fl_buffer *out, uint32_t type, fl_pg_reader *reader)
{
    fl_slice bytes = fl_pg_read_value(reader);
    if (reader->failed) return UV_EPROTO;
    if (bytes.data) return fl_pg_column_read(out, type, bytes);
    fl_values_null(out);
    return 0;
}

static int read_dimension(fl_buffer *out, uint32_t type, fl_pg_reader *reader,
                          const uint32_t *sizes, unsigned count)
{
    int status = 0;
    fl_values_list(out, *sizes);
    for (uint32_t i = 0; i < *sizes && status == 0 && !out->failed; i++)
        status = count == 1 ? read_item(out, type, reader)
                            : read_dimension(out, type, reader, sizes + 1, count - 1);
    return status;
}

/* Each item takes four bytes at least: what has more of them than that is not believed. */
static int read_sizes(fl_pg_reader *reader, uint32_t *sizes, uint32_t count)
{
    uint64_t items = 1;
    for (uint32_t i = 0; i < count; i++) {
        sizes[i] = fl_pg_read_int32(reader);
        (void)fl_pg_read_int32(reader); /* the first index */
        if (sizes[i] == 0 || sizes[i] > INT32_MAX) return UV_EPROTO;
        items *= sizes[i];
        if (items > (size_t)(reader->end - reader->at) / 4) return UV_EPROTO;
    }
    return reader->failed ? UV_EPROTO : 0;
}

static int read_array(fl_buffer *out, uint32_t type, fl_slice bytes)
{
    uint32_t sizes[DIMENSIONS_MOST];
    fl_pg_reader reader = fl_pg_reader_of(bytes);
    uint32_t count = fl_pg_read_int32(&reader);
    (void)fl_pg_read_int32(&reader); /* whether there are NULLs */
    if (fl_pg_read_int32(&reader) != type || count > DIMENSIONS_MOST) return UV_EPROTO;
    if (read_sizes(&reader, sizes, count) < 0) return UV_EPROTO;
    if (count == 0) {
        fl_values_list(out, 0);
        return reader.failed || reader.at != reader.end ? UV_EPROTO : 0;
    }
    int status = read_dimension(out, type, &reader, sizes, count);
    return status == 0 && reader.at != reader.end && !out->failed ? UV_EPROTO : status;
}

int fl_pg_column_read(fl_buffer *out, uint32_t type, fl_slice bytes)
{
    switch (type) {
    case FL_PG_BOOL: return read_bool(out, bytes);
    case FL_PG_INT2: return read_integer(out, bytes, 2);
    case FL_PG_INT4: return read_integer(out, bytes, 4);
    case FL_PG_INT8: return read_integer(out, bytes, 8);
    case FL_PG_OID: return read_oid(out, bytes);
    case FL_PG_FLOAT4: return read_float4(out, bytes);
    case FL_PG_FLOAT8: return read_float8(out, bytes);
    case FL_PG_JSON: fl_values_json(out, bytes); return 0;
    case FL_PG_JSONB: return read_jsonb(out, bytes);
    case FL_PG_UUID: return read_uuid(out, bytes);
    case FL_PG_DATE: return read_date(out, bytes);
    case FL_PG_TIME: return read_time(out, bytes);
    case FL_PG_TIMESTAMP: return read_timestamp(out, bytes, "");
    case FL_PG_TIMESTAMPTZ: return read_timestamp(out, bytes, "Z");
    case FL_PG_NUMERIC: return read_numeric(out, bytes);
    case FL_PG_TEXT:
    case FL_PG_VARCHAR: fl_values_text(out, bytes); return 0;
    default: break;
    }
    uint32_t item = fl_pg_item_of(type);
    if (item) return read_array(out, item, bytes);
    fl_values_text(out, bytes);
    return 0;
}
