/* head: what a request's head means, and all that is refused about it.
 *
 * Pure functions of the request's head, *loop*, called by http1 when the head is complete. llhttp in
 * strict mode has checked the grammar; what it lets through is checked here: folded lines, Host
 * missing, repeated or malformed, odd versions and target forms, list-valued or empty framing
 * fields, framing fields in trailers. */
#ifndef FL_HEAD_H
#define FL_HEAD_H

#include <llhttp.h>

#include "request.h"

/* Fills path, query, host, expects_continue. Returns 0 or the status to refuse with. */
int fl_head_check(fl_request *request, const llhttp_t *parser);

/* No framing or routing field in the trailer section (RFC 9110 section 6.5.1). */
bool fl_head_check_trailers(const fl_request *request);

/* For a head that llhttp gave up on at data[at]: is it "HTTP/" digit "." digit? does the line begin
 * with a token and a space? */
bool fl_head_is_version(fl_slice data, size_t at);
bool fl_head_has_method(fl_slice data);

#endif
