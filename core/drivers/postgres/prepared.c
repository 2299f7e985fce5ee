#include "prepared.h"

#include <stdio.h>
#include <stdlib.h>

#include "wire.h"

static fl_pg_entry **bucket_of(fl_pg_prepared *self, const fl_statement *statement)
{
    return &self->buckets[statement->id % FL_PG_PREPARED_BUCKETS];
}

static void leave_order(fl_pg_prepared *self, fl_pg_entry *entry)
{
    *(entry->newer ? &entry->newer->older : &self->newest) = entry->older;
    *(entry->older ? &entry->older->newer : &self->oldest) = entry->newer;
}

static void become_newest(fl_pg_prepared *self, fl_pg_entry *entry)
{
    entry->newer = NULL;
    entry->older = self->newest;
    *(self->newest ? &self->newest->newer : &self->oldest) = entry;
    self->newest = entry;
}

static void maybe_free(fl_pg_entry *entry)
{
    if (entry->is_listed || entry->is_parsing) return;
    fl_statement_release(entry->statement);
    fl_pg_known_release(entry->known);
    free(entry);
}

fl_pg_entry *fl_pg_prepared_find(fl_pg_prepared *self, const fl_statement *statement)
{
    fl_pg_entry *entry = *bucket_of(self, statement);
    while (entry && entry->statement != statement) entry = entry->chain;
    if (entry && self->newest != entry) {
        leave_order(self, entry);
        become_newest(self, entry);
    }
    return entry;
}

static void list(fl_pg_prepared *self, fl_pg_entry *entry)
{
    fl_pg_entry **bucket = bucket_of(self, entry->statement);
    (void)snprintf(entry->name, sizeof(entry->name), "s%u", ++self->last_number);
    entry->is_listed = true;
    entry->chain = *bucket;
    *bucket = entry;
    become_newest(self, entry);
    if (++self->count > FL_PG_PREPARED_MOST && !self->oldest->is_parsing)
        fl_pg_prepared_drop(self, self->oldest, true);
}

fl_pg_entry *fl_pg_prepared_add(fl_pg_prepared *self, fl_statement *statement, bool is_named)
{
    fl_pg_entry *entry = calloc(1, sizeof(*entry));
    if (!entry) return NULL;
    fl_statement_hold(statement);
    entry->statement = statement;
    entry->is_parsing = true;
    if (is_named) list(self, entry);
    return entry;
}

void fl_pg_prepared_drop(fl_pg_prepared *self, fl_pg_entry *entry, bool tell)
{
    if (!entry->is_listed) return;
    fl_pg_entry **link = bucket_of(self, entry->statement);
    while (*link != entry) link = &(*link)->chain;
    *link = entry->chain;
    leave_order(self, entry);
    self->count--;
    if (tell) fl_pg_write_close(&self->closing, 'S', entry->name);
    entry->is_listed = false;
    maybe_free(entry);
}

void fl_pg_prepared_forget(fl_pg_prepared *self, const fl_statement *statement)
{
    fl_pg_entry *entry = fl_pg_prepared_find(self, statement);
    if (entry) fl_pg_prepared_drop(self, entry, true);
}

void fl_pg_prepared_parsed(fl_pg_entry *entry)
{
    entry->is_parsing = false;
    maybe_free(entry);
}

void fl_pg_prepared_clear(fl_pg_prepared *self)
{
    while (self->oldest) fl_pg_prepared_drop(self, self->oldest, false);
    fl_buffer_reset(&self->closing, 0);
}
