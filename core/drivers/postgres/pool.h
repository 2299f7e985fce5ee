/* pool: which connection of a database does what; when it connects, and when it gives up.
 *
 * Owner: a database; *loop*. Queries wait in two lines: for a shared connection, and for one of
 * their own. While the database stands in line for more connections (quota.h), one that is idle
 * does for both, whichever has waited longer. While the server cannot be reached, attempts follow
 * each other at growing distances as long as somebody waits. */
#ifndef FL_PG_POOL_H
#define FL_PG_POOL_H

#include "postgres.h"

void fl_pg_queries_append(fl_pg_queries *self, fl_query *query);
void fl_pg_queries_remove(fl_pg_queries *self, fl_query *query);

void fl_pg_pool_submit(fl_pg *pg, fl_query *query); /* it may run on any connection */
void fl_pg_pool_again(fl_pg *pg, fl_query *query);  /* it goes before those that wait */
void fl_pg_pool_forget(fl_pg *pg, fl_query *query); /* it waits no more */
void fl_pg_pool_serve(fl_pg *pg); /* gives those that wait the connections there are */

/* What has become of connections. */
void fl_pg_pool_connected(fl_pg_connection *connection);
void fl_pg_pool_refused(fl_pg *pg, const char *why, bool needs_password);
void fl_pg_pool_lost(fl_pg *pg, const fl_pg_connection *connection, const char *why);
void fl_pg_pool_idle(fl_pg_connection *connection);
void fl_pg_pool_learned(fl_pg *pg, const fl_statement *statement); /* how long it takes */

#endif
