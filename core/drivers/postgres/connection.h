/* connection: a socket to PostgreSQL, from its beginning to its end: bytes in, bytes out.
 *
 * Owner: its database; *loop*. When it is lost, `fl_pg_exchange_lost` settles what it was doing and
 * the pool is told; the struct is gone when the last function that holds it returns. */
#ifndef FL_PG_CONNECTION_H
#define FL_PG_CONNECTION_H

#include "postgres.h"

/* Begins to connect; the pool is told how it ends, never from here. What fl_pg_line_new returns. */
int fl_pg_connection_new(fl_pg *pg, bool is_shared);
/* For connecting.c: libpq is connected. 0 or a negative uv code. */
int fl_pg_connection_open(fl_pg_connection *self);
void fl_pg_connection_refused(fl_pg_connection *self); /* `why`; it is closed, the pool is told */
/* Closes it: queries on it fail, or are asked again. `not_run`: the server says that what is under
 * way has not happened. */
void fl_pg_connection_lost(fl_pg_connection *self, const char *why, bool not_run);
void fl_pg_connection_close(fl_pg_connection *self); /* nobody is told */

static inline void fl_pg_connection_hold(fl_pg_connection *self)
{
    self->held++;
}

void fl_pg_connection_free(fl_pg_connection *self); /* for the last of them */

static inline void fl_pg_connection_release(fl_pg_connection *self)
{
    if (--self->held == 0 && self->phase == FL_PG_CLOSED) fl_pg_connection_free(self);
}

void fl_pg_connection_flush(fl_pg_connection *self);      /* what is in `out` */
void fl_pg_connection_flush_soon(fl_pg_connection *self); /* at the end of the turn */
void fl_pg_connection_pause(fl_pg_connection *self);      /* nothing is read any more */
void fl_pg_connection_resume(fl_pg_connection *self);
void fl_pg_connection_parse(fl_pg_connection *self); /* what has been read */

static inline size_t fl_pg_connection_unwritten(const fl_pg_connection *self)
{
    return self->out.size - self->written;
}

#endif
