#include "router.h"

#include <inttypes.h>
#include <stdlib.h>
#include <uv.h>

#include "../support/scarcity.h"
#include "../support/test.h"

typedef struct fixture {
    fl_router *router;
    fl_buffer scratch;
    fl_match match;
    char error[512];
    char *path;
} fixture;

typedef struct declaration {
    const char *method, *pattern;
} declaration;

static void open_router(fixture *f)
{
    fl_buffer_init(&f->scratch);
    f->error[0] = '\0';
    f->path = NULL;
    if (fl_router_new(&f->router) != 0) abort();
}

static void close_router(fixture *f)
{
    fl_router_free(f->router);
    fl_buffer_close(&f->scratch);
    free(f->path);
}

static int add(fixture *f, const char *method, const char *pattern, uint32_t route)
{
    return fl_router_add(f->router, fl_slice_from_string(method), fl_slice_from_string(pattern),
                         route, f->error, sizeof(f->error));
}

static fl_route_result find_bytes(fixture *f, const char *method, const char *path, size_t size)
{
    /* A copy of its own size lets the sanitizer see reads beyond the path. */
    free(f->path);
    f->path = malloc(size ? size : 1);
    if (!f->path) abort();
    memcpy(f->path, path, size);
    fl_buffer_reset(&f->scratch, 0);
    return fl_router_match(f->router, fl_slice_from_string(method), fl_slice_of(f->path, size),
                           &f->scratch, &f->match);
}

static fl_route_result find(fixture *f, const char *method, const char *path)
{
    return find_bytes(f, method, path, strlen(path));
}

/* The index of the declaration found for GET, or -1 - result. */
static int find_in(const declaration *routes, size_t count, const char *method, const char *path)
{
    fixture f;
    open_router(&f);
    for (size_t i = 0; i < count; i++)
        if (add(&f, routes[i].method, routes[i].pattern, (uint32_t)i) != 0) abort();
    fl_route_result result = find(&f, method, path);
    int found = result == FL_ROUTE_FOUND ? (int)f.match.route : -1 - (int)result;
    close_router(&f);
    return found;
}

#define FIND_IN(routes, method, path)                                                              \
    find_in((routes), sizeof(routes) / sizeof((routes)[0]), (method), (path))

TEST(an_empty_router_finds_nothing)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(find(&f, "GET", "/"), FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(find(&f, "OPTIONS", "/a/b"), FL_ROUTE_NOT_FOUND);
    close_router(&f);
    fl_router_free(NULL);
}

TEST(text_typed_plain_and_catch_all_are_tried_in_this_order)
{
    static const declaration routes[] = {
        {"GET", "/x/{rest:path}"},
        {"GET", "/x/{name}"},
        {"GET", "/x/{u:uuid}"},
        {"GET", "/x/{n:number}"},
        {"GET", "/x/{i:int}"},
        {"GET", "/x/7"},
        {"GET", "/"},
        {"GET", "/x/y/z"},
    };
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/x/7"), 5);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/x/8"), 4);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/x/8.5"), 3);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/x/01234567-89ab-cdef-ABCD-EF0123456789"), 2);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/x/eight"), 1);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/x/eight/nine"), 0);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/x/"), 0);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/"), 6);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/x/y/z"), 7);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/y"), -1 - FL_ROUTE_NOT_FOUND);
}

TEST(a_dead_end_is_left_for_the_next_kind)
{
    static const declaration routes[] = {
        {"GET", "/a/b/c"},    {"GET", "/a/{x}/d"},     {"GET", "/{y}/b/e"},
        {"GET", "/{z:path}"}, {"GET", "/n/{i:int}/1"}, {"GET", "/n/{f:number}/2"},
        {"GET", "/n/{t}/3"},
    };
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/a/b/c"), 0);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/a/b/d"), 1);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/a/b/e"), 2);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/a/b/f"), 3);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/n/5/1"), 4);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/n/5/2"), 5);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/n/5/3"), 6);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/n/5/4"), 3);
}

TEST(another_pattern_serves_the_method_the_first_one_lacks)
{
    static const declaration routes[] = {{"GET", "/me"}, {"POST", "/{id}"}, {"PUT", "/{id:int}"}};
    CHECK_EQUAL_INT(FIND_IN(routes, "POST", "/me"), 1);
    CHECK_EQUAL_INT(FIND_IN(routes, "POST", "/5"), 1);
    CHECK_EQUAL_INT(FIND_IN(routes, "PUT", "/5"), 2);
}

TEST(parameters_keep_the_names_of_their_route)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/a/{x}/{y:int}", 1), 0);
    CHECK_EQUAL_INT(add(&f, "POST", "/a/{other}/{_n2:int}", 2), 0);
    CHECK_EQUAL_INT(find(&f, "GET", "/a/b/-12"), FL_ROUTE_FOUND);
    CHECK_EQUAL_INT(f.match.count, 2);
    CHECK_EQUAL_TEXT(f.match.params[0].name, "x");
    CHECK_EQUAL_TEXT(f.match.params[0].text, "b");
    CHECK_EQUAL_INT(f.match.params[0].kind, FL_PARAM_TEXT);
    CHECK_EQUAL_TEXT(f.match.params[1].name, "y");
    CHECK_EQUAL_TEXT(f.match.params[1].text, "-12");
    CHECK_EQUAL_INT(f.match.params[1].kind, FL_PARAM_INT);
    CHECK_EQUAL_INT(f.match.params[1].integer, -12);
    CHECK_EQUAL_INT(find(&f, "POST", "/a/b/3"), FL_ROUTE_FOUND);
    CHECK_EQUAL_INT(f.match.route, 2);
    CHECK_EQUAL_TEXT(f.match.params[0].name, "other");
    CHECK_EQUAL_TEXT(f.match.params[1].name, "_n2");
    close_router(&f);
}

TEST(backtracking_forgets_the_parameters_of_the_dead_end)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/{a:int}/{b:int}/x", 0), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/{c}/2/y", 1), 0);
    CHECK_EQUAL_INT(find(&f, "GET", "/1/2/y"), FL_ROUTE_FOUND);
    CHECK_EQUAL_INT(f.match.count, 1);
    CHECK_EQUAL_TEXT(f.match.params[0].name, "c");
    CHECK_EQUAL_INT(f.match.params[0].kind, FL_PARAM_TEXT);
    CHECK_EQUAL_TEXT(f.match.params[0].text, "1");
    close_router(&f);
}

TEST(integers_are_64_bits)
{
    static const struct {
        const char *path;
        bool fits;
        int64_t value;
    } cases[] = {
        {"/0", true, 0},
        {"/-0", true, 0},
        {"/007", true, 7},
        {"/9223372036854775807", true, INT64_MAX},
        {"/-9223372036854775808", true, INT64_MIN},
        {"/9223372036854775808", false, 0},
        {"/-9223372036854775809", false, 0},
        {"/92233720368547758070", false, 0},
        {"/+1", false, 0},
        {"/-", false, 0},
        {"/1.0", false, 0},
        {"/1e3", false, 0},
        {"/%31", true, 1},
        {"/1%20", false, 0},
    };
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/{n:int}", 3), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fl_route_result result = find(&f, "GET", cases[i].path);
        CHECK_EQUAL_INT(result, cases[i].fits ? FL_ROUTE_FOUND : FL_ROUTE_BAD_PARAM);
        if (cases[i].fits) CHECK_EQUAL_INT(f.match.params[0].integer, cases[i].value);
    }
    close_router(&f);
}

TEST(numbers_are_finite_decimals)
{
    static const char *good[] = {"/0",    "/-1.5",  "/1e3",    "/2E-2",
                                 "/1e+2", "/0.001", "/1e-400", "/18446744073709551616"};
    static const double values[] = {0, -1.5, 1000, 0.02, 100, 0.001, 0, 18446744073709551616.0};
    static const char *bad[] = {"/1e400", "/+1",  "/.5",  "/1.",  "/1e",   "/1e+", "/-",
                                "/0x10",  "/nan", "/inf", "/1,5", "/1.5x", "/--1", "/1.5.2"};
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/{x:number}", 0), 0);
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        CHECK_EQUAL_INT(find(&f, "GET", good[i]), FL_ROUTE_FOUND);
        CHECK(f.match.params[0].number == values[i]);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_EQUAL_INT(find(&f, "GET", bad[i]), FL_ROUTE_BAD_PARAM);
    char longest[302] = "/";
    memset(longest + 1, '1', 300);
    CHECK_EQUAL_INT(find(&f, "GET", longest), FL_ROUTE_BAD_PARAM);
    close_router(&f);
}

TEST(a_uuid_has_its_hyphens_in_place)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/{u:uuid}", 0), 0);
    CHECK_EQUAL_INT(find(&f, "GET", "/01234567-89ab-cdef-ABCD-EF0123456789"), FL_ROUTE_FOUND);
    CHECK_EQUAL_INT(find(&f, "GET", "/0123456789ab-cdef-ABCD-EF0123456789ab"), FL_ROUTE_BAD_PARAM);
    CHECK_EQUAL_INT(find(&f, "GET", "/01234567-89ab-cdef-ABCD-EF012345678"), FL_ROUTE_BAD_PARAM);
    CHECK_EQUAL_INT(find(&f, "GET", "/g1234567-89ab-cdef-ABCD-EF0123456789"), FL_ROUTE_BAD_PARAM);
    close_router(&f);
}

TEST(the_misfitting_parameter_is_named_with_its_text_and_kind)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/a/{x}/{y:int}/{z}", 4), 0);
    CHECK_EQUAL_INT(add(&f, "POST", "/a/{x}/{t}/{z}", 5), 0);
    CHECK_EQUAL_INT(find(&f, "GET", "/a/b/caf%C3%A9/d"), FL_ROUTE_BAD_PARAM);
    CHECK_EQUAL_INT(f.match.route, 4);
    CHECK_EQUAL_INT(f.match.count, 1);
    CHECK_EQUAL_TEXT(f.match.params[0].name, "y");
    CHECK_EQUAL_TEXT(f.match.params[0].text, "caf\xc3\xa9");
    CHECK_EQUAL_INT(f.match.params[0].kind, FL_PARAM_INT);
    CHECK_EQUAL_INT(find(&f, "POST", "/a/b/c/d"), FL_ROUTE_FOUND);
    CHECK_EQUAL_INT(find(&f, "PUT", "/a/b/c/d"), FL_ROUTE_BAD_METHOD);
    CHECK_EQUAL_BYTES(f.match.allow, strlen(f.match.allow), "POST, OPTIONS");
    CHECK_EQUAL_INT(find(&f, "GET", "/a/b//d"), FL_ROUTE_NOT_FOUND);
    close_router(&f);
}

TEST(a_misfit_of_another_method_is_not_found)
{
    static const declaration routes[] = {{"GET", "/{n:int}"}};
    CHECK_EQUAL_INT(FIND_IN(routes, "POST", "/x"), -1 - FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(FIND_IN(routes, "OPTIONS", "/x"), -1 - FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(FIND_IN(routes, "HEAD", "/x"), -1 - FL_ROUTE_BAD_PARAM);
}

TEST(allow_lists_the_methods_of_all_patterns_that_fit)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "DELETE", "/{rest:path}", 0), 0);
    CHECK_EQUAL_INT(add(&f, "POST", "/{id}", 1), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/me", 2), 0);
    CHECK_EQUAL_INT(add(&f, "TRACE", "/{n:int}", 3), 0);
    CHECK_EQUAL_INT(find(&f, "PATCH", "/me"), FL_ROUTE_BAD_METHOD);
    CHECK_EQUAL_BYTES(f.match.allow, strlen(f.match.allow), "GET, HEAD, POST, DELETE, OPTIONS");
    CHECK_EQUAL_INT(find(&f, "BREW", "/5"), FL_ROUTE_BAD_METHOD);
    CHECK_EQUAL_BYTES(f.match.allow, strlen(f.match.allow), "POST, DELETE, TRACE, OPTIONS");
    CHECK_EQUAL_INT(find(&f, "get", "/x/y"), FL_ROUTE_BAD_METHOD);
    CHECK_EQUAL_BYTES(f.match.allow, strlen(f.match.allow), "DELETE, OPTIONS");
    CHECK_EQUAL_INT(find(&f, "OPTIONS", "/me"), FL_ROUTE_BAD_METHOD);
    CHECK_EQUAL_BYTES(f.match.allow, strlen(f.match.allow), "GET, HEAD, POST, DELETE, OPTIONS");
    close_router(&f);
}

TEST(allow_holds_every_method)
{
    static const char *methods[] = {"OPTIONS", "TRACE", "CONNECT", "DELETE", "PATCH",
                                    "PUT",     "POST",  "HEAD",    "GET"};
    fixture f;
    open_router(&f);
    for (uint32_t i = 0; i < 9; i++) CHECK_EQUAL_INT(add(&f, methods[i], "/", i), 0);
    for (uint32_t i = 0; i < 9; i++) {
        CHECK_EQUAL_INT(find(&f, methods[i], "/"), FL_ROUTE_FOUND);
        CHECK_EQUAL_INT(f.match.route, i);
        CHECK(!f.match.head_from_get);
    }
    CHECK_EQUAL_INT(find(&f, "", "/"), FL_ROUTE_BAD_METHOD);
    CHECK_EQUAL_BYTES(f.match.allow, strlen(f.match.allow),
                      "GET, HEAD, POST, PUT, PATCH, DELETE, CONNECT, TRACE, OPTIONS");
    close_router(&f);
}

TEST(head_takes_the_get_route_unless_it_has_its_own)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/a", 1), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/b", 2), 0);
    CHECK_EQUAL_INT(add(&f, "HEAD", "/b", 3), 0);
    CHECK_EQUAL_INT(add(&f, "POST", "/c", 4), 0);
    CHECK_EQUAL_INT(find(&f, "HEAD", "/a"), FL_ROUTE_FOUND);
    CHECK(f.match.head_from_get && f.match.route == 1);
    CHECK_EQUAL_INT(find(&f, "HEAD", "/b"), FL_ROUTE_FOUND);
    CHECK(!f.match.head_from_get && f.match.route == 3);
    CHECK_EQUAL_INT(find(&f, "HEAD", "/c"), FL_ROUTE_BAD_METHOD);
    close_router(&f);
}

TEST(segments_are_decoded_before_they_are_compared)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/caf%C3%A9/{x}", 1), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/a%2Fb", 2), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/a/b", 3), 0);
    CHECK_EQUAL_INT(find(&f, "GET", "/caf\xc3\xa9/1"), FL_ROUTE_FOUND);
    CHECK_EQUAL_INT(f.match.route, 1);
    CHECK_EQUAL_INT(find(&f, "GET", "/%63af%c3%a9/x%2fy%25%7B"), FL_ROUTE_FOUND);
    CHECK_EQUAL_TEXT(f.match.params[0].text, "x/y%{");
    CHECK_EQUAL_INT(find(&f, "GET", "/a%2fb"), FL_ROUTE_FOUND);
    CHECK_EQUAL_INT(f.match.route, 2);
    CHECK_EQUAL_INT(find(&f, "GET", "/%61/b"), FL_ROUTE_FOUND);
    CHECK_EQUAL_INT(f.match.route, 3);
    close_router(&f);
}

TEST(a_path_that_is_no_text_is_bad)
{
    static const char *bad[] = {"/%",         "/%4",      "/%zz",      "/%4g/x",
                                "/a/%00",     "/%ff",     "/\xff",     "/%c0%af",
                                "/%ed%a0%80", "/%c3/%a9", "/%ff/../a", "/a/b%e2%82",
                                "",           "a",        "*",         "http://a/"};
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/{rest:path}", 0), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_EQUAL_INT(find(&f, "GET", bad[i]), FL_ROUTE_BAD_PATH);
    CHECK_EQUAL_INT(find_bytes(&f, "GET", "/a\0b", 4), FL_ROUTE_BAD_PATH);
    close_router(&f);
}

TEST(dot_segments_are_resolved_plain_or_encoded)
{
    static const char *paths[][2] = {
        {"/a/./b", "a/b"},
        {"/a/%2e/b", "a/b"},
        {"/a/x/../b", "a/b"},
        {"/a/x/%2E%2e/b", "a/b"},
        {"/a/x/.%2e/b", "a/b"},
        {"/../../a/b", "a/b"},
        {"/..", ""},
        {"/.", ""},
        {"/a/..", ""},
        {"/a/.", "a/"},
        {"/a/b/..", "a/"},
        {"/a//../b", "a/b"},
        {"/a/.../b", "a/.../b"},
        {"/.a/..b", ".a/..b"},
        {"/a/%2e%2e/%2e%2e/", ""},
        {"/a//b", "a//b"},
        {"/a/b/../../../c", "c"},
        {"//..", ""},
    };
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/{rest:path}", 0), 0);
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        CHECK_EQUAL_INT(find(&f, "GET", paths[i][0]), FL_ROUTE_FOUND);
        CHECK_EQUAL_TEXT(f.match.params[0].text, paths[i][1]);
    }
    close_router(&f);
}

TEST(a_catch_all_takes_the_decoded_rest)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/files/{rest:path}", 0), 0);
    CHECK_EQUAL_INT(find(&f, "GET", "/files/"), FL_ROUTE_FOUND);
    CHECK_EQUAL_TEXT(f.match.params[0].text, "");
    CHECK_EQUAL_TEXT(f.match.params[0].name, "rest");
    CHECK_EQUAL_INT(f.match.params[0].kind, FL_PARAM_PATH);
    CHECK_EQUAL_INT(find(&f, "GET", "/files/a/b.txt"), FL_ROUTE_FOUND);
    CHECK_EQUAL_TEXT(f.match.params[0].text, "a/b.txt");
    CHECK_EQUAL_INT(find(&f, "GET", "/files/a%20b//c%2Fd/"), FL_ROUTE_FOUND);
    CHECK_EQUAL_TEXT(f.match.params[0].text, "a b//c/d/");
    CHECK_EQUAL_INT(find(&f, "GET", "/files//"), FL_ROUTE_FOUND);
    CHECK_EQUAL_TEXT(f.match.params[0].text, "/");
    close_router(&f);
}

TEST(a_catch_all_never_climbs)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/files/{rest:path}", 0), 0);
    CHECK_EQUAL_INT(find(&f, "GET", "/files/..%2f..%2fetc/passwd"), FL_ROUTE_BAD_PATH);
    CHECK_EQUAL_INT(find(&f, "GET", "/files/a%2f.."), FL_ROUTE_BAD_PATH);
    CHECK_EQUAL_INT(find(&f, "GET", "/files/a/b%2f%2e%2e%2fc"), FL_ROUTE_BAD_PATH);
    CHECK_EQUAL_INT(find(&f, "GET", "/files/a%2f..b/..%63"), FL_ROUTE_FOUND);
    close_router(&f);
}

TEST(an_empty_segment_fits_no_parameter)
{
    static const declaration routes[] = {
        {"GET", "/a/{id}"}, {"GET", "/a/{id}/c"}, {"GET", "/d/e"}, {"GET", "/d/"}};
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/a/"), -1 - FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/a//c"), -1 - FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "//d/e"), -1 - FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/d//e"), -1 - FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(FIND_IN(routes, "GET", "/d/"), 3);
}

TEST(the_final_slash_redirects_when_only_the_other_form_has_the_route)
{
    static const char *cases[][3] = {
        {"GET", "/a", "/a/"},        {"HEAD", "/a", "/a/"},
        {"GET", "/b/", "/b"},        {"GET", "//", "/"},
        {"PUT", "/x/%63/..", "/x"},  {"PUT", "/%C3%a9%2F;%5c/", "/%C3%A9%2F;%5C"},
        {"POST", "/both", "/both/"}, {"GET", "/both/", "/both"},
    };
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/", 0), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/a/", 1), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/b", 2), 0);
    CHECK_EQUAL_INT(add(&f, "PUT", "/{x}", 3), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/both", 4), 0);
    CHECK_EQUAL_INT(add(&f, "POST", "/both/", 5), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CHECK_EQUAL_INT(find(&f, cases[i][0], cases[i][1]), FL_ROUTE_REDIRECT);
        CHECK_EQUAL_TEXT(f.match.location, cases[i][2]);
        CHECK_EQUAL_INT(f.match.count, 0);
    }
    CHECK_EQUAL_INT(find(&f, "DELETE", "/b/"), FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(find(&f, "OPTIONS", "/b/"), FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(find(&f, "OPTIONS", "/both/"), FL_ROUTE_BAD_METHOD);
    close_router(&f);
}

TEST(a_catch_all_is_reached_by_a_redirect_too)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/files/{rest:path}", 3), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/{n:int}/", 4), 0);
    CHECK_EQUAL_INT(find(&f, "HEAD", "/files"), FL_ROUTE_REDIRECT);
    CHECK_EQUAL_TEXT(f.match.location, "/files/");
    CHECK_EQUAL_INT(f.match.route, 3);
    CHECK_EQUAL_INT(find(&f, "GET", "/5"), FL_ROUTE_REDIRECT);
    CHECK_EQUAL_TEXT(f.match.location, "/5/");
    CHECK_EQUAL_INT(find(&f, "GET", "/x"), FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(find(&f, "GET", "/x/"), FL_ROUTE_BAD_PARAM);
    close_router(&f);
}

TEST(a_redirect_never_leads_to_another_host)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/{x}", 0), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/{x}/{y}/", 1), 0);
    CHECK_EQUAL_INT(find(&f, "GET", "/\\host/"), FL_ROUTE_REDIRECT);
    CHECK_EQUAL_TEXT(f.match.location, "/%5Chost");
    CHECK_EQUAL_INT(find(&f, "GET", "/%2fhost/"), FL_ROUTE_REDIRECT);
    CHECK_EQUAL_TEXT(f.match.location, "/%2Fhost");
    CHECK_EQUAL_INT(find(&f, "GET", "//host/a/"), FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(find(&f, "GET", "//host/.."), FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(find(&f, "GET", "/a/../host/"), FL_ROUTE_REDIRECT);
    CHECK_EQUAL_TEXT(f.match.location, "/host");
    close_router(&f);
}

TEST(a_path_of_too_many_segments_is_not_found)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/{rest:path}", 0), 0);
    char path[2 * FL_ROUTER_SEGMENTS + 3];
    for (size_t i = 0; i < FL_ROUTER_SEGMENTS + 1; i++) memcpy(path + 2 * i, "/a", 2);
    CHECK_EQUAL_INT(find_bytes(&f, "GET", path, 2 * FL_ROUTER_SEGMENTS), FL_ROUTE_FOUND);
    CHECK_EQUAL_INT(find_bytes(&f, "GET", path, 2 * FL_ROUTER_SEGMENTS + 2), FL_ROUTE_NOT_FOUND);
    close_router(&f);
}

TEST(a_long_path_redirects_within_its_bounds)
{
    fixture f;
    open_router(&f);
    static char path[8192];
    char pattern[2 * FL_ROUTER_SEGMENTS + 1] = "";
    for (size_t i = 0; i < FL_ROUTER_SEGMENTS - 1; i++) strcat(pattern, "/a");
    strcat(pattern, "/");
    CHECK_EQUAL_INT(add(&f, "GET", pattern, 0), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/{x}/", 1), 0);
    CHECK_EQUAL_INT(find_bytes(&f, "GET", pattern, strlen(pattern) - 1), FL_ROUTE_REDIRECT);
    CHECK(fl_slice_equal(f.match.location, fl_slice_from_string(pattern)));
    memset(path, ' ', sizeof(path));
    path[0] = '/';
    CHECK_EQUAL_INT(find_bytes(&f, "GET", path, sizeof(path)), FL_ROUTE_REDIRECT);
    CHECK_EQUAL_INT(f.match.location.size, 1 + 3 * (sizeof(path) - 1) + 1);
    close_router(&f);
}

TEST(the_scratch_buffer_keeps_what_it_held)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/{x}/{y}", 0), 0);
    fl_buffer_append(&f.scratch, "before", 6);
    CHECK_EQUAL_INT(
        fl_router_match(f.router, FL_SLICE("GET"), FL_SLICE("/a/../%62/c"), &f.scratch, &f.match),
        FL_ROUTE_FOUND);
    CHECK_EQUAL_TEXT(f.match.params[0].text, "b");
    CHECK_EQUAL_TEXT(f.match.params[1].text, "c");
    CHECK(memcmp(f.scratch.data, "before", 6) == 0);
    close_router(&f);
}

TEST(wrong_patterns_are_refused_by_name)
{
    static const char *cases[][2] = {
        {"", "route \"\": must begin with \"/\""},
        {"a", "route \"a\": must begin with \"/\""},
        {"/{x:integer}", "route \"/{x:integer}\": parameter \"x\" has the unknown converter "
                         "\"integer\": it can be text, int, number, uuid or path"},
        {"/{x:}", "route \"/{x:}\": parameter \"x\" has the unknown converter \"\": it can be "
                  "text, int, number, uuid or path"},
        {"/{}", "route \"/{}\": has a parameter without a name"},
        {"/{:int}", "route \"/{:int}\": has a parameter without a name"},
        {"/{1x}", "route \"/{1x}\": parameter \"1x\" is not named by letters, digits and \"_\", or "
                  "begins with a digit"},
        {"/{x-y}", "route \"/{x-y}\": parameter \"x-y\" is not named by letters, digits and "
                   "\"_\", or begins with a digit"},
        {"/{x}/{x:int}", "route \"/{x}/{x:int}\": has two parameters \"x\""},
        {"/{r:path}/a", "route \"/{r:path}/a\": parameter \"r\" takes the rest of the path, so it "
                        "must be last"},
        {"/{r:path}/", "route \"/{r:path}/\": parameter \"r\" takes the rest of the path, so it "
                       "must be last"},
        {"/a{x}", "route \"/a{x}\": has text beside a parameter in \"a{x}\": it must fill its "
                  "segment"},
        {"/{x}.js", "route \"/{x}.js\": has text beside a parameter in \"{x}.js\": it must fill "
                    "its segment"},
        {"/{x}{y}", "route \"/{x}{y}\": has text beside a parameter in \"{x}{y}\": it must fill "
                    "its segment"},
        {"/{x", "route \"/{x\": has unbalanced braces in \"{x\""},
        {"/x}", "route \"/x}\": has unbalanced braces in \"x}\""},
        {"/{{x}}", "route \"/{{x}}\": has unbalanced braces in \"{{x}}\""},
        {"/{x/y}", "route \"/{x/y}\": has unbalanced braces in \"{x\""},
        {"/}{", "route \"/}{\": has unbalanced braces in \"}{\""},
        {"/a/../b", "route \"/a/../b\": has the dot segment \"..\", which no path keeps"},
        {"/%2e", "route \"/%2e\": has the dot segment \"%2e\", which no path keeps"},
        {"/a%zz", "route \"/a%zz\": \"a%zz\" has bad percent-encoding, %00 or invalid UTF-8"},
        {"/a%", "route \"/a%\": \"a%\" has bad percent-encoding, %00 or invalid UTF-8"},
        {"/%00", "route \"/%00\": \"%00\" has bad percent-encoding, %00 or invalid UTF-8"},
        {"/%ff", "route \"/%ff\": \"%ff\" has bad percent-encoding, %00 or invalid UTF-8"},
        {"/a//b", "route \"/a//b\": has an empty segment (\"//\")"},
        {"//", "route \"//\": has an empty segment (\"//\")"},
        {"/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}/{j}/{k}/{l}/{m}/{n}/{o}/{p}/{q}",
         "route \"/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}/{j}/{k}/{l}/{m}/{n}/{o}/{p}/{q}\": has "
         "more than 16 parameters"},
    };
    fixture f;
    open_router(&f);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CHECK_EQUAL_INT(add(&f, "GET", cases[i][0], 0), UV_EINVAL);
        CHECK_EQUAL_BYTES(f.error, strlen(f.error), cases[i][1]);
    }
    CHECK_EQUAL_INT(find(&f, "GET", "/a"), FL_ROUTE_NOT_FOUND);
    CHECK_EQUAL_INT(find(&f, "OPTIONS", "/a/x"), FL_ROUTE_NOT_FOUND);
    close_router(&f);
}

TEST(an_unknown_method_is_refused_at_start)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "get", "/a", 0), UV_EINVAL);
    CHECK_EQUAL_BYTES(f.error, strlen(f.error), "route \"/a\": unknown method \"get\"");
    close_router(&f);
}

TEST(a_shape_taken_twice_names_both_patterns)
{
    fixture f;
    open_router(&f);
    CHECK_EQUAL_INT(add(&f, "GET", "/a/{x}", 0), 0);
    CHECK_EQUAL_INT(add(&f, "POST", "/a/{y}", 1), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/a/{x:int}", 2), 0);
    CHECK_EQUAL_INT(add(&f, "GET", "/%61/{z:text}", 3), UV_EEXIST);
    CHECK_EQUAL_BYTES(f.error, strlen(f.error),
                      "route \"/%61/{z:text}\": GET is already taken by \"/a/{x}\"");
    CHECK_EQUAL_INT(find(&f, "GET", "/a/b"), FL_ROUTE_FOUND);
    CHECK_EQUAL_INT(f.match.route, 0);
    close_router(&f);
}

TEST(a_message_is_cut_to_the_room_there_is)
{
    fixture f;
    open_router(&f);
    char small[8] = "1234567";
    CHECK_EQUAL_INT(
        fl_router_add(f.router, FL_SLICE("GET"), FL_SLICE("/abc/{"), 0, small, sizeof(small)),
        UV_EINVAL);
    CHECK_EQUAL_BYTES(small, strlen(small), "route \"");
    CHECK_EQUAL_INT(fl_router_add(f.router, FL_SLICE("GET"), FL_SLICE("/{"), 0, NULL, 0),
                    UV_EINVAL);
    close_router(&f);
}

TEST(ten_thousand_routes_are_told_apart)
{
    fixture f;
    open_router(&f);
    char path[64];
    for (uint32_t i = 0; i < 10000; i++) {
        (void)snprintf(path, sizeof(path), "/%s%" PRIu32 "/{id}/%s%" PRIu32, i % 2 ? "items" : "i",
                       i % 100, i % 3 ? "part" : "p", i);
        CHECK_EQUAL_INT(add(&f, "GET", path, i), 0);
    }
    for (uint32_t i = 0; i < 10000; i++) {
        (void)snprintf(path, sizeof(path), "/%s%" PRIu32 "/id/%s%" PRIu32, i % 2 ? "items" : "i",
                       i % 100, i % 3 ? "part" : "p", i);
        CHECK_EQUAL_INT(find(&f, "GET", path), FL_ROUTE_FOUND);
        CHECK_EQUAL_INT(f.match.route, i);
    }
    close_router(&f);
}

static int add_all(fl_router *router)
{
    static const char *const patterns[] = {
        "/", "/a/{id:int}", "/a/{u:uuid}", "/b%20c/d", "/e/{rest:path}", "/f", "/g", "/h"};
    char error[512];
    int status = 0;
    for (uint32_t i = 0; status == 0 && i < sizeof(patterns) / sizeof(*patterns); i++)
        status = fl_router_add(router, FL_SLICE("GET"), fl_slice_from_string(patterns[i]), i, error,
                               sizeof(error));
    return status;
}

static int find_encoded(const fl_router *router, const char *path, fl_route_result expected)
{
    fl_buffer scratch;
    fl_match match;
    fl_buffer_init(&scratch);
    fl_route_result result =
        fl_router_match(router, FL_SLICE("GET"), fl_slice_from_string(path), &scratch, &match);
    int status = scratch.failed ? UV_ENOMEM : 0;
    if (result != (scratch.failed ? FL_ROUTE_BAD_PATH : expected)) status = 1;
    fl_buffer_close(&scratch);
    return status;
}

static int route_scarcely(void)
{
    fl_router *router = NULL;
    int status = fl_router_new(&router);
    if (status == 0) status = add_all(router);
    if (status == 0) status = find_encoded(router, "/b%20c/%64", FL_ROUTE_FOUND);
    if (status == 0) status = find_encoded(router, "/b%20c/d/", FL_ROUTE_REDIRECT);
    fl_router_free(router);
    return status;
}

TEST(without_memory_no_route_is_added_and_no_path_is_found)
{
    CHECK_SCARCITY(route_scarcely);
}

TEST_MAIN
