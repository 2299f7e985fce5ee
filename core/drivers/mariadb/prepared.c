#include "prepared.h"

#include <stdlib.h>

static fl_mariadb_prepared **place_of(fl_mariadb_prepared_list *list, const fl_statement *statement)
{
    fl_mariadb_prepared **at = &list->first;
    while (*at && (*at)->statement != statement) at = &(*at)->next;
    return at;
}

fl_mariadb_prepared *fl_mariadb_prepared_find(fl_mariadb_prepared_list *list,
                                              const fl_statement *statement)
{
    fl_mariadb_prepared **at = place_of(list, statement), *found = *at;
    if (!found) return NULL;
    *at = found->next;
    found->next = list->first;
    list->first = found;
    return found;
}

static void forget(fl_mariadb_prepared *self)
{
    fl_statement_release(self->statement);
    fl_buffer_close(&self->names);
    free(self->columns);
    free(self);
}

static bool read_columns(fl_mariadb_prepared *self)
{
    self->width = mysql_stmt_field_count(self->handle);
    if (self->width == 0) return true;
    const MYSQL_FIELD *fields = mariadb_stmt_fetch_fields(self->handle);
    self->columns = calloc(self->width, sizeof(*self->columns));
    for (unsigned i = 0; self->columns && i < self->width; i++) {
        fl_mariadb_column_read(&self->columns[i], &fields[i]);
        fl_values_text(&self->names, fl_slice_of(fields[i].name, fields[i].name_length));
    }
    return self->columns && !self->names.failed;
}

fl_mariadb_prepared *fl_mariadb_prepared_add(fl_mariadb_prepared_list *list,
                                             fl_statement *statement, MYSQL_STMT *handle)
{
    fl_mariadb_prepared *added = calloc(1, sizeof(*added));
    if (!added) return NULL;
    fl_statement_hold(statement);
    added->statement = statement;
    added->handle = handle;
    if (!read_columns(added)) {
        forget(added);
        return NULL;
    }
    added->next = list->first;
    list->first = added;
    list->count++;
    return added;
}

static MYSQL_STMT *take_out(fl_mariadb_prepared_list *list, fl_mariadb_prepared **at)
{
    fl_mariadb_prepared *found = *at;
    if (!found) return NULL;
    MYSQL_STMT *handle = found->handle;
    *at = found->next;
    list->count--;
    forget(found);
    return handle;
}

MYSQL_STMT *fl_mariadb_prepared_take(fl_mariadb_prepared_list *list, const fl_statement *statement)
{
    return take_out(list, place_of(list, statement));
}

MYSQL_STMT *fl_mariadb_prepared_take_last(fl_mariadb_prepared_list *list)
{
    fl_mariadb_prepared **at = &list->first;
    while (*at && (*at)->next) at = &(*at)->next;
    return take_out(list, at);
}

bool fl_mariadb_prepared_is_full(const fl_mariadb_prepared_list *list)
{
    return list->count >= (list->most ? list->most : FL_MARIADB_PREPARED_MOST);
}

void fl_mariadb_prepared_close(fl_mariadb_prepared_list *list)
{
    for (MYSQL_STMT *handle; (handle = fl_mariadb_prepared_take_last(list)) != NULL;)
        (void)mysql_stmt_close(handle);
}
