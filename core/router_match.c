/* Cost of a look-up: each node is reached by one way only, and its depth is the number of segments
 * consumed, so one walk visits each node at most once, whatever the path is. Of the children of a
 * node at most five fit (one text, int or uuid, number, plain, catch-all), so that only an app that
 * declares both kinds at the same place makes a walk branch at all, and it can never take more
 * steps than the app's patterns have segments. Recursion is as deep as the deepest pattern. There
 * are at most three walks: exact, for the redirect, and for the parameter that does not fit. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "router.h"
#include "router_path.h"
#include "router_tree.h"

#define LONGEST_NUMBER 128
#define NONE UINT_MAX

struct search {
    const fl_router *router;
    fl_match *match;
    unsigned misfit; /* first parameter whose text is not of its type, or NONE */
    uint32_t allowed;
    fl_method method;
    bool lenient; /* a parameter fits text of any type */
    bool climbs;
    fl_router_path path;
};

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
        if (hyphen ? text.data[i] != '-' : fl_router_hex_digit(text.data[i]) < 0) return false;
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

static const fl_router_route *arrive(struct search *search, const fl_router_node *node)
{
    search->allowed |= node->methods;
    if (node->methods & 1u << search->method) return fl_router_node_route(node, search->method);
    return search->method == FL_METHOD_HEAD ? fl_router_node_route(node, FL_METHOD_GET) : NULL;
}

/* A ".." that came out of a "%2F" was not resolved; whoever opens a file by it would climb. */
static bool has_dot_dot(fl_slice text)
{
    for (size_t at = 0; at <= text.size; at++) {
        fl_slice segment = fl_router_segment_at(text, at);
        if (fl_router_is_dot_dot(segment)) return true;
        at += segment.size;
    }
    return false;
}

static const fl_router_route *take_rest(struct search *search, const fl_router_node *node,
                                        unsigned depth, unsigned count)
{
    uint32_t at = search->path.segments[depth].at;
    fl_router_segment last = search->path.segments[search->path.count - 1];
    fl_param *param = &search->match->params[count];
    param->kind = FL_PARAM_PATH;
    param->text = fl_slice_of(search->path.base + at, last.at + last.size - at);
    if (search->path.decoded && has_dot_dot(param->text)) {
        search->climbs = true;
        return NULL;
    }
    return arrive(search, node->parameters[FL_PARAM_PATH]);
}

static const fl_router_route *walk(struct search *search, const fl_router_node *node,
                                   unsigned depth, unsigned count);

static const fl_router_route *take_segment(struct search *search, const fl_router_node *node,
                                           unsigned depth, unsigned count, fl_slice text)
{
    static const fl_param_kind order[] = {FL_PARAM_INT, FL_PARAM_NUMBER, FL_PARAM_UUID,
                                          FL_PARAM_TEXT};
    unsigned misfit = search->misfit;
    fl_param *param = &search->match->params[count];
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        const fl_router_node *child = node->parameters[order[i]];
        if (!child) continue;
        param->kind = order[i];
        param->text = text;
        if (!read_param(search->router, param)) {
            if (!search->lenient) continue;
            if (misfit == NONE) search->misfit = count;
        }
        const fl_router_route *route = walk(search, child, depth + 1, count + 1);
        if (route) return route;
        search->misfit = misfit;
    }
    return NULL;
}

static const fl_router_route *walk(struct search *search, const fl_router_node *node,
                                   unsigned depth, unsigned count)
{
    if (depth == search->path.count) return arrive(search, node);
    fl_router_segment segment = search->path.segments[depth];
    fl_slice text = fl_slice_of(search->path.base + segment.at, segment.size);
    const fl_router_route *route = NULL;
    if (node->edges) {
        const fl_router_node *child = fl_router_node_edge(node, text)->child;
        if (child) route = walk(search, child, depth + 1, count);
    }
    if (!route && node->has_parameters && text.size > 0)
        route = take_segment(search, node, depth, count, text);
    if (!route && node->parameters[FL_PARAM_PATH]) route = take_rest(search, node, depth, count);
    return route;
}

static void set_route(struct search *search, const fl_router_route *route)
{
    fl_match *match = search->match;
    match->route = route->id;
    match->head_from_get = route->method != search->method;
    match->count = route->name_count;
    for (unsigned i = 0; i < route->name_count; i++) match->params[i].name = route->names[i];
}

static bool redirects(struct search *search, size_t size, fl_buffer *scratch)
{
    unsigned count = search->path.count;
    const fl_router_route *route = NULL;
    if (fl_router_path_toggle_slash(&search->path))
        route = walk(search, &search->router->root, 0, 0);
    if (route) {
        set_route(search, route);
        search->match->count = 0;
        search->match->location = fl_router_path_write(&search->path, size, scratch);
    }
    search->path.count = count;
    return route != NULL;
}

static bool has_misfit(struct search *search)
{
    fl_match *match = search->match;
    search->lenient = true;
    const fl_router_route *route = walk(search, &search->router->root, 0, 0);
    if (!route || search->misfit == NONE) return false;
    set_route(search, route);
    match->params[0] = match->params[search->misfit];
    match->count = 1;
    return true;
}

/* RFC 9110 section 10.2.1 */
static void write_allow(uint32_t methods, char *allow)
{
    methods |= 1u << FL_METHOD_OPTIONS;
    if (methods & 1u << FL_METHOD_GET) methods |= 1u << FL_METHOD_HEAD;
    for (fl_method method = FL_METHOD_GET; method < FL_METHOD_UNKNOWN; method++) {
        if (!(methods & 1u << method)) continue;
        memcpy(allow, fl_method_names[method].data, fl_method_names[method].size);
        allow += fl_method_names[method].size;
        memcpy(allow, ", ", 3);
        if (method != FL_METHOD_OPTIONS) allow += 2;
    }
    *allow = '\0';
}

static fl_route_result explain(struct search *search, size_t size, fl_buffer *scratch)
{
    uint32_t allowed = search->allowed;
    if (search->climbs) return FL_ROUTE_BAD_PATH;
    if (redirects(search, size, scratch))
        return scratch->failed ? FL_ROUTE_BAD_PATH : FL_ROUTE_REDIRECT;
    if (has_misfit(search)) return FL_ROUTE_BAD_PARAM;
    if (!allowed) return FL_ROUTE_NOT_FOUND;
    write_allow(allowed, search->match->allow);
    return FL_ROUTE_BAD_METHOD;
}

fl_route_result fl_router_match(const fl_router *router, fl_slice method, fl_slice path,
                                fl_buffer *scratch, fl_match *match)
{
    struct search search; /* not initialised as a whole: the segments are 2 KB */
    search.router = router;
    search.match = match;
    search.misfit = NONE;
    search.allowed = 0;
    search.method = fl_method_of(method);
    search.lenient = search.climbs = false;
    match->count = 0;
    match->head_from_get = false;
    match->allow[0] = '\0';
    match->location = fl_slice_of("", 0);
    if (path.size == 0 || path.size > UINT32_MAX || path.data[0] != '/') return FL_ROUTE_BAD_PATH;
    fl_route_result result = fl_router_path_split(&search.path, path, scratch);
    if (result != FL_ROUTE_FOUND) return result;
    const fl_router_route *route = walk(&search, &router->root, 0, 0);
    if (!route) return explain(&search, path.size, scratch);
    set_route(&search, route);
    return FL_ROUTE_FOUND;
}
