#include "values.h"

#include <assert.h>

static void write_tag(fl_buffer *out, fl_value_tag tag)
{
    fl_buffer_byte(out, (char)tag);
}

static void write_fixed(fl_buffer *out, fl_value_tag tag, const void *data, size_t size)
{
    if (!fl_buffer_room(out, size + 1)) return;
    out->data[out->size] = (char)tag;
    memcpy(out->data + out->size + 1, data, size);
    out->size += size + 1;
}

static void write_sized(fl_buffer *out, fl_value_tag tag, fl_slice text)
{
    uint32_t size = (uint32_t)text.size;
    assert(size == text.size);
    if (!fl_buffer_room(out, text.size + sizeof(size) + 1)) return;
    write_fixed(out, tag, &size, sizeof(size));
    fl_buffer_slice(out, text);
}

void fl_values_null(fl_buffer *out)
{
    write_tag(out, FL_VALUE_NULL);
}

void fl_values_bool(fl_buffer *out, bool value)
{
    write_tag(out, value ? FL_VALUE_TRUE : FL_VALUE_FALSE);
}

void fl_values_integer(fl_buffer *out, int64_t value)
{
    write_fixed(out, FL_VALUE_INTEGER, &value, sizeof(value));
}

void fl_values_number(fl_buffer *out, double value)
{
    write_fixed(out, FL_VALUE_NUMBER, &value, sizeof(value));
}

void fl_values_text(fl_buffer *out, fl_slice text)
{
    write_sized(out, FL_VALUE_TEXT, text);
}

void fl_values_json(fl_buffer *out, fl_slice text)
{
    write_sized(out, FL_VALUE_JSON, text);
}

size_t fl_values_begin_json(fl_buffer *out)
{
    write_fixed(out, FL_VALUE_JSON, &(uint32_t){0}, sizeof(uint32_t));
    return out->size;
}

bool fl_values_end_json(fl_buffer *out, size_t at)
{
    size_t size = out->size - at;
    if (size > UINT32_MAX) return false;
    if (out->failed) return true;
    memcpy(out->data + at - sizeof(uint32_t), &(uint32_t){(uint32_t)size}, sizeof(uint32_t));
    return true;
}

void fl_values_list(fl_buffer *out, uint32_t count)
{
    write_fixed(out, FL_VALUE_LIST, &count, sizeof(count));
}

static const char *read_fixed(const char *at, void *data, size_t size)
{
    memcpy(data, at, size);
    return at + size;
}

static const char *read_sized(const char *at, fl_slice *text)
{
    uint32_t size;
    at = read_fixed(at, &size, sizeof(size));
    *text = fl_slice_of(at, size);
    return at + size;
}

fl_value fl_values_read(const char **at)
{
    fl_value value = {.tag = (fl_value_tag) * *at};
    const char *rest = *at + 1;
    switch (value.tag) {
    case FL_VALUE_NULL:
    case FL_VALUE_FALSE:
    case FL_VALUE_TRUE: break;
    case FL_VALUE_INTEGER: rest = read_fixed(rest, &value.integer, sizeof(value.integer)); break;
    case FL_VALUE_NUMBER: rest = read_fixed(rest, &value.number, sizeof(value.number)); break;
    case FL_VALUE_TEXT:
    case FL_VALUE_JSON: rest = read_sized(rest, &value.text); break;
    case FL_VALUE_LIST: rest = read_fixed(rest, &value.count, sizeof(value.count)); break;
    }
    *at = rest;
    return value;
}
