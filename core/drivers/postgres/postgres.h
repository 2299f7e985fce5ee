/* postgres: the driver for PostgreSQL. What it consists of, from below:
 *
 *   wire, types, columns, arguments, known     bytes of the protocol; pure
 *   prepared                                   what a connection has prepared
 *   line                                       what other threads may do to a connection
 *   connection                                 a socket: reads, writes, is lost
 *   connecting                                 its beginning
 *   item, run                                  what a connection does in order; a query's part of
 * it cancelling                                 ends what runs writing statements as messages
 *   answers, refusal                           what comes back: rows and the like, errors
 *   streaming                                  pieces of rows, COPY, notifications
 *   exchange                                   the conversation, of all that
 *   settling                                   what becomes of it when the connection is lost
 *   pool                                       which connection does what, and when to connect
 *   driver                                     the contract of database.h
 *
 * libpq connects, authenticates and encrypts. Once connected, we speak the protocol ourselves on
 * its socket: it would flush at every Sync and copy each row.
 *
 * Connections are of two kinds. On *shared* ones, statements of different tasks that are known to
 * be fast follow each other without waiting, each with a Sync of its own, so that an error is that
 * statement's alone. The others do one thing at a time: a session (transactions, streams), or one
 * statement that is slow or not known yet.
 *
 * Everything here is *loop* of the state's thread, and nothing enters Lua. */
#ifndef FL_PG_POSTGRES_H
#define FL_PG_POSTGRES_H

#include <libpq-fe.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "database.h"
#include "line.h"
#include "prepared.h"
#include "readiness.h"
#include "resolve.h"
#include "state.h"
#include "thread.h"
#include "wire.h"

#define FL_PG_MILLISECOND UINT64_C(1000000)

typedef struct fl_pg fl_pg;
typedef struct fl_pg_query fl_pg_query;
typedef struct fl_pg_session fl_pg_session;

typedef enum {
    FL_PG_ITEM_QUERY,  /* a query's statements, Sync behind them */
    FL_PG_ITEM_STREAM, /* a query that begins a stream or goes on with it */
    FL_PG_ITEM_COPY,   /* a COPY FROM, from its answer to its end */
    FL_PG_ITEM_END,    /* a stream is given up */
    FL_PG_ITEM_RESET   /* a session has gone: roll back, and undo what it did to the connection */
} fl_pg_item_kind;

typedef struct fl_pg_item { /* what a connection does, in order */
    struct fl_pg_item *next, **link;
    fl_pg_item_kind kind;
    fl_pg_query *query; /* NULL: our own */
    bool is_written;
    bool is_unwanted;  /* it is to be cancelled when it is the first: cancelling.h */
    uint64_t began_at; /* bytes that the connection had to send before it */
} fl_pg_item;

struct fl_pg_query {
    fl_query query;
    fl_pg_connection *connection; /* NULL: it waits for one */
    fl_pg_item item;
    bool is_fast;           /* it waits for a shared connection */
    uint64_t waiting_since; /* ns */
    unsigned runs;
    unsigned writing, answering; /* calls */
    fl_pg_entry *parsing, **parsing_last;
    fl_pg_known **known, *one; /* of each call; held */
    bool is_fresh;             /* nothing that was known before is to be relied on */
    bool is_mismatched;        /* its columns are others than those assumed */
    bool is_bound;             /* the call being answered has begun to run */
    bool is_again;             /* it failed by no fault of its own and is to run once more */
    bool is_deaf;              /* more rows are of no use */
};

struct fl_pg_session {
    fl_session session;
    fl_pg_connection *connection; /* NULL: lost, or not there yet */
};

typedef enum {
    FL_PG_RESOLVING,
    FL_PG_CONNECTING,
    FL_PG_READY,
    FL_PG_CLOSED /* to be freed by who holds it */
} fl_pg_phase;

typedef enum { FL_PG_NO_STREAM, FL_PG_PORTAL, FL_PG_HELD_PORTAL, FL_PG_COPY_OUT } fl_pg_stream;
typedef enum { FL_PG_NO_COPY, FL_PG_COPY_OPEN, FL_PG_COPY_ENDING, FL_PG_COPY_FAILED } fl_pg_copy;

typedef struct fl_pg_notice { /* a notification */
    struct fl_pg_notice *next;
    uint32_t sender;
    size_t channel_size, size;
    char text[]; /* channel, payload */
} fl_pg_notice;

typedef struct fl_pg_queries { /* linked by their `next` and `link` */
    fl_query *first, **last;
} fl_pg_queries;

typedef struct fl_pg_cancelling {
    unsigned asking;      /* threads that are at it */
    uint64_t since;       /* ns: the first item is to end */
    uint64_t pause;       /* ms, before the server is asked again */
    uint64_t reach;       /* bytes: what begins before them may be hit */
    fl_deadline deadline; /* started: nothing more is written */
} fl_pg_cancelling;

struct fl_pg_connection {
    fl_pg_connection *next, **link; /* link NULL: not in the database's list */
    fl_pg *pg;
    fl_pg_phase phase;
    bool is_shared;
    unsigned held; /* functions that will look at it again */
    fl_pg_line *line;
    PGconn *conn;
    SSL *tls;
    fl_readiness readiness;
    fl_turn_end turn_end;
    fl_deadline deadline; /* of connecting */
    /* while it connects */
    fl_resolve *resolve;
    size_t next_host;                  /* offset in the database's list */
    fl_buffer hosts, addresses, ports; /* for libpq, by commas */
    char why[512];                     /* it cannot be */
    /* bytes */
    fl_buffer in, out;
    size_t written;             /* of `out` */
    uint64_t sent;              /* bytes ever */
    size_t skip;                /* bytes of a message that is too large */
    bool is_mute;               /* it cannot be written to any more */
    bool is_paused, is_parsing; /* nobody wants to read more at present */
    /* the conversation */
    fl_pg_item *first, **last, *unsent;
    unsigned items;
    uint64_t since, idle_since; /* ns: connected, without items */
    uint64_t head_since;        /* ns: the server has come to the first item */
    uint64_t head_waited;       /* ns: what the loop had slept until then */
    fl_pg_item *writer;         /* it has more to write before others may; NULL: none */
    fl_buffer parameters;       /* a ParameterDescription, until the RowDescription comes */
    fl_pg_prepared prepared;
    fl_pg_session *session;
    char status; /* 'I'dle, in a 'T'ransaction, in one that 'E'rred */
    fl_pg_cancelling cancelling;
    bool is_changed; /* the session may have changed settings */
    fl_pg_stream stream;
    fl_pg_known *stream_known; /* its columns */
    fl_pg_copy copy;
    fl_pg_item copy_item, end_item, reset_item;
    fl_buffer copy_error;    /* body of an ErrorResponse that no query has got yet */
    fl_pg_queries copy_data; /* that wait for room */
    fl_query *copy_end;
    uint64_t copied;  /* rows */
    fl_query *waiter; /* for a notification */
    fl_pg_notice *notices, **last_notice;
    unsigned notice_count;
    uint64_t notices_lost;
};

struct fl_pg {
    fl_db db;
    fl_pg_connection *connections;
    fl_pg_queries fast, slow; /* that wait: for a shared connection, for one of their own */
    unsigned waiting;
    unsigned shared_most;
    bool is_pgbouncer;
    unsigned asking;  /* threads that ask the server to cancel */
    uint64_t schemas; /* how often this state has changed the schema */
    bool is_serving, is_closing;
    PQconninfoOption *options;    /* of the URL */
    const char **names, **values; /* for libpq, without hosts that are to be looked up */
    size_t option_count;
    const char *host, *port; /* to be looked up, by commas; NULL: nothing is */
    fl_deadline clock;
    uint64_t failing_since; /* ns; 0: the last attempt to connect went well */
    uint64_t attempt_at;    /* ns: no attempt before */
    uint64_t pause;         /* ms, before the next attempt */
    bool is_hopeless;       /* refused for a reason that time does not heal */
    bool was_lost;
    char why[512]; /* the last attempt failed */
};

static inline fl_pg_query *fl_pg_query_of(fl_query *query)
{
    return (fl_pg_query *)query;
}

/* driver.c */
extern const fl_db_driver fl_pg_driver;

#endif
