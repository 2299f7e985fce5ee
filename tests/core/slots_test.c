#include "slots.h"

#include "scarcity.h"
#include "test.h"

static double take(fl_slots *slots, void *object, uint32_t *slot)
{
    return fl_slots_take(slots, object, slot) == 0 ? fl_slots_handle(slots, *slot) : 0;
}

TEST(a_handle_finds_its_object)
{
    fl_slots slots = {0};
    uint32_t first, second;
    int a, b;
    double of_a = take(&slots, &a, &first), of_b = take(&slots, &b, &second);
    CHECK(first != second && of_a != of_b);
    CHECK(fl_slots_find(&slots, of_a) == &a);
    CHECK(fl_slots_find(&slots, of_b) == &b);
    fl_slots_close(&slots);
}

TEST(a_stale_handle_finds_nothing_not_even_the_slots_next_object)
{
    fl_slots slots = {0};
    uint32_t slot, again;
    int a, b;
    double stale = take(&slots, &a, &slot);
    fl_slots_give(&slots, slot);
    CHECK(fl_slots_find(&slots, stale) == NULL);
    double fresh = take(&slots, &b, &again);
    CHECK_EQUAL_INT(again, slot);
    CHECK(fresh != stale);
    CHECK(fl_slots_find(&slots, stale) == NULL);
    CHECK(fl_slots_find(&slots, fresh) == &b);
    fl_slots_close(&slots);
}

TEST(numbers_that_are_no_handle_find_nothing)
{
    fl_slots slots = {0};
    CHECK(fl_slots_find(&slots, FL_SLOTS_MOST) == NULL); /* nothing was ever taken */
    uint32_t slot;
    int object;
    double handle = take(&slots, &object, &slot);
    const double others[] = {0,          -1,         1,         slot,  FL_SLOTS_MOST - 1.0,
                             handle + 1, handle * 2, -handle,   1e300, 9007199254740992.0,
                             0.0 / 0.0,  1.0 / 0.0,  -1.0 / 0.0};
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
        CHECK(fl_slots_find(&slots, others[i]) == NULL);
    fl_slots_close(&slots);
}

TEST(slots_are_taken_again_before_the_table_grows)
{
    fl_slots slots = {0};
    int object;
    for (unsigned i = 0; i < 10000; i++) {
        uint32_t slot;
        CHECK(take(&slots, &object, &slot) != 0);
        fl_slots_give(&slots, slot);
    }
    CHECK_EQUAL_INT(slots.count, 1);
    fl_slots_close(&slots);
}

TEST(the_slot_given_back_last_is_taken_first)
{
    fl_slots slots = {0};
    uint32_t slot[4];
    int object;
    for (unsigned i = 0; i < 3; i++) CHECK(take(&slots, &object, &slot[i]) != 0);
    fl_slots_give(&slots, slot[0]);
    fl_slots_give(&slots, slot[2]);
    CHECK(take(&slots, &object, &slot[3]) != 0);
    CHECK_EQUAL_INT(slot[3], slot[2]);
    CHECK(take(&slots, &object, &slot[3]) != 0);
    CHECK_EQUAL_INT(slot[3], slot[0]);
    fl_slots_close(&slots);
}

TEST(a_full_table_refuses_and_every_handle_still_works)
{
    fl_slots slots = {0};
    uint32_t slot;
    double last = 0;
    for (size_t i = 0; i < FL_SLOTS_MOST; i++) last = take(&slots, (void *)(i + 1), &slot);
    CHECK_EQUAL_INT(fl_slots_take(&slots, &slots, &slot), UV_ENOBUFS);
    CHECK(fl_slots_find(&slots, last) == (void *)(size_t)FL_SLOTS_MOST);
    CHECK(fl_slots_find(&slots, FL_SLOTS_MOST) == (void *)1);
    fl_slots_close(&slots);
}

TEST(handles_stay_exact_after_billions_of_lives)
{
    fl_slots slots = {0};
    uint32_t slot;
    int object;
    CHECK(take(&slots, &object, &slot) != 0);
    slots.entries[slot].life = (1ULL << 33) - 1; /* the greatest whose handle is below 2^53 */
    double handle = fl_slots_handle(&slots, slot);
    CHECK((uint64_t)handle == ((1ULL << 33) - 1) * FL_SLOTS_MOST + slot);
    CHECK(fl_slots_find(&slots, handle) == &object);
    fl_slots_close(&slots);
}

static int take_many(void)
{
    fl_slots slots = {0};
    int object, status = 0;
    for (unsigned i = 0; status == 0 && i < 1000; i++) {
        uint32_t slot;
        status = fl_slots_take(&slots, &object, &slot);
    }
    fl_slots_close(&slots);
    return status;
}

TEST(without_memory_nothing_is_taken)
{
    CHECK_SCARCITY(take_many);
}

TEST_MAIN
