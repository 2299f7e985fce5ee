#include "run.h"

#include <stdlib.h>

bool fl_pg_run_begin(fl_pg_query *q)
{
    q->writing = q->answering = 0;
    q->parsing = NULL;
    q->parsing_last = &q->parsing;
    q->is_mismatched = q->is_bound = q->is_again = q->is_deaf = false;
    q->one = NULL;
    q->known = &q->one;
    if (q->query.call_count > 1) q->known = calloc(q->query.call_count, sizeof(fl_pg_known *));
    q->runs++;
    return q->known != NULL;
}

void fl_pg_run_parse(fl_pg_query *q, fl_pg_entry *entry)
{
    entry->next_parsing = NULL;
    *q->parsing_last = entry;
    q->parsing_last = &entry->next_parsing;
}

void fl_pg_run_parsed(fl_pg_query *q)
{
    fl_pg_entry *entry = q->parsing;
    q->parsing = entry->next_parsing;
    if (!q->parsing) q->parsing_last = &q->parsing;
    fl_pg_prepared_parsed(entry);
}

/* The server did not get as far as to prepare these. */
void fl_pg_run_drop_parsing(fl_pg_connection *self, fl_pg_query *q)
{
    while (q->parsing) {
        fl_pg_entry *entry = q->parsing;
        fl_pg_prepared_drop(&self->prepared, entry, false);
        fl_pg_run_parsed(q);
    }
}

void fl_pg_run_end(fl_pg_connection *self, fl_pg_query *q)
{
    if (!q->known) return;
    if (q->parsing) fl_pg_run_drop_parsing(self, q);
    unsigned count = q->known == &q->one ? 1 : q->query.call_count;
    for (unsigned i = 0; i < count; i++) fl_pg_known_release(q->known[i]);
    if (q->known != &q->one) free(q->known);
    q->known = NULL;
}

void fl_pg_run_reset_rows(fl_query *query)
{
    for (unsigned i = 0; i < query->call_count; i++) {
        fl_rows_reset(&query->calls[i].rows);
        query->calls[i].affected = 0;
    }
}
