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

TEST(a_route_that_no_pool_can_serve_is_not_sent_into_exile)
{
    fl_exile exile = {0};
    CHECK(fl_exile_exempt(&exile, 7));
    CHECK(!fl_exile_send(&exile, 7, 100));
    CHECK(fl_exile_send(&exile, 8, 100));
    CHECK(!fl_exile_has(&exile, 7, 50));
    CHECK(fl_exile_has(&exile, 8, 50));
}

TEST(a_route_that_turns_out_to_be_such_comes_home_at_once)
{
    fl_exile exile = {0};
    fl_exile_send(&exile, 7, 100);
    fl_exile_send(&exile, 8, 100);
    CHECK(fl_exile_exempt(&exile, 7));
    CHECK(!fl_exile_has(&exile, 7, 50));
    CHECK(fl_exile_has(&exile, 8, 50));
}

TEST(it_is_found_out_once)
{
    fl_exile exile = {0};
    CHECK(fl_exile_exempt(&exile, FL_LEDGER_ROUTES - 1));
    CHECK(!fl_exile_exempt(&exile, FL_LEDGER_ROUTES - 1));
    CHECK(fl_exile_exempt(&exile, FL_LEDGER_ROUTES - 2));
}

TEST(who_is_recalled_comes_home_at_once_and_alone)
{
    fl_exile exile = {0};
    fl_exile_send(&exile, 7, 100);
    fl_exile_send(&exile, 8, 100);
    fl_exile_send(&exile, 7, 200);
    CHECK(fl_exile_recall(&exile, 7));
    CHECK(!fl_exile_has(&exile, 7, 50));
    CHECK(fl_exile_has(&exile, 8, 50));
    CHECK(!fl_exile_recall(&exile, 7));
    CHECK(!fl_exile_recall(&exile, 9));
}

TEST(who_is_recalled_may_be_sent_again)
{
    fl_exile exile = {0};
    fl_exile_send(&exile, 7, 100);
    CHECK(fl_exile_recall(&exile, 7));
    CHECK(fl_exile_send(&exile, 7, 200));
    CHECK(fl_exile_has(&exile, 7, 150));
    CHECK(fl_exile_recall(&exile, 7));
}

TEST(the_number_that_many_routes_may_have_is_never_exempt)
{
    fl_exile exile = {0};
    CHECK(!fl_exile_exempt(&exile, 0));
    CHECK(!fl_exile_exempt(&exile, FL_LEDGER_ROUTES));
    CHECK(fl_exile_send(&exile, 0, 100));
    CHECK(fl_exile_has(&exile, 0, 50));
}

TEST_MAIN
