/* buffer: the one growable byte buffer. Everything that builds bytes appends here, so that no code
 * computes a length first and copies afterwards.
 *
 * Owner: whoever holds the struct; init ⇒ close. One thread at a time. Pointers into `data` live
 * until the next call that may grow it. A failed allocation sets `failed` and drops what is
 * appended from then on: write freely, look at `failed` once at the end. */
#ifndef FL_BUFFER_H
#define FL_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "slice.h"

typedef struct fl_buffer {
    char *data;
    size_t size;
    size_t capacity;
    bool failed;
} fl_buffer;

void fl_buffer_init(fl_buffer *buffer); /* allocates nothing */
void fl_buffer_close(fl_buffer *buffer);

/* Makes room for `extra` more bytes. Returns false, and sets `failed`, when there is no memory. */
bool fl_buffer_grow(fl_buffer *buffer, size_t extra);

/* Drops the first `count` bytes, moving the rest to the front. */
void fl_buffer_consume(fl_buffer *buffer, size_t count);

void fl_buffer_printf(fl_buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void fl_buffer_number(fl_buffer *buffer, uint64_t number); /* decimal */

/* Empties it; gives the memory back when it holds more than `keep` bytes. */
static inline void fl_buffer_reset(fl_buffer *buffer, size_t keep)
{
    if (buffer->capacity > keep) fl_buffer_close(buffer);
    buffer->size = 0;
    buffer->failed = false;
}

static inline bool fl_buffer_room(fl_buffer *buffer, size_t extra)
{
    return buffer->capacity - buffer->size >= extra || fl_buffer_grow(buffer, extra);
}

static inline void fl_buffer_append(fl_buffer *buffer, const char *data, size_t size)
{
    if (size == 0 || !fl_buffer_room(buffer, size)) return;
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
}

static inline void fl_buffer_slice(fl_buffer *buffer, fl_slice slice)
{
    fl_buffer_append(buffer, slice.data, slice.size);
}

static inline void fl_buffer_byte(fl_buffer *buffer, char byte)
{
    fl_buffer_append(buffer, &byte, 1);
}

#define FL_BUFFER_LITERAL(buffer, literal)                                                         \
    fl_buffer_append((buffer), (literal), sizeof(literal) - 1)

#endif
