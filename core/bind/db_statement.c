#include "bind/db_statement.h"

#include <lauxlib.h>
#include <string.h>

#include "bind/db_arguments.h"
#include "bind/db_error.h"
#include "state.h"
#include "thread.h"

#define ERROR_SIZE 512

static bool controls_transaction(const char *verb)
{
    static const char *const verbs[] = {"BEGIN",     "START",    "COMMIT",
                                        "END",       "ROLLBACK", "ABORT",
                                        "SAVEPOINT", "RELEASE",  "PREPARE TRANSACTION"};
    for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
        if (strncmp(verb, verbs[i], strlen(verbs[i])) == 0) return true;
    return false;
}

static void check_allowed(lua_State *L, fl_db_place where, const fl_sql *sql, int text)
{
    if (sql->kind == FL_SQL_COPY) {
        lua_pushliteral(L, "COPY: db:copy does that");
        fl_db_error_raise(L, "refused", text);
    }
    if (sql->kind != FL_SQL_SESSION) return;
    if (controls_transaction(sql->verb))
        lua_pushfstring(L, "%s: db:transaction begins, commits and rolls back", sql->verb);
    else if (!where.session)
        lua_pushfstring(L,
                        "%s changes the connection, which others use too: only within "
                        "db:transaction",
                        sql->verb);
    else
        return;
    fl_db_error_raise(L, "refused", text);
}

/* Until another one is looked for: and whatever allocates in Lua's heap may run a finalizer, which
 * may do that. */
static fl_template *find_template(lua_State *L, fl_db_place where, int text)
{
    char error[ERROR_SIZE] = "";
    fl_template *found = NULL;
    fl_slice sql;
    if (lua_type(L, text) != LUA_TSTRING) {
        lua_pushfstring(L, "the statement must be a string, got %s%s",
                        lua_isnoneornil(L, text) ? "" : "a ", luaL_typename(L, text));
        fl_db_error_raise(L, "argument", 0);
    }
    sql.data = lua_tolstring(L, text, &sql.size);
    fl_thread *thread = where.db->state->thread;
    fl_claim_take(&thread->claim);
    int status = fl_statements_find(where.db->statements, &found, sql, error, sizeof(error));
    fl_claim_give(&thread->claim);
    if (status == UV_ENOMEM) luaL_error(L, "not enough memory");
    if (status < 0) {
        lua_pushstring(L, error);
        fl_db_error_raise(L, "syntax", text);
    }
    return found;
}

static void check_count(lua_State *L, const fl_sql *sql, int given, int text)
{
    if ((uint32_t)given == sql->parameters) return;
    lua_pushfstring(L, "%d argument%s expected, got %d", (int)sql->parameters,
                    sql->parameters == 1 ? "" : "s", given);
    fl_db_error_raise(L, "argument", text);
}

static void set_statement(lua_State *L, fl_query *query, fl_call *call, fl_template *template,
                          const uint32_t *lengths, int text)
{
    fl_thread *thread = query->db->state->thread;
    fl_claim_take(&thread->claim);
    int status = fl_statements_expand(query->db->statements, &call->statement, template, lengths);
    fl_claim_give(&thread->claim);
    if (status == UV_E2BIG) {
        lua_pushliteral(L, "more values than the database takes in one statement");
        fl_db_error_raise(L, "argument", text);
    }
    if (status < 0) luaL_error(L, "not enough memory");
    call->count = call->statement->parameters;
}

void fl_db_statement_fill(lua_State *L, fl_query *query, fl_call *call, fl_db_place where, int text,
                          int first, int last)
{
    int given = last - first + 1;
    luaL_checkstack(L, 12, "for arguments");
    uint32_t *lengths = given ? lua_newuserdata(L, (size_t)given * sizeof(*lengths)) : NULL;
    fl_template *template = find_template(L, where, text);
    check_allowed(L, where, &template->sql, text);
    check_count(L, &template->sql, given, text);
    bool any = fl_db_arguments_measure(L, &template->sql, lengths, first, last);
    set_statement(L, query, call, template, any ? lengths : NULL, text);
    if (!given) return;
    call->first = query->values.size;
    fl_db_arguments_add(L, &query->values, lengths, first, last, text);
    if (query->values.failed) luaL_error(L, "not enough memory");
    lua_pop(L, 1);
}

void fl_db_statement_fill_command(lua_State *L, fl_query *query, fl_db_place where, int text)
{
    fl_template *template = find_template(L, where, text);
    set_statement(L, query, &query->call, template, NULL, text);
}

void fl_db_statement_fill_copy(lua_State *L, fl_query *query, fl_db_place where, int text)
{
    fl_template *template = find_template(L, where, text);
    if (template->sql.kind != FL_SQL_COPY || template->sql.parameters)
        fl_db_error_raise_text(L, "argument", "copy: a COPY statement without parameters expected");
    set_statement(L, query, &query->call, template, NULL, text);
}
