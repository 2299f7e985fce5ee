/* router_tree: the patterns of a router as a tree with one level per segment. Private to the
 * router.
 *
 * A node's children by text are in a hash table, its children by parameter are one per kind, since
 * the parameter's name belongs to the route. Owner: the router; built at *boot*, immutable then. */
#ifndef FL_ROUTER_TREE_H
#define FL_ROUTER_TREE_H

#include <locale.h>
#include <stdbool.h>
#include <stdint.h>

#include "router.h"
#include "slice.h"

typedef enum {
    FL_METHOD_GET,
    FL_METHOD_HEAD,
    FL_METHOD_POST,
    FL_METHOD_PUT,
    FL_METHOD_PATCH,
    FL_METHOD_DELETE,
    FL_METHOD_CONNECT,
    FL_METHOD_TRACE,
    FL_METHOD_OPTIONS,
    FL_METHOD_UNKNOWN
} fl_method;

extern const fl_slice fl_method_names[FL_METHOD_UNKNOWN]; /* NUL-terminated */

typedef struct fl_router_route {
    struct fl_router_route *next;
    uint32_t id;
    fl_method method;
    unsigned name_count;
    fl_slice names[FL_ROUTER_PARAMETERS]; /* into pattern */
    size_t size;
    char pattern[];
} fl_router_route;

typedef struct fl_router_edge {
    uint32_t hash;
    uint32_t size;
    char *text;
    struct fl_router_node *child; /* NULL: free */
} fl_router_edge;

typedef struct fl_router_node {
    fl_router_edge *edges;
    uint32_t mask; /* number of edges - 1, when there are any */
    uint32_t used;
    uint32_t methods; /* a bit for each of the routes */
    bool has_parameters;
    struct fl_router_node *parameters[FL_PARAM_PATH + 1]; /* by kind */
    fl_router_route *routes;
} fl_router_node;

struct fl_router {
    fl_router_node root;
    locale_t numeric; /* an app may set a locale whose decimal point is a comma */
};

/* The child of that text, made when there is none; NULL when there is no memory. */
fl_router_node *fl_router_node_grow_text(fl_router_node *node, fl_slice text);
fl_router_node *fl_router_node_grow_parameter(fl_router_node *node, fl_param_kind kind);
/* Frees what is below the node, not the node. Recursion is as deep as the deepest pattern. */
void fl_router_node_close(fl_router_node *node);

/* What each look-up needs is inline. */

static inline fl_method fl_method_of(fl_slice name)
{
    /* Nearly all requests; of constant size it costs no call. */
    if (name.size == 3 && memcmp(name.data, "GET", 3) == 0) return FL_METHOD_GET;
    fl_method method = FL_METHOD_HEAD;
    while (method < FL_METHOD_UNKNOWN && !fl_slice_equal(name, fl_method_names[method])) method++;
    return method;
}

static inline const fl_router_route *fl_router_node_route(const fl_router_node *node,
                                                          fl_method method)
{
    const fl_router_route *route = node->routes;
    while (route && route->method != method) route = route->next;
    return route;
}

static inline uint64_t fl_router_load(const char *data, size_t size)
{
    uint64_t word = 0;
    memcpy(&word, data, size);
    return word;
}

/* Fewer than 8 bytes as one word, without a loop: the two loads may overlap. */
static inline uint64_t fl_router_load_short(fl_slice text)
{
    if (text.size >= 4)
        return fl_router_load(text.data, 4) << 32 | fl_router_load(text.data + text.size - 4, 4);
    if (text.size >= 2)
        return fl_router_load(text.data, 2) << 16 | fl_router_load(text.data + text.size - 2, 2);
    return text.size == 1 ? fl_router_load(text.data, 1) : 0;
}

/* The clients cannot choose what is in the tables, so the hash needs speed only. */
static inline uint32_t fl_router_hash(fl_slice text)
{
    const uint64_t factor = 0x9e3779b97f4a7c15u;
    uint64_t hash = text.size * factor;
    for (size_t i = 0; i + 8 < text.size; i += 8) {
        hash = (hash ^ fl_router_load(text.data + i, 8)) * factor;
        hash ^= hash >> 29;
    }
    hash ^=
        text.size >= 8 ? fl_router_load(text.data + text.size - 8, 8) : fl_router_load_short(text);
    return (uint32_t)(hash * factor >> 32);
}

/* The edge with that text, or the free one where it belongs. The node must have edges. */
static inline fl_router_edge *fl_router_node_edge(const fl_router_node *node, fl_slice text)
{
    uint32_t hash = fl_router_hash(text);
    uint32_t at = hash & node->mask;
    for (;; at = (at + 1) & node->mask) {
        fl_router_edge *edge = &node->edges[at];
        if (!edge->child) return edge;
        if (edge->hash == hash && edge->size == text.size &&
            memcmp(edge->text, text.data, text.size) == 0)
            return edge;
    }
}

#endif
