/* connecting: from the look-up of a connection's hosts to its first ReadyForQuery, by libpq.
 *
 * Owner: a connection, whose `deadline` bounds it all; *loop*. It ends with fl_pg_connection_open
 * or fl_pg_connection_refused, never from within fl_pg_connecting_start. */
#ifndef FL_PG_CONNECTING_H
#define FL_PG_CONNECTING_H

#include "postgres.h"

void fl_pg_connecting_start(fl_pg_connection *self);

#endif
