#include "utf8.h"

#include "../support/test.h"

static bool valid(const char *text)
{
    return fl_utf8_valid(fl_slice_from_string(text));
}

TEST(utf8_is_checked_by_the_book)
{
    CHECK(fl_utf8_valid(fl_slice_of(NULL, 0)));
    CHECK(fl_utf8_valid(FL_SLICE("a\0b")));
    CHECK(valid("plain ASCII, more than sixteen bytes of it"));
    CHECK(valid("\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf"));
    CHECK(valid("12345678\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"));
    CHECK(!valid("\x80"));
    CHECK(!valid("12345678\xbf"));
    CHECK(!valid("\xc0\x80"));
    CHECK(!valid("\xc1\xbf"));
    CHECK(!valid("\xe0\x9f\xbf"));
    CHECK(!valid("\xed\xa0\x80"));
    CHECK(!valid("\xed\xbf\xbf"));
    CHECK(!valid("\xf0\x8f\xbf\xbf"));
    CHECK(!valid("\xf4\x90\x80\x80"));
    CHECK(!valid("\xf5\x80\x80\x80"));
    CHECK(!valid("\xf8\x88\x80\x80\x80"));
    CHECK(!valid("\xc3"));
    CHECK(!valid("\xe2\x82"));
    CHECK(!valid("\xf0\x9f\x99"));
    CHECK(!valid("\xc3\xc3"));
    CHECK(!valid("\xe2\x28\xa1"));
    CHECK(!valid("\xf0\x9f\x28\x82"));
}

TEST(skipping_ends_at_ascii_and_at_what_is_malformed)
{
    const uint8_t text[] = "\xc3\xa4\xe2\x82\xac"
                           "a\xc3\xa4\xc3";
    const uint8_t *end = text + sizeof(text) - 1;
    CHECK(fl_utf8_skip(text, end) == text + 5);
    CHECK(fl_utf8_skip(text + 5, end) == text + 5);
    CHECK(fl_utf8_skip(text + 6, end) == text + 8);
    CHECK(fl_utf8_skip(text, text + 4) == text + 2);
    CHECK(fl_utf8_skip(end, end) == end);
}

static bool is_surrogate(uint32_t code)
{
    return code >= 0xd800 && code <= 0xdfff;
}

TEST(every_code_point_becomes_bytes_and_comes_back)
{
    for (uint32_t code = 0; code <= 0x110000; code++) {
        uint8_t bytes[4];
        uint32_t again = UINT32_MAX;
        size_t size = (size_t)(fl_utf8_encode(bytes, code) - bytes);
        size_t read = fl_utf8_decode(bytes, bytes + size, &again);
        bool valid = !is_surrogate(code) && code <= 0x10ffff;
        CHECK_EQUAL_INT(read, valid ? size : 0);
        if (valid) CHECK_EQUAL_INT(again, code);
        CHECK(fl_utf8_valid(fl_slice_of((const char *)bytes, size)) == valid);
        if (size > 1) CHECK_EQUAL_INT(fl_utf8_decode(bytes, bytes + size - 1, &again), 0);
    }
}

TEST_MAIN
