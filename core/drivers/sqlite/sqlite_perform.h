/* sqlite_perform: what a job asks for is done on a worker's connection.
 *
 * The worker's thread, without the lock of its file. */
#ifndef FL_SQLITE_PERFORM_H
#define FL_SQLITE_PERFORM_H

#include "sqlite_worker.h"

/* Whatever transaction is or is not open. */
void fl_sqlite_perform(fl_sqlite_worker *worker, fl_sqlite_job *job);
/* Of the worker's seat; harmless when it has none. */
void fl_sqlite_perform_end_stream(fl_sqlite_worker *worker);

#endif
