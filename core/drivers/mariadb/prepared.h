/* prepared: the statements that one connection has prepared, the one used last first.
 *
 * Owner: a link; zeros ⇒ close, after the connection itself. *loop*. */
#ifndef FL_MARIADB_PREPARED_H
#define FL_MARIADB_PREPARED_H

#include <mysql.h>

#include "columns.h"
#include "statements.h"

#define FL_MARIADB_PREPARED_MOST 128

typedef struct fl_mariadb_prepared {
    struct fl_mariadb_prepared *next;
    fl_statement *statement; /* held */
    MYSQL_STMT *handle;
    fl_buffer names; /* of its columns when it was prepared: values, all text */
    fl_mariadb_column *columns;
    unsigned width;
} fl_mariadb_prepared;

typedef struct fl_mariadb_prepared_list {
    fl_mariadb_prepared *first;
    unsigned count, most; /* most 0: FL_MARIADB_PREPARED_MOST */
} fl_mariadb_prepared_list;

/* NULL: not prepared. */
fl_mariadb_prepared *fl_mariadb_prepared_find(fl_mariadb_prepared_list *list,
                                              const fl_statement *statement);
/* NULL: no memory; the handle stays the caller's. */
fl_mariadb_prepared *fl_mariadb_prepared_add(fl_mariadb_prepared_list *list,
                                             fl_statement *statement, MYSQL_STMT *handle);
/* The handle, which becomes the caller's; NULL: there is none. */
MYSQL_STMT *fl_mariadb_prepared_take(fl_mariadb_prepared_list *list, const fl_statement *statement);
MYSQL_STMT *fl_mariadb_prepared_take_last(fl_mariadb_prepared_list *list);
bool fl_mariadb_prepared_is_full(const fl_mariadb_prepared_list *list);
void fl_mariadb_prepared_close(fl_mariadb_prepared_list *list);

#endif
