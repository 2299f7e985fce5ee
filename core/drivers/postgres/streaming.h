/* streaming: of the conversation, what comes and goes piece by piece: rows of a portal, COPY in
 * both directions, notifications; and what a session leaves behind.
 *
 * Owner: a connection, of whose exchange it is a part; *loop*.
 *
 * A stream outside of a transaction is one implicit transaction without a Sync: nothing else can be
 * asked until it ends (FL_PG_HELD_PORTAL). Within a transaction the portal stays, whatever else is
 * asked (FL_PG_PORTAL). COPY TO (FL_PG_COPY_OUT) is held back by not reading. */
#ifndef FL_PG_STREAMING_H
#define FL_PG_STREAMING_H

#include "postgres.h"

#define FL_PG_STREAM_PORTAL "stream"

/* Queries that are no items: those in the midst of COPY, and those for notifications. */
bool fl_pg_streaming_takes(fl_pg_connection *self, fl_query *query);
void fl_pg_streaming_cancel(fl_pg_connection *self, fl_query *query);

/* Writing items: whether the query's statement is to be bound to a portal; all the rest of it. */
bool fl_pg_streaming_begin_portal(fl_pg_connection *self, const fl_pg_query *q);
void fl_pg_streaming_end_writing(fl_pg_connection *self, fl_pg_query *q);
void fl_pg_streaming_write(fl_pg_connection *self, fl_pg_query *q);
bool fl_pg_streaming_is_in_the_way(const fl_pg_connection *self, const fl_pg_item *item);
bool fl_pg_streaming_is_simple(const fl_pg_connection *self, const fl_pg_query *q); /* no Sync */
void fl_pg_streaming_write_end(fl_pg_connection *self);
bool fl_pg_streaming_write_reset(fl_pg_connection *self); /* false: there is nothing to be undone */

/* Answers. false: it is as that of any other query. */
bool fl_pg_streaming_answer(fl_pg_connection *self, fl_pg_item *item, const fl_pg_message *message);
void fl_pg_streaming_copy_failed(fl_pg_connection *self, fl_slice error);
void fl_pg_streaming_end_copy(fl_pg_connection *self);

void fl_pg_streaming_notified(fl_pg_connection *self, fl_slice body);
void fl_pg_streaming_tell(fl_pg_connection *self);
void fl_pg_streaming_log(const fl_pg_connection *self, fl_slice body); /* a notice */
void fl_pg_streaming_written(fl_pg_connection *self);

void fl_pg_streaming_reset(fl_pg_connection *self);  /* the session goes */
void fl_pg_streaming_forget(fl_pg_connection *self); /* it has gone */
void fl_pg_streaming_lost(fl_pg_connection *self, const char *why);

#endif
