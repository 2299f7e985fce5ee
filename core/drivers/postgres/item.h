/* item: what a connection does, in order: first what is being answered, at last, from `unsent` on,
 * what has not been written yet.
 *
 * Owner: a connection; *loop*. The items are others': of queries, or members of the connection. */
#ifndef FL_PG_ITEM_H
#define FL_PG_ITEM_H

#include "postgres.h"

/* The server comes to the first one. */
static inline void fl_pg_item_begin_first(fl_pg_connection *self)
{
    self->head_since = uv_hrtime();
    self->head_waited = fl_thread_waited(self->pg->db.state->thread);
}

/* Before another; NULL: behind all. */
static inline void fl_pg_item_insert(fl_pg_connection *self, fl_pg_item *item, fl_pg_item *before)
{
    item->is_written = false;
    item->next = before;
    item->link = before ? before->link : self->last;
    *item->link = item;
    *(before ? &before->link : &self->last) = &item->next;
    if (self->unsent == before) self->unsent = item;
    if (self->items++ == 0) atomic_store(&self->line->is_busy, true);
}

static inline void fl_pg_item_remove(fl_pg_connection *self, fl_pg_item *item)
{
    if (self->unsent == item) self->unsent = item->next;
    if (self->writer == item) self->writer = NULL;
    *item->link = item->next;
    *(item->next ? &item->next->link : &self->last) = item->link;
    item->link = NULL;
    if (--self->items == 0) atomic_store(&self->line->is_busy, false);
}

/* In its place, as it is. */
void fl_pg_item_replace(fl_pg_connection *self, fl_pg_item *item, fl_pg_item *by);

#endif
