/* sqlite_cache: the prepared statements of one connection, by their text; the least recently used
 * one goes when there are more than FL_SQLITE_CACHE_MOST.
 *
 * Owner: a connection, on its thread. What was taken is given back by fl_sqlite_cache_give, reset;
 * while a text is out, another statement is made of it for whoever asks next. */
#ifndef FL_SQLITE_CACHE_H
#define FL_SQLITE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include <sqlite3.h>

#include "buffer.h"
#include "sqlite_job.h"

#define FL_SQLITE_CACHE_MOST 256
#define FL_SQLITE_CACHE_BUCKETS 256

typedef enum { FL_SQLITE_PLAIN, FL_SQLITE_BOOLEAN, FL_SQLITE_JSON } fl_sqlite_column;

typedef struct fl_sqlite_prepared fl_sqlite_prepared;
struct fl_sqlite_prepared {
    fl_sqlite_prepared *next;          /* of its bucket */
    fl_sqlite_prepared *newer, *older; /* in the order of use */
    fl_sqlite_text *text;              /* held */
    sqlite3_stmt *statement;           /* NULL: there is nothing in the text */
    bool is_out, is_private;           /* private: goes when it is given back */
    bool reads;                        /* changes nothing */
    int width;                         /* columns */
    int reprepared;                    /* how often the schema had changed */
    fl_sqlite_column *columns;         /* by their declared types */
    fl_buffer names;                   /* of the columns, as fl_rows has them */
};

typedef struct fl_sqlite_cache {
    sqlite3 *db;
    fl_sqlite_prepared *buckets[FL_SQLITE_CACHE_BUCKETS];
    fl_sqlite_prepared *newest, *oldest;
    unsigned count;
} fl_sqlite_cache;

void fl_sqlite_cache_init(fl_sqlite_cache *cache, sqlite3 *db);
void fl_sqlite_cache_close(fl_sqlite_cache *cache); /* nothing is out */

/* SQLITE_OK, or why the text cannot be prepared. */
int fl_sqlite_cache_take(fl_sqlite_cache *cache, fl_sqlite_prepared **out, fl_sqlite_text *text);
void fl_sqlite_cache_give(fl_sqlite_cache *cache, fl_sqlite_prepared *prepared);

/* After a first step: the columns may have changed with the schema. false: no memory. */
bool fl_sqlite_prepared_look(fl_sqlite_prepared *prepared);

#endif
