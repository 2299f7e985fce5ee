/* response: what goes back: status line, header fields, body, from C or from Lua values.
 *
 * *loop*. Appends to web->out; the connection writes it. A response is written exactly once per
 * request: further ones are dropped. */
#ifndef FL_RESPONSE_H
#define FL_RESPONSE_H

#include <stdint.h>

#include <lua.h>

#include "buffer.h"
#include "request.h"

#define FL_HTTP_ERROR "fasterlua.http_error" /* registry name of HttpError's metatable */
#define FL_LENGTH_NONE UINT64_MAX            /* no body by definition: 204, 304, 1xx */
#define FL_LENGTH_STREAM (UINT64_MAX - 1)    /* unknown: chunked, or until the connection closes */

/* "Not Found"; "" for an unknown one. */
fl_slice fl_response_reason(int status);

/* Writes the head: Date, Content-Type when given, Content-Length or Transfer-Encoding, Connection
 * when it is not the version's default, `lines` (whole header lines) and the request's own. */
void fl_response_head(fl_request *request, int status, fl_slice type, uint64_t length,
                      fl_slice lines);
void fl_response_send(fl_request *request, int status, fl_slice type, fl_slice lines,
                      fl_slice body);

/* `{"detail":"…"}` with the status's reason or `detail`. */
void fl_response_error(fl_request *request, int status, fl_slice detail, fl_slice lines);

/* Converts what a handler returned (the top `results` values on co) as the guide's page on
 * responses says. Returns 0, 1 when it is a stream whose function is now in request->stream_fn, or
 * UV_EINVAL with a message pushed: the value cannot be a response.  [-results, +0|1, m] */
int fl_response_from_lua(fl_request *request, lua_State *co, int results);

/* A raised or returned HttpError at `index`? */
bool fl_response_is_error(lua_State *L, int index);

int fl_response_module(lua_State *L); /* Lua module "fasterlua.core.response" */

#endif
