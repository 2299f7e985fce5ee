/* bind_result: the replies to a command, or to several that went out together, as what Lua is
 * answered with.
 *
 * Stateless. The thread of L; pure. */
#ifndef FL_REDIS_BIND_RESULT_H
#define FL_REDIS_BIND_RESULT_H

#include <stdbool.h>

#include <lua.h>

#include "command.h"
#include "op.h"

typedef enum {
    FL_REDIS_ONE,
    FL_REDIS_PIPELINE,
    FL_REDIS_PIPELINE_WITH_ERRORS,
    FL_REDIS_TRANSACTION /* MULTI, the commands, EXEC */
} fl_redis_answer;

/* true, value | false, error. Returns 2.  [-0, +2, e] */
int fl_redis_result_push(lua_State *L, const fl_redis_command *command, fl_redis_answer answer);

/* Whether the above would be an error; its code and text, and the command's name. They live as long
 * as the command. */
bool fl_redis_result_failed(const fl_redis_command *command, fl_redis_answer answer,
                            fl_op_failure *failure);

#endif
