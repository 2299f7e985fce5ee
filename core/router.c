/* Reads patterns into the tree of router_tree.h; router_match.c looks paths up in it.
 *
 * Left out on purpose: parameters within a segment, regular expressions, methods beyond the nine.
 */
#include "router.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "router_path.h"
#include "router_tree.h"

#define QUOTED 200 /* bytes of a pattern or method repeated in a message */

struct addition {
    fl_router_route *route;
    fl_router_node *node; /* where the pattern has come to */
    fl_slice pattern;
    fl_buffer text;
    char *error;
    size_t error_size;
};

static const fl_slice kind_names[] = {
    [FL_PARAM_TEXT] = {"text", 4}, [FL_PARAM_INT] = {"int", 3},   [FL_PARAM_NUMBER] = {"number", 6},
    [FL_PARAM_UUID] = {"uuid", 4}, [FL_PARAM_PATH] = {"path", 4},
};

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

static int add_text(struct addition *addition, fl_slice raw, bool last)
{
    if (raw.size == 0 && !last) return refuse(addition, "has an empty segment (\"//\")");
    addition->text.size = 0;
    if (!fl_router_segment_decode(raw, &addition->text)) {
        if (addition->text.failed) return out_of_memory(addition);
        return refuse(addition, "\"%.*s\" has bad percent-encoding, %%00 or invalid UTF-8",
                      quoted(raw), raw.data);
    }
    fl_slice text = fl_slice_of(raw.size > 0 ? addition->text.data : "", addition->text.size);
    if (fl_router_is_dot(text) || fl_router_is_dot_dot(text))
        return refuse(addition, "has the dot segment \"%.*s\", which no path keeps", quoted(raw),
                      raw.data);
    addition->node = fl_router_node_grow_text(addition->node, text);
    return addition->node ? 0 : out_of_memory(addition);
}

static int add_name(struct addition *addition, fl_slice name)
{
    fl_router_route *route = addition->route;
    if (name.size == 0) return refuse(addition, "has a parameter without a name");
    if (!fl_slice_is_name(name))
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
    addition->node = fl_router_node_grow_parameter(addition->node, kind);
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
        fl_slice raw = fl_router_segment_at(pattern, at);
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
    fl_router_node *node = addition->node;
    fl_router_route *route = addition->route;
    const fl_router_route *other = fl_router_node_route(node, route->method);
    if (other) {
        fl_slice pattern = fl_slice_of(other->pattern, other->size);
        (void)refuse(addition, "%s is already taken by \"%.*s\"",
                     fl_method_names[route->method].data, quoted(pattern), pattern.data);
        return UV_EEXIST;
    }
    route->next = node->routes;
    node->routes = route;
    node->methods |= 1u << route->method;
    return 0;
}

static fl_router_route *new_route(fl_method method, fl_slice pattern, uint32_t id)
{
    fl_router_route *route = calloc(1, sizeof(*route) + pattern.size + 1);
    if (!route) return NULL;
    route->id = id;
    route->method = method;
    route->size = pattern.size;
    if (pattern.size > 0) memcpy(route->pattern, pattern.data, pattern.size);
    return route;
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
    fl_router_node_close(&router->root);
    freelocale(router->numeric);
    free(router);
}

/* A refused pattern may leave nodes without routes behind, which no path can end at. */
int fl_router_add(fl_router *router, fl_slice method, fl_slice pattern, uint32_t route, char *error,
                  size_t error_size)
{
    struct addition addition = {
        .node = &router->root, .pattern = pattern, .error = error, .error_size = error_size};
    fl_method known = fl_method_of(method);
    if (known == FL_METHOD_UNKNOWN)
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
