/* line: what of a connection to PostgreSQL other threads may touch: it is lent to a Lua state, and
 * when that is given up whoever does it ends the connection, so that the server rolls back at once;
 * and it is cancelled by threads that wait for the server meanwhile.
 *
 * Reference-counted: the connection, the loan and each thread that cancels hold it. *loop* of the
 * state's thread, but for `released`, which any thread calls, and fl_pg_line_hold and _release. */
#ifndef FL_PG_LINE_H
#define FL_PG_LINE_H

#include <libpq-fe.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "address.h"
#include "database.h"
#include "lease.h"

typedef struct fl_pg_connection fl_pg_connection;

typedef struct fl_pg_line {
    fl_lease lease;
    _Atomic unsigned references;
    fl_db *db;
    fl_quota_member *slot;        /* given back with the loan */
    fl_address *address;          /* held: the state lets go of it before its connections close */
    fl_pg_connection *connection; /* the loop's; NULL: closed */
    pthread_mutex_t lock;         /* so that nobody shuts down a descriptor that is another's now */
    int fd;                       /* -1: not open */
    PGcancel *cancel;
    _Atomic bool is_busy; /* a statement runs */
} fl_pg_line;

/* Takes a slot (fl_db_take_slot). 0; UV_EAGAIN: in line for one; UV_ENOMEM; UV_ECANCELED: the state
 * is going. */
int fl_pg_line_new(fl_pg_line **out, fl_db *db, fl_pg_connection *connection);
int fl_pg_line_open(fl_pg_line *line, PGconn *conn); /* it is connected. 0 or UV_ENOMEM */
/* Asks the server once to cancel what runs, on a thread of its own; then `ended` is called on the
 * state's, whether it was heard or not; connection NULL: it is closed by then. 0 or a negative uv
 * code. */
int fl_pg_line_cancel(fl_pg_line *line, void (*ended)(fl_db *db, fl_pg_connection *connection));
/* The connection is about to be closed: what runs is cancelled nevertheless. */
void fl_pg_line_give_up(fl_pg_line *line);
/* Before its descriptor is closed: gives everything back. */
void fl_pg_line_close(fl_pg_line *line);

/* Before that, when it is closed for another state (farewell.h): its slot goes back later. */
void fl_pg_line_part(fl_pg_line *line, fl_db *db);

#endif
