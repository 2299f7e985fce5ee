/* arguments: of a statement, as libmariadb wants them bound.
 *
 * Owner: whoever holds the struct; zeros ⇒ close. What is bound points into the values it was made
 * of, and lives until the next call. */
#ifndef FL_MARIADB_ARGUMENTS_H
#define FL_MARIADB_ARGUMENTS_H

#include <stdint.h>

#include <mysql.h>

typedef union fl_mariadb_cell {
    int64_t integer;
    double number;
    int8_t tiny;
} fl_mariadb_cell;

typedef struct fl_mariadb_arguments {
    MYSQL_BIND *binds;
    fl_mariadb_cell *cells; /* of numbers: aligned copies */
    uint32_t capacity;
} fl_mariadb_arguments;

/* `count` values from `at` on. 0 or UV_ENOMEM. */
int fl_mariadb_arguments_set(fl_mariadb_arguments *arguments, const char *at, uint32_t count);
void fl_mariadb_arguments_close(fl_mariadb_arguments *arguments);

#endif
