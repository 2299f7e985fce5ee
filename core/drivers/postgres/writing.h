/* writing: statements as messages: Parse and Describe where they are not prepared, Bind, Execute.
 *
 * Owner: a connection; *loop*. Nothing but its `out` is written to. A statement of which nothing is
 * known has its parameters and columns told first: then its query is the `writer`, and nobody else
 * writes until they have come. */
#ifndef FL_PG_WRITING_H
#define FL_PG_WRITING_H

#include "postgres.h"

void fl_pg_writing_begin(fl_pg_connection *self, fl_pg_query *q);
/* What was waited for has come, of the statement that is prepared under the name. */
void fl_pg_writing_go_on(fl_pg_connection *self, fl_pg_query *q, const char *name,
                         fl_pg_known *known);

/* What is known of the types may be of a table that has been made anew since. Not asked more often
 * than that it costs nothing. */
bool fl_pg_writing_is_doubtful(const fl_pg_connection *self, const fl_pg_known *known);

#endif
