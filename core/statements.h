/* statements: the SQL that a state's database has been asked for: each text read once (sql.h), and
 * with it what drivers learn about it.
 *
 * Owner: a database (database.h), *loop* of its state's thread. The least recently used text goes
 * when there are more than FL_STATEMENTS_MOST, or they have more than FL_STATEMENTS_BYTES. A
 * statement is reference-counted, by that thread alone: queries and connections that have prepared
 * it hold it. */
#ifndef FL_STATEMENTS_H
#define FL_STATEMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "slice.h"
#include "sql.h"

#define FL_STATEMENTS_MOST 1000
#define FL_STATEMENTS_BYTES (16u << 20) /* of texts, and of what was made of them */

typedef struct fl_statements fl_statements;
typedef struct fl_statement fl_statement;

struct fl_statement {
    unsigned references;
    uint64_t id; /* of no other statement of this database; from 1 */
    fl_sql_kind kind;
    const char *verb;    /* static text: "SELECT" */
    uint32_t parameters; /* values that it takes: the items of its lists count one by one */
    char *text;          /* as the database takes it; NUL behind */
    size_t size;
    uint64_t runs; /* that ended well; the time that most of them take: */
    uint64_t p95;  /* ns, an estimate; 0: not known */
    void *known;   /* the driver's: types of parameters … */
    void (*forget)(void *known);
};

typedef struct fl_template { /* a text as an app writes it */
    fl_sql sql;
} fl_template;

int fl_statements_new(fl_statements **out, fl_sql_dialect dialect);
void fl_statements_free(fl_statements *statements);

/* The template of a text, which stays until the next call. 0, or what fl_sql_read returns, with a
 * message. */
int fl_statements_find(fl_statements *statements, fl_template **out, fl_slice text, char *error,
                       size_t error_size);

/* The statement of a template for lists of such lengths (NULL: it has none), held for the caller.
 * 0, UV_E2BIG: too many values, or UV_ENOMEM. */
int fl_statements_expand(fl_statements *statements, fl_statement **out, fl_template *template,
                         const uint32_t *lengths);

/* A text of the driver's or the framework's own, which is not looked into; not kept. Held. */
int fl_statement_new(fl_statement **out, fl_statements *statements, fl_slice text, fl_sql_kind kind,
                     const char *verb);
void fl_statement_hold(fl_statement *statement);
void fl_statement_release(fl_statement *statement);
void fl_statement_took(fl_statement *statement, uint64_t nanoseconds); /* a run that ended well */

#endif
