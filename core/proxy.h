/* proxy: what a trusted proxy says about the client: X-Forwarded-For, -Proto, -Host, X-Request-ID.
 *
 * Believed only with --proxy-headers and when the peer's address is among --forwarded-allow-ips.
 * Pure; results live as long as the request's head or the buffer given. */
#ifndef FL_PROXY_H
#define FL_PROXY_H

#include "request.h"

fl_slice fl_proxy_client(const fl_request *request, char address[64]); /* without port */
fl_slice fl_proxy_scheme(const fl_request *request);
fl_slice fl_proxy_host(const fl_request *request);
fl_slice fl_proxy_request_id(const fl_request *request); /* size 0: none given */

/* Is the address in the comma-separated list of addresses, networks (a.b.c.d/n) or "*"? */
bool fl_proxy_trusts(const char *list, int family, const uint8_t address[16]);

#endif
