/* query_op: who waits for a query of a database (database.h), and what Lua's functions may do with
 * queries and sessions beside.
 *
 * Owner: Lua's collector, as every op. *loop* of the state's thread, or an owning function. */
#ifndef FL_QUERY_OP_H
#define FL_QUERY_OP_H

#include <stdbool.h>
#include <stdint.h>

#include "database.h"
#include "op.h"

typedef enum {
    FL_TAKE_ROWS,
    FL_TAKE_ROW,
    FL_TAKE_VALUE,
    FL_TAKE_COUNTS,
    FL_TAKE_BATCH,
    FL_TAKE_SESSION,
    FL_TAKE_PIECE
} fl_query_take;

struct fl_query_op {
    fl_op op;
    fl_query *query; /* held; NULL: not made */
    fl_query_take take;
    const char *given_up; /* why nobody waited for its end; static text */
};

void fl_db_free(fl_db *db); /* that has been closed, or was never opened */

/* NULL: no memory. Held by the caller. */
fl_query *fl_query_new(fl_db *db, fl_query_kind kind, unsigned call_count);
void fl_query_release(fl_query *query);
void fl_query_submit(fl_query *query, uint64_t timeout); /* ms; 0: none */
void fl_query_give_up(fl_query *query, const char *reason);

fl_session *fl_session_new(fl_db *db);        /* NULL: no memory. Held by the caller */
void fl_session_release(fl_session *session); /* the driver gets it back, if it has given it out */
void fl_session_drop(fl_session *session);    /* the reference; harmless with NULL */

#endif
