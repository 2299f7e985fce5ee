/* Arguments and results of what file.h does. The paths that errors name belong to Lua: the op's
 * environment table holds them. */
#include "bind/fs.h"

#include <fcntl.h>
#include <lauxlib.h>
#include <sys/stat.h>
#include <uv.h>

#include "../file.h"
#include "op.h"
#include "thread.h"

#define CAREFULLY (O_NONBLOCK | O_NOCTTY) /* a pipe or terminal must not hold a file thread */
#define OPTIONS 3                         /* where on the stack */
#define EXACT 9007199254740991.0          /* all integers up to it are exact in a Lua number */

typedef struct file_op {
    fl_op op;
    fl_file *file;         /* NULL: there was no memory */
    const char *path, *to; /* absolute; `to` for rename only */
    int error;             /* it was never started */
} file_op;

typedef struct action {
    fl_op_kind kind;
    const char *verb; /* "cannot read …" */
    fl_file_kind what;
} action;

static const action *action_of(const file_op *self)
{
    return (const action *)self->op.kind;
}

static void ended(void *data)
{
    fl_op_done(data);
}

static void cancel(fl_op *op)
{
    fl_file_cancel(((file_op *)op)->file);
}

static int error_of(const file_op *self)
{
    return self->error ? self->error : fl_file_result_of(self->file)->error;
}

static void close_op(fl_op *op)
{
    file_op *self = (file_op *)op;
    if (fl_op_is_lost(op)) fl_op_tell_lost_status(op, error_of(self), "path", self->path);
    if (self->file) fl_file_release(self->file);
    self->file = NULL;
}

static void push_reason(const file_op *self, lua_State *L)
{
    char text[128];
    int error = error_of(self);
    if (error != UV_EFBIG || action_of(self)->what != FL_FILE_READ) {
        lua_pushstring(L, uv_strerror_r(error, text, sizeof(text)));
        return;
    }
    uint64_t promised = fl_file_result_of(self->file)->promised;
    if (promised > FL_FILE_READ_MOST)
        lua_pushfstring(L, "%f bytes are more than the %d that one read returns",
                        (lua_Number)promised, (int)FL_FILE_READ_MOST);
    else
        lua_pushfstring(L, "it has more than the %d bytes that one read returns",
                        (int)FL_FILE_READ_MOST);
}

static void push_message(const file_op *self, lua_State *L)
{
    if (self->to)
        lua_pushfstring(L, "cannot %s %s to %s: ", action_of(self)->verb, self->path, self->to);
    else
        lua_pushfstring(L, "cannot %s %s: ", action_of(self)->verb, self->path);
    push_reason(self, L);
    lua_concat(L, 2);
}

static int push_error(const file_op *self, lua_State *L)
{
    char code[32];
    lua_pushboolean(L, false);
    lua_createtable(L, 0, 4);
    lua_pushliteral(L, "fs");
    lua_setfield(L, -2, "kind");
    lua_pushstring(L, uv_err_name_r(error_of(self), code, sizeof(code)));
    lua_setfield(L, -2, "code");
    push_message(self, L);
    lua_setfield(L, -2, "message");
    lua_pushstring(L, self->path);
    lua_setfield(L, -2, "path");
    return 2;
}

static int take_nothing(fl_op *op, lua_State *L)
{
    const file_op *self = (file_op *)op;
    if (error_of(self)) return push_error(self, L);
    lua_pushboolean(L, true);
    return 1;
}

static int take_data(fl_op *op, lua_State *L)
{
    const file_op *self = (file_op *)op;
    if (error_of(self)) return push_error(self, L);
    const fl_file_result *result = fl_file_result_of(self->file);
    lua_pushboolean(L, true);
    lua_pushlstring(L, result->data ? result->data : "", result->size);
    return 2;
}

static int take_found(fl_op *op, lua_State *L)
{
    const file_op *self = (file_op *)op;
    if (error_of(self)) return push_error(self, L);
    lua_pushboolean(L, true);
    lua_pushboolean(L, fl_file_result_of(self->file)->found);
    return 2;
}

static const char *type_name(uint64_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG: return "file";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "link";
    default: return "other";
    }
}

static int take_status(fl_op *op, lua_State *L)
{
    const file_op *self = (file_op *)op;
    if (error_of(self)) return push_error(self, L);
    const uv_stat_t *status = &fl_file_result_of(self->file)->status;
    lua_pushboolean(L, true);
    lua_createtable(L, 0, 4);
    lua_pushstring(L, type_name(status->st_mode));
    lua_setfield(L, -2, "type");
    lua_pushnumber(L, (lua_Number)status->st_size);
    lua_setfield(L, -2, "size");
    lua_pushnumber(L,
                   (lua_Number)status->st_mtim.tv_sec + (lua_Number)status->st_mtim.tv_nsec / 1e9);
    lua_setfield(L, -2, "modified");
    lua_pushinteger(L, (lua_Integer)(status->st_mode & 07777));
    lua_setfield(L, -2, "mode");
    return 2;
}

static int take_names(fl_op *op, lua_State *L)
{
    const file_op *self = (file_op *)op;
    if (error_of(self)) return push_error(self, L);
    const fl_file_result *result = fl_file_result_of(self->file);
    lua_pushboolean(L, true);
    lua_createtable(L, (int)result->name_count, 0);
    for (size_t i = 0; i < result->name_count; i++) {
        lua_pushstring(L, result->names[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
    return 2;
}

/* The path in the argument, made absolute in its place. */
static void check_path(lua_State *L, int index)
{
    size_t size;
    const char *path = luaL_checklstring(L, index, &size);
    luaL_argcheck(L, size > 0, index, "the path is empty");
    luaL_argcheck(L, strlen(path) == size, index, "the path has a NUL byte");
    const fl_state *state = fl_state_of(L);
    if (path[0] == '/' || !state) return;
    lua_pushfstring(L, "%s/%s", state->app->folder, path);
    lua_replace(L, index);
}

/* The options' field, an integer from 0 to `most`. */
static uint64_t check_count(lua_State *L, const char *name, double most, uint64_t otherwise)
{
    lua_getfield(L, OPTIONS, name);
    lua_Number count = lua_tonumber(L, -1);
    bool is_given = !lua_isnil(L, -1);
    bool is_count = lua_type(L, -1) == LUA_TNUMBER && count >= 0 && count <= most &&
                    (lua_Number)(uint64_t)count == count;
    lua_pop(L, 1);
    if (!is_given) return otherwise;
    if (!is_count) luaL_error(L, "%s is not an integer from 0 to %f", name, most);
    return (uint64_t)count;
}

static void check_options(lua_State *L)
{
    lua_settop(L, OPTIONS);
    if (lua_isnil(L, OPTIONS)) {
        lua_newtable(L);
        lua_replace(L, OPTIONS);
    }
    luaL_checktype(L, OPTIONS, LUA_TTABLE);
}

/* Pushes a new op whose environment table holds the path in the first argument, and the one in the
 * second when it has two. */
static file_op *push_op(lua_State *L, const action *what, int paths)
{
    lua_createtable(L, paths, 0);
    for (int i = 1; i <= paths; i++) {
        lua_pushvalue(L, i);
        lua_rawseti(L, -2, i);
    }
    file_op *self = (file_op *)fl_op_new(L, sizeof(*self), &what->kind);
    lua_pushvalue(L, -2);
    (void)lua_setfenv(L, -2);
    self->path = lua_tostring(L, 1);
    self->to = paths > 1 ? lua_tostring(L, 2) : NULL;
    return self;
}

static int post(file_op *self, const fl_file_order *order)
{
    fl_state *state = self->op.state;
    int status = fl_file_new(&self->file, order);
    if (status < 0) return status;
    return fl_file_start(self->file, state->thread->server, state->address, ended, &self->op);
}

/* Completes the order by what the op knows. */
static int start(file_op *self, fl_file_order order)
{
    fl_claim *claim = &self->op.state->thread->claim;
    order.kind = action_of(self)->what;
    order.path = self->path;
    order.to = self->to;
    fl_claim_take(claim);
    self->error = post(self, &order);
    if (self->error) fl_op_done(&self->op);
    fl_claim_give(claim);
    return 1;
}

static int start_with_path(lua_State *L, const action *what)
{
    check_path(L, 1);
    lua_settop(L, 1);
    return start(push_op(L, what, 1), (fl_file_order){0});
}

/* read(path[, { offset =, size = }]) -> op   [-0, +1, e] */
static int fs_read(lua_State *L)
{
    static const action what = {
        {"fs.read", take_data, cancel, close_op, true}, "read", FL_FILE_READ};
    fl_file_order order = {.flags = O_RDONLY | CAREFULLY};
    check_path(L, 1);
    lua_settop(L, 2);
    lua_pushnil(L);
    lua_insert(L, 2);
    check_options(L);
    order.offset = check_count(L, "offset", EXACT, 0);
    order.limit = check_count(L, "size", EXACT, UINT64_MAX);
    return start(push_op(L, &what, 1), order);
}

/* write(path, data[, { append =, mode = }]) -> op   [-0, +1, e] */
static int fs_write(lua_State *L)
{
    static const action what = {
        {"fs.write", take_nothing, cancel, close_op, true}, "write", FL_FILE_WRITE};
    fl_file_order order = {.flags = O_WRONLY | O_CREAT | CAREFULLY};
    check_path(L, 1);
    order.text.data = luaL_checklstring(L, 2, &order.text.size);
    check_options(L);
    order.mode = (int)check_count(L, "mode", 07777, 0666);
    lua_getfield(L, OPTIONS, "append");
    order.flags |= lua_toboolean(L, -1) ? O_APPEND : O_TRUNC;
    return start(push_op(L, &what, 1), order);
}

/* stat(path) -> op   [-0, +1, e] */
static int fs_stat(lua_State *L)
{
    static const action what = {
        {"fs.stat", take_status, cancel, close_op, true}, "stat", FL_FILE_STAT};
    return start_with_path(L, &what);
}

/* list(path) -> op   [-0, +1, e] */
static int fs_list(lua_State *L)
{
    static const action what = {
        {"fs.list", take_names, cancel, close_op, true}, "list", FL_FILE_LIST};
    return start_with_path(L, &what);
}

/* mkdir(path) -> op   [-0, +1, e] */
static int fs_mkdir(lua_State *L)
{
    static const action what = {
        {"fs.mkdir", take_nothing, cancel, close_op, true}, "make directory", FL_FILE_MKDIR};
    return start_with_path(L, &what);
}

/* remove(path) -> op   [-0, +1, e] */
static int fs_remove(lua_State *L)
{
    static const action what = {
        {"fs.remove", take_nothing, cancel, close_op, true}, "remove", FL_FILE_REMOVE};
    return start_with_path(L, &what);
}

/* exists(path) -> op   [-0, +1, e] */
static int fs_exists(lua_State *L)
{
    static const action what = {
        {"fs.exists", take_found, cancel, close_op, true}, "look for", FL_FILE_EXISTS};
    return start_with_path(L, &what);
}

/* rename(from, to) -> op   [-0, +1, e] */
static int fs_rename(lua_State *L)
{
    static const action what = {
        {"fs.rename", take_nothing, cancel, close_op, true}, "rename", FL_FILE_RENAME};
    check_path(L, 1);
    check_path(L, 2);
    lua_settop(L, 2);
    return start(push_op(L, &what, 2), (fl_file_order){0});
}

int fl_fs_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"read", fs_read},     {"write", fs_write},   {"stat", fs_stat},
        {"exists", fs_exists}, {"list", fs_list},     {"mkdir", fs_mkdir},
        {"remove", fs_remove}, {"rename", fs_rename}, {NULL, NULL}};
    lua_createtable(L, 0, 8);
    fl_state_functions(L, functions);
    return 1;
}
