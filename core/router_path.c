#include "router_path.h"

#include "utf8.h"

/* What a segment consists of without any encoding: pchar of RFC 3986 section 3.3. */
static const bool plain_bytes[256] = {
    ['a' ... 'z'] = 1, ['A' ... 'Z'] = 1, ['0' ... '9'] = 1, ['-'] = 1, ['.'] = 1,
    ['_'] = 1,         ['~'] = 1,         ['!'] = 1,         ['$'] = 1, ['&'] = 1,
    ['('] = 1,         [')'] = 1,         ['*'] = 1,         ['+'] = 1, [','] = 1,
    ['\''] = 1,        [';'] = 1,         ['='] = 1,         [':'] = 1, ['@'] = 1,
};

static bool push_segment(fl_router_path *path, size_t at, size_t size)
{
    if (path->count == FL_ROUTER_SEGMENTS) return false;
    path->segments[path->count++] = (fl_router_segment){(uint32_t)at, (uint32_t)size};
    return true;
}

/* Splits a path that needs neither decoding nor resolving; false when this one does. */
static bool split_plain(fl_router_path *path, fl_slice text)
{
    path->base = text.data;
    path->decoded = false;
    path->count = 0;
    for (size_t at = 1, end = 1;; at = ++end) {
        while (end < text.size && plain_bytes[(unsigned char)text.data[end]]) end++;
        if (end < text.size && text.data[end] != '/') return false;
        fl_slice segment = fl_slice_of(text.data + at, end - at);
        if (fl_router_is_dot(segment) || fl_router_is_dot_dot(segment)) return false;
        if (!push_segment(path, at, segment.size)) return false;
        if (end == text.size) return true;
    }
}

/* Takes back the last segment with the slash before it. */
static void pop_segment(fl_router_path *path, fl_buffer *scratch, size_t start)
{
    if (path->count == 0) return;
    scratch->size = start + path->segments[--path->count].at - 1;
}

/* Appends a raw segment in its decoded form, or resolves it. */
static fl_route_result append_segment(fl_router_path *path, fl_slice raw, bool last,
                                      fl_buffer *scratch, size_t start)
{
    size_t slash = scratch->size;
    fl_buffer_byte(scratch, '/');
    if (!fl_router_segment_decode(raw, scratch)) return FL_ROUTE_BAD_PATH;
    size_t at = slash + 1;
    fl_slice text = fl_slice_of(scratch->data + at, scratch->size - at);
    bool climbs = fl_router_is_dot_dot(text);
    if (climbs || fl_router_is_dot(text)) {
        scratch->size = slash;
        if (climbs) pop_segment(path, scratch, start);
        if (!last) return FL_ROUTE_FOUND;
        fl_buffer_byte(scratch, '/');
        at = scratch->size;
    }
    return push_segment(path, at - start, scratch->size - at) ? FL_ROUTE_FOUND : FL_ROUTE_NOT_FOUND;
}

/* RFC 3986 section 5.2.4; ".." above the root stays there. */
static fl_route_result split_decoded(fl_router_path *path, fl_slice text, fl_buffer *scratch)
{
    size_t start = scratch->size;
    if (!fl_buffer_room(scratch, text.size)) return FL_ROUTE_BAD_PATH;
    path->base = scratch->data + start;
    path->decoded = true;
    path->count = 0;
    for (size_t at = 1; at <= text.size;) {
        fl_slice raw = fl_router_segment_at(text, at);
        at += raw.size + 1;
        fl_route_result result = append_segment(path, raw, at > text.size, scratch, start);
        if (result != FL_ROUTE_FOUND) return result;
    }
    return FL_ROUTE_FOUND;
}

static void append_encoded(fl_buffer *out, fl_slice text)
{
    static const char digits[] = "0123456789ABCDEF";
    for (size_t i = 0; i < text.size; i++) {
        unsigned char byte = (unsigned char)text.data[i];
        char encoded[] = {'%', digits[byte >> 4], digits[byte & 15]};
        if (plain_bytes[byte])
            fl_buffer_byte(out, text.data[i]);
        else
            fl_buffer_append(out, encoded, sizeof(encoded));
    }
}

fl_route_result fl_router_path_split(fl_router_path *path, fl_slice text, fl_buffer *scratch)
{
    return split_plain(path, text) ? FL_ROUTE_FOUND : split_decoded(path, text, scratch);
}

bool fl_router_path_toggle_slash(fl_router_path *path)
{
    const fl_router_segment *last = &path->segments[path->count - 1];
    if (last->size > 0)
        path->segments[path->count++] = (fl_router_segment){last->at + last->size, 0};
    else if (path->count > 1)
        path->count--;
    else
        return false;
    /* "//host" would lead to another server (RFC 3986 section 4.2). */
    return path->count == 1 || path->segments[0].size > 0;
}

/* Each segment is encoded again: what was resolved stays resolved, and a "\", which browsers take
 * for a "/", cannot lead anywhere else. */
fl_slice fl_router_path_write(fl_router_path *path, size_t size, fl_buffer *scratch)
{
    size_t decoded_at = path->decoded ? (size_t)(path->base - scratch->data) : 0;
    if (!fl_buffer_room(scratch, 3 * size + FL_ROUTER_SEGMENTS)) return fl_slice_of("", 0);
    if (path->decoded) path->base = scratch->data + decoded_at;
    size_t start = scratch->size;
    for (unsigned i = 0; i < path->count; i++) {
        fl_router_segment segment = path->segments[i];
        fl_buffer_byte(scratch, '/');
        append_encoded(scratch, fl_slice_of(path->base + segment.at, segment.size));
    }
    return fl_slice_of(scratch->data + start, scratch->size - start);
}

bool fl_router_segment_decode(fl_slice raw, fl_buffer *out)
{
    size_t start = out->size;
    if (!fl_buffer_room(out, raw.size)) return false;
    for (size_t i = 0; i < raw.size; i++) {
        char byte = raw.data[i];
        if (byte == '%') {
            int high = i + 2 < raw.size ? fl_router_hex_digit(raw.data[i + 1]) : -1;
            int low = high >= 0 ? fl_router_hex_digit(raw.data[i + 2]) : -1;
            if (low < 0) return false;
            byte = (char)(high << 4 | low);
            i += 2;
        }
        if (byte == '\0') return false;
        out->data[out->size++] = byte;
    }
    return out->size == start || fl_utf8_valid(fl_slice_of(out->data + start, out->size - start));
}
