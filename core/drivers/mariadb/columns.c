#include "columns.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BINARY_CHARSET 63
#define NUMBER_SIZE 64

void fl_mariadb_column_read(fl_mariadb_column *column, const MYSQL_FIELD *field)
{
    MARIADB_CONST_STRING format = {NULL, 0};
    column->type = field->type;
    column->is_unsigned = (field->flags & UNSIGNED_FLAG) != 0;
    column->is_bool = field->type == MYSQL_TYPE_TINY && field->length == 1 && !column->is_unsigned;
    column->is_json = field->type == MYSQL_TYPE_JSON;
    if (column->is_json || !field->extension) return;
    if (mariadb_field_attr(&format, field, MARIADB_FIELD_ATTR_FORMAT_NAME) != 0) return;
    column->is_json = format.str && format.length == 4 && memcmp(format.str, "json", 4) == 0;
}

/* numbers */

static uint64_t read_little(const unsigned char *at, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static int64_t extend(uint64_t value, unsigned size)
{
    unsigned shift = 64 - 8 * size;
    return (int64_t)(value << shift) >> shift;
}

static void write_integer(fl_buffer *out, uint64_t value, bool is_unsigned)
{
    char text[NUMBER_SIZE];
    if (!is_unsigned || value <= INT64_MAX) {
        fl_values_integer(out, (int64_t)value);
        return;
    }
    int size = snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    fl_values_text(out, fl_slice_of(text, (size_t)size));
}

/* The number that is written shortest of all that are this one in single precision. */
static double widen(float value)
{
    char text[NUMBER_SIZE];
    for (int digits = 6; digits < 9; digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) return strtod(text, NULL);
    }
    return (double)value;
}

static void write_float(fl_buffer *out, const unsigned char *at)
{
    uint32_t bits = (uint32_t)read_little(at, 4);
    float value;
    memcpy(&value, &bits, sizeof(value));
    fl_values_number(out, widen(value));
}

static void write_double(fl_buffer *out, const unsigned char *at)
{
    uint64_t bits = read_little(at, 8);
    double value;
    memcpy(&value, &bits, sizeof(value));
    fl_values_number(out, value);
}

static void write_bits(fl_buffer *out, fl_slice bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes.size; i++) value = value << 8 | (unsigned char)bytes.data[i];
    write_integer(out, value, true);
}

/* times: of the server's session, which is in UTC */

static int write_fraction(char *text, size_t size, unsigned microseconds)
{
    return microseconds ? snprintf(text, size, ".%06u", microseconds) : 0;
}

static size_t write_day(char *text, size_t size, const unsigned char *at, size_t given)
{
    unsigned year = given >= 4 ? (unsigned)read_little(at, 2) : 0;
    int written = snprintf(text, size, "%04u-%02u-%02u", year, given >= 4 ? at[2] : 0U,
                           given >= 4 ? at[3] : 0U);
    return (size_t)written;
}

/* A date that is none, such as 0000-00-00, is left as the database writes it. */
static bool is_date(const unsigned char *at, size_t given)
{
    return given >= 4 && at[2] && at[3];
}

static void write_date(fl_buffer *out, const unsigned char *at, size_t given)
{
    char text[NUMBER_SIZE];
    fl_values_text(out, fl_slice_of(text, write_day(text, sizeof(text), at, given)));
}

static void write_moment(fl_buffer *out, const unsigned char *at, size_t given)
{
    char text[NUMBER_SIZE];
    bool real = is_date(at, given);
    size_t size = write_day(text, sizeof(text), at, given);
    size +=
        (size_t)snprintf(text + size, sizeof(text) - size, "%c%02u:%02u:%02u", real ? 'T' : ' ',
                         given >= 7 ? at[4] : 0U, given >= 7 ? at[5] : 0U, given >= 7 ? at[6] : 0U);
    size += (size_t)write_fraction(text + size, sizeof(text) - size,
                                   given >= 11 ? (unsigned)read_little(at + 7, 4) : 0);
    if (real) text[size++] = 'Z';
    fl_values_text(out, fl_slice_of(text, size));
}

static void write_time(fl_buffer *out, const unsigned char *at, size_t given)
{
    char text[NUMBER_SIZE];
    bool any = given >= 8;
    unsigned long hours = any ? read_little(at + 1, 4) * 24 + at[5] : 0;
    size_t size = (size_t)snprintf(text, sizeof(text), "%s%02lu:%02u:%02u", any && at[0] ? "-" : "",
                                   hours, any ? at[6] : 0U, any ? at[7] : 0U);
    size += (size_t)write_fraction(text + size, sizeof(text) - size,
                                   given >= 12 ? (unsigned)read_little(at + 8, 4) : 0);
    fl_values_text(out, fl_slice_of(text, size));
}

/* the binary protocol */

static unsigned fixed_size(enum enum_field_types type)
{
    switch ((int)type) {
    case MYSQL_TYPE_TINY: return 1;
    case MYSQL_TYPE_SHORT:
    case MYSQL_TYPE_YEAR: return 2;
    case MYSQL_TYPE_INT24:
    case MYSQL_TYPE_LONG:
    case MYSQL_TYPE_FLOAT: return 4;
    case MYSQL_TYPE_LONGLONG:
    case MYSQL_TYPE_DOUBLE: return 8;
    default: return 0;
    }
}

static void write_fixed(const fl_mariadb_column *column, fl_buffer *out, const unsigned char *at,
                        unsigned size)
{
    uint64_t value = read_little(at, size);
    if (column->type == MYSQL_TYPE_FLOAT)
        write_float(out, at);
    else if (column->type == MYSQL_TYPE_DOUBLE)
        write_double(out, at);
    else if (column->is_bool && value <= 1)
        fl_values_bool(out, value == 1);
    else if (column->is_unsigned || column->type == MYSQL_TYPE_YEAR)
        write_integer(out, value, true);
    else
        fl_values_integer(out, extend(value, size));
}

static void write_bytes(const fl_mariadb_column *column, fl_buffer *out, fl_slice bytes)
{
    if (bytes.size > UINT32_MAX) bytes.size = UINT32_MAX;
    if (column->is_json)
        fl_values_json(out, bytes);
    else
        fl_values_text(out, bytes);
}

static void write_sized(const fl_mariadb_column *column, fl_buffer *out, const unsigned char *at,
                        size_t size)
{
    fl_slice bytes = fl_slice_of((const char *)at, size);
    switch ((int)column->type) {
    case MYSQL_TYPE_DATE:
    case MYSQL_TYPE_NEWDATE: write_date(out, at, size); return;
    case MYSQL_TYPE_DATETIME:
    case MYSQL_TYPE_DATETIME2:
    case MYSQL_TYPE_TIMESTAMP:
    case MYSQL_TYPE_TIMESTAMP2: write_moment(out, at, size); return;
    case MYSQL_TYPE_TIME:
    case MYSQL_TYPE_TIME2: write_time(out, at, size); return;
    case MYSQL_TYPE_BIT: write_bits(out, bytes); return;
    default: write_bytes(column, out, bytes); return;
    }
}

/* A length as MySQL's protocol encodes it. */
static size_t read_length(unsigned char **at)
{
    const unsigned char *head = *at;
    unsigned size = head[0] < 251 ? 0 : head[0] == 252 ? 2 : head[0] == 253 ? 3 : 8;
    *at += 1 + size;
    if (head[0] == 251) return 0;
    return size ? (size_t)read_little(head + 1, size) : head[0];
}

void fl_mariadb_column_binary(const fl_mariadb_column *column, fl_buffer *out, unsigned char **at)
{
    if (column->type == MYSQL_TYPE_NULL) {
        if (out) fl_values_null(out);
        return;
    }
    size_t size = fixed_size(column->type);
    bool is_fixed = size != 0;
    if (!is_fixed) size = read_length(at);
    if (out && is_fixed)
        write_fixed(column, out, *at, (unsigned)size);
    else if (out)
        write_sized(column, out, *at, size);
    *at += size;
}

/* the text protocol: "2024-05-01 10:00:00.500000" */

static void write_moment_text(fl_buffer *out, fl_slice text)
{
    char copy[NUMBER_SIZE];
    if (text.size < 19 || text.size > 32 || memcmp(text.data + 5, "00", 2) == 0 ||
        memcmp(text.data + 8, "00", 2) == 0) {
        fl_values_text(out, text);
        return;
    }
    size_t size = text.size;
    memcpy(copy, text.data, size);
    copy[10] = 'T';
    if (strspn(copy + 19, ".0") >= size - 19) size = 19;
    copy[size++] = 'Z';
    fl_values_text(out, fl_slice_of(copy, size));
}

static void write_number_text(const fl_mariadb_column *column, fl_buffer *out, const char *text)
{
    if (column->type == MYSQL_TYPE_FLOAT || column->type == MYSQL_TYPE_DOUBLE)
        fl_values_number(out, strtod(text, NULL));
    else if (column->is_bool && (strcmp(text, "0") == 0 || strcmp(text, "1") == 0))
        fl_values_bool(out, text[0] == '1');
    else if (column->is_unsigned)
        write_integer(out, strtoull(text, NULL, 10), true);
    else
        fl_values_integer(out, strtoll(text, NULL, 10));
}

void fl_mariadb_column_text(const fl_mariadb_column *column, fl_buffer *out, fl_slice text)
{
    char number[NUMBER_SIZE] = "";
    if (fixed_size(column->type)) {
        memcpy(number, text.data, text.size < sizeof(number) ? text.size : sizeof(number) - 1);
        write_number_text(column, out, number);
    } else if (column->type == MYSQL_TYPE_DATETIME || column->type == MYSQL_TYPE_TIMESTAMP) {
        write_moment_text(out, text);
    } else if (column->type == MYSQL_TYPE_BIT) {
        write_bits(out, text);
    } else {
        write_bytes(column, out, text);
    }
}
