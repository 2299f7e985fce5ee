#include "profile_order.h"

#include <stdio.h>
#include <uv.h>

#include "test.h"

static fl_profile_order order;
static char why[256];

static int parse(const char *query)
{
    why[0] = '\0';
    return fl_profile_order_parse(&order, fl_slice_from_string(query), why, sizeof(why));
}

TEST(nothing_said_is_the_default)
{
    CHECK(parse("") == 0);
    CHECK(order.milliseconds == 10000 && order.thread == -1 && order.interval == 4);
    CHECK(strcmp(order.app, "") == 0);
}

TEST(everything_may_be_said)
{
    CHECK(parse("seconds=2.5&app=my%20sh%C3%B6p+x&thread=3&interval=10&") == 0);
    CHECK(order.milliseconds == 2500 && order.thread == 3 && order.interval == 10);
    CHECK(strcmp(order.app, "my sh\xC3\xB6p x") == 0);
}

TEST(times_are_bounded)
{
    CHECK(parse("seconds=0.1") == 0 && order.milliseconds == 100);
    CHECK(parse("seconds=300") == 0 && order.milliseconds == 300000);
    static const char *const wrong[] = {"0.09",
                                        "0",
                                        "300.1",
                                        "-1",
                                        "nan",
                                        "inf",
                                        "1e3",
                                        "0x10",
                                        "",
                                        " 1",
                                        "1 ",
                                        "1..",
                                        "99999999999999999999"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        char query[64];
        (void)snprintf(query, sizeof(query), "seconds=%s", wrong[i]);
        CHECK(parse(query) == UV_EINVAL);
        CHECK(strstr(why, "seconds=") == why && strstr(why, "from 0.1 to 300"));
    }
    CHECK(parse("interval=0") == UV_EINVAL && parse("interval=1001") == UV_EINVAL);
    CHECK(parse("interval=1.5") == UV_EINVAL && parse("thread=-1") == UV_EINVAL);
    CHECK(parse("thread=70000") == UV_EINVAL && parse("thread=a") == UV_EINVAL);
}

TEST(what_is_malformed_is_named)
{
    CHECK(parse("app=%zz") == UV_EINVAL && strcmp(why, "app: malformed value") == 0);
    CHECK(parse("app=%4") == UV_EINVAL && parse("app=a%00b") == UV_EINVAL);
    CHECK(parse("minutes=1") == UV_EINVAL && strstr(why, "minutes: expected seconds"));
    CHECK(parse("seconds") == UV_EINVAL);
    char query[600] = "app=";
    memset(query + 4, 'a', 300);
    CHECK(parse(query) == UV_EINVAL);
}

TEST_MAIN
