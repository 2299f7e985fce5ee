/* batch: everything that one read of a connection brought: it is parsed, every complete request is
 * handled and answered into web->thread.out, and then the answers are written at once.
 *
 * Owner: the connection, of whose fields these functions look after the requests and what was read
 * of them; *loop* of its web thread. One request is handled at a time: a batch ends early when a
 * handler waits, and what was read beyond it waits in `ahead`. Lua is entered here and from
 * messages' callbacks alone, never below a library's frame: what is not parsed yet is recorded in
 * `unread` first, where evacuation finds it. */
#ifndef FL_BATCH_H
#define FL_BATCH_H

#include "connection.h"

#define FL_BATCH_BYTES (256 * 1024) /* answers gathered before they are written */

/* What was read ahead and `data` (empty: nothing new), and then what the connection waits for. */
void fl_batch_read(fl_connection *connection, fl_slice data);

/* The request in the making is refused, and what came of it answered: the connection ends. */
void fl_batch_refuse(fl_connection *connection, int status);

/* The present request's response is complete, in web->out or queued. Outside of a batch this writes
 * it and goes on with what was read ahead. */
void fl_batch_answered(fl_connection *connection);

/* The connection is closed: the request that is read or handled learns it. */
void fl_batch_end(fl_connection *connection);

/* Evacuation, on the loop of connection->web, which is another one than before: what was read ahead
 * is gone on with there. */
void fl_batch_move(fl_connection *connection);
/* The same in the midst of a batch: what was answered and not yet written, `out`, and what was not
 * yet parsed come with it. */
void fl_batch_take_over(fl_connection *connection, const fl_buffer *out);

#endif
