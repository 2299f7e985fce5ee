/* bind/db_arguments: what Lua gives a statement, as values (values.h).
 *
 * Stateless. The thread of L; pure. `sql` is where the statement lies on the stack: errors show
 * it. */
#ifndef FL_BIND_DB_ARGUMENTS_H
#define FL_BIND_DB_ARGUMENTS_H

#include <stdbool.h>
#include <stdint.h>

#include <lua.h>

#include "buffer.h"
#include "sql.h"

/* lengths[i]: how many items argument i has as a list, or FL_SQL_SINGLE. Says whether there is any
 * list.  [-0, +0, -] */
bool fl_db_arguments_measure(lua_State *L, const fl_sql *sql, uint32_t *lengths, int first,
                             int last);

/* Arguments from `first` to `last`, as they were measured; `failed` of the buffer says when memory
 * ran out.  [-0, +0, e] */
void fl_db_arguments_add(lua_State *L, fl_buffer *out, const uint32_t *lengths, int first, int last,
                         int sql);

#endif
