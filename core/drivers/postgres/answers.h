/* answers: what the server says to what was asked: descriptions, rows, ends. Errors are refusal's,
 * pieces of a stream or of COPY streaming's.
 *
 * Owner: a connection; *loop*. The messages lie in its `in`. Each is told as it comes, in order. */
#ifndef FL_PG_ANSWERS_H
#define FL_PG_ANSWERS_H

#include "postgres.h"

void fl_pg_answers_take(fl_pg_connection *self, const fl_pg_message *message);
void fl_pg_answers_too_large(fl_pg_connection *self); /* a row is passed over */

#endif
