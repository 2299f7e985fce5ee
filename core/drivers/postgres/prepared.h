/* prepared: the statements that a connection has prepared, by the statement (statements.h); the
 * least recently used go when there are more than FL_PG_PREPARED_MOST.
 *
 * Owner: a connection; *loop*. An entry is in the table, in the list of a query whose answers are
 * still to tell that it is there (`parsing`), or both; in neither it is gone. */
#ifndef FL_PG_PREPARED_H
#define FL_PG_PREPARED_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "known.h"
#include "statements.h"

#define FL_PG_PREPARED_MOST 256
#define FL_PG_PREPARED_BUCKETS 256

typedef struct fl_pg_entry fl_pg_entry;
struct fl_pg_entry {
    fl_pg_entry *chain, *newer, *older;
    fl_statement *statement; /* held */
    fl_pg_known *known;      /* held; NULL: to be told by the server */
    char name[16];           /* "": not in the table, the connection has no prepared statements */
    bool is_listed;          /* in the table */
    fl_pg_entry *next_parsing;
    unsigned call; /* of the query that parses it */
    bool is_parsing;
};

typedef struct fl_pg_prepared {
    fl_pg_entry *buckets[FL_PG_PREPARED_BUCKETS];
    fl_pg_entry *newest, *oldest;
    unsigned count;
    uint32_t last_number;
    fl_buffer closing; /* messages Close for those that are gone, to be sent before others */
} fl_pg_prepared;

fl_pg_entry *fl_pg_prepared_find(fl_pg_prepared *self, const fl_statement *statement);
/* A new one, under a name of its own, or without one; NULL: no memory. */
fl_pg_entry *fl_pg_prepared_add(fl_pg_prepared *self, fl_statement *statement, bool is_named);
/* Takes it out; `tell`: the server has it and is to forget it. */
void fl_pg_prepared_drop(fl_pg_prepared *self, fl_pg_entry *entry, bool tell);
/* It is to be prepared anew, should it be there. */
void fl_pg_prepared_forget(fl_pg_prepared *self, const fl_statement *statement);
void fl_pg_prepared_parsed(fl_pg_entry *entry); /* no query parses it any more */
void fl_pg_prepared_clear(fl_pg_prepared *self);

#endif
