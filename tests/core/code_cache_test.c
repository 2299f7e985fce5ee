#include "code_cache.h"

#include "../support/test.h"

static fl_code *make(int number)
{
    fl_code *code = NULL;
    (void)fl_code_new(fl_slice_of((const char *)&number, sizeof(number)), &code);
    return code;
}

static uint16_t find(fl_code_cache *cache, int number)
{
    fl_code *code = make(number);
    uint16_t place = fl_code_cache_find(cache, code);
    fl_code_release(code);
    return place;
}

/* Returns its place. */
static uint16_t put(fl_code_cache *cache, int number)
{
    uint16_t place = FL_CODE_CACHE;
    fl_code *code = make(number);
    if (fl_code_cache_place(cache, &place) == 0) fl_code_cache_put(cache, code);
    fl_code_release(code);
    return place;
}

TEST(an_empty_cache_finds_nothing)
{
    fl_code_cache cache;
    fl_code_cache_init(&cache);
    CHECK_EQUAL_INT(find(&cache, 1), FL_CODE_CACHE);
    fl_code_cache_close(&cache);
}

TEST(what_was_put_is_found_by_its_bytes_at_its_place)
{
    fl_code_cache cache;
    fl_code_cache_init(&cache);
    uint16_t one = put(&cache, 1), two = put(&cache, 2);
    CHECK(one != two);
    CHECK_EQUAL_INT(find(&cache, 1), one);
    CHECK_EQUAL_INT(find(&cache, 2), two);
    CHECK_EQUAL_INT(find(&cache, 3), FL_CODE_CACHE);
    fl_code_cache_close(&cache);
}

TEST(it_holds_the_code)
{
    fl_code_cache cache;
    fl_code_cache_init(&cache);
    fl_code *code = make(1);
    fl_code_cache_put(&cache, code);
    CHECK_EQUAL_INT(code->holders, 2);
    fl_code_cache_close(&cache);
    CHECK_EQUAL_INT(code->holders, 1);
    fl_code_release(code);
}

TEST(the_least_recently_used_makes_room)
{
    fl_code_cache cache;
    fl_code_cache_init(&cache);
    for (int i = 0; i < FL_CODE_CACHE; i++) CHECK_EQUAL_INT(put(&cache, i), i);
    CHECK_EQUAL_INT(find(&cache, 0), 0); /* now 1 is the oldest */
    CHECK_EQUAL_INT(put(&cache, FL_CODE_CACHE), 1);
    CHECK_EQUAL_INT(find(&cache, 1), FL_CODE_CACHE);
    CHECK_EQUAL_INT(find(&cache, FL_CODE_CACHE), 1);
    CHECK_EQUAL_INT(put(&cache, FL_CODE_CACHE + 1), 2);
    CHECK_EQUAL_INT(find(&cache, 0), 0);
    for (int i = 3; i < FL_CODE_CACHE; i++) CHECK_EQUAL_INT(find(&cache, i), i);
    fl_code_cache_close(&cache);
}

TEST_MAIN
