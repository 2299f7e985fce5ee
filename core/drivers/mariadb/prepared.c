#include "prepared.h"

#include <stdlib.h>

static fl_mariadb_prepared **place_of(fl_mariadb_prepared_list *list, const fl_statement *statement)
{
    fl_mariadb_prepared **at = &list->first;
    while (*at && (*at)->statement != statement) at = &(*at)->next;
    return at;
}

MYSQL_STMT *fl_mariadb_prepared_find(fl_mariadb_prepared_list *list, const fl_statement *statement)
{
    fl_mariadb_prepared **at = place_of(list, statement), *found = *at;
    if (!found) return NULL;
    *at = found->next;
    found->next = list->first;
    list->first = found;
    return found->handle;
}

bool fl_mariadb_prepared_add(fl_mariadb_prepared_list *list, fl_statement *statement,
                             MYSQL_STMT *handle)
{
    fl_mariadb_prepared *added = malloc(sizeof(*added));
    if (!added) return false;
    fl_statement_hold(statement);
    *added = (fl_mariadb_prepared){list->first, statement, handle};
    list->first = added;
    list->count++;
    return true;
}

static MYSQL_STMT *take_out(fl_mariadb_prepared_list *list, fl_mariadb_prepared **at)
{
    fl_mariadb_prepared *found = *at;
    if (!found) return NULL;
    MYSQL_STMT *handle = found->handle;
    *at = found->next;
    list->count--;
    fl_statement_release(found->statement);
    free(found);
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
