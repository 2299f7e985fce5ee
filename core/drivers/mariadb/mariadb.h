/* mariadb: a database of MariaDB or MySQL: its connections (link.h), and the queries that wait for
 * one of them.
 *
 * Owner: its Lua state (database.h). *loop* of that state's thread.
 *
 * Queries wait in one line, first come, first served, for a connection of their own: the one used
 * last is taken first, a new one is made while there are fewer than db->pool. A session keeps its
 * connection until it is released, and has a line of its own. */
#ifndef FL_MARIADB_H
#define FL_MARIADB_H

#include <stdbool.h>
#include <stdint.h>

#include "database.h"
#include "fault.h"
#include "killer.h"

typedef struct fl_mariadb fl_mariadb;
typedef struct fl_mariadb_link fl_mariadb_link;

typedef struct fl_mariadb_line { /* of queries, by their `next` and `link` */
    fl_query *first, *last;
    uint64_t count;
} fl_mariadb_line;

typedef struct fl_mariadb_query {
    fl_query query;
    fl_mariadb_line *line; /* that it waits in; NULL: none */
    fl_mariadb_link *link; /* that runs it; NULL: none */
    unsigned at;           /* the call that runs */
    unsigned tries;        /* that a connection was lost with it */
    uint64_t began;        /* ns; that call */
} fl_mariadb_query;

typedef struct fl_mariadb_session {
    fl_session session;
    fl_mariadb_link *link; /* NULL: not acquired, released, or lost */
    fl_mariadb_line line;
} fl_mariadb_session;

struct fl_mariadb {
    fl_db db;
    fl_mariadb_line line;
    fl_mariadb_link *links; /* all of them */
    fl_mariadb_link *idle;  /* the one used last first */
    unsigned count, idle_count, connecting;
    uint64_t sessions;
    unsigned failures;      /* to connect, one after the other */
    fl_mariadb_fault fault; /* the last of them */
    bool is_told;           /* the log says that it cannot be reached */
    fl_deadline again;      /* when to try the next */
    fl_deadline expiry;     /* of the first in line */
    fl_mariadb_killer killer;
};

extern const fl_db_driver fl_mariadb_driver;

void fl_mariadb_line_append(fl_mariadb_line *line, fl_query *query);
void fl_mariadb_line_prepend(fl_mariadb_line *line, fl_query *query);
void fl_mariadb_line_remove(fl_query *query);
fl_query *fl_mariadb_line_take(fl_mariadb_line *line); /* the first; NULL: none */

/* A link is there; it waits for a query; it has one; it is gone. An idle one that is pressed
 * (fl_db_is_pressed) takes no query. */
void fl_mariadb_enlist(fl_mariadb_link *link);
void fl_mariadb_become_idle(fl_mariadb_link *link);
void fl_mariadb_leave_idle(fl_mariadb_link *link); /* harmless when it is not */
void fl_mariadb_delist(fl_mariadb_link *link);

/* Connections for those that wait, as far as there may be. */
void fl_mariadb_serve(fl_mariadb *self);
/* A link could not connect. */
void fl_mariadb_failed(fl_mariadb *self, const fl_mariadb_fault *fault);
void fl_mariadb_connected(fl_mariadb *self);

#endif
