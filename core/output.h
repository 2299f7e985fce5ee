/* output: bytes that a connection's socket did not take at once, and the write that sends them.
 *
 * Owner: the connection, from when its socket is full until all is with the kernel; *loop*. At most
 * one uv_write is in flight; what comes meanwhile waits and goes with the next. The memory of a
 * write under way lives until its callback; evacuation abandons it with its loop, and makes an
 * output for the new one (fl_output_anew). */
#ifndef FL_OUTPUT_H
#define FL_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "slice.h"

typedef struct fl_output fl_output;

#define FL_OUTPUT_PIECES 3 /* at most, in one call */

/* Writes what the socket takes at once, unless there is an output already; what remains is kept in
 * *output, made if need be: it is to be started then. 0 or a negative uv code. */
int fl_output_write(fl_output **output, uv_stream_t *socket, const fl_slice *pieces,
                    unsigned count);

/* `wrote` gets a write whose `data` is `owner`. 0 or a negative uv code. */
int fl_output_start(fl_output *output, uv_stream_t *socket, uv_write_cb wrote, void *owner);

/* A write has ended; true: more has come meanwhile, start it. */
bool fl_output_next(fl_output *output);

/* The same bytes, of the write under way the last `left` ones, for another loop; the old one's
 * memory is abandoned. NULL: no memory. */
fl_output *fl_output_anew(const fl_output *old, size_t left);

size_t fl_output_size(const fl_output *output); /* bytes; NULL: 0 */
void fl_output_free(fl_output *output);         /* no write is under way; NULL: nothing */

#endif
