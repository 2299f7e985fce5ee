#include "router_tree.h"

#include <stdlib.h>

const fl_slice fl_method_names[FL_METHOD_UNKNOWN] = {
    {"GET", 3},    {"HEAD", 4},    {"POST", 4},  {"PUT", 3},     {"PATCH", 5},
    {"DELETE", 6}, {"CONNECT", 7}, {"TRACE", 5}, {"OPTIONS", 7},
};

/* At most half of the edges are used, so that looking for one always ends. */
static bool grow_edges(fl_router_node *node)
{
    fl_router_node grown = *node;
    uint32_t capacity = node->edges ? 2 * (node->mask + 1) : 4;
    grown.edges = calloc(capacity, sizeof(*grown.edges));
    if (!grown.edges) return false;
    grown.mask = capacity - 1;
    for (uint32_t i = 0; node->edges && i <= node->mask; i++) {
        const fl_router_edge *edge = &node->edges[i];
        if (edge->child) *fl_router_node_edge(&grown, fl_slice_of(edge->text, edge->size)) = *edge;
    }
    free(node->edges);
    *node = grown;
    return true;
}

fl_router_node *fl_router_node_grow_text(fl_router_node *node, fl_slice text)
{
    if (node->edges) {
        fl_router_node *child = fl_router_node_edge(node, text)->child;
        if (child) return child;
    }
    if ((!node->edges || 2 * (node->used + 1) > node->mask + 1) && !grow_edges(node)) return NULL;
    fl_router_edge edge = {.hash = fl_router_hash(text), .size = (uint32_t)text.size};
    edge.text = malloc(text.size + 1);
    edge.child = calloc(1, sizeof(*edge.child));
    if (!edge.text || !edge.child) {
        free(edge.text);
        free(edge.child);
        return NULL;
    }
    if (text.size > 0) memcpy(edge.text, text.data, text.size);
    *fl_router_node_edge(node, text) = edge;
    node->used++;
    return edge.child;
}

fl_router_node *fl_router_node_grow_parameter(fl_router_node *node, fl_param_kind kind)
{
    if (!node->parameters[kind]) node->parameters[kind] = calloc(1, sizeof(*node));
    if (node->parameters[kind] && kind != FL_PARAM_PATH) node->has_parameters = true;
    return node->parameters[kind];
}

void fl_router_node_close(fl_router_node *node)
{
    for (uint32_t i = 0; node->edges && i <= node->mask; i++) {
        if (!node->edges[i].child) continue;
        fl_router_node_close(node->edges[i].child);
        free(node->edges[i].child);
        free(node->edges[i].text);
    }
    free(node->edges);
    for (unsigned kind = 0; kind <= FL_PARAM_PATH; kind++) {
        if (node->parameters[kind]) fl_router_node_close(node->parameters[kind]);
        free(node->parameters[kind]);
    }
    for (fl_router_route *route = node->routes, *next; route; route = next) {
        next = route->next;
        free(route);
    }
}
