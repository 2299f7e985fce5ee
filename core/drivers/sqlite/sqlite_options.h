/* sqlite_options: what an app may say of its database: sqlite:shop.db?readers=4&synchronous=full
 *
 *   mode         "rwc" (the default: made when it is missing) or "ro"
 *   readers      threads that read, 2 to 8; by default as many as there are processors. Sessions
 *                that read, transactions and loops over rows, have threads beside these
 *   synchronous  "normal" (the default: after a power failure the last transactions may be missing)
 *                or "full" (what was answered is on the disk)
 *   functions    "sleep": the SQL function fasterlua_sleep(milliseconds), for tests
 *
 * Owner: whoever embeds it; read ⇒ close. */
#ifndef FL_SQLITE_OPTIONS_H
#define FL_SQLITE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "database.h"

typedef struct fl_sqlite_options {
    char *path; /* absolute; of a database in memory: ":memory:" and the folder of its app */
    bool is_memory, read_only, full, sleeps;
    unsigned readers;
} fl_sqlite_options;

/* 0 or negative with a message. Touches no file. */
int fl_sqlite_options_read(fl_sqlite_options *options, const fl_db *db, char *why, size_t why_size);
void fl_sqlite_options_close(fl_sqlite_options *options);

#endif
