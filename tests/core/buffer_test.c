#include "buffer.h"

#include "scarcity.h"
#include "test.h"

TEST(an_empty_buffer_holds_no_memory)
{
    fl_buffer buffer;
    fl_buffer_init(&buffer);
    fl_buffer_append(&buffer, "", 0);
    CHECK(buffer.data == NULL && buffer.size == 0 && buffer.capacity == 0);
}

TEST(appended_bytes_follow_each_other)
{
    fl_buffer buffer;
    fl_buffer_init(&buffer);
    FL_BUFFER_LITERAL(&buffer, "one ");
    fl_buffer_slice(&buffer, FL_SLICE("two"));
    fl_buffer_byte(&buffer, ' ');
    fl_buffer_printf(&buffer, "%s %d", "three", 4);
    CHECK_EQUAL_TEXT(buffer, "one two three 4");
    fl_buffer_close(&buffer);
}

TEST(it_grows_as_far_as_needed_and_keeps_what_it_has)
{
    fl_buffer buffer;
    fl_buffer_init(&buffer);
    for (unsigned i = 0; i < 100000; i++) fl_buffer_byte(&buffer, (char)(i % 251));
    CHECK_EQUAL_INT(buffer.size, 100000);
    for (unsigned i = 0; i < 100000; i++) CHECK(buffer.data[i] == (char)(i % 251));
    fl_buffer_close(&buffer);
}

TEST(room_is_made_before_it_is_used)
{
    fl_buffer buffer;
    fl_buffer_init(&buffer);
    CHECK(fl_buffer_room(&buffer, 1000));
    CHECK(buffer.capacity >= 1000 && buffer.size == 0);
    const char *data = buffer.data;
    for (unsigned i = 0; i < 1000; i++) fl_buffer_byte(&buffer, 'x');
    CHECK(buffer.data == data);
    fl_buffer_close(&buffer);
}

TEST(numbers_are_written_in_decimal)
{
    fl_buffer buffer;
    fl_buffer_init(&buffer);
    fl_buffer_number(&buffer, 0);
    fl_buffer_byte(&buffer, ' ');
    fl_buffer_number(&buffer, 1234567890);
    fl_buffer_byte(&buffer, ' ');
    fl_buffer_number(&buffer, UINT64_MAX);
    CHECK_EQUAL_TEXT(buffer, "0 1234567890 18446744073709551615");
    fl_buffer_close(&buffer);
}

TEST(printf_writes_nothing_for_an_empty_text)
{
    fl_buffer buffer;
    fl_buffer_init(&buffer);
    fl_buffer_printf(&buffer, "%s", "");
    CHECK_EQUAL_INT(buffer.size, 0);
    fl_buffer_close(&buffer);
}

TEST(consumed_bytes_leave_at_the_front)
{
    fl_buffer buffer;
    fl_buffer_init(&buffer);
    fl_buffer_consume(&buffer, 0);
    FL_BUFFER_LITERAL(&buffer, "abcdef");
    fl_buffer_consume(&buffer, 2);
    CHECK_EQUAL_TEXT(buffer, "cdef");
    fl_buffer_consume(&buffer, 4);
    CHECK_EQUAL_INT(buffer.size, 0);
    fl_buffer_close(&buffer);
}

TEST(a_reset_keeps_little_memory_and_gives_much_back)
{
    fl_buffer buffer;
    fl_buffer_init(&buffer);
    FL_BUFFER_LITERAL(&buffer, "abc");
    size_t capacity = buffer.capacity;
    fl_buffer_reset(&buffer, 4096);
    CHECK(buffer.size == 0 && buffer.capacity == capacity);
    CHECK(fl_buffer_room(&buffer, 5000));
    fl_buffer_reset(&buffer, 4096);
    CHECK(buffer.size == 0 && buffer.capacity == 0 && buffer.data == NULL);
}

TEST(after_a_failure_everything_appended_is_dropped_until_a_reset)
{
    fl_buffer buffer;
    fl_buffer_init(&buffer);
    FL_BUFFER_LITERAL(&buffer, "kept");
    CHECK(!fl_buffer_room(&buffer, SIZE_MAX - 2)); /* the sum would overflow */
    CHECK(buffer.failed);
    CHECK(!fl_buffer_grow(&buffer, 100000));
    CHECK_EQUAL_TEXT(buffer, "kept");
    fl_buffer_reset(&buffer, 0);
    FL_BUFFER_LITERAL(&buffer, "again");
    CHECK(!buffer.failed);
    CHECK_EQUAL_TEXT(buffer, "again");
    fl_buffer_close(&buffer);
}

TEST(closing_twice_is_harmless)
{
    fl_buffer buffer;
    fl_buffer_init(&buffer);
    fl_buffer_byte(&buffer, 'x');
    fl_buffer_close(&buffer);
    fl_buffer_close(&buffer);
    CHECK(buffer.data == NULL);
}

static int append_a_lot(void)
{
    fl_buffer buffer;
    fl_buffer_init(&buffer);
    for (unsigned i = 0; i < 1000; i++) {
        fl_buffer_printf(&buffer, "%u is ", i);
        fl_buffer_number(&buffer, i);
        fl_buffer_byte(&buffer, '\n');
    }
    int status = buffer.failed ? -1 : 0;
    if (buffer.size > buffer.capacity || (buffer.failed && fl_buffer_grow(&buffer, 1))) status = 1;
    fl_buffer_close(&buffer);
    return status;
}

TEST(without_memory_it_says_so_and_keeps_its_bounds)
{
    CHECK_SCARCITY(append_a_lot);
}

TEST_MAIN
