/* cancelling: the server is asked to end what runs.
 *
 * Owner: a connection; *loop*. A cancel names the connection, not the statement, and nobody says
 * what it did: the server forgets one that comes while it waits for the statement's next message,
 * and one that comes late hits what is next. So it is asked again, at growing distances, until the
 * item has ended or, after a time, the connection is closed; nothing more is written while that
 * goes on; and what was written before and is hit is run again. */
#ifndef FL_PG_CANCELLING_H
#define FL_PG_CANCELLING_H

#include "postgres.h"

/* It is to end as soon as it is the first. The connection may be lost by it. */
void fl_pg_cancelling_want(fl_pg_connection *self, fl_pg_item *item);
void fl_pg_cancelling_turn(fl_pg_connection *self);  /* another item is the first, or none */
void fl_pg_cancelling_close(fl_pg_connection *self); /* before the line */

static inline bool fl_pg_cancelling_is_on(const fl_pg_connection *self)
{
    return fl_deadline_started(&self->cancelling.deadline);
}

/* Whether an item that nobody wants cancelled may be. */
static inline bool fl_pg_cancelling_may_hit(const fl_pg_connection *self, const fl_pg_item *item)
{
    return !item->is_unwanted && item->began_at < self->cancelling.reach;
}

#endif
