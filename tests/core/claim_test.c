#include "claim.h"

#include <time.h>

#include "test.h"

typedef struct fl_probe {
    fl_claim claim;
    bool went_on;
    bool cleaned_up; /* as pthread_exit does */
} fl_probe;

static void clean_up(void *data)
{
    fl_probe *probe = data;
    probe->cleaned_up = true;
}

static void *take_back(void *data)
{
    fl_probe *probe = data;
    pthread_cleanup_push(clean_up, probe);
    fl_claim_take(&probe->claim);
    probe->went_on = true;
    pthread_cleanup_pop(0);
    return probe;
}

/* What the thread returned; NULL: it ended by pthread_exit. */
static void *run(void *(*function)(void *), fl_probe *probe)
{
    pthread_t thread;
    void *result = NULL;
    if (pthread_create(&thread, NULL, function, probe) != 0) return NULL;
    pthread_join(thread, &result);
    return result;
}

TEST(a_thread_begins_in_c)
{
    fl_claim claim = {0};
    CHECK_EQUAL_INT(claim.word % 4, FL_CLAIM_C);
}

TEST(a_thread_in_c_cannot_be_retired)
{
    fl_claim claim = {0};
    CHECK(!fl_claim_retire(&claim, claim.turn));
    CHECK_EQUAL_INT(claim.word % 4, FL_CLAIM_C);
}

TEST(a_thread_in_lua_can_be_retired_once)
{
    fl_claim claim = {0};
    fl_claim_enter_lua(&claim);
    CHECK(fl_claim_retire(&claim, claim.turn));
    CHECK(!fl_claim_retire(&claim, claim.turn));
    CHECK_EQUAL_INT(claim.word % 4, FL_CLAIM_RETIRED);
}

TEST(a_thread_that_took_its_structures_back_cannot_be_retired_until_it_gives_them)
{
    fl_claim claim = {0};
    fl_claim_enter_lua(&claim);
    fl_claim_take(&claim);
    CHECK(!fl_claim_retire(&claim, claim.turn));
    fl_claim_give(&claim);
    CHECK(fl_claim_retire(&claim, claim.turn));
}

TEST(only_the_turn_that_is_meant_is_retired)
{
    fl_claim claim = {0};
    fl_claim_enter_lua(&claim);
    uint64_t first, second;
    (void)fl_claim_look(&claim, &first);
    fl_claim_leave_lua(&claim);
    fl_claim_enter_lua(&claim);
    (void)fl_claim_look(&claim, &second);
    CHECK(!fl_claim_retire(&claim, first));
    CHECK(fl_claim_retire(&claim, second));
}

TEST(every_entry_into_lua_is_a_turn_of_its_own)
{
    fl_claim claim = {0};
    fl_claim_enter_lua(&claim);
    uint64_t first, inside, between, second;
    CHECK_EQUAL_INT(fl_claim_look(&claim, &first), FL_CLAIM_LUA);
    fl_claim_take(&claim); /* an owning function: still the same turn */
    CHECK_EQUAL_INT(fl_claim_look(&claim, &inside), FL_CLAIM_C);
    fl_claim_give(&claim);
    CHECK_EQUAL_INT(inside, first);
    fl_claim_leave_lua(&claim);
    CHECK_EQUAL_INT(fl_claim_look(&claim, &between), FL_CLAIM_C);
    fl_claim_enter_lua(&claim);
    CHECK_EQUAL_INT(fl_claim_look(&claim, &second), FL_CLAIM_LUA);
    CHECK(between != first && second != first && second != between);
}

TEST(a_thread_in_lua_takes_its_structures_back_and_goes_on)
{
    fl_probe probe = {0};
    fl_claim_enter_lua(&probe.claim);
    CHECK(run(take_back, &probe) == &probe);
    CHECK(probe.went_on && !probe.cleaned_up);
    CHECK_EQUAL_INT(probe.claim.word % 4, FL_CLAIM_C);
}

TEST(a_thread_that_finds_itself_retired_ends_there)
{
    fl_probe probe = {0};
    fl_claim_enter_lua(&probe.claim);
    CHECK(fl_claim_retire(&probe.claim, probe.claim.turn));
    CHECK(run(take_back, &probe) == NULL);
    CHECK(!probe.went_on && probe.cleaned_up);
    CHECK_EQUAL_INT(probe.claim.word % 4, FL_CLAIM_RETIRED);
}

/* The thread counts without any other synchronisation than its claim. */
typedef struct fl_race {
    fl_claim claim;
    unsigned long counted;
    _Atomic bool started;
} fl_race;

static void *count_until_retired(void *data)
{
    fl_race *race = data;
    for (;;) {
        fl_claim_enter_lua(&race->claim);
        atomic_store(&race->started, true);
        fl_claim_take(&race->claim);
        race->counted++;
    }
    return NULL;
}

TEST(whoever_retires_a_thread_owns_what_it_wrote)
{
    for (unsigned round = 0; round < 50; round++) {
        fl_race race = {0};
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, count_until_retired, &race) == 0);
        while (!atomic_load(&race.started)) sched_yield();
        uint64_t turn;
        do (void)fl_claim_look(&race.claim, &turn);
        while (!fl_claim_retire(&race.claim, turn));
        unsigned long counted = ++race.counted; /* ours now, while it may still run */
        pthread_join(thread, NULL);
        CHECK(race.counted == counted);
        CHECK(counted == turn);
    }
}

static double now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* The best of a few, in CPU time: what others do on the machine does not count. */
static double cost_of(void (*crossing)(fl_claim *claim), fl_claim *claim)
{
    enum { TIMES = 200000 };
    double best = 1e9;
    for (int round = 0; round < 10; round++) {
        double began = now_ns();
        for (int i = 0; i < TIMES; i++) crossing(claim);
        double cost = (now_ns() - began) / (double)TIMES;
        if (cost < best) best = cost;
    }
    return best;
}

static void enter_and_leave(fl_claim *claim)
{
    fl_claim_enter_lua(claim);
    fl_claim_leave_lua(claim);
}

static void take_and_give(fl_claim *claim)
{
    fl_claim_take(claim);
    fl_claim_give(claim);
}

/* A plaintext request costs about 1,250 ns in user space and crosses once: 2 % of that. */
#define CROSSING_NS 25

TEST(a_crossing_costs_less_than_25_ns)
{
    fl_claim claim = {0};
    double crossing = cost_of(enter_and_leave, &claim);
    fl_claim_enter_lua(&claim);
    double owning = cost_of(take_and_give, &claim);
    printf("# %.1f ns to enter and leave Lua, %.1f ns per owning function\n", crossing, owning);
    CHECK(TEST_SLOWDOWN > 1 || (crossing < CROSSING_NS && owning < CROSSING_NS));
}

TEST_MAIN
