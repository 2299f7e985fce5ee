#include "wire.h"

#include <uv.h>

#define MESSAGE_MOST ((uint32_t)INT32_MAX)

void fl_pg_write_int16(fl_buffer *out, uint16_t value)
{
    char bytes[] = {(char)(value >> 8), (char)value};
    fl_buffer_append(out, bytes, sizeof(bytes));
}

static void put_int32(char *to, uint32_t value)
{
    for (int i = 0; i < 4; i++) to[i] = (char)(value >> (24 - 8 * i));
}

void fl_pg_write_int32(fl_buffer *out, uint32_t value)
{
    char bytes[4];
    put_int32(bytes, value);
    fl_buffer_append(out, bytes, sizeof(bytes));
}

void fl_pg_write_int64(fl_buffer *out, uint64_t value)
{
    fl_pg_write_int32(out, (uint32_t)(value >> 32));
    fl_pg_write_int32(out, (uint32_t)value);
}

void fl_pg_write_string(fl_buffer *out, fl_slice text)
{
    fl_buffer_slice(out, text);
    fl_buffer_byte(out, '\0');
}

static void write_name(fl_buffer *out, const char *name)
{
    fl_buffer_append(out, name, strlen(name) + 1);
}

size_t fl_pg_begin(fl_buffer *out, char type)
{
    size_t began = out->size;
    char head[FL_PG_HEAD_SIZE] = {type, 0, 0, 0, 0};
    fl_buffer_append(out, head, sizeof(head));
    return began;
}

/* The length counts itself, but not the type. A message that is too long is no message. */
void fl_pg_end(fl_buffer *out, size_t began)
{
    if (out->failed) return;
    size_t size = out->size - began - 1;
    if (size > MESSAGE_MOST)
        out->failed = true;
    else
        put_int32(out->data + began + 1, (uint32_t)size);
}

void fl_pg_write_parse(fl_buffer *out, const char *name, fl_slice text, const uint32_t *types,
                       uint16_t type_count)
{
    size_t began = fl_pg_begin(out, 'P');
    write_name(out, name);
    fl_pg_write_string(out, text);
    fl_pg_write_int16(out, type_count);
    for (uint16_t i = 0; i < type_count; i++) fl_pg_write_int32(out, types[i]);
    fl_pg_end(out, began);
}

static void write_named(fl_buffer *out, char type, char what, const char *name)
{
    size_t began = fl_pg_begin(out, type);
    fl_buffer_byte(out, what);
    write_name(out, name);
    fl_pg_end(out, began);
}

void fl_pg_write_describe(fl_buffer *out, const char *statement)
{
    write_named(out, 'D', 'S', statement);
}

void fl_pg_write_execute(fl_buffer *out, const char *portal, uint32_t most_rows)
{
    size_t began = fl_pg_begin(out, 'E');
    write_name(out, portal);
    fl_pg_write_int32(out, most_rows);
    fl_pg_end(out, began);
}

void fl_pg_write_close(fl_buffer *out, char what, const char *name)
{
    write_named(out, 'C', what, name);
}

void fl_pg_write_query(fl_buffer *out, fl_slice text)
{
    size_t began = fl_pg_begin(out, 'Q');
    fl_pg_write_string(out, text);
    fl_pg_end(out, began);
}

void fl_pg_write_copy_data(fl_buffer *out, fl_slice data)
{
    size_t began = fl_pg_begin(out, 'd');
    fl_buffer_slice(out, data);
    fl_pg_end(out, began);
}

void fl_pg_write_copy_fail(fl_buffer *out, fl_slice why)
{
    size_t began = fl_pg_begin(out, 'f');
    fl_pg_write_string(out, why);
    fl_pg_end(out, began);
}

void fl_pg_write_bare(fl_buffer *out, char type)
{
    fl_pg_end(out, fl_pg_begin(out, type));
}

int fl_pg_message_read(fl_pg_message *out, fl_slice bytes)
{
    *out = (fl_pg_message){0};
    if (bytes.size < FL_PG_HEAD_SIZE) return 0;
    fl_pg_reader reader = fl_pg_reader_of(bytes);
    out->type = (char)fl_pg_read_byte(&reader);
    uint32_t length = fl_pg_read_int32(&reader);
    if (length < 4 || length > MESSAGE_MOST) return UV_EPROTO;
    out->size = (size_t)length + 1;
    if (bytes.size < out->size) return 0;
    out->body = fl_pg_read_bytes(&reader, length - 4);
    return 1;
}

static const char *take(fl_pg_reader *reader, size_t size)
{
    const char *at = reader->at;
    if ((size_t)(reader->end - at) < size) {
        reader->failed = true;
        reader->at = reader->end;
        return NULL;
    }
    reader->at += size;
    return at;
}

static uint64_t take_number(fl_pg_reader *reader, size_t size)
{
    const char *at = take(reader, size);
    uint64_t value = 0;
    for (size_t i = 0; at && i < size; i++) value = value << 8 | (unsigned char)at[i];
    return value;
}

uint8_t fl_pg_read_byte(fl_pg_reader *reader)
{
    return (uint8_t)take_number(reader, 1);
}

uint16_t fl_pg_read_int16(fl_pg_reader *reader)
{
    return (uint16_t)take_number(reader, 2);
}

uint32_t fl_pg_read_int32(fl_pg_reader *reader)
{
    return (uint32_t)take_number(reader, 4);
}

uint64_t fl_pg_read_int64(fl_pg_reader *reader)
{
    return take_number(reader, 8);
}

fl_slice fl_pg_read_string(fl_pg_reader *reader)
{
    size_t room = (size_t)(reader->end - reader->at);
    const char *nul = room ? memchr(reader->at, '\0', room) : NULL;
    if (!nul) {
        (void)take(reader, room + 1);
        return FL_SLICE("");
    }
    size_t size = (size_t)(nul - reader->at);
    return fl_slice_of(take(reader, size + 1), size);
}

fl_slice fl_pg_read_bytes(fl_pg_reader *reader, size_t size)
{
    const char *at = take(reader, size);
    return at ? fl_slice_of(at, size) : FL_SLICE("");
}

fl_slice fl_pg_read_value(fl_pg_reader *reader)
{
    int32_t size = (int32_t)fl_pg_read_int32(reader);
    if (size == -1) return fl_slice_of(NULL, 0);
    if (size < 0) reader->failed = true;
    return fl_pg_read_bytes(reader, size < 0 ? 0 : (size_t)size);
}

static fl_slice *field_of(fl_pg_error *error, char type)
{
    switch (type) {
    case 'S': return &error->severity; /* in the server's language; 'V' follows and is not */
    case 'V': return &error->severity;
    case 'C': return &error->code;
    case 'M': return &error->message;
    case 'D': return &error->detail;
    case 'H': return &error->hint;
    case 't': return &error->table;
    case 'c': return &error->column;
    case 'n': return &error->constraint;
    default: return NULL; /* more may be added; to be passed over */
    }
}

int fl_pg_error_read(fl_pg_error *out, fl_slice body)
{
    *out = (fl_pg_error){0};
    fl_pg_reader reader = fl_pg_reader_of(body);
    for (char type; (type = (char)fl_pg_read_byte(&reader)) != '\0';) {
        fl_slice text = fl_pg_read_string(&reader);
        fl_slice *field = field_of(out, type);
        if (field) *field = text;
    }
    return reader.failed ? UV_EPROTO : 0;
}

uint64_t fl_pg_affected(fl_slice body)
{
    fl_pg_reader reader = fl_pg_reader_of(body);
    fl_slice tag = fl_pg_read_string(&reader);
    uint64_t value = 0, scale = 1;
    for (size_t at = tag.size; at > 0; at--) {
        char c = tag.data[at - 1];
        if (c == ' ') return value;
        if (c < '0' || c > '9') return 0;
        value += (uint64_t)(c - '0') * scale;
        scale *= 10;
    }
    return 0;
}
