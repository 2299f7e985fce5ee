/* compress: the Lua module "fasterlua.compress": gzip, deflate, brotli and zstd, by their
 * libraries.
 *
 * Stateless: every call has contexts of its own, gone when it returns or raises. Output is built in
 * the module's lua_buffer, outside of the state's memory, and bounded when decompressing. *any*
 * thread, each with its own state. */
#ifndef FL_BIND_COMPRESS_H
#define FL_BIND_COMPRESS_H

#include <lua.h>

/* compress(format, data, { level = n }), decompress(format, data, { limit = bytes }) */
int fl_compress_module(lua_State *L);

#endif
