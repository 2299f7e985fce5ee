/* sqlite_driver: SQLite for `fl.db` (database.h). *Loop* of the state's thread; the work is done by
 * the threads of a file (sqlite_file.h). */
#ifndef FL_SQLITE_DRIVER_H
#define FL_SQLITE_DRIVER_H

#include "database.h"
#include "sqlite_job.h"
#include "sqlite_options.h"
#include "sqlite_queue.h"
#include "thread.h"

typedef struct fl_sqlite_link fl_sqlite_link;

typedef struct fl_sqlite_session fl_sqlite_session;
struct fl_sqlite_session {
    fl_session session;
    fl_sqlite_session *next, **link; /* of those that have a seat */
    fl_sqlite_seat *seat;            /* NULL: it has none yet, or no more */
};

typedef struct fl_sqlite {
    fl_db db;
    fl_sqlite_options options;
    fl_sqlite_link *link; /* to the file; NULL: nothing has been asked yet */
    fl_query *first;      /* that are not done */
    fl_sqlite_session *sessions;
    fl_sqlite_queue unsent; /* what this turn of the loop has asked for */
    fl_turn_end sending;
} fl_sqlite;

struct fl_sqlite_query {
    fl_query query;
    fl_sqlite_job *job;
    fl_deadline patience; /* until it is taken up */
};

extern const fl_db_driver fl_sqlite_driver;

#endif
