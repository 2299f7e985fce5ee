/* router: finds the route of a method and path, at a cost that does not depend on how many there
 * are.
 *
 * Owner: one Lua state, built at *boot* (new, add …, then immutable), looked up on that state's
 * thread. A pattern is "/" or "/seg/seg": a segment is text or one parameter, `{id}` or `{id:text}`
 * (one segment), `{id:int}` (64-bit integer), `{x:number}` (finite double), `{u:uuid}`,
 * `{rest:path}` (last, the rest with its slashes, may be empty). At each segment text is tried
 * before typed before plain before catch-all, with backtracking. Segments are compared after
 * percent-decoding (a "%2F" never separates); "." and ".." segments, plain or encoded, are resolved
 * first (RFC 3986 section 5.2.4). An empty segment ("//") fits nothing but a catch-all; a final
 * slash belongs to the pattern. */
#ifndef FL_ROUTER_H
#define FL_ROUTER_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "slice.h"

#define FL_ROUTER_PARAMETERS 16 /* per pattern */
#define FL_ROUTER_SEGMENTS 256  /* per pattern and path; a longer path is not found */

typedef struct fl_router fl_router;

typedef enum {
    FL_PARAM_TEXT,
    FL_PARAM_INT,
    FL_PARAM_NUMBER,
    FL_PARAM_UUID,
    FL_PARAM_PATH
} fl_param_kind;

typedef struct fl_param {
    fl_slice name; /* lives as long as the router */
    fl_param_kind kind;
    fl_slice text;   /* decoded; into the path or the scratch buffer */
    int64_t integer; /* FL_PARAM_INT */
    double number;   /* FL_PARAM_NUMBER */
} fl_param;

/* When several apply: found, then redirect, then bad parameter, then bad method. */
typedef enum {
    FL_ROUTE_FOUND,
    FL_ROUTE_NOT_FOUND,  /* 404 */
    FL_ROUTE_BAD_METHOD, /* 405, `allow` filled; for OPTIONS without a route of its own too */
    FL_ROUTE_BAD_PARAM,  /* 422: `route` would fit but for the type of `params[0]` */
    FL_ROUTE_REDIRECT,   /* 307: `route` is at `location`, the path with or without final slash */
    FL_ROUTE_BAD_PATH    /* 400: does not begin with "/", bad percent-encoding, %00, invalid UTF-8
                            once decoded, or a catch-all would get ".." out of a "%2F"; also when
                            memory ran out (`scratch->failed`) */
} fl_route_result;

typedef struct fl_match {
    uint32_t route; /* as given to fl_router_add */
    unsigned count;
    fl_param params[FL_ROUTER_PARAMETERS];
    bool head_from_get;
    char allow[64];    /* "GET, HEAD, POST, OPTIONS", NUL-terminated */
    fl_slice location; /* percent-encoded, never begins with "//"; into the scratch buffer */
} fl_match;

int fl_router_new(fl_router **out);
void fl_router_free(fl_router *router);

/* Adds a pattern for one of the nine methods of RFC 9110 and RFC 5789. Returns 0, or UV_EINVAL /
 * UV_EEXIST / UV_ENOMEM with a sentence naming the pattern and what is wrong with it in `error`. */
int fl_router_add(fl_router *router, fl_slice method, fl_slice pattern, uint32_t route, char *error,
                  size_t error_size);

/* Looks up `path` (as it came, without query). Decoded text lands in `scratch`, which the caller
 * empties; the match lives as long as `path`, `scratch` and the router. Allocates nothing else. For
 * HEAD without a route of its own the GET route is found and `head_from_get` set. */
fl_route_result fl_router_match(const fl_router *router, fl_slice method, fl_slice path,
                                fl_buffer *scratch, fl_match *match);

#endif
