/* head: what a request's head means, and all that is refused about it.
 *
 * Pure functions of the request's head, *loop*, called by http1 when the head is complete. llhttp
 * in strict mode has checked the grammar; what it lets through is checked here: folded lines, Host
 * missing, repeated or malformed, odd versions and target forms, list-valued or empty framing
 * fields, framing fields in trailers. */
#ifndef FL_HEAD_H
#define FL_HEAD_H

#include <llhttp.h>

#include "request.h"

/* Fills path, query, host, expects_continue. Returns 0 or the status to refuse with. */
int fl_head_check(fl_request *request, const llhttp_t *parser);

/* RFC 3986 section 3.2 without userinfo: a name or address, and perhaps a port. May be empty. */
bool fl_head_is_host(fl_slice host);

/* No framing or routing field in the trailer section (RFC 9110 section 6.5.1). */
bool fl_head_check_trailers(const fl_request *request);

/* May the byte stand in a token, as a method is one (RFC 9110 section 5.6.2)? */
bool fl_head_is_token(char c);

#endif
