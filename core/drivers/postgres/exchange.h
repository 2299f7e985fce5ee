/* exchange: what is asked over a connection and answered, in order. An item is written when those
 * before it have been, and ends with ReadyForQuery.
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

/* For connection.c. */
void fl_pg_exchange_begin_first(fl_pg_connection *self); /* the server comes to the first item */
void fl_pg_exchange_message(fl_pg_connection *self, const fl_pg_message *message);
void fl_pg_exchange_too_large(fl_pg_connection *self); /* a row is passed over */
void fl_pg_exchange_parsed(fl_pg_connection *self);    /* all that was read */
void fl_pg_exchange_written(fl_pg_connection *self);   /* some of what waited */
void fl_pg_exchange_lost(fl_pg_connection *self, const char *why, bool not_run);

#endif
