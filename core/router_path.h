/* router_path: a path or pattern as segments, decoded and resolved (RFC 3986 sections 2.1 and
 * 5.2.4), and back. Private to the router.
 *
 * The struct is the caller's; it points into the path or the scratch buffer. Pure functions, *any*
 * thread. */
#ifndef FL_ROUTER_PATH_H
#define FL_ROUTER_PATH_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "router.h"
#include "slice.h"

typedef struct fl_router_segment {
    uint32_t at, size;
} fl_router_segment;

typedef struct fl_router_path {
    const char *base; /* the path, or its decoded and resolved form in the scratch buffer */
    unsigned count;
    bool decoded;
    /* one more for the final slash of a redirect */
    fl_router_segment segments[FL_ROUTER_SEGMENTS + 1];
} fl_router_path;

/* Splits a path that begins with "/". FL_ROUTE_FOUND when that went well. */
fl_route_result fl_router_path_split(fl_router_path *path, fl_slice text, fl_buffer *scratch);

/* Gives it a final slash, or takes away the one it has. False when what comes out is no path to
 * redirect to. */
bool fl_router_path_toggle_slash(fl_router_path *path);

/* Appends it to the scratch buffer, percent-encoded; an empty slice when there is no memory.
 * `size` is that of the text it came from. */
fl_slice fl_router_path_write(fl_router_path *path, size_t size, fl_buffer *scratch);

/* Appends the percent-decoded segment; false when it is not text. */
bool fl_router_segment_decode(fl_slice raw, fl_buffer *out);

/* The segment that begins at `at`. */
static inline fl_slice fl_router_segment_at(fl_slice path, size_t at)
{
    const char *slash = at < path.size ? memchr(path.data + at, '/', path.size - at) : NULL;
    size_t end = slash ? (size_t)(slash - path.data) : path.size;
    return fl_slice_of(path.data + at, end - at);
}

/* -1 when it is none */
static inline int fl_router_hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    char lower = fl_lower(c);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

static inline bool fl_router_is_dot(fl_slice segment)
{
    return segment.size == 1 && segment.data[0] == '.';
}

static inline bool fl_router_is_dot_dot(fl_slice segment)
{
    return segment.size == 2 && segment.data[0] == '.' && segment.data[1] == '.';
}

#endif
