#include "http1.h"

#include "bare_web.h"
#include "scarcity.h"
#include "test.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define POST_CHUNKS "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

/* Reads one message out of `text`, `piece` bytes at a time. */
static int read_in(fl_bare_web *bare, fl_slice text, size_t piece)
{
    const fl_connection *connection = &bare->connection;
    while (text.size) {
        size_t used = 0, size = piece < text.size ? piece : text.size;
        char *copy = malloc(size); /* nothing may point into it later */
        if (!copy) return UV_ENOMEM;
        memcpy(copy, text.data, size);
        int status = bare_web_read(bare, fl_slice_of(copy, size), &used);
        free(copy);
        if (status || (connection->request && connection->request->complete)) return status;
        text = fl_slice_of(text.data + used, text.size - used);
    }
    return 0;
}

static int read_text(fl_bare_web *bare, const char *text)
{
    return read_in(bare, fl_slice_from_string(text), SIZE_MAX);
}

/* The status that a fresh connection refuses the text with, whole and byte by byte; -1: it
 * depends on the cut. */
static int status_of(const char *text)
{
    int status[2];
    for (int i = 0; i < 2; i++) {
        fl_bare_web bare;
        bare_web_open(&bare);
        status[i] = read_in(&bare, fl_slice_from_string(text), i ? 1 : SIZE_MAX);
        bare_web_close(&bare);
    }
    return status[0] == status[1] ? status[0] : -1;
}

TEST(a_request_is_read_to_its_end_and_no_further)
{
    fl_bare_web bare;
    size_t used;
    bare_web_open(&bare);
    CHECK_EQUAL_INT(bare_web_read(&bare, FL_SLICE(GET GET), &used), 0);
    CHECK_EQUAL_INT(used, strlen(GET));
    CHECK(bare.connection.request->complete);
    CHECK_EQUAL_INT(bare_web_close(&bare), 0);
}

TEST(the_head_is_method_target_version_and_fields)
{
    fl_bare_web bare;
    bare_web_open(&bare);
    CHECK_EQUAL_INT(read_text(&bare, "PUT /a/b?c=d&e HTTP/1.0\r\nHost: a.example:80\r\n"
                                     "Accept: \t */* \r\nEmpty:\r\nTwo: words here\r\n\r\n"),
                    0);
    const fl_request *request = bare.connection.request;
    CHECK_EQUAL_TEXT(fl_slice_from_string(fl_request_method(request)), "PUT");
    CHECK_EQUAL_TEXT(fl_request_target(request), "/a/b?c=d&e");
    CHECK_EQUAL_TEXT(fl_request_path(request), "/a/b");
    CHECK_EQUAL_TEXT(fl_request_text(request, request->query, request->query_size), "c=d&e");
    CHECK_EQUAL_TEXT(request->host, "a.example:80");
    CHECK_EQUAL_INT(request->minor, 0);
    CHECK_EQUAL_INT(request->header_count, 4);
    CHECK_EQUAL_TEXT(fl_request_header(request, FL_SLICE("accept")), "*/*");
    CHECK_EQUAL_TEXT(fl_request_header(request, FL_SLICE("EMPTY")), "");
    CHECK_EQUAL_TEXT(fl_request_header(request, FL_SLICE("two")), "words here");
    CHECK(fl_request_header(request, FL_SLICE("three")).data == NULL);
    CHECK_EQUAL_INT(bare_web_close(&bare), 0);
}

TEST(a_request_is_the_same_however_it_is_cut)
{
    const char *text = "\r\nPOST /p?q HTTP/1.1\r\nHost: a\r\nX:\r\nY:  z \r\n"
                       "Transfer-Encoding: chunked\r\n\r\n"
                       "5;ext=1\r\nhel\0o\r\n0003\r\n wo\r\n0\r\nT: u \r\nV:\r\n\r\n";
    fl_slice whole = {text,
                      strlen(text) + 1 + strlen("o\r\n0003\r\n wo\r\n0\r\nT: u \r\nV:\r\n\r\n")};
    for (size_t piece = 1; piece <= whole.size; piece++) {
        fl_bare_web bare;
        bare_web_open(&bare);
        CHECK_EQUAL_INT(read_in(&bare, whole, piece), 0);
        const fl_request *request = bare.connection.request;
        CHECK(request->complete);
        CHECK_EQUAL_TEXT(fl_request_path(request), "/p");
        CHECK_EQUAL_TEXT(request->host, "a");
        CHECK_EQUAL_TEXT(fl_request_header(request, FL_SLICE("x")), "");
        CHECK_EQUAL_TEXT(fl_request_header(request, FL_SLICE("y")), "z");
        CHECK(fl_slice_equal(fl_request_body(request), FL_SLICE("hel\0o wo")));
        fl_slice trailers = {request->trailers.data, request->trailers.size};
        CHECK(fl_slice_equal(trailers, FL_SLICE("T\0u\0V\0")));
        CHECK_EQUAL_INT(bare_web_close(&bare), 0);
    }
}

TEST(requests_follow_each_other_on_a_connection)
{
    fl_bare_web bare;
    fl_slice text = FL_SLICE(GET "\r\n" GET POST_CHUNKS "1\r\nx\r\n0\r\n\r\n" GET);
    unsigned count = 0;
    bare_web_open(&bare);
    while (text.size) {
        size_t used;
        CHECK_EQUAL_INT(bare_web_read(&bare, text, &used), 0);
        text = fl_slice_of(text.data + used, text.size - used);
        CHECK(bare.connection.request->complete);
        bare_web_let_go(&bare);
        count++;
    }
    CHECK_EQUAL_INT(count, 4);
    CHECK_EQUAL_INT(bare.web.thread.free_request_count, 1); /* one served them all */
    CHECK_EQUAL_INT(bare_web_close(&bare), 0);
}

TEST(a_body_of_a_given_length_ends_there)
{
    fl_bare_web bare;
    bare_web_open(&bare);
    CHECK_EQUAL_INT(read_text(&bare, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel"),
                    0);
    CHECK(bare.connection.http.head_done && !bare.connection.request->complete);
    CHECK_EQUAL_INT(read_text(&bare, "lo" GET), 0);
    CHECK(bare.connection.request->complete);
    CHECK_EQUAL_TEXT(fl_request_body(bare.connection.request), "hello");
    CHECK_EQUAL_INT(bare_web_close(&bare), 0);
}

TEST(a_discarded_body_is_counted_but_not_kept)
{
    fl_bare_web bare;
    bare_web_open(&bare);
    CHECK_EQUAL_INT(read_text(&bare, POST_CHUNKS), 0);
    bare.connection.request->body_use = FL_BODY_DISCARD;
    bare.connection.request->max_body = 2; /* no matter any more */
    CHECK_EQUAL_INT(read_text(&bare, "5\r\nhello\r\n0\r\n\r\n"), 0);
    CHECK(bare.connection.request->complete);
    CHECK_EQUAL_INT(bare.connection.request->body_size, 5);
    CHECK_EQUAL_INT(fl_request_body(bare.connection.request).size, 0);
    CHECK_EQUAL_INT(bare_web_close(&bare), 0);
}

static bool keeps_alive(const char *text)
{
    fl_bare_web bare;
    bare_web_open(&bare);
    bool keeps = read_text(&bare, text) == 0 && bare.connection.request->keep_alive;
    bare_web_close(&bare);
    return keeps;
}

TEST(version_and_connection_field_decide_whether_the_connection_stays)
{
    CHECK(keeps_alive(GET));
    CHECK(!keeps_alive("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    CHECK(!keeps_alive("GET / HTTP/1.0\r\n\r\n"));
    CHECK(keeps_alive("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    CHECK(!keeps_alive("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"));
}

TEST(methods_and_versions_that_are_not_ours_have_statuses_of_their_own)
{
    CHECK_EQUAL_INT(status_of("BREW / HTTP/1.1\r\nHost: a\r\n\r\n"), 501);
    CHECK_EQUAL_INT(status_of("GETX / HTTP/1.1\r\nHost: a\r\n\r\n"), 501);
    CHECK_EQUAL_INT(status_of("get / HTTP/1.1\r\nHost: a\r\n\r\n"), 501);
    CHECK_EQUAL_INT(status_of("GE(T / HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET: / HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("\x16\x03\x01"), 400); /* TLS */
    CHECK_EQUAL_INT(status_of("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.2\r\nHost: a\r\n\r\n"), 505);
    CHECK_EQUAL_INT(status_of("GET / HTTP/0.9\r\nHost: a\r\n\r\n"), 505);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.x\r\nHost: a\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET / HTTP/x.1\r\nHost: a\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET /\r\n\r\n"), 400); /* HTTP/0.9 */
    CHECK_EQUAL_INT(status_of("GET /\n\n"), 400);
    CHECK_EQUAL_INT(status_of("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
}

TEST(two_empty_lines_may_come_before_a_request_line)
{
    CHECK_EQUAL_INT(status_of("\r\n\r\n" GET), 0);
    CHECK_EQUAL_INT(status_of("\r\n\r\n\r\n" GET), 400);
    CHECK_EQUAL_INT(status_of("\n" GET), 400);
    CHECK_EQUAL_INT(status_of("\r" GET), 400);
}

TEST(lines_end_with_cr_lf_only)
{
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1\nHost: a\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1\r\nHost: a\r\n\n"), 400);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1\r\nHost: a\r\n\rX"), 400);
}

TEST(folded_lines_and_stray_blanks_are_refused)
{
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1\r\nHost: a\r\nX:\r\n b\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1\r\nHost: a\r\nX:\r\n \r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET / HTTP/1.1\r\nHost : a\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("GET /  HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
}

/* How a request of `head`, `count` times `part` and `tail` is refused, whole and byte by byte. */
static int status_of_many(const char *head, const char *part, unsigned count, const char *tail)
{
    fl_buffer text;
    fl_buffer_init(&text);
    fl_buffer_slice(&text, fl_slice_from_string(head));
    while (count-- > 0) fl_buffer_slice(&text, fl_slice_from_string(part));
    fl_buffer_append(&text, tail, strlen(tail) + 1);
    int status = text.failed ? UV_ENOMEM : status_of(text.data);
    fl_buffer_close(&text);
    return status;
}

TEST(the_request_line_has_a_limit)
{
    const char *end = " HTTP/1.1\r\nHost: a\r\n\r\n";
    unsigned room = 8192 - (unsigned)strlen("GET / HTTP/1.1");
    CHECK_EQUAL_INT(status_of_many("GET /", "a", room, end), 0);
    CHECK_EQUAL_INT(status_of_many("GET /", "a", room + 1, end), 414);
    CHECK_EQUAL_INT(status_of_many("GET /", "a", 20000, ""), 414); /* no need to see its end */
    CHECK_EQUAL_INT(status_of_many("GET ", " ", 20000, ""), 414);
}

TEST(the_header_block_has_limits)
{
    const char *head = "GET / HTTP/1.1\r\nHost: a\r\n";
    CHECK_EQUAL_INT(status_of_many(head, "X: y\r\n", 99, "\r\n"), 0);
    CHECK_EQUAL_INT(status_of_many(head, "X: y\r\n", 100, "\r\n"), 431);
    CHECK_EQUAL_INT(status_of_many("GET / HTTP/1.1\r\nHost: a\r\nX: ", "y", 16000, "\r\n\r\n"), 0);
    CHECK_EQUAL_INT(status_of_many("GET / HTTP/1.1\r\nHost: a\r\nX: ", "y", 17000, ""), 431);
    CHECK_EQUAL_INT(status_of_many("GET / HTTP/1.1\r\nHost: a\r\n", "X", 17000, ""), 431);
    CHECK(status_of_many("GET / HTTP/1.1\r\nHost: a\r\nX:", " ", 30000, "") != 0);
}

TEST(a_body_has_a_limit)
{
    fl_bare_web bare;
    bare_web_open(&bare);
    bare.settings.max_body = 4;
    CHECK_EQUAL_INT(read_text(&bare, POST_CHUNKS "2\r\nab\r\n2\r\ncd\r\n"), 0);
    CHECK_EQUAL_INT(read_text(&bare, "1\r\n"), 413); /* its size is enough */
    CHECK_EQUAL_INT(bare_web_close(&bare), 0);
}

static int status_of_chunks(const char *chunks)
{
    return status_of_many(POST_CHUNKS, chunks, 1, "");
}

TEST(chunk_sizes_are_hexadecimal_digits_and_nothing_else)
{
    CHECK_EQUAL_INT(status_of_chunks("A\r\n0123456789\r\n0\r\n\r\n"), 0);
    CHECK_EQUAL_INT(status_of_chunks("000a\r\n0123456789\r\n000\r\n\r\n"), 0);
    CHECK_EQUAL_INT(status_of_chunks("0x5\r\nhello\r\n0\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of_chunks("+5\r\nhello\r\n0\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of_chunks(" 5\r\nhello\r\n0\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of_chunks("5 \r\nhello\r\n0\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of_chunks("\r\nhello\r\n0\r\n\r\n"), 400);
    CHECK(status_of_chunks("FFFFFFFFFFFFFFFFF\r\nhello") != 0);
}

TEST(chunk_sizes_are_not_padded_without_end)
{
    CHECK_EQUAL_INT(status_of_many(POST_CHUNKS "1\r\nx\r\n", "0", 15, "1\r\nx\r\n0\r\n\r\n"), 0);
    CHECK_EQUAL_INT(status_of_many(POST_CHUNKS "1\r\nx\r\n", "0", 30, "1\r\nx\r\n0\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of_many(POST_CHUNKS "1\r\nx\r\n", "0", 30, "\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of_many(POST_CHUNKS, "0", 1000, ""), 400);
    CHECK_EQUAL_INT(status_of_many(POST_CHUNKS, "1\r\nx\r\n", 5000, "0\r\n\r\n"), 0);
}

TEST(chunks_end_with_cr_lf_only)
{
    CHECK_EQUAL_INT(status_of_chunks("5\nhello\r\n0\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of_chunks("5\r\nhello\n0\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of_chunks("5\r\nhelloX\r\n0\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of_chunks("5\r\nhello\r\n0\r\n\n"), 400);
    CHECK_EQUAL_INT(status_of_chunks("5\r\nhello\r\n0\r\n\rX"), 400);
}

TEST(chunk_extensions_are_skipped_and_limited_in_all)
{
    CHECK_EQUAL_INT(status_of_chunks("5;a;b=\"c;d\"\r\nhello\r\n0;e=f\r\n\r\n"), 0);
    CHECK_EQUAL_INT(status_of_many(POST_CHUNKS "1;a=", "b", 1000, "\r\nx\r\n0\r\n\r\n"), 0);
    CHECK_EQUAL_INT(status_of_many(POST_CHUNKS "1;a=", "b", 1100, "\r\nx\r\n0\r\n\r\n"), 413);
    CHECK_EQUAL_INT(status_of_many(POST_CHUNKS, "1;a=b\r\nx\r\n", 256, "0\r\n\r\n"), 0);
    CHECK_EQUAL_INT(status_of_many(POST_CHUNKS, "1;a=b\r\nx\r\n", 257, "0\r\n\r\n"), 413);
}

TEST(trailers_are_limited_and_frame_nothing)
{
    const char *head = POST_CHUNKS "0\r\n";
    CHECK_EQUAL_INT(status_of_many(head, "X: y\r\n", 20, "\r\n"), 0);
    CHECK_EQUAL_INT(status_of_many(head, "X: y\r\n", 21, "\r\n"), 431);
    CHECK_EQUAL_INT(status_of_many(POST_CHUNKS "0\r\nX: ", "y", 5000, "\r\n\r\n"), 431);
    CHECK_EQUAL_INT(status_of_many(POST_CHUNKS "0\r\nX:", " ", 5000, "y\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of_chunks("0\r\nContent-Length: 5\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of_chunks("0\r\nX: y\r\nhost:\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of_chunks("0\r\nX: y\r\n z\r\n\r\n"), 400);
}

TEST(chunks_with_a_length_or_another_coding_are_refused)
{
#define POST "POST / HTTP/1.1\r\nHost: a\r\n"
    CHECK_EQUAL_INT(status_of(POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of(POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of(POST "Transfer-Encoding: gzip, chunked\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of(POST "Transfer-Encoding: chunked, gzip\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of(POST "Transfer-Encoding:\r\n\r\n"), 400);
    CHECK_EQUAL_INT(status_of("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
#undef POST
}

/* With a body and trailers in chunks, piece by piece: nearly everything has to be kept. */
static int read_scarcely(void)
{
    static const char text[] = POST_CHUNKS "5\r\nhello\r\n6\r\n world\r\n0\r\nX-End: 1\r\n\r\n";
    fl_bare_web bare;
    bare_web_open(&bare);
    int status = 0;
    fl_slice rest = fl_slice_from_string(text);
    while (status == 0 && rest.size) {
        size_t used = 0, size = rest.size < 7 ? rest.size : 7;
        status = bare_web_read(&bare, fl_slice_of(rest.data, size), &used);
        rest = fl_slice_of(rest.data + used, rest.size - used);
        if (status == 0 && used == 0) status = 1;
    }
    const fl_request *request = bare.connection.request;
    if (status == 0 && !(request && request->complete)) status = 1;
    if (status == 503) status = UV_ENOMEM;
    if (bare_web_close(&bare) != 0) status = 1;
    return status;
}

TEST(without_memory_a_request_is_refused)
{
    CHECK_SCARCITY(read_scarcely);
}

TEST_MAIN
