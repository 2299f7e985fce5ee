/* run: a query's way through a connection, once: how far it is written and answered, what it
 * prepares, by what it knows the parameters and columns of its calls.
 *
 * Owner: the query; *loop*. From the writing of its item until that ends or the connection is lost;
 * then the query is done, or run once more. */
#ifndef FL_PG_RUN_H
#define FL_PG_RUN_H

#include "postgres.h"

#define FL_PG_RUNS_MOST 3 /* of a query that fails by no fault of its own */

bool fl_pg_run_begin(fl_pg_query *q); /* false: not enough memory */
/* One more statement to prepare; the first of them has been. */
void fl_pg_run_parse(fl_pg_query *q, fl_pg_entry *entry);
void fl_pg_run_parsed(fl_pg_query *q);
void fl_pg_run_drop_parsing(fl_pg_connection *self, fl_pg_query *q); /* none will be */
void fl_pg_run_end(fl_pg_connection *self, fl_pg_query *q);          /* harmless when not begun */
void fl_pg_run_reset_rows(fl_query *query); /* what it has brought is another run's */

#endif
