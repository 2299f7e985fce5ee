/* call: one statement of a query as a link runs it: prepared, once, then executed, and its rows
 * read; or sent as text.
 *
 * *loop*, as steps of the link (step.h). */
#ifndef FL_MARIADB_CALL_H
#define FL_MARIADB_CALL_H

#include "link.h"

bool fl_mariadb_call_begin(fl_mariadb_link *link); /* the one that the query is at */
bool fl_mariadb_call_more(fl_mariadb_link *link);  /* rows of its stream */
bool fl_mariadb_call_step(fl_mariadb_link *link);  /* in a phase of a call */

#endif
