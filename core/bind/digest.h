/* digest: the Lua module "fasterlua.digest": hashes, HMAC, random bytes and base64, by OpenSSL.
 *
 * Stateless but for the table of algorithms, which the first state of the process fills and nobody
 * changes afterwards; *any* thread, each with its own state. */
#ifndef FL_BIND_DIGEST_H
#define FL_BIND_DIGEST_H

#include <lua.h>

/* hex(algorithm, data), raw(algorithm, data), hmac(algorithm, key, data), hmac_raw(…),
 * equal(a, b), random(n), base64(s), base64url(s), base64_decode(s), base64url_decode(s),
 * algorithms() */
int fl_digest_module(lua_State *L);

#endif
