/* cancelling: the server is asked to end what runs.
 *
 * Owner: a connection; *loop*. A cancel names the connection, not the statement: it may come late
 * and hit what is next. So nothing more is written until it has been delivered, and what it hits
 * that was written before is run again. */
#ifndef FL_PG_CANCELLING_H
#define FL_PG_CANCELLING_H

#include "postgres.h"

void fl_pg_cancelling_begin(fl_pg_connection *self); /* of the first item */

#endif
