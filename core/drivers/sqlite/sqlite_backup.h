/* sqlite_backup: a copy of the database as it is at one moment, in a file of its own, while others
 * go on reading and writing.
 *
 * The thread of the connection, which has it as long as it takes. */
#ifndef FL_SQLITE_BACKUP_H
#define FL_SQLITE_BACKUP_H

#include "sqlite_connection.h"

/* To job->path, which is there, whole, when it has succeeded, and as it was before otherwise. */
void fl_sqlite_backup_run(fl_sqlite_connection *connection, fl_sqlite_job *job);

#endif
