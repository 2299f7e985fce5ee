/* Input: one byte choosing the method, then the path. Aborts when a result breaks its contract. */
#include <math.h>

#include "fuzz.h"
#include "router.h"
#include "utf8.h"

static const char *patterns[] = {
    "/",
    "/plaintext",
    "/user/{id}",
    "/user/{id:int}",
    "/user/{id:int}/posts/{post:uuid}",
    "/user/{name}/posts/",
    "/user/me",
    "/number/{x:number}",
    "/number/{x:number}/{y:number}",
    "/files/{rest:path}",
    "/files/index",
    "/files/{a}/{b:int}/{rest:path}",
    "/a/b/c/d",
    "/a/{b}/c/{d}/",
    "/{a:int}/{b:int}/{c:int}/{d:int}",
    "/{a}/{b:number}/{c}/{d:uuid}",
    "/{a}/{b}/{c}/x",
    "/caf%C3%A9/{x}",
    "/a%2Fb",
    "/slash/",
    "/.well-known/{rest:path}",
};

static const char *methods[] = {"GET",     "HEAD",  "POST",    "PUT", "PATCH", "DELETE",
                                "CONNECT", "TRACE", "OPTIONS", "",    "BREW"};

enum { PATTERNS = sizeof(patterns) / sizeof(patterns[0]), METHODS = 9, ALL_METHODS = 11 };

/* Patterns take the methods in turn, the first of each pair GET. */
static fl_router *build(void)
{
    fl_router *router;
    char error[256];
    demand(fl_router_new(&router) == 0);
    for (uint32_t i = 0; i < PATTERNS; i++) {
        fl_slice method = fl_slice_from_string(methods[i % 2 ? i % METHODS : 0]);
        demand(fl_router_add(router, method, fl_slice_from_string(patterns[i]), i, error,
                             sizeof(error)) == 0);
    }
    return router;
}

static bool is_within(fl_slice text, fl_slice whole)
{
    uintptr_t at = (uintptr_t)text.data, start = (uintptr_t)whole.data;
    return at >= start && at + text.size <= start + whole.size;
}

static void check_params(const fl_match *match, fl_slice path, fl_slice scratch)
{
    demand(match->count <= FL_ROUTER_PARAMETERS);
    for (unsigned i = 0; i < match->count; i++) {
        const fl_param *param = &match->params[i];
        demand(is_within(param->text, path) || is_within(param->text, scratch));
        demand(param->name.size > 0 && param->kind <= FL_PARAM_PATH);
        demand(param->kind == FL_PARAM_PATH || param->text.size > 0);
        demand(fl_utf8_valid(param->text));
        demand(!memchr(param->text.data, '\0', param->text.size));
    }
}

/* The location must be found as it is, or the client would be sent in circles. */
static void check_location(const fl_router *router, fl_slice method, const fl_match *match)
{
    fl_slice location = match->location;
    fl_buffer scratch;
    fl_match again;
    fl_buffer_init(&scratch);
    demand(location.size > 0 && location.data[0] == '/');
    demand(location.size == 1 || location.data[1] != '/');
    demand(fl_router_match(router, method, location, &scratch, &again) == FL_ROUTE_FOUND);
    demand(again.route == match->route);
    fl_buffer_close(&scratch);
}

static void check(const fl_router *router, fl_slice method, fl_slice path)
{
    fl_buffer scratch;
    fl_match match;
    fl_buffer_init(&scratch);
    fl_route_result result = fl_router_match(router, method, path, &scratch, &match);
    fl_slice text = fl_slice_of(scratch.data, scratch.size);
    if (result == FL_ROUTE_FOUND || result == FL_ROUTE_BAD_PARAM) {
        demand(match.route < PATTERNS);
        check_params(&match, path, text);
    }
    if (result == FL_ROUTE_BAD_PARAM) demand(match.count == 1);
    if (result == FL_ROUTE_FOUND)
        for (unsigned i = 0; i < match.count; i++)
            if (match.params[i].kind == FL_PARAM_NUMBER) demand(isfinite(match.params[i].number));
    demand(memchr(match.allow, '\0', sizeof(match.allow)) != NULL);
    demand((match.allow[0] != '\0') == (result == FL_ROUTE_BAD_METHOD));
    if (result == FL_ROUTE_REDIRECT) check_location(router, method, &match);
    fl_buffer_close(&scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fl_router *router; /* immutable once built, so one serves all inputs */
    if (!router) router = build();
    if (size == 0) return 0;
    fl_slice method = fl_slice_from_string(methods[data[0] % ALL_METHODS]);
    check(router, method, fl_slice_of((const char *)data + 1, size - 1));
    return 0;
}
