/* sqlite_run: statements with their arguments, and rows as fl_rows has them.
 *
 * The thread of the connection. */
#ifndef FL_SQLITE_RUN_H
#define FL_SQLITE_RUN_H

#include "sqlite_connection.h"

/* Runs one statement of a job to its end, or as far as its rows are wanted. Otherwise the job has
 * failed, or is misplaced: whatever its words are, it changes something, and the connection reads.
 */
bool fl_sqlite_run_call(fl_sqlite_connection *connection, fl_sqlite_job *job, fl_sqlite_call *call);
/* All of them. */
bool fl_sqlite_run_calls(fl_sqlite_connection *connection, fl_sqlite_job *job);

/* The same in pieces: begin takes a prepared statement and gives it its arguments; more appends up
 * to `most` rows, and says by *over that these were the last. */
bool fl_sqlite_run_begin(fl_sqlite_connection *connection, fl_sqlite_job *job,
                         fl_sqlite_prepared **out);
bool fl_sqlite_run_more(fl_sqlite_connection *connection, fl_sqlite_job *job,
                        fl_sqlite_prepared *prepared, fl_rows *rows, uint64_t most, bool *over);

#endif
