/* guard: which addresses are public, for requests whose host a user may choose (SSRF).
 *
 * Pure functions, any thread. Everything is refused that the Internet does not route to somebody
 * else: private, loopback, link-local, shared, documentation, multicast and reserved addresses,
 * and IPv6 addresses that stand for one of these. */
#ifndef FL_GUARD_H
#define FL_GUARD_H

#include <stdbool.h>
#include <sys/socket.h>

bool fl_guard_is_public(const struct sockaddr *address);
bool fl_guard_is_public_text(const char *address); /* as inet_ntop writes it */

#endif
