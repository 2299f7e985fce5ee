#include "proxy.h"

#include "bare_web.h"
#include "test.h"

static bool trusts(const char *list, const char *address)
{
    uint8_t bytes[16] = {0};
    int family = strchr(address, ':') ? AF_INET6 : AF_INET;
    return inet_pton(family, address, bytes) == 1 && fl_proxy_trusts(list, family, bytes);
}

TEST(an_address_is_trusted_when_the_list_names_it)
{
    CHECK(trusts("127.0.0.1", "127.0.0.1"));
    CHECK(trusts("10.0.0.1, 127.0.0.1,::1", "::1"));
    CHECK(trusts("10.0.0.1, 127.0.0.1,::1", "127.0.0.1"));
    CHECK(!trusts("10.0.0.1,::1", "10.0.0.2"));
    CHECK(!trusts("127.0.0.1", "::1"));
    CHECK(!trusts("", "127.0.0.1"));
    CHECK(!trusts(" , ,", "127.0.0.1"));
}

TEST(a_network_holds_the_addresses_that_begin_like_it)
{
    CHECK(trusts("10.0.0.0/8", "10.255.1.2"));
    CHECK(!trusts("10.0.0.0/8", "11.0.0.1"));
    CHECK(trusts("192.168.4.0/22", "192.168.7.255"));
    CHECK(!trusts("192.168.4.0/22", "192.168.8.0"));
    CHECK(trusts("10.1.2.3/32", "10.1.2.3"));
    CHECK(!trusts("10.1.2.3/32", "10.1.2.2"));
    CHECK(trusts("0.0.0.0/0", "8.8.8.8"));
    CHECK(trusts("2001:db8::/33", "2001:db8:7fff::1"));
    CHECK(!trusts("2001:db8::/33", "2001:db8:8000::1"));
}

TEST(a_star_trusts_everybody)
{
    const uint8_t none[16] = {0};
    CHECK(trusts("*", "8.8.8.8"));
    CHECK(fl_proxy_trusts("*", AF_UNIX, none));
}

TEST(a_unix_sockets_peer_is_trusted_by_name)
{
    const uint8_t none[16] = {0};
    CHECK(fl_proxy_trusts("127.0.0.1,unix", AF_UNIX, none));
    CHECK(!fl_proxy_trusts("127.0.0.1", AF_UNIX, none));
}

TEST(what_is_no_address_or_network_trusts_nobody)
{
    const char *lists[] = {"10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/",   "10.0.0.0/x", "10.0.0.0/8x",
                           "10.0.0",      "/8",          "example.org", "**"};
    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++)
        CHECK(!trusts(lists[i], "10.0.0.0"));
}

/* A request with these fields from a peer of this address; trusted are 127.0.0.1, ::1 and 10/8. */
static const fl_request *request_from(fl_bare_web *bare, const char *peer, const char *fields)
{
    static char trusted[] = "127.0.0.1,::1,10.0.0.0/8";
    fl_buffer text;
    size_t used;
    bare_web_open(bare);
    bare->settings.proxy_headers = true;
    bare->settings.forwarded_allow_ips = trusted;
    bare->connection.peer.family = strchr(peer, ':') ? AF_INET6 : AF_INET;
    (void)inet_pton(bare->connection.peer.family, peer, bare->connection.peer.address);
    fl_buffer_init(&text);
    fl_buffer_printf(&text, "GET / HTTP/1.1\r\nHost: inner\r\n%s\r\n", fields);
    (void)bare_web_read(bare, fl_slice_of(text.data, text.size), &used);
    fl_buffer_close(&text);
    return bare->connection.request;
}

/* The client's address, as the tests of X-Forwarded-For compare it. */
static bool client_is(const char *peer, const char *fields, const char *expected)
{
    fl_bare_web bare;
    char address[64];
    fl_slice client = fl_proxy_client(request_from(&bare, peer, fields), address);
    bool is = fl_slice_equal(client, fl_slice_from_string(expected));
    bare_web_close(&bare);
    return is;
}

TEST(the_client_is_the_peer_without_a_trusted_proxy)
{
    CHECK(client_is("127.0.0.1", "", "127.0.0.1"));
    CHECK(client_is("::1", "", "::1"));
    CHECK(client_is("192.0.2.1", "X-Forwarded-For: 198.51.100.7\r\n", "192.0.2.1"));
}

TEST(the_client_is_the_last_address_that_is_no_trusted_proxy)
{
    CHECK(client_is("127.0.0.1", "X-Forwarded-For: 198.51.100.7\r\n", "198.51.100.7"));
    CHECK(client_is("127.0.0.1", "X-Forwarded-For: 1.1.1.1, 198.51.100.7, 10.0.0.2\r\n",
                    "198.51.100.7"));
    CHECK(
        client_is("127.0.0.1", "X-Forwarded-For: 198.51.100.7,10.0.0.2 ,::1\r\n", "198.51.100.7"));
    CHECK(client_is("127.0.0.1", "X-Forwarded-For: 10.0.0.3, 10.0.0.2\r\n", "10.0.0.3"));
    CHECK(client_is("::1", "X-Forwarded-For: 2001:db8::9\r\n", "2001:db8::9"));
}

TEST(several_fields_are_one_list)
{
    const char *fields = "X-Forwarded-For: 1.1.1.1\r\nX: y\r\nX-Forwarded-For: 198.51.100.7\r\n"
                         "x-forwarded-for: 10.0.0.2\r\n";
    CHECK(client_is("127.0.0.1", fields, "198.51.100.7"));
    CHECK(client_is("127.0.0.1", "X-Forwarded-For: 10.0.0.3\r\nX-Forwarded-For:\r\n", "10.0.0.3"));
}

TEST(empty_entries_do_not_count)
{
    CHECK(client_is("127.0.0.1", "X-Forwarded-For: 198.51.100.7,, ,10.0.0.2,\r\n", "198.51.100.7"));
    CHECK(client_is("127.0.0.1", "X-Forwarded-For: \t198.51.100.7\t\r\n", "198.51.100.7"));
}

TEST(with_a_star_the_first_entry_is_the_client)
{
    fl_bare_web bare;
    char star[] = "*", address[64];
    const fl_request *request =
        request_from(&bare, "192.0.2.1", "X-Forwarded-For: 198.51.100.7, 10.0.0.2\r\n");
    bare.settings.forwarded_allow_ips = star;
    CHECK_EQUAL_TEXT(fl_proxy_client(request, address), "198.51.100.7");
    bare_web_close(&bare);
}

TEST(what_is_no_address_ends_the_list)
{
    CHECK(client_is("127.0.0.1", "X-Forwarded-For: unknown\r\n", "127.0.0.1"));
    CHECK(client_is("127.0.0.1", "X-Forwarded-For: 1.1.1.1, x, 10.0.0.2\r\n", "10.0.0.2"));
    CHECK(client_is("127.0.0.1", "X-Forwarded-For: \r\n", "127.0.0.1"));
    CHECK(client_is("127.0.0.1", "X-Forwarded-For: ,,\r\n", "127.0.0.1"));
}

TEST(a_trusted_proxy_says_scheme_and_host)
{
    const char *fields = "X-Forwarded-Proto: HTTPS\r\nX-Forwarded-Host: outer:443\r\n";
    fl_bare_web bare;
    const fl_request *request = request_from(&bare, "10.9.8.7", fields);
    CHECK_EQUAL_TEXT(fl_proxy_scheme(request), "https");
    CHECK_EQUAL_TEXT(fl_proxy_host(request), "outer:443");
    bare_web_close(&bare);
    request = request_from(&bare, "192.0.2.1", fields);
    CHECK_EQUAL_TEXT(fl_proxy_scheme(request), "http");
    CHECK_EQUAL_TEXT(fl_proxy_host(request), "inner");
    bare_web_close(&bare);
}

TEST(the_last_proxys_word_counts)
{
    fl_bare_web bare;
    const fl_request *request =
        request_from(&bare, "127.0.0.1",
                     "X-Forwarded-Proto: http\r\nX-Forwarded-Proto: http, https\r\n"
                     "X-Forwarded-Host: forged\r\nX-Forwarded-Host: outer\r\n");
    CHECK_EQUAL_TEXT(fl_proxy_scheme(request), "https");
    CHECK_EQUAL_TEXT(fl_proxy_host(request), "outer");
    bare_web_close(&bare);
}

TEST(a_proxy_that_says_nothing_changes_nothing)
{
    fl_bare_web bare;
    const fl_request *request = request_from(&bare, "127.0.0.1", "X-Forwarded-Proto: gopher\r\n");
    CHECK_EQUAL_TEXT(fl_proxy_scheme(request), "http");
    CHECK_EQUAL_TEXT(fl_proxy_host(request), "inner");
    CHECK_EQUAL_INT(fl_proxy_request_id(request).size, 0);
    bare_web_close(&bare);
    request = request_from(&bare, "127.0.0.1", "");
    CHECK_EQUAL_TEXT(fl_proxy_scheme(request), "http");
    bare_web_close(&bare);
}

TEST(nothing_is_believed_unless_the_settings_say_so)
{
    fl_bare_web bare;
    const fl_request *request = request_from(&bare, "127.0.0.1", "X-Request-ID: a\r\n");
    CHECK_EQUAL_TEXT(fl_proxy_request_id(request), "a");
    bare.settings.proxy_headers = false;
    CHECK_EQUAL_INT(fl_proxy_request_id(request).size, 0);
    bare_web_close(&bare);
}

static bool id_is_taken(const char *id)
{
    fl_bare_web bare;
    char field[300];
    (void)snprintf(field, sizeof(field), "X-Request-ID: %s\r\n", id);
    const fl_request *request = request_from(&bare, "127.0.0.1", field);
    bool taken = fl_slice_equal(fl_proxy_request_id(request), fl_slice_from_string(id));
    bare_web_close(&bare);
    return taken && *id;
}

TEST(a_request_id_is_short_and_plain)
{
    char longest[130];
    memset(longest, 'a', sizeof(longest));
    longest[129] = '\0';
    CHECK(!id_is_taken(longest));
    longest[128] = '\0';
    CHECK(id_is_taken(longest));
    CHECK(id_is_taken("3f2a-B7_c.d:e+f/g="));
    CHECK(!id_is_taken("a b"));
    CHECK(!id_is_taken("a\"b"));
    CHECK(!id_is_taken("\xc3\xa9"));
    CHECK(!id_is_taken(""));
}

TEST_MAIN
