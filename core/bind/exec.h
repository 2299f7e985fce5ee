/* bind/exec: programs for apps: the Lua module "fasterlua.core.exec".
 *
 *     run(argv[, options]) -> op of { code =, signal =, stdout =, stderr =, timed_out =, truncated
 * = }
 *
 * argv is a list, options are stdin, cwd, env (name -> value, instead of the server's) and timeout
 * in seconds. It runs in the app's folder, where a relative cwd starts too. `code` is nil after a
 * signal, `signal` (a number) otherwise. When it cannot run, the op fails with
 * { kind = "exec", code = "ENOENT", message = }; cancelling the op ends the program. */
#ifndef FL_BIND_EXEC_H
#define FL_BIND_EXEC_H

#include <lua.h>

int fl_exec_module(lua_State *L);

#endif
