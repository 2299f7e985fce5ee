/* text: small transformations of text that every web program needs, for C and as the Lua module
 * "fasterlua.core.text".
 *
 * Pure functions, *any* thread. */
#ifndef FL_BIND_TEXT_H
#define FL_BIND_TEXT_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "slice.h"

#define FL_HTTP_DATE_SIZE 29 /* "Sun, 06 Nov 1994 08:49:37 GMT" */

/* & < > " ' as references: safe between tags and in quoted attributes. */
void fl_escape_html(fl_slice text, fl_buffer *out);

/* All but RFC 3986's unreserved characters as %XX. */
void fl_percent_encode(fl_slice text, fl_buffer *out);

/* Returns false when a % is not followed by two hexadecimal digits. `+` stays. */
bool fl_percent_decode(fl_slice text, fl_buffer *out);

/* IMF-fixdate of RFC 9110 section 5.6.7, NUL-terminated. Seconds since 1970, years 0 to 9999;
 * returns false, and leaves `out` alone, beyond. */
bool fl_http_date(int64_t seconds, char out[FL_HTTP_DATE_SIZE + 1]);

/* Any of the three forms of RFC 9110 section 5.6.7. `now` tells the century of two-digit years. */
bool fl_http_date_parse(fl_slice text, int64_t now, int64_t *seconds);

/* escape_html(s), percent_encode(s), percent_decode(s), http_date(seconds), parse_http_date(s) */
int fl_text_module(lua_State *L);

#endif
