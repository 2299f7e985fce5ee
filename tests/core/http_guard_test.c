#include "drivers/http/guard.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>

#include "test.h"

static bool is_public(const char *text)
{
    struct sockaddr_storage storage = {0};
    struct sockaddr_in *four = (struct sockaddr_in *)&storage;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&storage;
    bool is_four = inet_pton(AF_INET, text, &four->sin_addr) == 1;
    if (!is_four && inet_pton(AF_INET6, text, &six->sin6_addr) != 1)
        test_fail(__FILE__, __LINE__, text);
    storage.ss_family = is_four ? AF_INET : AF_INET6;
    bool result = fl_guard_is_public((struct sockaddr *)&storage);
    if (result != fl_guard_is_public_text(text)) test_fail(__FILE__, __LINE__, text);
    return result;
}

static void check_all(const char *const *addresses, bool expected)
{
    for (; *addresses; addresses++)
        if (is_public(*addresses) != expected) test_fail(__FILE__, __LINE__, *addresses);
}

TEST(addresses_of_others_are_public)
{
    static const char *const open[] = {
        "1.1.1.1",         "8.8.8.8",          "9.255.255.255",   "11.0.0.0",
        "100.63.255.255",  "100.128.0.0",      "126.255.255.255", "128.0.0.0",
        "169.253.255.255", "169.255.0.0",      "172.15.255.255",  "172.32.0.0",
        "192.0.1.0",       "192.0.3.0",        "192.167.255.255", "192.169.0.0",
        "198.17.255.255",  "198.20.0.0",       "203.0.112.255",   "203.0.114.0",
        "223.255.255.255", "2606:4700::1111",  "2a00::1",         "2003::1",
        "2001:200::1",     "2001:db7:ffff::1", "2001:db9::1",     NULL};
    check_all(open, true);
}

TEST(private_and_reserved_addresses_are_not)
{
    static const char *const closed[] = {"0.0.0.0",
                                         "0.255.255.255",
                                         "10.0.0.0",
                                         "10.255.255.255",
                                         "100.64.0.0",
                                         "100.127.0.1",
                                         "127.0.0.1",
                                         "127.255.255.255",
                                         "169.254.0.0",
                                         "169.254.169.254",
                                         "172.16.0.0",
                                         "172.31.255.255",
                                         "192.0.0.1",
                                         "192.0.2.1",
                                         "192.88.99.1",
                                         "192.168.0.0",
                                         "192.168.255.255",
                                         "198.18.0.0",
                                         "198.19.255.255",
                                         "198.51.100.1",
                                         "203.0.113.1",
                                         "224.0.0.1",
                                         "239.255.255.255",
                                         "240.0.0.1",
                                         "255.255.255.255",
                                         "::",
                                         "::1",
                                         "fc00::1",
                                         "fd12:3456::1",
                                         "fe80::1",
                                         "fec0::1",
                                         "ff02::1",
                                         "2001:db8::1",
                                         "2001::1",
                                         "2002:7f00:1::",
                                         "2002:808:808::",
                                         "3fff::1",
                                         "100::1",
                                         "4000::1",
                                         NULL};
    check_all(closed, false);
}

TEST(an_ipv6_address_that_stands_for_an_ipv4_one_is_that_one)
{
    static const char *const open[] = {"::ffff:8.8.8.8", "64:ff9b::8.8.8.8", NULL};
    static const char *const closed[] = {"::ffff:127.0.0.1",
                                         "::ffff:10.0.0.1",
                                         "::ffff:169.254.169.254",
                                         "64:ff9b::10.0.0.1",
                                         "64:ff9b:1::8.8.8.8",
                                         "::8.8.8.8",
                                         NULL};
    check_all(open, true);
    check_all(closed, false);
}

TEST(what_is_no_address_of_the_internet_is_not_public)
{
    struct sockaddr other = {.sa_family = AF_UNIX};
    CHECK(!fl_guard_is_public(&other));
    CHECK(!fl_guard_is_public_text(""));
    CHECK(!fl_guard_is_public_text("example.org"));
    CHECK(!fl_guard_is_public_text("8.8.8.8%eth0"));
}

TEST_MAIN
