/* sqlite_error: what went wrong in SQLite, in words that cross threads.
 *
 * Owner: whoever embeds it, one thread at a time; zeroed, then closed. The first error stays. */
#ifndef FL_SQLITE_ERROR_H
#define FL_SQLITE_ERROR_H

#include <stdbool.h>

#include <sqlite3.h>

#include "slice.h"

typedef struct fl_sqlite_error {
    char code[32]; /* "": there is none */
    int status;    /* of the HTTP answer; 0: as any other error */
    char *message; /* NULL: memory ran out */
    char *detail;
    fl_slice constraint, table, column; /* in the message */
} fl_sqlite_error;

void fl_sqlite_error_set(fl_sqlite_error *error, const char *code, int status, const char *format,
                         ...) __attribute__((format(printf, 4, 5)));
/* What the last call on this connection, which returned `result`, complains of. `path`: of the
 * database, for errors that are about the file. */
void fl_sqlite_error_take(fl_sqlite_error *error, sqlite3 *db, int result, const char *path);
void fl_sqlite_error_move(fl_sqlite_error *to, fl_sqlite_error *from);
void fl_sqlite_error_copy(fl_sqlite_error *to, const fl_sqlite_error *from);
void fl_sqlite_error_close(fl_sqlite_error *error);

static inline bool fl_sqlite_error_is_set(const fl_sqlite_error *error)
{
    return error->code[0] != '\0';
}

/* "SQLITE_CONSTRAINT_UNIQUE"; static text, NULL: not known */
const char *fl_sqlite_error_name(int result);

/* Finds the names in "UNIQUE constraint failed: items.name"; those it does not tell stay empty. */
void fl_sqlite_error_parse(fl_sqlite_error *error, fl_slice message);

#endif
