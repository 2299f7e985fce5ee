/* settling: what becomes of the queries of a connection that is lost: they fail, or are asked again
 * over another.
 *
 * Owner: a connection, which is closed; *loop*. */
#ifndef FL_PG_SETTLING_H
#define FL_PG_SETTLING_H

#include "postgres.h"

/* All from `item` on, which are in no connection's list any more. `not_run`: the server says that
 * what is under way has not happened. */
void fl_pg_settle(fl_pg_connection *self, fl_pg_item *item, const char *why, bool not_run);

#endif
