/* sqlite_group: statements of different queries that the writer runs in one transaction, so that
 * all of them wait for the disk once. Each succeeds or fails as if it was alone.
 *
 * The writer's thread. */
#ifndef FL_SQLITE_GROUP_H
#define FL_SQLITE_GROUP_H

#include "sqlite_worker.h"

/* Whether it may stand beside others in a transaction. */
bool fl_sqlite_group_fits(const fl_sqlite_job *job);

/* With the file's lock, which is given up meanwhile: runs the job and what waits behind it. */
void fl_sqlite_group_run(fl_sqlite_worker *worker, fl_sqlite_job *job);

#endif
