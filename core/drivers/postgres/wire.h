/* wire: the messages of PostgreSQL's protocol, version 3.0, as bytes (chapter 55 of its manual).
 *
 * Pure functions, *any* thread: no sockets, no state. What is read came from the network: every
 * length and count is checked, and a reader that ran past its end has `failed` and gives zeros. */
#ifndef FL_PG_WIRE_H
#define FL_PG_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "slice.h"

#define FL_PG_HEAD_SIZE 5

/* Writing. Should memory run out, `failed` of the buffer says so. */

void fl_pg_write_int16(fl_buffer *out, uint16_t value);
void fl_pg_write_int32(fl_buffer *out, uint32_t value);
void fl_pg_write_int64(fl_buffer *out, uint64_t value);
void fl_pg_write_string(fl_buffer *out, fl_slice text); /* with a NUL behind */

/* A message of any kind: what it begins at is to be given to _end. */
size_t fl_pg_begin(fl_buffer *out, char type);
void fl_pg_end(fl_buffer *out, size_t began);

void fl_pg_write_parse(fl_buffer *out, const char *name, fl_slice text, const uint32_t *types,
                       uint16_t type_count);
void fl_pg_write_describe(fl_buffer *out, const char *statement);
void fl_pg_write_execute(fl_buffer *out, const char *portal, uint32_t most_rows); /* 0: all */
void fl_pg_write_close(fl_buffer *out, char what, const char *name); /* 'S'tatement, 'P'ortal */
void fl_pg_write_query(fl_buffer *out, fl_slice text);               /* the simple protocol */
void fl_pg_write_copy_data(fl_buffer *out, fl_slice data);
void fl_pg_write_copy_fail(fl_buffer *out, fl_slice why);
void fl_pg_write_bare(fl_buffer *out, char type); /* Sync, Flush, CopyDone, Terminate */

/* Reading. */

typedef struct fl_pg_message {
    char type;
    fl_slice body;
    size_t size; /* of the whole; of one that is not complete too, unless 0: not known yet */
} fl_pg_message;

/* The message that `bytes` begin with. 1; 0: not complete yet; UV_EPROTO: there is none. */
int fl_pg_message_read(fl_pg_message *out, fl_slice bytes);

typedef struct fl_pg_reader {
    const char *at, *end;
    bool failed;
} fl_pg_reader;

static inline fl_pg_reader fl_pg_reader_of(fl_slice body)
{
    return (fl_pg_reader){body.data, body.data + body.size, false};
}

uint8_t fl_pg_read_byte(fl_pg_reader *reader);
uint16_t fl_pg_read_int16(fl_pg_reader *reader);
uint32_t fl_pg_read_int32(fl_pg_reader *reader);
uint64_t fl_pg_read_int64(fl_pg_reader *reader);
fl_slice fl_pg_read_string(fl_pg_reader *reader); /* up to its NUL, which is passed over */
fl_slice fl_pg_read_bytes(fl_pg_reader *reader, size_t size);
/* A value with its length before it; NULL: data of the slice is NULL. */
fl_slice fl_pg_read_value(fl_pg_reader *reader);

typedef struct fl_pg_error { /* an ErrorResponse or NoticeResponse; data NULL: not told */
    fl_slice severity, code, message, detail, hint, table, column, constraint;
} fl_pg_error;

/* 0 or UV_EPROTO. The slices lie in the body. */
int fl_pg_error_read(fl_pg_error *out, fl_slice body);

/* What CommandComplete's tag says of rows: "INSERT 0 5" → 5. */
uint64_t fl_pg_affected(fl_slice body);

#endif
