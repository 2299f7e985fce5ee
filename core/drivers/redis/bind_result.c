#include "bind_result.h"

#include <lauxlib.h>
#include <string.h>

#include "arguments.h"
#include "json.h"
#include "reply.h"

static int push_failure(lua_State *L, const fl_redis_command *command)
{
    const char *next;
    fl_slice name = fl_redis_arguments_name(command->bytes.data, &next);
    lua_pushboolean(L, false);
    if (command->code[0])
        fl_redis_failure_push(L, command->code, command->problem, name);
    else
        fl_redis_error_push(L, fl_slice_from_string(command->problem), name);
    return 2;
}

static fl_redis_kind kind_of(const fl_redis_command *command, size_t index)
{
    return (fl_redis_kind)(command->kinds.data[index] - '0');
}

static int push_one(lua_State *L, const fl_redis_command *command)
{
    const char *record = command->reply.data, *next;
    fl_slice name = fl_redis_arguments_name(command->bytes.data, &next);
    lua_pushboolean(L, !fl_redis_reply_is_error(record));
    fl_redis_reply_push(L, record, kind_of(command, 0), name);
    return 2;
}

/* Results of several commands: of those from `skip` on, one record each. */
typedef struct results {
    const fl_redis_command *command;
    const char *record, *bytes; /* of the next */
    size_t index, count;
    int failed; /* the first of the list that is an error; 0: none */
    const char *error;
    fl_slice error_name;
} results;

static void push_results(lua_State *L, results *all)
{
    lua_createtable(L, (int)all->count, 0);
    luaL_getmetatable(L, FL_JSON_ARRAY);
    lua_setmetatable(L, -2);
    for (int i = 1; i <= (int)all->count; i++) {
        fl_slice name = fl_redis_arguments_name(all->bytes, &all->bytes);
        if (!all->failed && fl_redis_reply_is_error(all->record)) {
            all->failed = i;
            all->error = all->record;
            all->error_name = name;
        }
        fl_redis_reply_push(L, all->record, kind_of(all->command, all->index++), name);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            lua_pushlightuserdata(L, NULL);
        }
        lua_rawseti(L, -2, i);
        all->record = fl_redis_reply_skip(all->record);
    }
}

/* true and the list, or false and its first error once more, which has the list as `results`. */
static int push_verdict(lua_State *L, results *all, bool with_errors)
{
    lua_pushboolean(L, true);
    push_results(L, all);
    if (!all->failed || with_errors) return 2;
    lua_pushboolean(L, false);
    fl_redis_reply_push(L, all->error, FL_REDIS_AS_IT_IS, all->error_name);
    lua_pushinteger(L, all->failed);
    lua_setfield(L, -2, "index");
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "results");
    return 2;
}

/* An error of queueing, nil (what was watched has changed: nothing was
 * done), or the list of results. */
static int push_transaction(lua_State *L, const fl_redis_command *command)
{
    const char *record = command->reply.data, *bytes = command->bytes.data;
    fl_slice name = {NULL, 0};
    for (size_t i = 0; i + 1 < command->replies; i++) {
        name = fl_redis_arguments_name(bytes, &bytes);
        if (fl_redis_reply_is_error(record)) {
            lua_pushboolean(L, false);
            fl_redis_error_push(L, fl_redis_reply_text(record), name);
            return 2;
        }
        record = fl_redis_reply_skip(record);
    }
    size_t count;
    if (!fl_redis_reply_is_list(record, &count) || count != command->replies - 2) {
        lua_pushboolean(L, !fl_redis_reply_is_error(record));
        fl_redis_reply_push(L, record, FL_REDIS_AS_IT_IS, FL_SLICE("EXEC"));
        return 2;
    }
    (void)fl_redis_arguments_name(command->bytes.data, &bytes);
    results all = {.command = command,
                   .record = fl_redis_reply_elements(record),
                   .bytes = bytes,
                   .index = 1,
                   .count = count};
    return push_verdict(L, &all, false);
}

int fl_redis_result_push(lua_State *L, const fl_redis_command *command, fl_redis_answer answer)
{
    if (command->code) return push_failure(L, command);
    results all = {.command = command,
                   .record = command->reply.data,
                   .bytes = command->bytes.data,
                   .count = command->replies};
    switch (answer) {
    case FL_REDIS_ONE: return push_one(L, command);
    case FL_REDIS_PIPELINE: return push_verdict(L, &all, false);
    case FL_REDIS_PIPELINE_WITH_ERRORS: return push_verdict(L, &all, true);
    case FL_REDIS_TRANSACTION: break;
    }
    return push_transaction(L, command);
}

/* The first error among so many records; NULL: none. */
static const char *first_error(const char *record, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (fl_redis_reply_is_error(record)) return record;
        record = fl_redis_reply_skip(record);
    }
    return NULL;
}

static const char *error_of(const fl_redis_command *command, fl_redis_answer answer)
{
    const char *record = command->reply.data;
    if (answer == FL_REDIS_PIPELINE_WITH_ERRORS) return NULL;
    const char *error = first_error(record, command->replies);
    if (error || answer != FL_REDIS_TRANSACTION) return error;
    size_t count;
    for (size_t i = 1; i < command->replies; i++) record = fl_redis_reply_skip(record);
    if (!fl_redis_reply_is_list(record, &count)) return NULL;
    return first_error(fl_redis_reply_elements(record), count);
}

/* "WRONGTYPE Operation …" */
static fl_slice first_word(fl_slice text)
{
    const char *end = memchr(text.data, ' ', text.size);
    return end ? fl_slice_of(text.data, (size_t)(end - text.data)) : text;
}

bool fl_redis_result_failed(const fl_redis_command *command, fl_redis_answer answer,
                            fl_op_failure *failure)
{
    const char *next, *error = command->code ? NULL : error_of(command, answer);
    if (!command->code && !error) return false;
    failure->error = error ? fl_redis_reply_text(error) : fl_slice_from_string(command->problem);
    failure->code = command->code && command->code[0] ? fl_slice_from_string(command->code)
                                                      : first_word(failure->error);
    failure->subject = "command";
    failure->text = fl_redis_arguments_name(command->bytes.data, &next);
    return true;
}
