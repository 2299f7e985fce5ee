/* wire: one connection of libmariadb's, whose calls never hold the loop.
 *
 * Owner: whoever embeds it; open ⇒ close. *loop* of the state's thread. libmariadb runs a call on a
 * stack of its own, leaves it when it would have to wait, and is called again when the socket is
 * ready, by whatever thread then runs the state. One call at a time.
 *
 * The connection is lent to the state (lease.h): when that is given up, the socket is shut down,
 * so that the server rolls back, and its place among the process' connections is free. */
#ifndef FL_MARIADB_WIRE_H
#define FL_MARIADB_WIRE_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include <mysql.h>

#include "address.h"
#include "database.h"
#include "lease.h"
#include "readiness.h"
#include "resolve.h"

typedef struct fl_mariadb_wire fl_mariadb_wire;

typedef enum {
    FL_WIRE_NOTHING,
    FL_WIRE_CONNECT,
    FL_WIRE_QUERY,       /* `text` */
    FL_WIRE_FETCH_ROW,   /* of `result` */
    FL_WIRE_NEXT_RESULT, /* of a query */
    FL_WIRE_PREPARE,     /* `text` as `statement` */
    FL_WIRE_EXECUTE,
    FL_WIRE_FETCH,
    FL_WIRE_NEXT, /* result of the statement */
    FL_WIRE_FREE, /* `statement` */
    FL_WIRE_RESET
} fl_wire_call;

struct fl_mariadb_wire {
    fl_db *db;
    MYSQL *mysql;          /* NULL: not open */
    fl_wire_call call;     /* that runs */
    MYSQL_STMT *statement; /* set before a call that needs it */
    MYSQL_RES *result;     /* the same */
    fl_slice text;         /* the same; stays the caller's until the call has ended */
    int status;            /* of the call that has ended; 0: it went well */
    MYSQL_ROW row;         /* that FETCH_ROW brought; NULL: none */
    const char *failure;   /* of ours, not the library's; static text */
    void (*ended)(fl_mariadb_wire *wire); /* a call that did not end at once */
    void (*heard)(fl_mariadb_wire *wire); /* the server says something unasked: it hangs up */
    /* its own */
    MYSQL *connected;
    my_bool flag;
    fl_readiness readiness;
    fl_deadline patience;
    fl_resolve *resolve;
    char *addresses; /* of the host, numbers; NULL: it is not looked up */
    fl_lease lease;
    fl_address *address;   /* held while it is open */
    fl_quota_member *slot; /* given back with the lease; NULL: it does not count */
    pthread_mutex_t lock;
    int fd; /* under the lock; -1: none */
};

/* What it says and runs first. */
extern const char fl_mariadb_setup[];

/* 0; UV_ENOMEM; UV_ECANCELED: the state is ending. `counts`: takes a slot (fl_db_take_slot);
 * UV_EAGAIN: the database is in line for one. */
int fl_mariadb_wire_open(fl_mariadb_wire *wire, fl_db *db, bool counts);
/* true: it has ended already; false: `ended` will be called. After `patience` ms, if not 0, the
 * call fails and the connection is lost. */
bool fl_mariadb_wire_start(fl_mariadb_wire *wire, fl_wire_call call, uint64_t patience);
/* Whether `heard` is wanted while no call runs. */
void fl_mariadb_wire_listen(fl_mariadb_wire *wire, bool wanted);
void fl_mariadb_wire_cut(fl_mariadb_wire *wire); /* what runs ends soon, and the connection too */
/* Before it is closed for another state (farewell.h): its slot goes back later. */
void fl_mariadb_wire_part(fl_mariadb_wire *wire);
void fl_mariadb_wire_close(fl_mariadb_wire *wire);

#endif
