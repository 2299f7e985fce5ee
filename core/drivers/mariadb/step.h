/* step: what the steps of a link have in common: how the next one begins, and how a query ends.
 *
 * *loop*, within a step of the link. What returns bool says whether the next step is due at once;
 * false, too, when the link is dead. */
#ifndef FL_MARIADB_STEP_H
#define FL_MARIADB_STEP_H

#include "link.h"

#define FL_MARIADB_BATCH_POINT "fasterlua_batch" /* the savepoint of a batch in a session */

/* The library's call begins, and what is to be done at its end is the phase's. */
bool fl_mariadb_go(fl_mariadb_link *link, fl_link_phase phase, fl_wire_call call);
bool fl_mariadb_ask(fl_mariadb_link *link, fl_link_phase phase, const char *text);
bool fl_mariadb_free(fl_mariadb_link *link, fl_link_phase phase, MYSQL_STMT *handle);

fl_call *fl_mariadb_call_of(const fl_mariadb_link *link); /* that runs */

/* The query is done. */
bool fl_mariadb_finish(fl_mariadb_link *link);
/* It has failed: so has all of a batch. */
bool fl_mariadb_undo(fl_mariadb_link *link);
bool fl_mariadb_fail(fl_mariadb_link *link, const fl_mariadb_fault *fault);
bool fl_mariadb_fail_for_memory(fl_mariadb_link *link);
/* The library's call has failed: the query does, or the connection is lost with it. */
bool fl_mariadb_trouble(fl_mariadb_link *link, MYSQL_STMT *statement);
/* What ought not to fail has: the connection is lost. */
bool fl_mariadb_give_up(fl_mariadb_link *link);
bool fl_mariadb_is_over(const fl_mariadb_link *link);
void fl_mariadb_look_at_fault(fl_mariadb_link *link, fl_mariadb_fault *fault,
                              MYSQL_STMT *statement);
/* Nothing is left of the link; its query is run elsewhere or fails. */
bool fl_mariadb_lose(fl_mariadb_link *link, const fl_mariadb_fault *fault);

#endif
