/* sql_scan: the tokens of an SQL text, as its database would cut it; comments and blanks are passed
 * over. Private to sql.
 *
 * The struct is the caller's and points into the text, which holds no NUL byte and outlives it. One
 * pass, no recursion, no memory. Pure functions, *any* thread. */
#ifndef FL_SQL_SCAN_H
#define FL_SQL_SCAN_H

#include "slice.h"
#include "sql.h"

typedef enum {
    FL_SQL_TOKEN_END,
    FL_SQL_TOKEN_WORD,        /* a keyword or a name */
    FL_SQL_TOKEN_QUOTED,      /* "name", `name`, [name] */
    FL_SQL_TOKEN_STRING,      /* MariaDB's "string" too */
    FL_SQL_TOKEN_NUMBER,      /* as far as its point */
    FL_SQL_TOKEN_PLACEHOLDER, /* ? */
    FL_SQL_TOKEN_QUESTION,    /* ?? in PostgreSQL: the operator ? */
    FL_SQL_TOKEN_NUMBERED,    /* $1 in PostgreSQL */
    FL_SQL_TOKEN_SIGN,        /* any other byte */
    FL_SQL_TOKEN_BAD          /* see `problem` */
} fl_sql_token_type;

typedef struct fl_sql_token {
    fl_sql_token_type type;
    size_t at;
    fl_slice text;
} fl_sql_token;

typedef struct fl_sql_scan {
    fl_sql_dialect dialect;
    fl_slice text;
    size_t at;
    size_t start;        /* of the token, or of what is wrong */
    const char *problem; /* after FL_SQL_TOKEN_BAD: static, without the place */
    const char *hint;    /* may be empty */
} fl_sql_scan;

void fl_sql_scan_init(fl_sql_scan *scan, fl_sql_dialect dialect, fl_slice text);

/* The next token; from the end or the first bad one on always that. */
fl_sql_token fl_sql_scan_next(fl_sql_scan *scan);

/* Whether the byte may stand within a name or number, `$` included. */
static inline bool fl_sql_is_name_byte(char c)
{
    return (c >= '0' && c <= '9') || (fl_lower(c) >= 'a' && fl_lower(c) <= 'z') || c == '_' ||
           c == '$' || (unsigned char)c >= 0x80;
}

static inline bool fl_sql_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static inline bool fl_sql_token_is_word(fl_sql_token token, const char *word)
{
    return token.type == FL_SQL_TOKEN_WORD &&
           fl_slice_equal_nocase(token.text, fl_slice_from_string(word));
}

static inline bool fl_sql_token_is_sign(fl_sql_token token, char sign)
{
    return token.type == FL_SQL_TOKEN_SIGN && token.text.data[0] == sign;
}

#endif
