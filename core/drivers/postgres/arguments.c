#include "arguments.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <uv.h>

#include "number.h"
#include "types.h"
#include "values.h"
#include "wire.h"

enum { AS_TEXT, IN_BINARY, REFUSED };

typedef struct array_writer {
    fl_buffer *out;
    bool is_json; /* its items are JSON: an object is one */
} array_writer;

static void write_value(fl_buffer *out, fl_slice bytes)
{
    fl_pg_write_int32(out, (uint32_t)bytes.size);
    fl_buffer_slice(out, bytes);
}

/* What stands in for the length until it is known, as in fl_pg_begin. */
static size_t begin_value(fl_buffer *out)
{
    size_t began = out->size;
    fl_pg_write_int32(out, 0);
    return began;
}

static void end_value(fl_buffer *out, size_t began)
{
    if (out->failed) return;
    size_t end = out->size, size = end - began - 4;
    if (size > INT32_MAX) {
        out->failed = true;
        return;
    }
    out->size = began;
    fl_pg_write_int32(out, (uint32_t)size);
    out->size = end;
}

static void write_number_text(fl_buffer *out, double number)
{
    if (isnan(number))
        FL_BUFFER_LITERAL(out, "NaN");
    else if (isinf(number))
        fl_buffer_slice(out, number > 0 ? FL_SLICE("Infinity") : FL_SLICE("-Infinity"));
    else
        fl_number_write(out, number);
}

static void write_scalar_text(fl_buffer *out, const fl_value *value)
{
    switch (value->tag) {
    case FL_VALUE_NULL: FL_BUFFER_LITERAL(out, "NULL"); break;
    case FL_VALUE_FALSE: FL_BUFFER_LITERAL(out, "false"); break;
    case FL_VALUE_TRUE: FL_BUFFER_LITERAL(out, "true"); break;
    case FL_VALUE_INTEGER: fl_buffer_printf(out, "%" PRId64, value->integer); break;
    case FL_VALUE_NUMBER: write_number_text(out, value->number); break;
    case FL_VALUE_TEXT:
    case FL_VALUE_JSON: fl_buffer_slice(out, value->text); break;
    case FL_VALUE_LIST: break;
    }
}

/* array literals: {1,NULL,"a \"quoted\" one",{…}} */

static void write_quoted(fl_buffer *out, fl_slice text)
{
    fl_buffer_byte(out, '"');
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] == '"' || text.data[i] == '\\') fl_buffer_byte(out, '\\');
        fl_buffer_byte(out, text.data[i]);
    }
    fl_buffer_byte(out, '"');
}

static void write_list(fl_buffer *out, uint32_t count, const char **at);

static void write_list_item(fl_buffer *out, const char **at)
{
    fl_value value = fl_values_read(at);
    if (value.tag == FL_VALUE_LIST)
        write_list(out, value.count, at);
    else if (value.tag == FL_VALUE_TEXT || value.tag == FL_VALUE_JSON)
        write_quoted(out, value.text);
    else
        write_scalar_text(out, &value);
}

static void write_list(fl_buffer *out, uint32_t count, const char **at)
{
    fl_buffer_byte(out, '{');
    for (uint32_t i = 0; i < count; i++) {
        if (i) fl_buffer_byte(out, ',');
        write_list_item(out, at);
    }
    fl_buffer_byte(out, '}');
}

/* The same from JSON that our own encoder has written: it is well-formed. */

static unsigned hex_of(const char *digits)
{
    unsigned value = 0;
    for (int i = 0; i < 4; i++) {
        char c = fl_lower(digits[i]);
        value = value << 4 | (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return value;
}

static void write_utf8(fl_buffer *out, unsigned code)
{
    if (code < 0x80) {
        if (code == '"' || code == '\\') fl_buffer_byte(out, '\\');
        fl_buffer_byte(out, (char)code);
        return;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char first[] = {0, 0xC0, 0xE0, 0xF0};
    fl_buffer_byte(out, (char)(first[more] | code >> (6 * more)));
    while (more--) fl_buffer_byte(out, (char)(0x80 | (code >> (6 * more) & 0x3F)));
}

static size_t write_unicode(fl_buffer *out, fl_slice json, size_t at)
{
    if (json.size - at < 6) return json.size;
    unsigned code = hex_of(json.data + at + 2);
    bool is_pair = code >> 10 == 0xD800 >> 10 && json.size - at >= 12 && json.data[at + 6] == '\\';
    if (is_pair) code = 0x10000 + ((code & 0x3FF) << 10) + (hex_of(json.data + at + 8) & 0x3FF);
    write_utf8(out, code);
    return at + (is_pair ? 12 : 6);
}

static size_t write_escape(fl_buffer *out, fl_slice json, size_t at)
{
    static const char names[] = "bfnrt", meant[] = "\b\f\n\r\t";
    if (at + 1 >= json.size) return json.size;
    char c = json.data[at + 1];
    if (c == 'u') return write_unicode(out, json, at);
    const char *name = memchr(names, c, sizeof(names) - 1);
    write_utf8(out, name ? (unsigned char)meant[name - names] : (unsigned char)c);
    return at + 2;
}

/* From its quote to behind the other one. */
static size_t write_json_string(fl_buffer *out, fl_slice json, size_t at)
{
    fl_buffer_byte(out, '"');
    for (at++; at < json.size && json.data[at] != '"';) {
        if (json.data[at] == '\\')
            at = write_escape(out, json, at);
        else
            fl_buffer_byte(out, json.data[at++]);
    }
    fl_buffer_byte(out, '"');
    return at + 1;
}

static size_t behind_string(fl_slice json, size_t at)
{
    for (at++; at < json.size && json.data[at] != '"'; at++)
        if (json.data[at] == '\\') at++;
    return at + 1;
}

static size_t behind_object(fl_slice json, size_t at)
{
    size_t depth = 0;
    while (at < json.size) {
        char c = json.data[at];
        if (c == '"') {
            at = behind_string(json, at);
            continue;
        }
        at++;
        if (c == '{' || c == '[') depth++;
        if ((c == '}' || c == ']') && --depth == 0) break;
    }
    return at < json.size ? at : json.size;
}

/* An item that is JSON of its own: an object; in an array of JSON a string, too. */
static size_t write_json_item(fl_buffer *out, fl_slice json, size_t at, size_t end)
{
    if (end > json.size) end = json.size;
    write_quoted(out, fl_slice_of(json.data + at, end - at));
    return end;
}

static size_t write_word(fl_buffer *out, fl_slice json, size_t at)
{
    if (json.data[at] == 'n') {
        FL_BUFFER_LITERAL(out, "NULL");
        return at + 4;
    }
    fl_buffer_byte(out, json.data[at]);
    return at + 1;
}

static void write_json_array(const array_writer *writer, fl_slice json)
{
    for (size_t at = 0; at < json.size;) {
        char c = json.data[at];
        if (c == '[' || c == ']') {
            fl_buffer_byte(writer->out, c == '[' ? '{' : '}');
            at++;
        } else if (c == '{') {
            at = write_json_item(writer->out, json, at, behind_object(json, at));
        } else if (c == '"' && writer->is_json) {
            at = write_json_item(writer->out, json, at, behind_string(json, at));
        } else if (c == '"') {
            at = write_json_string(writer->out, json, at);
        } else {
            at = write_word(writer->out, json, at);
        }
    }
}

/* A table without items may be written as an object. */
static void write_array_of_json(fl_buffer *out, fl_slice json, uint32_t item)
{
    array_writer writer = {out, item == FL_PG_JSON || item == FL_PG_JSONB};
    if (fl_slice_equal(json, FL_SLICE("{}")))
        FL_BUFFER_LITERAL(out, "{}");
    else
        write_json_array(&writer, json);
}

/* binary */

static bool is_whole(double number, int64_t *integer)
{
    if (!(number >= -0x1p63 && number < 0x1p63) || floor(number) != number) return false;
    *integer = (int64_t)number;
    return true;
}

static bool in_range(uint32_t type, int64_t value)
{
    switch (type) {
    case FL_PG_INT2: return value >= INT16_MIN && value <= INT16_MAX;
    case FL_PG_INT4: return value >= INT32_MIN && value <= INT32_MAX;
    case FL_PG_OID: return value >= 0 && value <= UINT32_MAX;
    default: return true;
    }
}

static int write_integer(fl_buffer *out, uint32_t type, const fl_value *value)
{
    int64_t integer = value->tag == FL_VALUE_INTEGER ? value->integer : 0;
    if (value->tag == FL_VALUE_NUMBER && !is_whole(value->number, &integer)) return AS_TEXT;
    if (value->tag != FL_VALUE_INTEGER && value->tag != FL_VALUE_NUMBER) return AS_TEXT;
    if (!in_range(type, integer)) return REFUSED;
    uint32_t size = type == FL_PG_INT2 ? 2 : type == FL_PG_INT8 ? 8 : 4;
    fl_pg_write_int32(out, size);
    if (size == 2)
        fl_pg_write_int16(out, (uint16_t)integer);
    else if (size == 4)
        fl_pg_write_int32(out, (uint32_t)integer);
    else
        fl_pg_write_int64(out, (uint64_t)integer);
    return IN_BINARY;
}

static int write_float(fl_buffer *out, uint32_t type, const fl_value *value)
{
    if (value->tag != FL_VALUE_INTEGER && value->tag != FL_VALUE_NUMBER) return AS_TEXT;
    double number = value->tag == FL_VALUE_INTEGER ? (double)value->integer : value->number;
    float narrow = (float)number;
    uint32_t narrow_bits;
    uint64_t bits;
    memcpy(&narrow_bits, &narrow, sizeof(narrow));
    memcpy(&bits, &number, sizeof(bits));
    if (type == FL_PG_FLOAT4 && isinf(narrow) && !isinf(number)) return REFUSED;
    fl_pg_write_int32(out, type == FL_PG_FLOAT4 ? 4 : 8);
    if (type == FL_PG_FLOAT4)
        fl_pg_write_int32(out, narrow_bits);
    else
        fl_pg_write_int64(out, bits);
    return IN_BINARY;
}

static int write_bool(fl_buffer *out, const fl_value *value)
{
    if (value->tag != FL_VALUE_TRUE && value->tag != FL_VALUE_FALSE) return AS_TEXT;
    write_value(out, fl_slice_of(value->tag == FL_VALUE_TRUE ? "\1" : "\0", 1));
    return IN_BINARY;
}

/* bytea is bytes in binary, and something else in text. */
static int write_bytes(fl_buffer *out, const fl_value *value)
{
    size_t began = begin_value(out);
    write_scalar_text(out, value);
    end_value(out, began);
    return IN_BINARY;
}

static int write_in_binary(fl_buffer *out, uint32_t type, const fl_value *value)
{
    switch (type) {
    case FL_PG_INT2:
    case FL_PG_INT4:
    case FL_PG_INT8:
    case FL_PG_OID: return write_integer(out, type, value);
    case FL_PG_FLOAT4:
    case FL_PG_FLOAT8: return write_float(out, type, value);
    case FL_PG_BOOL: return write_bool(out, value);
    case FL_PG_BYTEA: return write_bytes(out, value);
    default: return AS_TEXT;
    }
}

static void write_as_text(fl_buffer *out, uint32_t type, const fl_value *value, const char **at)
{
    size_t began = begin_value(out);
    uint32_t item = fl_pg_item_of(type);
    if (value->tag == FL_VALUE_LIST)
        write_list(out, value->count, at);
    else if (value->tag == FL_VALUE_JSON && item)
        write_array_of_json(out, value->text, item);
    else
        write_scalar_text(out, value);
    end_value(out, began);
}

/* The format it has been written in, or REFUSED. */
static int write_argument(fl_buffer *out, uint32_t type, const fl_value *value, const char **at)
{
    if (value->tag == FL_VALUE_NULL) {
        fl_pg_write_int32(out, UINT32_MAX);
        return AS_TEXT;
    }
    int format = value->tag == FL_VALUE_LIST ? AS_TEXT : write_in_binary(out, type, value);
    if (format == AS_TEXT) write_as_text(out, type, value, at);
    return format;
}

static int refuse(uint16_t number, uint32_t type, const fl_value *value, char *why, size_t size)
{
    fl_buffer text;
    fl_buffer_init(&text);
    write_scalar_text(&text, value);
    (void)snprintf(why, size, "argument %u is %.*s, which is out of range for type %s", number + 1u,
                   text.failed ? 0 : (int)text.size, text.data, fl_pg_name_of(type));
    fl_buffer_close(&text);
    return UV_EINVAL;
}

static int write_arguments(fl_buffer *out, const fl_pg_bind *bind, char *why, size_t why_size)
{
    size_t formats = out->size + 2;
    const char *at = bind->values;
    fl_pg_write_int16(out, bind->count);
    for (uint16_t i = 0; i < bind->count; i++) fl_pg_write_int16(out, AS_TEXT);
    fl_pg_write_int16(out, bind->count);
    for (uint16_t i = 0; i < bind->count; i++) {
        fl_value value = fl_values_read(&at);
        int format = write_argument(out, bind->types[i], &value, &at);
        if (format == REFUSED) return refuse(i, bind->types[i], &value, why, why_size);
        if (!out->failed) out->data[formats + 2 * i + 1] = (char)format;
    }
    return 0;
}

int fl_pg_write_bind(fl_buffer *out, const fl_pg_bind *bind, char *why, size_t why_size)
{
    size_t began = fl_pg_begin(out, 'B');
    fl_pg_write_string(out, fl_slice_from_string(bind->portal));
    fl_pg_write_string(out, fl_slice_from_string(bind->statement));
    int status = write_arguments(out, bind, why, why_size);
    if (status < 0) {
        out->size = began;
        return status;
    }
    fl_buffer_slice(out, bind->formats);
    fl_pg_end(out, began);
    return 0;
}
