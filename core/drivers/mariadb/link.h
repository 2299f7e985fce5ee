/* link: one connection of a database's pool, and the query that runs on it.
 *
 * Owner: its database (mariadb.h). *loop*. A link lives until its connection is lost or not needed
 * any more. It is free (idle, in the pool), or a query's, or a session's until that is released;
 * then it rolls back what is open and forgets what was set.
 *
 * Statements are prepared at their first use and stay so; those that MariaDB does not prepare, and
 * the few of our own, are sent as text. Rows are taken as they come, never kept twice;
 * those of a stream are left where they are until they are asked for. */
#ifndef FL_MARIADB_LINK_H
#define FL_MARIADB_LINK_H

#include "arguments.h"
#include "columns.h"
#include "killer.h"
#include "mariadb.h"
#include "prepared.h"
#include "wire.h"

typedef enum {
    FL_LINK_CONNECTING,
    FL_LINK_FREE,      /* nothing runs */
    FL_LINK_BEGINNING, /* the transaction of a batch */
    FL_LINK_EVICTING,  /* a statement that was prepared */
    FL_LINK_PREPARING,
    FL_LINK_EXECUTING,
    FL_LINK_FETCHING,
    FL_LINK_BREATHING,    /* other things have their turn before more rows are read */
    FL_LINK_FINDING_MORE, /* results of a procedure */
    FL_LINK_ASKING,       /* a statement sent as text */
    FL_LINK_READING,      /* its rows */
    FL_LINK_ASKING_MORE,  /* results of it */
    FL_LINK_COMMITTING,   /* a batch */
    FL_LINK_UNDOING,
    FL_LINK_CLOSING,      /* a statement that is not needed any more */
    FL_LINK_ABSORBING,    /* a KILL QUERY that came too late */
    FL_LINK_ROLLING_BACK, /* what a session has left open */
    FL_LINK_RESETTING,
    FL_LINK_SETTING_UP,
    FL_LINK_CLOSED
} fl_link_phase;

struct fl_mariadb_link {
    fl_mariadb_link *next, **link;
    fl_mariadb_link *next_idle, **idle_link; /* idle_link NULL: it is not */
    fl_mariadb *db;
    fl_mariadb_wire wire;
    fl_link_phase phase;
    fl_mariadb_query *query;     /* that runs; NULL: none */
    fl_mariadb_session *session; /* whose it is; NULL: nobody's */
    fl_mariadb_prepared_list prepared;
    fl_mariadb_arguments arguments;
    MYSQL_STMT *handle;         /* of the call that runs */
    fl_mariadb_prepared *entry; /* where that is kept; NULL: nowhere */
    MYSQL_STMT *stream;         /* whose rows are not all read, from query to query */
    MYSQL_STMT *leaving;        /* to be closed when nothing runs; NULL: none */
    fl_mariadb_column *columns;
    unsigned width, room;
    uint64_t rows;              /* that the call has brought */
    uint64_t since, idle_since; /* ns: connected; the last query has ended */
    uint64_t turn_began;        /* ns; 0: not looked at yet */
    fl_mariadb_victim victim;
    fl_deadline breath;
    fl_deadline again, doom; /* what is to be stopped has not: asked again; given up */
    uint64_t pause;          /* ms, before it is asked again */
    bool is_fresh;           /* the handle is not among the prepared ones yet */
    bool prepared_anew;
    bool is_wanted; /* the row that is read */
    bool is_more;   /* a further result set, which nobody takes */
    bool sent;      /* a statement of the query was executed, or may have been */
    bool stream_ended;
    bool was_killed, was_interrupted;
    bool was_asked_again;
    bool is_cut;      /* nothing will be answered any more */
    bool is_dirty;    /* the session has settings of its own */
    bool is_released; /* by its session, and not clean yet */
    bool is_stepping, is_dead;
};

/* Begins to connect. 0 or a negative uv code. */
int fl_mariadb_link_open(fl_mariadb *db);
/* Goes on with what is to be done, if nothing runs. */
void fl_mariadb_link_kick(fl_mariadb_link *link);
void fl_mariadb_link_stop(fl_mariadb_link *link); /* its query */
void fl_mariadb_link_close(fl_mariadb_link *link);

#endif
