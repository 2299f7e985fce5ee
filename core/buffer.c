#include "buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define SMALLEST 256

void fl_buffer_init(fl_buffer *buffer)
{
    *buffer = (fl_buffer){0};
}

void fl_buffer_close(fl_buffer *buffer)
{
    free(buffer->data);
    *buffer = (fl_buffer){0};
}

bool fl_buffer_grow(fl_buffer *buffer, size_t extra)
{
    if (buffer->failed || extra > SIZE_MAX / 4 - buffer->size) {
        buffer->failed = true;
        return false;
    }
    size_t wanted = buffer->size + extra;
    size_t capacity = buffer->capacity ? buffer->capacity : SMALLEST;
    while (capacity < wanted) capacity *= 2;
    char *data = realloc(buffer->data, capacity);
    if (!data) {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

void fl_buffer_consume(fl_buffer *buffer, size_t count)
{
    if (count == 0) return;
    buffer->size -= count;
    if (buffer->size > 0) memmove(buffer->data, buffer->data + count, buffer->size);
}

void fl_buffer_printf(fl_buffer *buffer, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length > 0 && fl_buffer_room(buffer, (size_t)length + 1)) {
        (void)vsnprintf(buffer->data + buffer->size, (size_t)length + 1, format, again);
        buffer->size += (size_t)length;
    }
    va_end(again);
}

void fl_buffer_number(fl_buffer *buffer, uint64_t number)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    fl_buffer_append(buffer, digits + at, sizeof(digits) - at);
}
