/* An op goes through steps, one uv_fs_t request at a time: a step submits the request, whose
 * callback keeps the result and proceeds to the next step. Whatever happens, `finish` closes the
 * file and ends the op. Its strings belong to Lua: the op's environment table holds them. */
#include "bind/fs.h"

#include <assert.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <uv.h>

#include "op.h"
#include "thread.h"

#define READ_MOST ((uint64_t)64 << 20)    /* bytes that one read returns */
#define FIRST_ROOM 4096                   /* for what tells no size, as in /proc */
#define WRITE_MOST ((size_t)1 << 30)      /* bytes of one request; uv_buf_t counts in 32 bits */
#define CAREFULLY (O_NONBLOCK | O_NOCTTY) /* a pipe or terminal must not hold a file thread */
#define OPTIONS 3                         /* where on the stack */
#define EXACT 9007199254740991.0          /* all integers up to it are exact in a Lua number */

typedef struct file_op {
    fl_op op;
    uv_fs_t request;
    const char *path, *to; /* absolute; `to` for rename only */
    fl_slice text;         /* to write */
    uint64_t offset, limit;
    int flags, mode;   /* of open */
    uint64_t expected; /* what the file's size promises; 0: nothing */
    uint64_t done;     /* bytes read or written */
    char *data;        /* read */
    size_t capacity;
    uv_stat_t status;
    char **names; /* of a folder */
    size_t name_count;
    uv_file descriptor; /* -1: none */
    int error;
    bool at_end, found, closing;
} file_op;

/* Submits a request: 0; or has nothing left to do: 1; or a negative uv code. */
typedef int (*step)(file_op *file);

typedef struct action {
    fl_op_kind kind;
    const char *verb; /* "cannot read …" */
    step begin;
} action;

static const action *action_of(const file_op *file)
{
    return (const action *)file->op.kind;
}

static uv_loop_t *loop_of(const file_op *file)
{
    return &file->op.state->thread->loop;
}

static void keep_error(file_op *file, ssize_t error)
{
    if (file->error == 0) file->error = (int)error;
}

static void closed(uv_fs_t *request)
{
    file_op *file = request->data;
    if (request->result < 0) keep_error(file, request->result);
    uv_fs_req_cleanup(request);
    fl_op_done(&file->op);
}

static void finish(file_op *file)
{
    if (file->descriptor < 0) {
        fl_op_done(&file->op);
        return;
    }
    file->closing = true;
    int status = uv_fs_close(loop_of(file), &file->request, file->descriptor, closed);
    assert(status == 0); /* it allocates nothing */
    (void)status;
}

static void proceed(file_op *file, step next)
{
    int status = file->error ? file->error : next(file);
    if (status == 0) return;
    if (status < 0) keep_error(file, status);
    finish(file);
}

/* The result of the request that has ended. */
static ssize_t end_request(file_op *file)
{
    ssize_t result = file->request.result;
    uv_fs_req_cleanup(&file->request);
    if (file->op.cancelled) keep_error(file, UV_ECANCELED);
    if (result < 0) keep_error(file, result);
    return result;
}

static void last_request_ended(uv_fs_t *request)
{
    (void)end_request(request->data);
    finish(request->data);
}

static bool make_room(file_op *file)
{
    if (file->done < file->capacity) return true;
    uint64_t capacity = file->capacity ? (uint64_t)file->capacity * 2 : FIRST_ROOM;
    if (file->expected && file->capacity == 0) capacity = file->expected;
    if (capacity > READ_MOST + 1) capacity = READ_MOST + 1;
    if (capacity > file->limit) capacity = file->limit;
    char *data = realloc(file->data, capacity);
    if (!data) return false;
    file->data = data;
    file->capacity = capacity;
    return true;
}

static void have_read(uv_fs_t *request);

static int read_more(file_op *file)
{
    bool is_whole = file->expected && file->done == file->expected;
    if (is_whole || file->at_end || file->done == file->limit) return 1;
    if (file->done > READ_MOST) return UV_EFBIG;
    if (!make_room(file)) return UV_ENOMEM;
    uv_buf_t room = uv_buf_init(file->data + file->done, (unsigned)(file->capacity - file->done));
    /* Only what can be positioned is asked to be: a pipe cannot. */
    int64_t at = file->offset ? (int64_t)(file->offset + file->done) : -1;
    return uv_fs_read(loop_of(file), &file->request, file->descriptor, &room, 1, at, have_read);
}

static void have_read(uv_fs_t *request)
{
    file_op *file = request->data;
    ssize_t size = end_request(file);
    if (size > 0) file->done += (uint64_t)size;
    file->at_end = size == 0;
    proceed(file, read_more);
}

static void measured(uv_fs_t *request)
{
    file_op *file = request->data;
    uint64_t size = request->result < 0 ? 0 : request->statbuf.st_size;
    (void)end_request(file);
    uint64_t rest = size > file->offset ? size - file->offset : 0;
    file->expected = rest < file->limit ? rest : file->limit;
    if (file->expected > READ_MOST) keep_error(file, UV_EFBIG);
    proceed(file, read_more);
}

static int measure(file_op *file)
{
    return uv_fs_fstat(loop_of(file), &file->request, file->descriptor, measured);
}

static void opened(file_op *file, step next)
{
    ssize_t result = end_request(file);
    if (result >= 0) file->descriptor = (uv_file)result;
    proceed(file, next);
}

static void opened_to_read(uv_fs_t *request)
{
    opened(request->data, measure);
}

static int begin_read(file_op *file)
{
    return uv_fs_open(loop_of(file), &file->request, file->path, file->flags, 0, opened_to_read);
}

static void have_written(uv_fs_t *request);

static int write_more(file_op *file)
{
    size_t rest = file->text.size - file->done;
    if (rest == 0) return 1;
    if (rest > WRITE_MOST) rest = WRITE_MOST;
    uv_buf_t part = uv_buf_init((char *)file->text.data + file->done, (unsigned)rest);
    return uv_fs_write(loop_of(file), &file->request, file->descriptor, &part, 1, -1, have_written);
}

static void have_written(uv_fs_t *request)
{
    file_op *file = request->data;
    ssize_t size = end_request(file);
    if (size > 0) file->done += (uint64_t)size;
    if (size == 0) keep_error(file, UV_EIO); /* it would be so for ever */
    proceed(file, write_more);
}

static void opened_to_write(uv_fs_t *request)
{
    opened(request->data, write_more);
}

static int begin_write(file_op *file)
{
    return uv_fs_open(loop_of(file), &file->request, file->path, file->flags, file->mode,
                      opened_to_write);
}

static void status_read(uv_fs_t *request)
{
    file_op *file = request->data;
    if (request->result == 0) file->status = request->statbuf;
    last_request_ended(request);
}

static int begin_stat(file_op *file)
{
    return uv_fs_lstat(loop_of(file), &file->request, file->path, status_read);
}

static void looked_for(uv_fs_t *request)
{
    file_op *file = request->data;
    file->found = request->result == 0;
    if (request->result == UV_ENOENT || request->result == UV_ENOTDIR) request->result = 0;
    last_request_ended(request);
}

static int begin_exists(file_op *file)
{
    return uv_fs_lstat(loop_of(file), &file->request, file->path, looked_for);
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int keep_names(file_op *file)
{
    if (file->request.result <= 0) return 0;
    file->names = calloc((size_t)file->request.result, sizeof(*file->names));
    if (!file->names) return UV_ENOMEM;
    uv_dirent_t found;
    while (uv_fs_scandir_next(&file->request, &found) == 0) {
        char *name = strdup(found.name);
        if (!name) return UV_ENOMEM;
        file->names[file->name_count++] = name;
    }
    qsort(file->names, file->name_count, sizeof(*file->names), by_bytes);
    return 0;
}

static void listed(uv_fs_t *request)
{
    file_op *file = request->data;
    int status = keep_names(file);
    if (status < 0) keep_error(file, status);
    last_request_ended(request);
}

static int begin_list(file_op *file)
{
    return uv_fs_scandir(loop_of(file), &file->request, file->path, 0, listed);
}

static int begin_mkdir(file_op *file)
{
    return uv_fs_mkdir(loop_of(file), &file->request, file->path, 0777, last_request_ended);
}

static int begin_rename(file_op *file)
{
    return uv_fs_rename(loop_of(file), &file->request, file->path, file->to, last_request_ended);
}

static int remove_directory(file_op *file)
{
    return uv_fs_rmdir(loop_of(file), &file->request, file->path, last_request_ended);
}

static void unlinked(uv_fs_t *request)
{
    if (request->result == UV_EISDIR) {
        request->result = 0;
        (void)end_request(request->data);
        proceed(request->data, remove_directory);
    } else {
        last_request_ended(request);
    }
}

static int begin_remove(file_op *file)
{
    return uv_fs_unlink(loop_of(file), &file->request, file->path, unlinked);
}

/* Closing is not to be cancelled: the file would stay open. */
static void cancel(fl_op *op)
{
    file_op *file = (file_op *)op;
    if (!file->closing) (void)uv_cancel((uv_req_t *)&file->request);
}

static void free_result(fl_op *op)
{
    file_op *file = (file_op *)op;
    free(file->data);
    file->data = NULL;
    for (size_t i = 0; i < file->name_count; i++) free(file->names[i]);
    free(file->names);
    file->names = NULL;
    file->name_count = 0;
}

static void push_reason(const file_op *file, lua_State *L)
{
    char text[128];
    if (file->error != UV_EFBIG || action_of(file)->begin != begin_read) {
        lua_pushstring(L, uv_strerror_r(file->error, text, sizeof(text)));
    } else if (file->expected > READ_MOST) {
        lua_pushfstring(L, "%f bytes are more than the %d that one read returns",
                        (lua_Number)file->expected, (int)READ_MOST);
    } else {
        lua_pushfstring(L, "it has more than the %d bytes that one read returns", (int)READ_MOST);
    }
}

static void push_message(const file_op *file, lua_State *L)
{
    if (file->to)
        lua_pushfstring(L, "cannot %s %s to %s: ", action_of(file)->verb, file->path, file->to);
    else
        lua_pushfstring(L, "cannot %s %s: ", action_of(file)->verb, file->path);
    push_reason(file, L);
    lua_concat(L, 2);
}

static int push_error(const file_op *file, lua_State *L)
{
    char code[32];
    lua_pushboolean(L, false);
    lua_createtable(L, 0, 4);
    lua_pushliteral(L, "fs");
    lua_setfield(L, -2, "kind");
    lua_pushstring(L, uv_err_name_r(file->error, code, sizeof(code)));
    lua_setfield(L, -2, "code");
    push_message(file, L);
    lua_setfield(L, -2, "message");
    lua_pushstring(L, file->path);
    lua_setfield(L, -2, "path");
    return 2;
}

static int take_nothing(fl_op *op, lua_State *L)
{
    const file_op *file = (file_op *)op;
    if (file->error) return push_error(file, L);
    lua_pushboolean(L, true);
    return 1;
}

static int take_data(fl_op *op, lua_State *L)
{
    const file_op *file = (file_op *)op;
    if (file->error) return push_error(file, L);
    lua_pushboolean(L, true);
    lua_pushlstring(L, file->data ? file->data : "", file->done);
    return 2;
}

static int take_found(fl_op *op, lua_State *L)
{
    const file_op *file = (file_op *)op;
    if (file->error) return push_error(file, L);
    lua_pushboolean(L, true);
    lua_pushboolean(L, file->found);
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
    const file_op *file = (file_op *)op;
    if (file->error) return push_error(file, L);
    const uv_stat_t *status = &file->status;
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
    const file_op *file = (file_op *)op;
    if (file->error) return push_error(file, L);
    lua_pushboolean(L, true);
    lua_createtable(L, (int)file->name_count, 0);
    for (size_t i = 0; i < file->name_count; i++) {
        lua_pushstring(L, file->names[i]);
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

/* Pushes the op for the path and the text or path in the first two arguments. */
static file_op *new_file_op(lua_State *L, const action *what)
{
    lua_createtable(L, 2, 0);
    for (int i = 1; i <= 2; i++) {
        lua_pushvalue(L, i);
        lua_rawseti(L, -2, i);
    }
    file_op *file = (file_op *)fl_op_new(L, sizeof(*file), &what->kind);
    lua_pushvalue(L, -2);
    (void)lua_setfenv(L, -2);
    file->request.data = file;
    file->path = lua_tostring(L, 1);
    file->limit = UINT64_MAX;
    file->descriptor = -1;
    return file;
}

static int start(file_op *file)
{
    fl_claim *claim = &file->op.state->thread->claim;
    fl_claim_take(claim);
    proceed(file, action_of(file)->begin);
    fl_claim_give(claim);
    return 1;
}

static int start_with_path(lua_State *L, const action *what)
{
    check_path(L, 1);
    lua_settop(L, 2);
    return start(new_file_op(L, what));
}

/* read(path[, { offset =, size = }]) -> op   [-0, +1, e] */
static int fs_read(lua_State *L)
{
    static const action what = {
        {"fs.read", take_data, cancel, free_result}, .verb = "read", .begin = begin_read};
    check_path(L, 1);
    lua_settop(L, 2);
    lua_pushnil(L);
    lua_insert(L, 2);
    check_options(L);
    uint64_t offset = check_count(L, "offset", EXACT, 0);
    uint64_t limit = check_count(L, "size", EXACT, UINT64_MAX);
    file_op *file = new_file_op(L, &what);
    file->flags = O_RDONLY | CAREFULLY;
    file->offset = offset;
    file->limit = limit;
    return start(file);
}

/* write(path, data[, { append =, mode = }]) -> op   [-0, +1, e] */
static int fs_write(lua_State *L)
{
    static const action what = {
        {"fs.write", take_nothing, cancel, NULL}, .verb = "write", .begin = begin_write};
    check_path(L, 1);
    (void)luaL_checkstring(L, 2);
    check_options(L);
    int mode = (int)check_count(L, "mode", 07777, 0666);
    lua_getfield(L, OPTIONS, "append");
    int how = lua_toboolean(L, -1) ? O_APPEND : O_TRUNC;
    file_op *file = new_file_op(L, &what);
    file->flags = O_WRONLY | O_CREAT | how | CAREFULLY;
    file->mode = mode;
    file->text.data = lua_tolstring(L, 2, &file->text.size);
    return start(file);
}

/* stat(path) -> op   [-0, +1, e] */
static int fs_stat(lua_State *L)
{
    static const action what = {
        {"fs.stat", take_status, cancel, NULL}, .verb = "stat", .begin = begin_stat};
    return start_with_path(L, &what);
}

/* list(path) -> op   [-0, +1, e] */
static int fs_list(lua_State *L)
{
    static const action what = {
        {"fs.list", take_names, cancel, free_result}, .verb = "list", .begin = begin_list};
    return start_with_path(L, &what);
}

/* mkdir(path) -> op   [-0, +1, e] */
static int fs_mkdir(lua_State *L)
{
    static const action what = {
        {"fs.mkdir", take_nothing, cancel, NULL}, .verb = "make directory", .begin = begin_mkdir};
    return start_with_path(L, &what);
}

/* remove(path) -> op   [-0, +1, e] */
static int fs_remove(lua_State *L)
{
    static const action what = {
        {"fs.remove", take_nothing, cancel, NULL}, .verb = "remove", .begin = begin_remove};
    return start_with_path(L, &what);
}

/* exists(path) -> op   [-0, +1, e] */
static int fs_exists(lua_State *L)
{
    static const action what = {
        {"fs.exists", take_found, cancel, NULL}, .verb = "look for", .begin = begin_exists};
    return start_with_path(L, &what);
}

/* rename(from, to) -> op   [-0, +1, e] */
static int fs_rename(lua_State *L)
{
    static const action what = {
        {"fs.rename", take_nothing, cancel, NULL}, .verb = "rename", .begin = begin_rename};
    check_path(L, 1);
    check_path(L, 2);
    lua_settop(L, 2);
    file_op *file = new_file_op(L, &what);
    file->to = lua_tostring(L, 2);
    return start(file);
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
