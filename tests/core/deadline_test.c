#include "deadline.h"

#include <stdlib.h>

#include "test.h"

typedef struct fl_probe {
    fl_deadline deadline;
    fl_wheel *wheel;
    uint64_t fired_at;
    unsigned fired;
} fl_probe;

static void probe_fired(fl_deadline *deadline)
{
    fl_probe *probe = (fl_probe *)deadline;
    probe->fired++;
    probe->fired_at = probe->wheel->now;
}

TEST(a_deadline_fires_once_and_at_its_time)
{
    fl_wheel wheel;
    fl_wheel_init(&wheel, 1000);
    fl_probe probe = {.wheel = &wheel};
    fl_deadline_start(&wheel, &probe.deadline, 1005, probe_fired);
    fl_wheel_advance(&wheel, 1004);
    CHECK_EQUAL_INT(probe.fired, 0);
    fl_wheel_advance(&wheel, 1005);
    CHECK_EQUAL_INT(probe.fired, 1);
    fl_wheel_advance(&wheel, 5000);
    CHECK_EQUAL_INT(probe.fired, 1);
    CHECK(fl_wheel_next(&wheel) == UINT64_MAX);
}

TEST(a_stopped_deadline_does_not_fire)
{
    fl_wheel wheel;
    fl_wheel_init(&wheel, 0);
    fl_probe probe = {.wheel = &wheel};
    fl_deadline_start(&wheel, &probe.deadline, 70, probe_fired);
    fl_deadline_stop(&probe.deadline);
    fl_deadline_stop(&probe.deadline);
    fl_wheel_advance(&wheel, 1000);
    CHECK_EQUAL_INT(probe.fired, 0);
}

TEST(a_past_deadline_fires_at_the_next_advance)
{
    fl_wheel wheel;
    fl_wheel_init(&wheel, 500);
    fl_probe probe = {.wheel = &wheel};
    fl_deadline_start(&wheel, &probe.deadline, 3, probe_fired);
    fl_wheel_advance(&wheel, 501);
    CHECK_EQUAL_INT(probe.fired, 1);
}

TEST(many_deadlines_fire_at_their_exact_millisecond_over_all_levels)
{
    enum { COUNT = 5000 };
    fl_wheel wheel;
    fl_wheel_init(&wheel, 123456);
    fl_probe *probes = calloc(COUNT, sizeof(*probes));
    CHECK(probes != NULL);
    srand(7);
    for (int i = 0; i < COUNT; i++) {
        uint64_t range = 1ULL << (rand() % 31);
        probes[i].wheel = &wheel;
        fl_deadline_start(&wheel, &probes[i].deadline, wheel.now + 1 + (uint64_t)rand() % range,
                          probe_fired);
    }
    while (fl_wheel_next(&wheel) != UINT64_MAX) fl_wheel_advance(&wheel, fl_wheel_next(&wheel));
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQUAL_INT(probes[i].fired, 1);
        CHECK_EQUAL_INT(probes[i].fired_at, probes[i].deadline.at);
    }
    free(probes);
}

static void probe_again(fl_deadline *deadline)
{
    fl_probe *probe = (fl_probe *)deadline;
    if (++probe->fired < 3)
        fl_deadline_start(probe->wheel, deadline, probe->wheel->now + 64, probe_again);
}

TEST(a_callback_may_start_its_deadline_again)
{
    fl_wheel wheel;
    fl_wheel_init(&wheel, 0);
    fl_probe probe = {.wheel = &wheel};
    fl_deadline_start(&wheel, &probe.deadline, 64, probe_again);
    fl_wheel_advance(&wheel, 1000);
    CHECK_EQUAL_INT(probe.fired, 3);
}

TEST_MAIN
