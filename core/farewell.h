/* farewell: the end of a connection to a database that was given up for another state. The server
 * counts it until it has closed its side, too: only then the slot goes back (quota.h), or after a
 * second, so that there are never more connections than slots.
 *
 * Owner: its database, until the server has closed; *loop*. When the state is given up, the slot
 * goes back by a lease. */
#ifndef FL_FAREWELL_H
#define FL_FAREWELL_H

#include "database.h"

typedef struct fl_farewell fl_farewell;

/* Before the connection is closed: `fd` is its socket, still open; the slot is not the caller's any
 * more. Should that fail, it goes back at once. */
void fl_farewell_begin(fl_db *db, int fd, fl_quota_member *slot);
void fl_farewell_close_all(fl_db *db);

#endif
