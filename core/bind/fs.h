/* bind/fs: files for apps: the Lua module "fasterlua.core.fs". Its functions return ops that
 * libuv's file threads work for, so that no disk ever stops a loop.
 *
 *     read(path[, { offset =, size = }]) -> string    stat(path) -> { type, size, mode, modified }
 *     write(path, data[, { append =, mode = }])       exists(path) -> boolean
 *     list(path) -> names, sorted by bytes            mkdir(path)
 *     remove(path): a file or an empty folder         rename(from, to)
 *
 * Relative paths start at the app's folder. `stat` and `exists` are about a link itself, the others
 * about what it leads to. Nothing that one read returns is larger than 64 MiB.
 *
 * An op fails with { kind = "fs", code = "ENOENT", message =, path = }. One that is cancelled drops
 * its result; what has reached the disk by then stays there. */
#ifndef FL_BIND_FS_H
#define FL_BIND_FS_H

#include <lua.h>

int fl_fs_module(lua_State *L);

#endif
