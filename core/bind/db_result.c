#include "bind/db_result.h"

#include <lauxlib.h>
#include <math.h>

#include "bind/db_error.h"
#include "int64.h"
#include "json.h"
#include "query_op.h"
#include "rows.h"

#define EXACT 9007199254740992.0 /* 2^53 */

static void push_counts(lua_State *L, const fl_call *call)
{
    lua_pushnumber(L, (lua_Number)call->affected);
    if (call->last_id == 0)
        lua_pushnil(L);
    else if (fabs((double)call->last_id) <= EXACT)
        lua_pushnumber(L, (lua_Number)call->last_id);
    else
        fl_int64_push(L, call->last_id);
}

static void push_batch(lua_State *L, const fl_query *query)
{
    lua_createtable(L, (int)query->call_count, 0);
    for (unsigned i = 0; i < query->call_count; i++) {
        const fl_call *call = &query->calls[i];
        lua_createtable(L, 0, 3);
        push_counts(L, call);
        lua_setfield(L, -3, "last_id");
        lua_setfield(L, -2, "affected");
        if (call->rows.width) {
            fl_rows_push(L, &call->rows);
            lua_setfield(L, -2, "rows");
        }
        lua_rawseti(L, -2, (int)i + 1);
    }
    luaL_getmetatable(L, FL_JSON_ARRAY);
    lua_setmetatable(L, -2);
}

/* What a loop takes next: the rows, and how many bytes they had; nothing at the end. */
static int push_piece(lua_State *L, const fl_rows *rows)
{
    if (rows->count == 0) return 1;
    fl_rows_push(L, rows);
    lua_pushnumber(L, (lua_Number)rows->values.size);
    return 3;
}

int fl_db_result_take(fl_op *op, lua_State *L)
{
    fl_query_op *self = (fl_query_op *)op;
    const fl_query *query = self->query;
    luaL_checkstack(L, 10, "for a result");
    if (self->given_up) return fl_db_error_push_given_up(L, query, self->given_up);
    if (query->error.message) return fl_db_error_push(L, query);
    const fl_call *call = &query->calls[0];
    lua_pushboolean(L, 1);
    switch (self->take) {
    case FL_TAKE_ROWS: fl_rows_push(L, &call->rows); return 2;
    case FL_TAKE_ROW: fl_rows_push_first(L, &call->rows); return 2;
    case FL_TAKE_VALUE: fl_rows_push_value(L, &call->rows); return 2;
    case FL_TAKE_COUNTS: push_counts(L, call); return 3;
    case FL_TAKE_BATCH: push_batch(L, query); return 2;
    case FL_TAKE_SESSION: fl_db_result_push_session(L, 1); return 2;
    case FL_TAKE_PIECE: return push_piece(L, &call->rows);
    }
    return 1;
}

void fl_db_result_keep_session(lua_State *L)
{
    lua_createtable(L, 1, 0);
    lua_insert(L, -2);
    lua_rawseti(L, -2, 1);
    lua_setfenv(L, -2);
}

void fl_db_result_push_session(lua_State *L, int op)
{
    lua_getfenv(L, op);
    lua_rawgeti(L, -1, 1);
    lua_remove(L, -2);
}
