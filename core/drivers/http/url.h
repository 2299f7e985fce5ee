/* url: URLs taken apart and joined, by libcurl's own parser, so that what is checked is what is
 * fetched. Pure; the thread of L. */
#ifndef FL_HTTP_URL_H
#define FL_HTTP_URL_H

#include <lua.h>

/* url(text[, base]) -> { url, scheme, host, port, user, password } | nil, why   [-0, +2, e]
 * `text` may be relative to `base`. The `url` is without user, password and fragment. */
int fl_http_url(lua_State *L);

#endif
