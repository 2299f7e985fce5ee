/* exchange: the conversation over a connection: an item is written when those before it have been,
 * and ends with ReadyForQuery.
 *
 * Owner: a connection; *loop*. */
#ifndef FL_PG_EXCHANGE_H
#define FL_PG_EXCHANGE_H

#include "postgres.h"

/* A query is to run on it. */
void fl_pg_exchange_add(fl_pg_connection *self, fl_query *query);
void fl_pg_exchange_cancel(fl_pg_connection *self, fl_query *query);
/* The session is over: what runs is cancelled, what is open rolled back. */
void fl_pg_exchange_reset(fl_pg_connection *self);
bool fl_pg_exchange_is_idle(const fl_pg_connection *self); /* and can be somebody's */

/* For the parts of the conversation. */
void fl_pg_exchange_pump(fl_pg_connection *self); /* writes what may be written */
void fl_pg_exchange_finish(fl_pg_connection *self, fl_pg_query *q);
void fl_pg_exchange_ready(fl_pg_connection *self, fl_pg_item *item, fl_slice body);

/* For connection.c. */
void fl_pg_exchange_lost(fl_pg_connection *self, const char *why, bool not_run);

#endif
