/* database: what a Lua state has of an SQL database: its handle, queries and sessions, whatever
 * driver (core/drivers) does the work.
 *
 * Owner: an fl_db belongs to its state and lives as long as it. *loop* of the state's thread, or an
 * owning function that Lua has called. A driver embeds fl_db, fl_session and fl_query as the first
 * members of its own structs, whose sizes it tells.
 *
 * A query goes to the driver by `submit` and comes back by fl_query_done, exactly once, on the
 * state's thread; in between it is the driver's, which may only be asked to cancel it. Who waits
 * for it is told at once when it is cancelled or its time is over, whatever the driver still has to
 * do with it. A query in a session follows what that session does; any other may run on any
 * connection at any time.
 *
 * When the state is given up nothing of all this is called any more: what a driver holds elsewhere
 * must be leases (lease.h), by which other threads give it back. */
#ifndef FL_DATABASE_H
#define FL_DATABASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "deadline.h"
#include "quota.h"
#include "statements.h"
#include "values.h"

typedef struct fl_state fl_state;
typedef struct fl_db fl_db;
typedef struct fl_session fl_session;
typedef struct fl_query fl_query;
typedef struct fl_query_op fl_query_op;
typedef struct fl_farewell fl_farewell;

typedef enum {
    FL_QUERY_RUN,     /* its one statement */
    FL_QUERY_BATCH,   /* all its statements, in order, as one transaction */
    FL_QUERY_ACQUIRE, /* a session is made ready, and its statement, if there is one, run in it: it
                         begins a transaction. Without a session of their own, others wait in line
                       */
    FL_QUERY_STREAM,  /* its statement is begun; ends with the first rows, or none; in a session */
    FL_QUERY_MORE, /* ends with more rows of the stream; none: that is over. With a `piece` of 0 it
                      is to end now */
    FL_QUERY_WAIT, /* ends when a notification has come: a row of channel, payload, sender */
    FL_QUERY_COPY, /* COPY … FROM STDIN is begun; COPY … TO STDOUT is a stream instead */
    FL_QUERY_COPY_DATA, /* takes the bytes in `values` (one text); ends when more may come */
    FL_QUERY_COPY_END,  /* the data is complete; ends with how many rows were affected */
    FL_QUERY_COPY_FAIL, /* it never will be; ends when the session can be used again */
    FL_QUERY_BACKUP     /* of SQLite: to the file whose path is in `values` (one text) */
} fl_query_kind;

typedef struct fl_rows {
    fl_buffer names;  /* of the columns: values, all text */
    fl_buffer values; /* row after row */
    uint32_t width;
    uint64_t count;
} fl_rows;

typedef struct fl_call {     /* one statement of a query, and how it went */
    fl_statement *statement; /* held */
    size_t first;            /* where its arguments begin in the query's values */
    uint32_t count;          /* how many they are */
    fl_rows rows;
    uint64_t affected; /* rows */
    int64_t last_id;   /* of what was inserted; 0: the database does not tell */
} fl_call;

typedef struct fl_db_error {
    char code[32]; /* SQLSTATE or the database's own; ours: "connection", "timeout", "pool_timeout",
                      "queue_full", "too_large", "refused", "argument", "memory", "cancelled" */
    int status;    /* of the HTTP answer when nobody handles it: 503 …; 0: it is as any other */
    char *message; /* NULL: there is no error */
    char *detail, *hint, *constraint, *table, *column; /* NULL: the database does not tell */
} fl_db_error;

struct fl_query {
    fl_query *next, **link; /* the driver's, for a list of its own */
    fl_db *db;
    fl_session *session; /* that it is for; NULL: none */
    fl_query_kind kind;
    uint64_t keep;    /* rows that are wanted: what comes after them is dropped */
    uint64_t piece;   /* stream, more: so many rows at most */
    bool retry;       /* it may be run twice */
    fl_buffer values; /* all arguments */
    fl_call *calls;   /* one at least, but for the kinds that have none */
    unsigned call_count;
    fl_db_error error;
    const char *cancelled; /* static text, once it was */
    uint64_t submitted;    /* ns */
    /* database.c's own */
    fl_call call;
    fl_query_op *op;
    fl_query *next_running, **running_link; /* of its database, from submit to done */
    fl_deadline deadline;
    unsigned references;
    bool done;
};

struct fl_session {
    fl_db *db;
    bool held;           /* acquired, and not released yet */
    unsigned references; /* database.c's own: the struct lives as long as a query that names it */
};

typedef struct fl_db_stats {
    uint64_t connections, idle, sessions, waiting; /* now */
    uint64_t queries, errors, reconnects;          /* ever */
} fl_db_stats;

typedef struct fl_db_driver {
    const char *name; /* "postgres" */
    fl_sql_dialect dialect;
    size_t db_size, session_size, query_size;
    /* Looks at the options; connects to nothing. 0, or negative with a message. */
    int (*open)(fl_db *db, char *why, size_t why_size);
    /* The state ends: connections are closed. Queries that are not done need not be any more;
     * afterwards the driver has none of them, nor of the sessions. */
    void (*close)(fl_db *db);
    void (*submit)(fl_query *query);
    void (*cancel)(fl_query *query); /* `cancelled` says why; it is still to be done soon */
    /* It goes back: what still runs in it is cancelled, what is open rolled back. It is not used
     * any more, but for the queries in it that are not done yet. One that could not be made ready
     * goes back, too. */
    void (*release)(fl_session *session);
    void (*stats)(fl_db *db, fl_db_stats *stats); /* adds to zeros */
    void (*close_idle)(fl_db *db); /* connections that nobody uses; NULL: there are none */
    /* Of drivers that take slots (fl_db_take_slot). Goes on with what waits, as more connections
     * may be had, or need not be given up any more; and tells (fl_db_tell). */
    void (*serve)(fl_db *db);
    /* Closes an idle connection that is ripe (fl_quota_ripe_at), for another state (farewell.h),
     * and says 0. Else when one will be, ns; UINT64_MAX: none is idle. */
    uint64_t (*yield)(fl_db *db);
} fl_db_driver;

typedef struct fl_db_option {
    char *name, *value;
} fl_db_option;

struct fl_db {
    fl_db *next; /* the state's */
    const fl_db_driver *driver;
    fl_state *state;
    char *url;             /* as the app gave it, for libraries that read it; may hold a password */
    char *name;            /* the same without, for messages */
    fl_db_option *options; /* from the URL and the app, see lua/fasterlua/db.lua */
    unsigned option_count;
    fl_statements *statements;
    unsigned pool;            /* connections of its own, at most */
    uint64_t timeout;         /* ms that a query may take; 0: for ever */
    uint64_t connect_timeout; /* ms */
    uint64_t pool_timeout;    /* ms that a query may wait for a connection */
    uint64_t idle_timeout;    /* ms that a connection of a pool's state is kept unused */
    uint64_t most_bytes;      /* of the rows of one query, or one piece */
    uint64_t pending_most;    /* queries */
    uint64_t pending;
    uint64_t queries, errors, reconnects;
    /* database.c's own */
    fl_deadline idle;        /* of a pool's state, when connections may have become so */
    fl_quota_member *member; /* NULL: it has not wanted a slot yet, or is closing */
    fl_deadline debt;        /* when a slot is to be given */
    fl_deadline in_line;     /* when to look again whether it still waits */
    fl_farewell *farewells;
    fl_query *running;
    fl_query *free; /* to be used again, with what their buffers hold */
    unsigned free_count;
    bool closing; /* Lua's heap is gone */
};

/* For drivers. */

const char *fl_db_option_of(const fl_db *db, const char *name); /* NULL: not given */

/* One more connection of all that the server process may have (quota.h). 0, and the slot is to be
 * given back (fl_quota_give) by whatever thread closes the connection; UV_EAGAIN: the database
 * stands in line, and `serve` will be called; or UV_ENOMEM, UV_ECANCELED. */
int fl_db_take_slot(fl_db *db, fl_quota_member **slot);
bool fl_db_is_in_line(const fl_db *db);
/* Connections that are idle; that serve whoever comes (fl_quota_tell); queries that wait for one.
 * To be told whenever one of the first two may have changed. */
void fl_db_tell(fl_db *db, unsigned idle, unsigned serving, uint64_t waiting);
/* The connection that became ready at `since` (ns) is to be left idle, whoever waits. After
 * fl_db_tell ask again: somebody else may have given one up. */
bool fl_db_is_pressed(const fl_db *db, uint64_t since);

void fl_query_done(fl_query *query);
/* Keeps the error; the first one stays. The texts are copied. */
void fl_query_fail(fl_query *query, const char *code, int status, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* One more text of that error: &query->error.detail … */
void fl_query_explain(char **field, fl_slice text);
/* Nobody waits for it any more: what it would bring need not be kept. */
bool fl_query_is_dropped(const fl_query *query);

/* The arguments of a call, to be read one after the other with fl_values_read. */
const char *fl_call_arguments(const fl_query *query, const fl_call *call);

/* Rows: first the columns, unless they are there already, then value by value, each row begun and
 * ended. begin says whether the row is wanted; end fails the query when it has too many bytes or
 * memory ran out, and says whether the following ones are of any use. */
void fl_rows_column(fl_rows *rows, fl_slice name);
bool fl_rows_begin(fl_query *query, fl_rows *rows);
bool fl_rows_end(fl_query *query, fl_rows *rows);
void fl_rows_reset(fl_rows *rows); /* empty, without columns */

/* For state.c. */
void fl_db_close_all(fl_state *state);

#endif
