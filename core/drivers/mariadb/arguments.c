#include "arguments.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "values.h"

static int make_room(fl_mariadb_arguments *self, uint32_t count)
{
    if (count <= self->capacity) return 0;
    fl_mariadb_arguments_close(self);
    self->binds = calloc(count, sizeof(*self->binds));
    self->cells = calloc(count, sizeof(*self->cells));
    if (!self->binds || !self->cells) {
        fl_mariadb_arguments_close(self);
        return UV_ENOMEM;
    }
    self->capacity = count;
    return 0;
}

static void bind_text(MYSQL_BIND *bind, fl_slice text)
{
    bind->buffer_type = MYSQL_TYPE_STRING;
    bind->buffer = (void *)(uintptr_t)(text.data ? text.data : "");
    bind->buffer_length = bind->length_value = text.size;
    bind->length = &bind->length_value;
}

static void bind_cell(MYSQL_BIND *bind, fl_mariadb_cell *cell, enum enum_field_types type)
{
    bind->buffer_type = type;
    bind->buffer = cell;
}

static void bind_value(MYSQL_BIND *bind, fl_mariadb_cell *cell, fl_value value)
{
    memset(bind, 0, sizeof(*bind));
    switch (value.tag) {
    case FL_VALUE_NULL:
    case FL_VALUE_LIST: bind->buffer_type = MYSQL_TYPE_NULL; return;
    case FL_VALUE_FALSE:
    case FL_VALUE_TRUE:
        cell->tiny = value.tag == FL_VALUE_TRUE;
        bind_cell(bind, cell, MYSQL_TYPE_TINY);
        return;
    case FL_VALUE_INTEGER:
        cell->integer = value.integer;
        bind_cell(bind, cell, MYSQL_TYPE_LONGLONG);
        return;
    case FL_VALUE_NUMBER:
        cell->number = value.number;
        bind_cell(bind, cell, MYSQL_TYPE_DOUBLE);
        return;
    case FL_VALUE_TEXT:
    case FL_VALUE_JSON: bind_text(bind, value.text); return;
    }
}

int fl_mariadb_arguments_set(fl_mariadb_arguments *self, const char *at, uint32_t count)
{
    int status = make_room(self, count);
    for (uint32_t i = 0; status == 0 && i < count; i++)
        bind_value(&self->binds[i], &self->cells[i], fl_values_read(&at));
    return status;
}

void fl_mariadb_arguments_close(fl_mariadb_arguments *self)
{
    free(self->binds);
    free(self->cells);
    *self = (fl_mariadb_arguments){0};
}
