#include "bind/db_place.h"

#include <lauxlib.h>

#include "bind/db_error.h"
#include "query_op.h"
#include "state.h"
#include "thread.h"

#define HANDLE "fasterlua.db"
#define SESSION "fasterlua.db.session"

typedef struct session_handle {
    fl_session *session;
} session_handle;

static int no_server(lua_State *L)
{
    return fl_db_error_raise_text(
        L, "refused",
        "at the top level of a file a database can be opened, but not used: use app:on_start");
}

/* Known by its metatable's address, which costs less than its name. */
static fl_db *quick_db(lua_State *L, int index)
{
    const fl_state *state = fl_state_of(L);
    if (!state || !lua_getmetatable(L, index)) return NULL;
    bool is_handle = lua_topointer(L, -1) == state->db_metatable;
    lua_pop(L, 1);
    if (!is_handle) return NULL;
    const fl_db_handle *self = lua_touserdata(L, index); /* NULL: a table can have it, too */
    return self ? self->db : NULL;
}

static void release(lua_State *L, session_handle *self)
{
    fl_state *state = fl_state_of(L);
    if (!self->session || !self->session->held || !state) return;
    fl_claim_take(&state->thread->claim);
    fl_session_release(self->session);
    fl_claim_give(&state->thread->claim);
}

/* [-0, +0, -] */
static int collect_session(lua_State *L)
{
    session_handle *self = lua_touserdata(L, 1);
    release(L, self);
    fl_session_drop(self->session);
    self->session = NULL;
    return 0;
}

static void make_metatable(lua_State *L, const char *name, lua_CFunction collect)
{
    luaL_newmetatable(L, name);
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__name");
    if (collect) {
        lua_pushcfunction(L, collect);
        lua_setfield(L, -2, "__gc");
    }
    lua_newtable(L);
    lua_setfield(L, -2, "__index");
}

void fl_db_place_open(lua_State *L)
{
    make_metatable(L, HANDLE, NULL);
    if (fl_state_of(L)) fl_state_of(L)->db_metatable = lua_topointer(L, -1);
    lua_setfield(L, -2, "metatable");
    make_metatable(L, SESSION, collect_session);
    lua_setfield(L, -2, "session");
}

fl_db_handle *fl_db_place_new(lua_State *L)
{
    fl_db_handle *self = lua_newuserdata(L, sizeof(*self));
    self->db = NULL;
    luaL_getmetatable(L, HANDLE);
    lua_setmetatable(L, -2);
    return self;
}

fl_session *fl_db_place_new_session(lua_State *L, fl_db *db)
{
    session_handle *self = lua_newuserdata(L, sizeof(*self));
    self->session = NULL;
    luaL_getmetatable(L, SESSION);
    lua_setmetatable(L, -2);
    self->session = fl_session_new(db);
    if (!self->session) luaL_error(L, "not enough memory");
    return self->session;
}

/* Called as db.all(…): our method in Lua is between here and the app's line. */
static int not_a_database(lua_State *L, int index)
{
    luaL_where(L, 2);
    lua_pushfstring(
        L, "a database expected, got %s: a method has been called with a dot, not a colon?",
        luaL_typename(L, index));
    lua_concat(L, 2);
    return lua_error(L);
}

fl_db_place fl_db_place_check(lua_State *L, int index)
{
    fl_db *quick = quick_db(L, index);
    if (quick) return (fl_db_place){quick, NULL};
    fl_db_handle *self = lua_touserdata(L, index);
    fl_db_place where = {NULL, NULL};
    if (!self || !lua_getmetatable(L, index)) (void)not_a_database(L, index);
    luaL_getmetatable(L, HANDLE);
    if (lua_rawequal(L, -1, -2)) {
        where.db = self->db;
        if (!where.db) no_server(L);
        lua_pop(L, 2);
        return where;
    }
    lua_pop(L, 2);
    where.session = ((session_handle *)luaL_checkudata(L, index, SESSION))->session;
    fl_db_place_check_held(L, where.session);
    where.db = where.session->db;
    return where;
}

void fl_db_place_check_held(lua_State *L, const fl_session *session)
{
    if (!session || !session->held) fl_db_error_raise_text(L, "refused", "the transaction is over");
}

uint64_t fl_db_place_timeout(lua_State *L, int index, fl_db_place where)
{
    return lua_isnoneornil(L, index) ? where.db->timeout : (uint64_t)luaL_checknumber(L, index);
}

void fl_db_place_release(lua_State *L, int index)
{
    release(L, luaL_checkudata(L, index, SESSION));
}
