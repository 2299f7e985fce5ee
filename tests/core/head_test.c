/* What head decides about a whole head, asked through the parser that calls it. */
#include "head.h"

#include "bare_web.h"
#include "test.h"

/* Reads the head; what was decided is in the connection's request. */
static int head_of(fl_bare_web *bare, const char *line, const char *fields)
{
    fl_buffer text;
    size_t used;
    fl_buffer_init(&text);
    fl_buffer_printf(&text, "%s\r\n%s\r\n", line, fields);
    bare_web_open(bare);
    int status = bare_web_read(bare, fl_slice_of(text.data, text.size), &used);
    fl_buffer_close(&text);
    return status;
}

static int status_of(const char *line, const char *fields)
{
    fl_bare_web bare;
    int status = head_of(&bare, line, fields);
    bare_web_close(&bare);
    return status;
}

static int status_of_target(const char *target)
{
    char line[256];
    (void)snprintf(line, sizeof(line), "GET %s HTTP/1.1", target);
    return status_of(line, "Host: a\r\n");
}

static int status_of_host(const char *host)
{
    char field[256];
    (void)snprintf(field, sizeof(field), "Host:%s\r\n", host);
    return status_of("GET / HTTP/1.1", field);
}

TEST(the_query_begins_at_the_first_question_mark)
{
    fl_bare_web bare;
    CHECK_EQUAL_INT(head_of(&bare, "GET /a?b?c=/? HTTP/1.1", "Host: h\r\n"), 0);
    const fl_request *request = bare.connection.request;
    CHECK_EQUAL_TEXT(fl_request_path(request), "/a");
    CHECK_EQUAL_TEXT(fl_request_text(request, request->query, request->query_size), "b?c=/?");
    bare_web_close(&bare);
}

TEST(an_absolute_targets_authority_goes_before_the_host_field)
{
    fl_bare_web bare;
    CHECK_EQUAL_INT(head_of(&bare, "GET HTTP://b.example:80/p?q HTTP/1.1", "Host: h\r\n"), 0);
    const fl_request *request = bare.connection.request;
    CHECK_EQUAL_TEXT(request->host, "b.example:80");
    CHECK_EQUAL_TEXT(fl_request_path(request), "/p");
    CHECK_EQUAL_TEXT(fl_request_text(request, request->query, request->query_size), "q");
    bare_web_close(&bare);
}

TEST(an_absolute_target_without_a_path_means_the_root)
{
    fl_bare_web bare;
    CHECK_EQUAL_INT(head_of(&bare, "GET https://[::1]?q HTTP/1.1", "Host: h\r\n"), 0);
    CHECK_EQUAL_TEXT(fl_request_path(bare.connection.request), "/");
    CHECK_EQUAL_TEXT(bare.connection.request->host, "[::1]");
    CHECK_EQUAL_INT(bare.connection.request->query_size, 1);
    bare_web_close(&bare);
}

TEST(targets_of_other_forms_are_refused)
{
    const char *bad[] = {"probe",           "?a",          "a:80",         "*",
                         "http:/a",         "http://",     "http:///p",    "http://:80/",
                         "http://u@a/",     "http://a:b/", "http://[::1/", "ftp://a/",
                         "http://a:65536/", "/#f",         "/?a#f",        "*x"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        CHECK_EQUAL_INT(status_of_target(bad[i]), 400);
    CHECK_EQUAL_INT(status_of("CONNECT a:443 HTTP/1.1", "Host: a:443\r\n"), 400);
    CHECK_EQUAL_INT(status_of("OPTIONS * HTTP/1.1", "Host: a\r\n"), 0);
    CHECK_EQUAL_INT(status_of("OPTIONS *x HTTP/1.1", "Host: a\r\n"), 400);
}

TEST(there_is_one_host_field_and_only_http_1_0_may_omit_it)
{
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1", ""), 400);
    CHECK_EQUAL_INT(status_of("GET http://a/ HTTP/1.1", ""), 400);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.0", ""), 0);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1", "Host: a\r\nhOST: a\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.0", "Host: a\r\nHost:\r\n"), 400);
}

TEST(a_host_is_a_name_or_an_address_and_perhaps_a_port)
{
    const char *good[] = {"",    " a",        " \t a \t", " a_b.example", " a:8000",
                          " a:", " 10.0.0.1", " [::1]",   " [::1]:80",    " a%20b"};
    const char *bad[] = {" a, b",    " a b",   " a/b",   " a\\b",     " a?b",  " a#b",
                         " u@a",     " \"a\"", " a%4",   " a%zz",     " a\tb", " a:0",
                         " a:65536", " a:abc", " a:+80", " a:8:8",    " [::1", " [::1]a",
                         " [g]",     " []",    " ::1",   " \xc3\xa9", " :80"};
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
        CHECK_EQUAL_INT(status_of_host(good[i]), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        CHECK_EQUAL_INT(status_of_host(bad[i]), 400);
}

TEST(framing_fields_are_not_repeated_empty_or_mixed)
{
    const char *bad[] = {"Content-Length: 5\r\nContent-Length: 5\r\n",
                         "Content-Length: 5\r\nContent-Length:\r\n",
                         "Content-Length:\r\n",
                         "Content-Length: 5, 5\r\n",
                         "Content-Length: +5\r\n",
                         "Content-Length: 0x5\r\n",
                         "Content-Length: 18446744073709551616\r\n",
                         "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                         "Transfer-Encoding: chunked, chunked\r\n",
                         "Transfer-Encoding: xchunked\r\n",
                         "Transfer-Encoding: identity\r\n",
                         "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"};
    char fields[200];
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        (void)snprintf(fields, sizeof(fields), "Host: a\r\n%s", bad[i]);
        CHECK_EQUAL_INT(status_of("POST / HTTP/1.1", fields), 400);
    }
    CHECK_EQUAL_INT(status_of("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding: CHUNKED\r\n"), 0);
    CHECK_EQUAL_INT(status_of("POST / HTTP/1.1", "Host: a\r\nContent_Length: x\r\n"), 0);
}

static bool expects(const char *line, const char *fields)
{
    fl_bare_web bare;
    bool does = head_of(&bare, line, fields) == 0 && bare.connection.request->expects_continue;
    bare_web_close(&bare);
    return does;
}

TEST(a_client_waits_for_100_only_before_a_body_and_from_http_1_1_on)
{
    const char *fields = "Host: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n";
    CHECK(expects("POST / HTTP/1.1", fields));
    CHECK(!expects("POST / HTTP/1.0", fields));
    CHECK(!expects("POST / HTTP/1.1", "Host: a\r\nExpect: 100-continue\r\n"));
    CHECK(expects("POST / HTTP/1.1",
                  "Host: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n"));
}

TEST(other_expectations_are_refused_with_417)
{
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1", "Host: a\r\nExpect: tea\r\n"), 417);
    CHECK_EQUAL_INT(
        status_of("GET / HTTP/1.1", "Host: a\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n"),
        417);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.0", "Expect: tea\r\n"), 0);
}

TEST(many_blanks_behind_the_last_field_are_refused)
{
    char field[600] = "Host: a\r\nX:";
    memset(field + strlen(field), ' ', 300);
    strcat(field, "\r\n");
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1", field), 400);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1", "Host: a\r\nX:    \t   \r\n"), 0);
}

static bool trailers_fit(fl_slice trailers)
{
    fl_request request = {0};
    fl_buffer_init(&request.trailers);
    fl_buffer_slice(&request.trailers, trailers);
    bool fit = fl_head_check_trailers(&request);
    fl_buffer_close(&request.trailers);
    return fit;
}

TEST(trailers_must_not_frame_route_or_authorise)
{
    CHECK(trailers_fit(FL_SLICE("X-Sum\0"
                                "1\0Y\0\0Z\0z")));
    CHECK(trailers_fit(FL_SLICE("X\0content-length"))); /* a value may be anything */
    CHECK(!trailers_fit(FL_SLICE("Content-Length\0"
                                 "5")));
    CHECK(!trailers_fit(FL_SLICE("X\0y\0TRANSFER-ENCODING\0chunked")));
    CHECK(!trailers_fit(FL_SLICE("X\0\0Host\0a")));
    CHECK(!trailers_fit(FL_SLICE("Authorization")));
    CHECK(!trailers_fit(FL_SLICE("X\0y\0\0z"))); /* an empty name */
}

TEST(a_token_is_letters_digits_and_some_signs)
{
    const char *signs = "!#$%&'*+-.^_`|~azAZ09";
    for (const char *c = signs; *c; c++) CHECK(fl_head_is_token(*c));
    const char *others = " \t\"(),/:;<=>?@[\\]{}\x7f\x80\xff\x1f\r\n";
    for (const char *c = others; *c; c++) CHECK(!fl_head_is_token(*c));
    CHECK(!fl_head_is_token('\0'));
}

TEST_MAIN
