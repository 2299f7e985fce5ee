/* columns: what MariaDB sends of a row, made into values (values.h), by the columns' types.
 *
 * Pure functions over the library's fields; *any* thread. The row's bytes are trusted as far as
 * the library trusts them: its server is ours. */
#ifndef FL_MARIADB_COLUMNS_H
#define FL_MARIADB_COLUMNS_H

#include <stdbool.h>

#include <mysql.h>

#include "values.h"

typedef struct fl_mariadb_column {
    enum enum_field_types type;
    bool is_unsigned, is_bool, is_json;
} fl_mariadb_column;

void fl_mariadb_column_read(fl_mariadb_column *column, const MYSQL_FIELD *field);
/* Of the binary protocol: the value at `*at`, which is moved behind it. NULL: skip it. */
void fl_mariadb_column_binary(const fl_mariadb_column *column, fl_buffer *out, unsigned char **at);
/* Of the text protocol. */
void fl_mariadb_column_text(const fl_mariadb_column *column, fl_buffer *out, fl_slice text);

#endif
