/* http1: HTTP/1.x messages out of bytes: llhttp in strict mode, and the checks it leaves to us.
 *
 * Owner: the connection embeds it; *loop*. No Lua runs beneath the parser: it stops at the end of
 * each message, and fl_http1_read returns. Offsets are taken from the target's first byte; a head
 * that arrives in pieces is gathered in request->head. All framing that two readers could take
 * differently is refused (RFC 9112 sections 3, 5, 6, 7; RFC 9110 sections 4.2, 7.2, 10.1). */
#ifndef FL_HTTP1_H
#define FL_HTTP1_H

#include <stdbool.h>
#include <stdint.h>

#include <llhttp.h>

#include "request.h"
#include "slice.h"

typedef struct fl_http1 {
    llhttp_t parser;
    const char *chunk; /* what fl_http1_read was given, while it runs */
    size_t size;
    uint64_t position;   /* stream position of chunk[0] */
    uint64_t message_at; /* stream position of the request line's first byte */
    uint64_t target_at;  /* stream position of the target's first byte */
    uint64_t span_end;   /* stream position where the last text behind the head ended */
    uint32_t extensions; /* bytes of chunk extensions so far */
    uint16_t trailer_count;
    char last_byte;
    uint8_t blank;  /* CR and LF before a request line */
    bool head_done; /* header fields from now on are trailers */
    bool in_value;
    int refused; /* status that the callbacks decided on */
} fl_http1;

extern const llhttp_settings_t fl_http1_settings;

void fl_http1_init(fl_http1 *http, fl_connection *connection);

/* Reads from `data` until the end of a message, of the data or an error. `*consumed` bytes were
 * read. Returns 0, or the status to refuse the message with (400, 413, 414, 431, 501, 505); the
 * connection is then beyond repair. */
int fl_http1_read(fl_http1 *http, fl_slice data, size_t *consumed);

#endif
