#include "exile.h"

#include "test.h"

TEST(nobody_is_in_exile_at_first)
{
    fl_exile exile = {0};
    CHECK(!fl_exile_has(&exile, 0, 1));
    CHECK(!fl_exile_has(&exile, 7, 1));
}

TEST(a_route_is_in_exile_until_its_time_is_over)
{
    fl_exile exile = {0};
    fl_exile_send(&exile, 7, 100);
    CHECK(fl_exile_has(&exile, 7, 99));
    CHECK(!fl_exile_has(&exile, 8, 99));
    CHECK(!fl_exile_has(&exile, 7, 100));
}

TEST(a_route_that_is_sent_again_stays_longer)
{
    fl_exile exile = {0};
    fl_exile_send(&exile, 7, 100);
    fl_exile_send(&exile, 7, 200);
    CHECK(fl_exile_has(&exile, 7, 150));
}

TEST(one_coming_home_leaves_the_others_in_exile)
{
    fl_exile exile = {0};
    fl_exile_send(&exile, 7, 100);
    fl_exile_send(&exile, 8, 200);
    CHECK(!fl_exile_has(&exile, 7, 150));
    CHECK(fl_exile_has(&exile, 8, 150));
}

TEST(when_there_are_too_many_the_oldest_comes_home_early)
{
    fl_exile exile = {0};
    for (uint32_t route = 1; route <= FL_EXILE_MOST + 1; route++)
        fl_exile_send(&exile, route, 100 + route);
    CHECK(!fl_exile_has(&exile, 1, 50));
    for (uint32_t route = 2; route <= FL_EXILE_MOST + 1; route++)
        CHECK(fl_exile_has(&exile, route, 50));
}

TEST_MAIN
