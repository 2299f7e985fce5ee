/* sql_statement: what a statement does, learnt from its tokens one by one. Private to sql.
 *
 * The struct is the caller's; it points into the tokens' text. Pure functions, *any* thread. */
#ifndef FL_SQL_STATEMENT_H
#define FL_SQL_STATEMENT_H

#include "sql_scan.h"

typedef struct fl_sql_verb {
    const char *name;
    fl_sql_kind kind;
} fl_sql_verb;

/* Of what holds statements of its own, each with its `;`. */
typedef enum {
    FL_SQL_BODY_NONE,
    FL_SQL_BODY_AHEAD, /* its BEGIN is to come */
    FL_SQL_BODY_BLOCK, /* up to `; END` */
    FL_SQL_BODY_PARENTHESES,
    FL_SQL_BODY_REST /* up to the end of the text */
} fl_sql_body;

typedef struct fl_sql_statement {
    fl_sql_dialect dialect;
    fl_sql_token last;
    size_t depth, base; /* open parentheses: now, and before the verb */
    bool has_begun;
    bool in_head;            /* of CREATE, ALTER or DROP: before the kind of object */
    const fl_sql_verb *verb; /* NULL: not one that is known */
    const fl_sql_verb *main; /* of a WITH */
    const char *writer;      /* what writes in a statement that begins like a reading one */
    const char *session;     /* what changes the session */
    fl_slice pragma;         /* its name, then what it is given */
    bool has_argument;
    fl_sql_body body;
} fl_sql_statement;

void fl_sql_statement_init(fl_sql_statement *statement, fl_sql_dialect dialect);

void fl_sql_statement_take(fl_sql_statement *statement, fl_sql_token token);

/* Whether a `;` here is the statement's own. */
bool fl_sql_statement_goes_on(const fl_sql_statement *statement);

/* After the last token: what it does, and the static name of what makes it so. */
fl_sql_kind fl_sql_statement_kind(const fl_sql_statement *statement, const char **verb);

#endif
