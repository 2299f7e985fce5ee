/* sql: the text of one SQL statement, as an app writes it for `fl.db`, made into what a database
 * takes: `select * from items where id in (?)` → `select * from items where id in ($1,$2,$3)`.
 *
 * A statement is read once into a template, which then gives a text for each call. The struct is
 * the caller's (read ⇒ close) and owns its memory; nothing points into the text it was read from.
 * Reading and closing are one thread's; a template that was read may be written by several threads
 * at once. Pure functions, *any* thread.
 *
 * What an app may write, in every dialect:
 *   - `?` is a parameter, outside strings, quoted names and comments. PostgreSQL gets `$1`, `$2` …
 *     (set apart by a space from a name or number it touches), the others get `?`.
 *   - `in (?)` and `not in (?)`, with nothing but blanks and comments beside the `?`, may be given
 * a list. An empty one matches nothing: its `in` is false and its `not in` true, for NULL too.
 *   - PostgreSQL: `$1` in place of `?`, never beside it and without lists; its operators with a `?`
 *     are written with two: `??`, `??|`, `??&`, `@??`.
 *   - One statement; a `;` behind it is cut. Bodies of routines, triggers and rules hold their own.
 *   - SQLite's ?1, :name, @name and $name are refused: values are given in order.
 *   - MariaDB's executable comments (those that begin with a `!` or `M!`) are refused: they hold
 * code that some servers run and others do not, so nobody could say what the statement does.
 *
 * The text is read as the databases do with their defaults: standard_conforming_strings is on in
 * PostgreSQL; sql_mode has no ANSI_QUOTES and no NO_BACKSLASH_ESCAPES in MariaDB. What a function
 * does that a statement calls cannot be seen, but for the few that change the session. Within
 * MariaDB's routines every `;` is taken for the body's own: its server refuses a second statement.
 */
#ifndef FL_SQL_H
#define FL_SQL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "slice.h"

#define FL_SQL_TEXT_SIZE ((size_t)16 << 20) /* the longest statement that is read */
#define FL_SQL_SINGLE UINT32_MAX            /* in `lengths`: a value, not a list */

typedef enum { FL_SQL_POSTGRES, FL_SQL_SQLITE, FL_SQL_MARIADB } fl_sql_dialect;

/* What a statement does, by its words. */
typedef enum {
    /* SELECT, VALUES, TABLE, SHOW, a WITH that only reads, a PRAGMA that asks … */
    FL_SQL_READ,
    /* INSERT, UPDATE, DELETE, REPLACE, MERGE; a WITH that holds one of these at any depth; a SELECT
     * that locks rows or has an INTO */
    FL_SQL_WRITE,
    /* CREATE, ALTER, DROP, TRUNCATE, GRANT, COMMENT, REINDEX, ANALYZE, VACUUM … */
    FL_SQL_SCHEMA,
    /* COPY */
    FL_SQL_COPY,
    /* changes the connection itself: BEGIN, SET, LOCK, LISTEN, PREPARE, CREATE TEMPORARY,
     * `PRAGMA x = y` …, calls of pg_advisory_lock, get_lock, set_config … */
    FL_SQL_SESSION,
    /* CALL, DO, EXPLAIN, NOTIFY and what is not known */
    FL_SQL_OTHER
} fl_sql_kind;

typedef struct fl_sql_mark {
    uint32_t at;      /* where the parameter stands in the template */
    uint32_t in, end; /* of a list: from `in` or `not in` to behind its `)` */
    bool is_list, is_negated;
} fl_sql_mark;

typedef struct fl_sql {
    fl_sql_dialect dialect;
    fl_sql_kind kind;
    const char *verb;    /* what made it so, for messages: "BEGIN"; static */
    uint32_t parameters; /* how many values a call gives */
    fl_buffer text;      /* the template: without its `?`, with its `$1` */
    fl_sql_mark *marks;  /* of each `?` */
    uint32_t mark_count, mark_capacity;
} fl_sql;

/* 0; UV_ENOMEM; UV_EINVAL with a message that names what is wrong and where, in bytes from 1.
 * After an error there is nothing to close. */
int fl_sql_read(fl_sql *sql, fl_sql_dialect dialect, fl_slice text, char *error, size_t error_size);

/* Whether this parameter, from 0, may be given a list. */
static inline bool fl_sql_is_list(const fl_sql *sql, uint32_t parameter)
{
    return parameter < sql->mark_count && sql->marks[parameter].is_list;
}

/* Appends the text to send. `lengths`: how many items each parameter's list has, FL_SQL_SINGLE for
 * a value; NULL: values all. 0; UV_E2BIG for more parameters than the database takes; UV_EINVAL for
 * a list where there can be none; UV_ENOMEM. Only the last may leave half a text behind. */
int fl_sql_write(const fl_sql *sql, const uint32_t *lengths, fl_buffer *out);

/* How many parameters the database takes in one statement. */
uint32_t fl_sql_most_parameters(fl_sql_dialect dialect);

void fl_sql_close(fl_sql *sql);

#endif
