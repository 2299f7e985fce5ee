/* item: what the parts of the conversation (exchange.c, streaming.c) need of each other. */
#ifndef FL_PG_ITEM_H
#define FL_PG_ITEM_H

#include "postgres.h"

/* Before another; NULL: behind all. */
void fl_pg_item_insert(fl_pg_connection *self, fl_pg_item *item, fl_pg_item *before);
void fl_pg_item_remove(fl_pg_connection *self, fl_pg_item *item);
void fl_pg_item_replace(fl_pg_connection *self, fl_pg_item *item, fl_pg_item *by);

void fl_pg_exchange_pump(fl_pg_connection *self); /* writes what may be written */
void fl_pg_exchange_finish(fl_pg_connection *self, fl_pg_query *query);
void fl_pg_exchange_cancel_first(fl_pg_connection *self);

void fl_pg_query_refused(fl_query *query, const fl_pg_error *error);
void fl_pg_query_cancelled(fl_query *query); /* it is done */

#endif
