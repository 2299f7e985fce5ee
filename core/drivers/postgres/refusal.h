/* refusal: what the server has refused: its errors, whose they are, and whether it is the
 * query's own fault, or what we took for granted, or a cancel that was meant for another.
 *
 * Owner: a connection; *loop*. The texts are copied into the query. */
#ifndef FL_PG_REFUSAL_H
#define FL_PG_REFUSAL_H

#include "postgres.h"

/* An ErrorResponse, during the item; NULL: nothing is under way. */
void fl_pg_refusal_take(fl_pg_connection *self, fl_pg_item *item, fl_slice body);

void fl_pg_query_refused(fl_query *query, const fl_pg_error *error);
void fl_pg_query_unwanted(fl_query *query);  /* it has not run, or not to its end */
void fl_pg_query_cancelled(fl_query *query); /* the same, and it is done */

#endif
