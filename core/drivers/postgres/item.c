#include "item.h"

void fl_pg_item_replace(fl_pg_connection *self, fl_pg_item *item, fl_pg_item *by)
{
    bool writes = self->writer == item;
    *by = *item;
    *by->link = by;
    *(by->next ? &by->next->link : &self->last) = &by->next;
    item->link = NULL;
    if (writes) self->writer = by;
}
