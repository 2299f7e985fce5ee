#include "values.h"

#include <math.h>

#include "scarcity.h"
#include "test.h"

static fl_value next(const char **at)
{
    return fl_values_read(at);
}

TEST(values_are_read_as_they_were_written)
{
    fl_buffer out;
    fl_buffer_init(&out);
    fl_values_null(&out);
    fl_values_bool(&out, true);
    fl_values_bool(&out, false);
    fl_values_integer(&out, INT64_MIN);
    fl_values_number(&out, -0.5);
    fl_values_text(&out, fl_slice_of("a\0b", 3));
    fl_values_json(&out, FL_SLICE("{}"));
    const char *at = out.data;
    CHECK(next(&at).tag == FL_VALUE_NULL);
    CHECK(next(&at).tag == FL_VALUE_TRUE);
    CHECK(next(&at).tag == FL_VALUE_FALSE);
    CHECK(next(&at).integer == INT64_MIN);
    CHECK(next(&at).number == -0.5);
    CHECK(fl_slice_equal(next(&at).text, fl_slice_of("a\0b", 3)));
    fl_value json = next(&at);
    CHECK(json.tag == FL_VALUE_JSON && fl_slice_equal(json.text, FL_SLICE("{}")));
    CHECK(at == out.data + out.size);
    fl_buffer_close(&out);
}

TEST(a_list_is_followed_by_its_values)
{
    fl_buffer out;
    fl_buffer_init(&out);
    fl_values_list(&out, 2);
    fl_values_list(&out, 0);
    fl_values_integer(&out, 7);
    const char *at = out.data;
    CHECK_EQUAL_INT(next(&at).count, 2);
    CHECK_EQUAL_INT(next(&at).count, 0);
    CHECK_EQUAL_INT(next(&at).integer, 7);
    CHECK(at == out.data + out.size);
    fl_buffer_close(&out);
}

TEST(an_empty_text_takes_no_bytes_of_its_own)
{
    fl_buffer out;
    fl_buffer_init(&out);
    fl_values_text(&out, FL_SLICE(""));
    fl_values_null(&out);
    const char *at = out.data;
    CHECK_EQUAL_INT(next(&at).text.size, 0);
    CHECK(next(&at).tag == FL_VALUE_NULL);
    fl_buffer_close(&out);
}

TEST(numbers_that_are_none_stay_so)
{
    fl_buffer out;
    fl_buffer_init(&out);
    fl_values_number(&out, NAN);
    fl_values_number(&out, INFINITY);
    const char *at = out.data;
    CHECK(isnan(next(&at).number));
    CHECK(isinf(next(&at).number));
    fl_buffer_close(&out);
}

static int write_values(void)
{
    fl_buffer out;
    fl_buffer_init(&out);
    for (int i = 0; i < 500; i++) {
        fl_values_integer(&out, i);
        fl_values_number(&out, i);
        fl_values_text(&out, FL_SLICE("some text"));
        fl_values_list(&out, 0);
    }
    int status = out.failed ? -1 : 0;
    fl_buffer_close(&out);
    return status;
}

TEST(without_memory_the_buffer_says_so)
{
    CHECK_SCARCITY(write_values);
}

TEST_MAIN
