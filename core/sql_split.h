/* sql_split: a text of many SQL statements, cut into them: at each `;` that is no part of a string,
 * a name, a comment, or the body of a trigger, routine or rule.
 *
 * The struct is the caller's and points into the text, which outlives it. One pass, no memory. Pure
 * functions, *any* thread.
 *
 * Within MariaDB's routines, and BEGIN NOT ATOMIC, statements are those between BEGIN and END: a
 * body that is a lone IF or LOOP without them is cut too early. DELIMITER is the client's, not
 * SQL. */
#ifndef FL_SQL_SPLIT_H
#define FL_SQL_SPLIT_H

#include "sql_scan.h"

typedef struct fl_sql_part {
    fl_slice text; /* from its first token to its last, without the `;` */
    size_t line;   /* of its first token, from 1 */
    fl_sql_kind kind;
    const char *verb; /* static: what makes it so */
} fl_sql_part;

typedef struct fl_sql_split {
    fl_sql_scan scan;
    size_t line, counted; /* of the byte at `counted` */
    size_t wrong_line;    /* after UV_EINVAL: where */
    const char *problem;  /* and what; static */
    const char *hint;     /* may be empty */
} fl_sql_split;

void fl_sql_split_init(fl_sql_split *split, fl_sql_dialect dialect, fl_slice text);

/* 1: the next statement is in `part`; 0: there is none; UV_EINVAL: the text cannot be read. */
int fl_sql_split_next(fl_sql_split *split, fl_sql_part *part);

#endif
