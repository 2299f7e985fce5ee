/* A tree with one level per segment. A node's children by text are in a hash table, its children by
 * parameter are one per kind, since the parameter's name belongs to the route.
 *
 * Cost of a look-up: each node is reached by one way only, and its depth is the number of segments
 * consumed, so one walk visits each node at most once, whatever the path is. Of the children of a
 * node at most five fit (one text, int or uuid, number, plain, catch-all), so that only an app that
 * declares both kinds at the same place makes a walk branch at all, and it can never take more
 * steps than the app's patterns have segments. Recursion is as deep as the deepest pattern. There
 * are at most three walks: exact, for the redirect, and for the parameter that does not fit.
 *
 * Left out on purpose: parameters within a segment, regular expressions, methods beyond the nine.
 */
#include "router.h"

#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "json.h"

#define LONGEST_NUMBER 128
#define NONE UINT_MAX
#define QUOTED 200 /* bytes of a pattern or method repeated in a message */

enum method { GET, HEAD, POST, PUT, PATCH, DELETE, CONNECT, TRACE, OPTIONS, UNKNOWN };

struct route {
    struct route *next;
    uint32_t id;
    enum method method;
    unsigned name_count;
    fl_slice names[FL_ROUTER_PARAMETERS]; /* into pattern */
    size_t size;
    char pattern[];
};

struct edge {
    uint32_t hash;
    uint32_t size;
    char *text;
    struct node *child; /* NULL: free */
};

struct node {
    struct edge *edges;
    uint32_t mask; /* number of edges - 1, when there are any */
    uint32_t used;
    uint32_t methods; /* a bit for each of the routes */
    bool has_parameters;
    struct node *parameters[FL_PARAM_PATH + 1]; /* by kind */
    struct route *routes;
};

struct fl_router {
    struct node root;
    locale_t numeric; /* an app may set a locale whose decimal point is a comma */
};

struct segment {
    uint32_t at, size;
};

struct search {
    const fl_router *router;
    fl_match *match;
    const char *base; /* the path, or its decoded and resolved form in the scratch buffer */
    unsigned count;
    unsigned misfit; /* first parameter whose text is not of its type, or NONE */
    uint32_t allowed;
    enum method method;
    bool decoded;
    bool lenient; /* a parameter fits text of any type */
    bool climbs;
    struct segment segments[FL_ROUTER_SEGMENTS + 1]; /* one more for the redirect's final slash */
};

struct addition {
    struct route *route;
    struct node *node; /* where the pattern has come to */
    fl_slice pattern;
    fl_buffer text;
    char *error;
    size_t error_size;
};

static const fl_slice method_names[] = {
    {"GET", 3},    {"HEAD", 4},    {"POST", 4},  {"PUT", 3},     {"PATCH", 5},
    {"DELETE", 6}, {"CONNECT", 7}, {"TRACE", 5}, {"OPTIONS", 7},
};

static const fl_slice kind_names[] = {
    [FL_PARAM_TEXT] = {"text", 4}, [FL_PARAM_INT] = {"int", 3},   [FL_PARAM_NUMBER] = {"number", 6},
    [FL_PARAM_UUID] = {"uuid", 4}, [FL_PARAM_PATH] = {"path", 4},
};

static enum method method_of(fl_slice name)
{
    /* Nearly all requests; of constant size it costs no call. */
    if (name.size == 3 && memcmp(name.data, "GET", 3) == 0) return GET;
    enum method method = HEAD;
    while (method < UNKNOWN && !fl_slice_equal(name, method_names[method])) method++;
    return method;
}

static inline uint64_t load(const char *data, size_t size)
{
    uint64_t word = 0;
    memcpy(&word, data, size);
    return word;
}

/* Fewer than 8 bytes as one word, without a loop: the two loads may overlap. */
static inline uint64_t load_short(fl_slice text)
{
    if (text.size >= 4) return load(text.data, 4) << 32 | load(text.data + text.size - 4, 4);
    if (text.size >= 2) return load(text.data, 2) << 16 | load(text.data + text.size - 2, 2);
    return text.size == 1 ? load(text.data, 1) : 0;
}

/* The clients cannot choose what is in the tables, so the hash needs speed only. */
static inline uint32_t hash_of(fl_slice text)
{
    const uint64_t factor = 0x9e3779b97f4a7c15u;
    uint64_t hash = text.size * factor;
    for (size_t i = 0; i + 8 < text.size; i += 8) {
        hash = (hash ^ load(text.data + i, 8)) * factor;
        hash ^= hash >> 29;
    }
    hash ^= text.size >= 8 ? load(text.data + text.size - 8, 8) : load_short(text);
    return (uint32_t)(hash * factor >> 32);
}

static inline struct edge *edge_of(const struct node *node, fl_slice text)
{
    uint32_t hash = hash_of(text);
    uint32_t at = hash & node->mask;
    for (;; at = (at + 1) & node->mask) {
        struct edge *edge = &node->edges[at];
        if (!edge->child) return edge;
        if (edge->hash == hash && edge->size == text.size &&
            memcmp(edge->text, text.data, text.size) == 0)
            return edge;
    }
}

static int hex_of(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    char lower = fl_lower(c);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* Appends the percent-decoded segment; false when it is not text. */
static bool decode(fl_slice raw, fl_buffer *out)
{
    size_t start = out->size;
    if (!fl_buffer_room(out, raw.size)) return false;
    for (size_t i = 0; i < raw.size; i++) {
        char byte = raw.data[i];
        if (byte == '%') {
            int high = i + 2 < raw.size ? hex_of(raw.data[i + 1]) : -1;
            int low = high >= 0 ? hex_of(raw.data[i + 2]) : -1;
            if (low < 0) return false;
            byte = (char)(high << 4 | low);
            i += 2;
        }
        if (byte == '\0') return false;
        out->data[out->size++] = byte;
    }
    return out->size == start || fl_utf8_valid(fl_slice_of(out->data + start, out->size - start));
}

static bool is_dot(fl_slice text)
{
    return text.size == 1 && text.data[0] == '.';
}

static bool is_dot_dot(fl_slice text)
{
    return text.size == 2 && text.data[0] == '.' && text.data[1] == '.';
}

/* The segment that begins at `at`. */
static fl_slice segment_at(fl_slice path, size_t at)
{
    const char *slash = at < path.size ? memchr(path.data + at, '/', path.size - at) : NULL;
    size_t end = slash ? (size_t)(slash - path.data) : path.size;
    return fl_slice_of(path.data + at, end - at);
}

/* What a segment consists of without any encoding: pchar of RFC 3986 section 3.3. */
static const bool plain_bytes[256] = {
    ['a' ... 'z'] = 1, ['A' ... 'Z'] = 1, ['0' ... '9'] = 1, ['-'] = 1, ['.'] = 1,
    ['_'] = 1,         ['~'] = 1,         ['!'] = 1,         ['$'] = 1, ['&'] = 1,
    ['('] = 1,         [')'] = 1,         ['*'] = 1,         ['+'] = 1, [','] = 1,
    ['\''] = 1,        [';'] = 1,         ['='] = 1,         [':'] = 1, ['@'] = 1,
};

static bool push_segment(struct search *search, size_t at, size_t size)
{
    if (search->count == FL_ROUTER_SEGMENTS) return false;
    search->segments[search->count++] = (struct segment){(uint32_t)at, (uint32_t)size};
    return true;
}

/* Splits a path that needs neither decoding nor resolving; false when this one does. */
static bool split_plain(struct search *search, fl_slice path)
{
    search->base = path.data;
    for (size_t at = 1, end = 1;; at = ++end) {
        while (end < path.size && plain_bytes[(unsigned char)path.data[end]]) end++;
        if (end < path.size && path.data[end] != '/') return false;
        fl_slice text = fl_slice_of(path.data + at, end - at);
        if (is_dot(text) || is_dot_dot(text) || !push_segment(search, at, text.size)) return false;
        if (end == path.size) return true;
    }
}

/* Takes back the last segment with the slash before it. */
static void pop_segment(struct search *search, fl_buffer *scratch, size_t start)
{
    if (search->count == 0) return;
    scratch->size = start + search->segments[--search->count].at - 1;
}

/* Appends a raw segment in its decoded form, or resolves it. */
static fl_route_result append_segment(struct search *search, fl_slice raw, bool last,
                                      fl_buffer *scratch, size_t start)
{
    size_t slash = scratch->size;
    fl_buffer_byte(scratch, '/');
    if (!decode(raw, scratch)) return FL_ROUTE_BAD_PATH;
    size_t at = slash + 1;
    fl_slice text = fl_slice_of(scratch->data + at, scratch->size - at);
    bool climbs = is_dot_dot(text);
    if (climbs || is_dot(text)) {
        scratch->size = slash;
        if (climbs) pop_segment(search, scratch, start);
        if (!last) return FL_ROUTE_FOUND;
        fl_buffer_byte(scratch, '/');
        at = scratch->size;
    }
    return push_segment(search, at - start, scratch->size - at) ? FL_ROUTE_FOUND
                                                                : FL_ROUTE_NOT_FOUND;
}

/* RFC 3986 section 5.2.4; ".." above the root stays there. */
static fl_route_result split_decoded(struct search *search, fl_slice path, fl_buffer *scratch)
{
    size_t start = scratch->size;
    if (!fl_buffer_room(scratch, path.size)) return FL_ROUTE_BAD_PATH;
    search->base = scratch->data + start;
    search->decoded = true;
    search->count = 0;
    for (size_t at = 1; at <= path.size;) {
        fl_slice raw = segment_at(path, at);
        at += raw.size + 1;
        fl_route_result result = append_segment(search, raw, at > path.size, scratch, start);
        if (result != FL_ROUTE_FOUND) return result;
    }
    return FL_ROUTE_FOUND;
}

static bool read_integer(fl_slice text, int64_t *out)
{
    bool negative = text.data[0] == '-';
    size_t i = negative;
    if (i == text.size) return false;
    int64_t value = 0;
    for (; i < text.size; i++) {
        int digit = text.data[i] - '0';
        if (digit < 0 || digit > 9 || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_sub_overflow(value, digit, &value))
            return false;
    }
    /* Counted downwards, since INT64_MIN has no positive twin. */
    if (!negative && value == INT64_MIN) return false;
    *out = negative ? value : -value;
    return true;
}

static size_t skip_digits(fl_slice text, size_t at)
{
    while (at < text.size && text.data[at] >= '0' && text.data[at] <= '9') at++;
    return at;
}

/* -digits.digits(e|E)(+|-)digits, each but the first digits optional */
static bool is_decimal(fl_slice text)
{
    size_t start = text.data[0] == '-';
    size_t at = skip_digits(text, start);
    if (at == start) return false;
    if (at < text.size && text.data[at] == '.') {
        start = at + 1;
        at = skip_digits(text, start);
        if (at == start) return false;
    }
    if (at < text.size && fl_lower(text.data[at]) == 'e') {
        start = at + 1;
        if (start < text.size && (text.data[start] == '+' || text.data[start] == '-')) start++;
        at = skip_digits(text, start);
        if (at == start) return false;
    }
    return at == text.size;
}

static bool read_number(fl_slice text, locale_t numeric, double *out)
{
    char copy[LONGEST_NUMBER + 1]; /* strtod needs the NUL */
    if (text.size > LONGEST_NUMBER || !is_decimal(text)) return false;
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    *out = strtod_l(copy, NULL, numeric);
    return isfinite(*out);
}

static bool is_uuid(fl_slice text)
{
    if (text.size != 36) return false;
    for (size_t i = 0; i < text.size; i++) {
        bool hyphen = i == 8 || i == 13 || i == 18 || i == 23;
        if (hyphen ? text.data[i] != '-' : hex_of(text.data[i]) < 0) return false;
    }
    return true;
}

static bool read_param(const fl_router *router, fl_param *param)
{
    switch (param->kind) {
    case FL_PARAM_INT: return read_integer(param->text, &param->integer);
    case FL_PARAM_NUMBER: return read_number(param->text, router->numeric, &param->number);
    case FL_PARAM_UUID: return is_uuid(param->text);
    case FL_PARAM_TEXT:
    case FL_PARAM_PATH: return true;
    }
    return false;
}

static const struct route *route_for(const struct node *node, enum method method)
{
    const struct route *route = node->routes;
    while (route && route->method != method) route = route->next;
    return route;
}

static const struct route *arrive(struct search *search, const struct node *node)
{
    search->allowed |= node->methods;
    if (node->methods & 1u << search->method) return route_for(node, search->method);
    return search->method == HEAD ? route_for(node, GET) : NULL;
}

/* A ".." that came out of a "%2F" was not resolved; whoever opens a file by it would climb. */
static bool has_dot_dot(fl_slice text)
{
    for (size_t at = 0; at <= text.size; at++) {
        fl_slice segment = segment_at(text, at);
        if (is_dot_dot(segment)) return true;
        at += segment.size;
    }
    return false;
}

static const struct route *take_rest(struct search *search, const struct node *node, unsigned depth,
                                     unsigned count)
{
    uint32_t at = search->segments[depth].at;
    struct segment last = search->segments[search->count - 1];
    fl_param *param = &search->match->params[count];
    param->kind = FL_PARAM_PATH;
    param->text = fl_slice_of(search->base + at, last.at + last.size - at);
    if (search->decoded && has_dot_dot(param->text)) {
        search->climbs = true;
        return NULL;
    }
    return arrive(search, node->parameters[FL_PARAM_PATH]);
}

static const struct route *walk(struct search *search, const struct node *node, unsigned depth,
                                unsigned count);

static const struct route *take_segment(struct search *search, const struct node *node,
                                        unsigned depth, unsigned count, fl_slice text)
{
    static const fl_param_kind order[] = {FL_PARAM_INT, FL_PARAM_NUMBER, FL_PARAM_UUID,
                                          FL_PARAM_TEXT};
    unsigned misfit = search->misfit;
    fl_param *param = &search->match->params[count];
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        const struct node *child = node->parameters[order[i]];
        if (!child) continue;
        param->kind = order[i];
        param->text = text;
        if (!read_param(search->router, param)) {
            if (!search->lenient) continue;
            if (misfit == NONE) search->misfit = count;
        }
        const struct route *route = walk(search, child, depth + 1, count + 1);
        if (route) return route;
        search->misfit = misfit;
    }
    return NULL;
}

static const struct route *walk(struct search *search, const struct node *node, unsigned depth,
                                unsigned count)
{
    if (depth == search->count) return arrive(search, node);
    struct segment segment = search->segments[depth];
    fl_slice text = fl_slice_of(search->base + segment.at, segment.size);
    const struct route *route = NULL;
    if (node->edges) {
        const struct node *child = edge_of(node, text)->child;
        if (child) route = walk(search, child, depth + 1, count);
    }
    if (!route && node->has_parameters && text.size > 0)
        route = take_segment(search, node, depth, count, text);
    if (!route && node->parameters[FL_PARAM_PATH]) route = take_rest(search, node, depth, count);
    return route;
}

static void set_route(struct search *search, const struct route *route)
{
    fl_match *match = search->match;
    match->route = route->id;
    match->head_from_get = route->method != search->method;
    match->count = route->name_count;
    for (unsigned i = 0; i < route->name_count; i++) match->params[i].name = route->names[i];
}

/* With its final slash when it had none, and without when it had one. */
static bool toggle_final_slash(struct search *search)
{
    const struct segment *last = &search->segments[search->count - 1];
    if (last->size > 0)
        search->segments[search->count++] = (struct segment){last->at + last->size, 0};
    else if (search->count > 1)
        search->count--;
    else
        return false;
    /* "//host" would lead to another server (RFC 3986 section 4.2). */
    return search->count == 1 || search->segments[0].size > 0;
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

/* Writes the segments as they are now, each encoded again: what was resolved stays resolved, and a
 * "\", which browsers take for a "/", cannot lead anywhere else. */
static void write_location(struct search *search, fl_slice path, fl_buffer *scratch)
{
    size_t decoded_at = search->decoded ? (size_t)(search->base - scratch->data) : 0;
    if (!fl_buffer_room(scratch, 3 * path.size + FL_ROUTER_SEGMENTS)) return;
    if (search->decoded) search->base = scratch->data + decoded_at;
    size_t start = scratch->size;
    for (unsigned i = 0; i < search->count; i++) {
        struct segment segment = search->segments[i];
        fl_buffer_byte(scratch, '/');
        append_encoded(scratch, fl_slice_of(search->base + segment.at, segment.size));
    }
    search->match->location = fl_slice_of(scratch->data + start, scratch->size - start);
}

static bool redirects(struct search *search, fl_slice path, fl_buffer *scratch)
{
    unsigned count = search->count;
    const struct route *route =
        toggle_final_slash(search) ? walk(search, &search->router->root, 0, 0) : NULL;
    if (route) {
        set_route(search, route);
        search->match->count = 0;
        write_location(search, path, scratch);
    }
    search->count = count;
    return route != NULL;
}

static bool has_misfit(struct search *search)
{
    fl_match *match = search->match;
    search->lenient = true;
    const struct route *route = walk(search, &search->router->root, 0, 0);
    if (!route || search->misfit == NONE) return false;
    set_route(search, route);
    match->params[0] = match->params[search->misfit];
    match->count = 1;
    return true;
}

/* RFC 9110 section 10.2.1 */
static void write_allow(uint32_t methods, char *allow)
{
    methods |= 1u << OPTIONS;
    if (methods & 1u << GET) methods |= 1u << HEAD;
    for (enum method method = GET; method < UNKNOWN; method++) {
        if (!(methods & 1u << method)) continue;
        memcpy(allow, method_names[method].data, method_names[method].size);
        allow += method_names[method].size;
        memcpy(allow, ", ", 3);
        if (method != OPTIONS) allow += 2;
    }
    *allow = '\0';
}

static fl_route_result explain(struct search *search, fl_slice path, fl_buffer *scratch)
{
    uint32_t allowed = search->allowed;
    if (search->climbs) return FL_ROUTE_BAD_PATH;
    if (redirects(search, path, scratch))
        return scratch->failed ? FL_ROUTE_BAD_PATH : FL_ROUTE_REDIRECT;
    if (has_misfit(search)) return FL_ROUTE_BAD_PARAM;
    if (!allowed) return FL_ROUTE_NOT_FOUND;
    write_allow(allowed, search->match->allow);
    return FL_ROUTE_BAD_METHOD;
}

static int quoted(fl_slice text)
{
    return text.size < QUOTED ? (int)text.size : QUOTED;
}

__attribute__((format(printf, 2, 3))) static int refuse(struct addition *addition,
                                                        const char *format, ...)
{
    int used = snprintf(addition->error, addition->error_size,
                        "route \"%.*s\": ", quoted(addition->pattern), addition->pattern.data);
    if (used < 0 || (size_t)used >= addition->error_size) return UV_EINVAL;
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(addition->error + used, addition->error_size - (size_t)used, format, arguments);
    va_end(arguments);
    return UV_EINVAL;
}

static int out_of_memory(struct addition *addition)
{
    (void)refuse(addition, "out of memory");
    return UV_ENOMEM;
}

/* At most half of the edges are used, so that looking for one always ends. */
static bool grow_edges(struct node *node)
{
    struct node grown = *node;
    uint32_t capacity = node->edges ? 2 * (node->mask + 1) : 4;
    grown.edges = calloc(capacity, sizeof(*grown.edges));
    if (!grown.edges) return false;
    grown.mask = capacity - 1;
    for (uint32_t i = 0; node->edges && i <= node->mask; i++) {
        const struct edge *edge = &node->edges[i];
        if (edge->child) *edge_of(&grown, fl_slice_of(edge->text, edge->size)) = *edge;
    }
    free(node->edges);
    *node = grown;
    return true;
}

static struct node *text_child(struct node *node, fl_slice text)
{
    if (node->edges) {
        struct node *child = edge_of(node, text)->child;
        if (child) return child;
    }
    if ((!node->edges || 2 * (node->used + 1) > node->mask + 1) && !grow_edges(node)) return NULL;
    struct edge edge = {.hash = hash_of(text), .size = (uint32_t)text.size};
    edge.text = malloc(text.size + 1);
    edge.child = calloc(1, sizeof(*edge.child));
    if (!edge.text || !edge.child) {
        free(edge.text);
        free(edge.child);
        return NULL;
    }
    if (text.size > 0) memcpy(edge.text, text.data, text.size);
    *edge_of(node, text) = edge;
    node->used++;
    return edge.child;
}

static struct node *parameter_child(struct node *node, fl_param_kind kind)
{
    if (!node->parameters[kind]) node->parameters[kind] = calloc(1, sizeof(*node));
    if (node->parameters[kind] && kind != FL_PARAM_PATH) node->has_parameters = true;
    return node->parameters[kind];
}

static int add_text(struct addition *addition, fl_slice raw, bool last)
{
    if (raw.size == 0 && !last) return refuse(addition, "has an empty segment (\"//\")");
    addition->text.size = 0;
    if (!decode(raw, &addition->text)) {
        if (addition->text.failed) return out_of_memory(addition);
        return refuse(addition, "\"%.*s\" has bad percent-encoding, %%00 or invalid UTF-8",
                      quoted(raw), raw.data);
    }
    fl_slice text = fl_slice_of(raw.size > 0 ? addition->text.data : "", addition->text.size);
    if (is_dot(text) || is_dot_dot(text))
        return refuse(addition, "has the dot segment \"%.*s\", which no path keeps", quoted(raw),
                      raw.data);
    addition->node = text_child(addition->node, text);
    return addition->node ? 0 : out_of_memory(addition);
}

static bool is_identifier(fl_slice name)
{
    for (size_t i = 0; i < name.size; i++) {
        char lower = fl_lower(name.data[i]);
        bool digit = lower >= '0' && lower <= '9';
        if (lower != '_' && !(lower >= 'a' && lower <= 'z') && !(digit && i > 0)) return false;
    }
    return true;
}

static int add_name(struct addition *addition, fl_slice name)
{
    struct route *route = addition->route;
    if (name.size == 0) return refuse(addition, "has a parameter without a name");
    if (!is_identifier(name))
        return refuse(addition,
                      "parameter \"%.*s\" is not named by letters, digits and \"_\", or "
                      "begins with a digit",
                      quoted(name), name.data);
    for (unsigned i = 0; i < route->name_count; i++)
        if (fl_slice_equal(name, route->names[i]))
            return refuse(addition, "has two parameters \"%.*s\"", quoted(name), name.data);
    if (route->name_count == FL_ROUTER_PARAMETERS)
        return refuse(addition, "has more than %d parameters", FL_ROUTER_PARAMETERS);
    route->names[route->name_count++] = name;
    return 0;
}

/* `inside` is what stands between the braces. */
static int add_parameter(struct addition *addition, fl_slice inside, bool last)
{
    const char *colon = memchr(inside.data, ':', inside.size);
    fl_slice name = fl_slice_of(inside.data, colon ? (size_t)(colon - inside.data) : inside.size);
    fl_param_kind kind = FL_PARAM_TEXT;
    int status = add_name(addition, name);
    if (status) return status;
    if (colon) {
        fl_slice wanted = fl_slice_of(colon + 1, inside.size - name.size - 1);
        while (kind <= FL_PARAM_PATH && !fl_slice_equal(wanted, kind_names[kind])) kind++;
        if (kind > FL_PARAM_PATH)
            return refuse(addition,
                          "parameter \"%.*s\" has the unknown converter \"%.*s\": it can be text, "
                          "int, number, uuid or path",
                          quoted(name), name.data, quoted(wanted), wanted.data);
    }
    if (kind == FL_PARAM_PATH && !last)
        return refuse(addition, "parameter \"%.*s\" takes the rest of the path, so it must be last",
                      quoted(name), name.data);
    addition->node = parameter_child(addition->node, kind);
    return addition->node ? 0 : out_of_memory(addition);
}

static bool has_balanced_braces(fl_slice raw)
{
    bool open = false;
    for (size_t i = 0; i < raw.size; i++) {
        if (raw.data[i] != '{' && raw.data[i] != '}') continue;
        if (open == (raw.data[i] == '{')) return false;
        open = !open;
    }
    return !open;
}

static int add_segment(struct addition *addition, fl_slice raw, bool last)
{
    const char *close = memchr(raw.data, '}', raw.size);
    if (!has_balanced_braces(raw))
        return refuse(addition, "has unbalanced braces in \"%.*s\"", quoted(raw), raw.data);
    if (!close) return add_text(addition, raw, last);
    if (raw.data[0] != '{' || close != raw.data + raw.size - 1)
        return refuse(addition, "has text beside a parameter in \"%.*s\": it must fill its segment",
                      quoted(raw), raw.data);
    return add_parameter(addition, fl_slice_of(raw.data + 1, raw.size - 2), last);
}

static int add_segments(struct addition *addition)
{
    fl_slice pattern = fl_slice_of(addition->route->pattern, addition->route->size);
    unsigned count = 0;
    if (pattern.size == 0 || pattern.data[0] != '/')
        return refuse(addition, "must begin with \"/\"");
    for (size_t at = 1; at <= pattern.size; count++) {
        fl_slice raw = segment_at(pattern, at);
        at += raw.size + 1;
        if (count == FL_ROUTER_SEGMENTS)
            return refuse(addition, "has more than %d segments", FL_ROUTER_SEGMENTS);
        int status = add_segment(addition, raw, at > pattern.size);
        if (status) return status;
    }
    return 0;
}

static int add_route(struct addition *addition)
{
    struct node *node = addition->node;
    struct route *route = addition->route;
    const struct route *other = route_for(node, route->method);
    if (other) {
        fl_slice pattern = fl_slice_of(other->pattern, other->size);
        (void)refuse(addition, "%s is already taken by \"%.*s\"", method_names[route->method].data,
                     quoted(pattern), pattern.data);
        return UV_EEXIST;
    }
    route->next = node->routes;
    node->routes = route;
    node->methods |= 1u << route->method;
    return 0;
}

static struct route *new_route(enum method method, fl_slice pattern, uint32_t id)
{
    struct route *route = calloc(1, sizeof(*route) + pattern.size + 1);
    if (!route) return NULL;
    route->id = id;
    route->method = method;
    route->size = pattern.size;
    if (pattern.size > 0) memcpy(route->pattern, pattern.data, pattern.size);
    return route;
}

/* Depth is that of the deepest pattern. */
static void close_node(struct node *node)
{
    for (uint32_t i = 0; node->edges && i <= node->mask; i++) {
        if (!node->edges[i].child) continue;
        close_node(node->edges[i].child);
        free(node->edges[i].child);
        free(node->edges[i].text);
    }
    free(node->edges);
    for (unsigned kind = 0; kind <= FL_PARAM_PATH; kind++) {
        if (node->parameters[kind]) close_node(node->parameters[kind]);
        free(node->parameters[kind]);
    }
    for (struct route *route = node->routes, *next; route; route = next) {
        next = route->next;
        free(route);
    }
}

int fl_router_new(fl_router **out)
{
    fl_router *router = calloc(1, sizeof(*router));
    if (!router) return UV_ENOMEM;
    router->numeric = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    if (!router->numeric) {
        free(router);
        return UV_ENOMEM;
    }
    *out = router;
    return 0;
}

void fl_router_free(fl_router *router)
{
    if (!router) return;
    close_node(&router->root);
    freelocale(router->numeric);
    free(router);
}

/* A refused pattern may leave nodes without routes behind, which no path can end at. */
int fl_router_add(fl_router *router, fl_slice method, fl_slice pattern, uint32_t route, char *error,
                  size_t error_size)
{
    struct addition addition = {
        .node = &router->root, .pattern = pattern, .error = error, .error_size = error_size};
    enum method known = method_of(method);
    if (known == UNKNOWN)
        return refuse(&addition, "unknown method \"%.*s\"", quoted(method), method.data);
    addition.route = new_route(known, pattern, route);
    if (!addition.route) return out_of_memory(&addition);
    fl_buffer_init(&addition.text);
    int status = add_segments(&addition);
    if (status == 0) status = add_route(&addition);
    if (status) free(addition.route);
    fl_buffer_close(&addition.text);
    return status;
}

fl_route_result fl_router_match(const fl_router *router, fl_slice method, fl_slice path,
                                fl_buffer *scratch, fl_match *match)
{
    struct search search; /* not initialised as a whole: the segments are 2 KB */
    search.router = router;
    search.match = match;
    search.count = 0;
    search.misfit = NONE;
    search.allowed = 0;
    search.method = method_of(method);
    search.decoded = search.lenient = search.climbs = false;
    match->count = 0;
    match->head_from_get = false;
    match->allow[0] = '\0';
    match->location = fl_slice_of("", 0);
    if (path.size == 0 || path.size > UINT32_MAX || path.data[0] != '/') return FL_ROUTE_BAD_PATH;
    if (!split_plain(&search, path)) {
        fl_route_result result = split_decoded(&search, path, scratch);
        if (result != FL_ROUTE_FOUND) return result;
    }
    const struct route *route = walk(&search, &router->root, 0, 0);
    if (!route) return explain(&search, path, scratch);
    set_route(&search, route);
    return FL_ROUTE_FOUND;
}
