#include "drivers/redis/reply.h"

#include "scarcity.h"
#include "test.h"

static fl_redis_reader reader;

static int read_text(const char *text, size_t most)
{
    fl_redis_reader_close(&reader);
    if (fl_redis_reader_open(&reader, most) < 0) return -2;
    if (!fl_redis_reader_feed(&reader, fl_slice_from_string(text))) return -1;
    return fl_redis_reader_next(&reader);
}

TEST(a_string_is_its_bytes)
{
    int status = read_text("$5\r\na\r\nbc\r\n", 100);
    CHECK_EQUAL_INT(status, 1);
    fl_slice text = fl_redis_reply_text(reader.record.data);
    CHECK_EQUAL_BYTES(text.data, text.size, "a\r\nbc");
    CHECK(fl_redis_reply_skip(reader.record.data) == reader.record.data + reader.record.size);
}

TEST(errors_nil_and_lists_are_told_apart)
{
    size_t count;
    CHECK_EQUAL_INT(read_text("-ERR no\r\n", 100), 1);
    CHECK(fl_redis_reply_is_error(reader.record.data));
    CHECK_EQUAL_INT(read_text("$-1\r\n", 100), 1);
    CHECK(fl_redis_reply_is_nil(reader.record.data));
    CHECK(!fl_redis_reply_is_list(reader.record.data, &count));
    CHECK_EQUAL_INT(read_text("*2\r\n:1\r\n*1\r\n+x\r\n", 100), 1);
    CHECK(fl_redis_reply_is_list(reader.record.data, &count));
    CHECK_EQUAL_INT(count, 2);
    const char *second = fl_redis_reply_skip(fl_redis_reply_elements(reader.record.data));
    CHECK(fl_redis_reply_is_list(second, &count));
    CHECK_EQUAL_INT(count, 1);
    CHECK(fl_redis_reply_skip(second) == reader.record.data + reader.record.size);
}

TEST(half_a_reply_is_none)
{
    CHECK_EQUAL_INT(read_text("*2\r\n:1\r\n$3\r\nab", 100), 0);
    CHECK(fl_redis_reader_feed(&reader, FL_SLICE("c\r\n+next\r\n")));
    CHECK_EQUAL_INT(fl_redis_reader_next(&reader), 1);
    fl_buffer_reset(&reader.record, 0);
    CHECK_EQUAL_INT(fl_redis_reader_next(&reader), 1);
    fl_slice text = fl_redis_reply_text(reader.record.data);
    CHECK_EQUAL_BYTES(text.data, text.size, "next");
    CHECK_EQUAL_INT(fl_redis_reader_next(&reader), 0);
}

TEST(what_is_no_reply_is_a_problem)
{
    CHECK_EQUAL_INT(read_text("HTTP/1.1 400 Bad Request\r\n", 100), -1);
    CHECK(reader.problem != NULL);
    CHECK_EQUAL_INT(fl_redis_reader_next(&reader), -1);
    CHECK_EQUAL_INT(read_text("$x\r\n", 100), -1);
}

TEST(a_reply_that_is_too_large_is_a_problem_before_all_of_it_has_come)
{
    CHECK_EQUAL_INT(read_text("$100\r\n0123456789", 20), 0);
    CHECK(fl_redis_reader_feed(&reader, FL_SLICE("0123456789")));
    CHECK_EQUAL_INT(fl_redis_reader_next(&reader), 0);
    CHECK(!fl_redis_reader_feed(&reader, FL_SLICE("0123456789")));
    CHECK(strstr(reader.problem, "max_reply") != NULL);
}

TEST(several_replies_may_be_larger_together)
{
    CHECK_EQUAL_INT(read_text("+0123456789\r\n+0123456789\r\n+01", 20), 1);
    fl_buffer_reset(&reader.record, 0);
    CHECK_EQUAL_INT(fl_redis_reader_next(&reader), 1);
    fl_buffer_reset(&reader.record, 0);
    CHECK_EQUAL_INT(fl_redis_reader_next(&reader), 0);
    CHECK(fl_redis_reader_feed(&reader, FL_SLICE("23456789\r\n")));
    CHECK_EQUAL_INT(fl_redis_reader_next(&reader), 1);
}

TEST(too_many_lists_in_each_other_are_a_problem)
{
    char text[400] = "";
    for (int i = 0; i < 60; i++) (void)strcat(text, "*1\r\n");
    CHECK_EQUAL_INT(read_text(text, 1000), -1);
}

TEST(a_count_that_nobody_could_send_takes_no_memory)
{
    CHECK_EQUAL_INT(read_text("*1000000000\r\n", 100), 0);
    CHECK(reader.record.capacity < 1000);
    fl_redis_reader_close(&reader);
}

static int read_scarcely(void)
{
    fl_redis_reader scarce;
    if (fl_redis_reader_open(&scarce, 100000) < 0) return -1;
    int status = 0;
    for (int i = 0; status >= 0 && i < 100; i++) {
        bool fed = fl_redis_reader_feed(&scarce, FL_SLICE("*2\r\n$5\r\nhello\r\n$5\r\nworld\r\n"));
        status = fed ? fl_redis_reader_next(&scarce) : -1;
        if (status == 0) status = -2; /* a whole one was fed */
    }
    if (status < 0 && !scarce.problem) status = 2;
    fl_redis_reader_close(&scarce);
    return status == 1 ? 0 : status;
}

TEST(without_memory_a_reply_is_a_problem)
{
    CHECK_SCARCITY(read_scarcely);
}

TEST_MAIN
