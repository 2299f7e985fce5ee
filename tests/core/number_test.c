#include "number.h"

#include <locale.h>
#include <stdlib.h>

#include "../support/test.h"

#define CHECK_SAME(text) CHECK_STRING(again(text), text)
#define CHECK_MALFORMED(text, offset, problem)                                                     \
    CHECK_STRING(refusal(FL_SLICE(text)), #offset ": " problem)

static const char *written(double number)
{
    static char result[64];
    fl_buffer out;
    fl_buffer_init(&out);
    fl_number_write(&out, number);
    (void)snprintf(result, sizeof(result), "%.*s", (int)out.size, out.data);
    fl_buffer_close(&out);
    return result;
}

/* Reads from memory exactly as long as the text, so that a sanitizer sees a byte read beyond it.
 * `end` becomes an offset. */
static bool read_copy(fl_slice text, fl_number *number, size_t *end)
{
    char *copy = malloc(text.size ? text.size : 1);
    if (!copy) abort();
    memcpy(copy, text.data, text.size);
    bool valid = fl_number_read(fl_slice_of(copy, text.size), number);
    *end = (size_t)(number->end - copy);
    free(copy);
    return valid;
}

/* The number read and written again. */
static const char *again(const char *text)
{
    static char result[32];
    fl_number number;
    size_t end;
    if (!read_copy(fl_slice_from_string(text), &number, &end)) return number.problem;
    if (end != strlen(text)) return "not read to the end";
    if (!number.is_int64) return written(number.value);
    (void)snprintf(result, sizeof(result), "%lld", (long long)number.integer);
    return result;
}

/* Where it is wrong, from 0, and what. */
static const char *refusal(fl_slice text)
{
    static char result[128];
    fl_number number;
    size_t end;
    if (read_copy(text, &number, &end)) return "none";
    (void)snprintf(result, sizeof(result), "%zu: %s", end, number.problem);
    return result;
}

TEST(integers_are_written_without_a_fraction)
{
    CHECK_STRING(written(0), "0");
    CHECK_STRING(written(-0.0), "-0");
    CHECK_STRING(written(-17), "-17");
    CHECK_STRING(written(1763754000123456), "1763754000123456");
    CHECK_STRING(written(9007199254740992.0), "9007199254740992");
    CHECK_STRING(written(-9007199254740992.0), "-9007199254740992");
}

TEST(other_numbers_have_the_fewest_digits_that_read_back_the_same)
{
    CHECK_STRING(written(0.1), "0.1");
    CHECK_STRING(written(-12.34), "-12.34");
    CHECK_STRING(written(0.00001), "0.00001");
    CHECK_STRING(written(1e-9), "1e-09");
    CHECK_STRING(written(0.1 + 0.2), "0.30000000000000004");
    CHECK_STRING(written(1.0 / 3), "0.3333333333333333");
    CHECK_STRING(written(9007199254740994.0), "9007199254740994.0");
    CHECK_STRING(written(-1152921504606846976.0), "-1.152921504606847e+18");
    CHECK_STRING(written(1e300), "1e+300");
    CHECK_STRING(written(5e-324), "4.94065645841247e-324");
    CHECK_STRING(written(1.7976931348623157e308), "1.7976931348623157e+308");
    CHECK_STRING(written(2.5e15 + 0.5), "2500000000000000.5");
}

TEST(numbers_are_read_exactly)
{
    CHECK_SAME("-0");
    CHECK_STRING(again("-0.0"), "-0");
    CHECK_STRING(again("0e99999999999999999999"), "0");
    CHECK_STRING(again("1e5"), "100000");
    CHECK_STRING(again("1E+2"), "100");
    CHECK_STRING(again("12.5e-1"), "1.25");
    CHECK_STRING(again("1.0"), "1");
    CHECK_SAME("9007199254740993");
    CHECK_SAME("-9007199254740993");
    CHECK_SAME("9223372036854775807");
    CHECK_SAME("-9223372036854775808");
    CHECK_STRING(again("9223372036854775808"), "9.223372036854776e+18");
    CHECK_STRING(again("-9223372036854775809"), "-9.223372036854776e+18");
    CHECK_STRING(again("123456789012345678901234567890"), "1.2345678901234568e+29");
    CHECK_STRING(again("90071992547409.3e0"), "90071992547409.3");
    CHECK_STRING(again("9007199254740993e-1"), "900719925474099.3");
    CHECK_STRING(again("1e-400"), "0");
    CHECK_STRING(again("-1e-999999999999999999999"), "-0");
    CHECK_SAME("4.94065645841247e-324");
    CHECK_STRING(again("2.2250738585072011e-308"), "2.225073858507201e-308");
    CHECK_STRING(again("1.7976931348623158e308"), "1.7976931348623157e+308");
    CHECK_STRING(again("0.000000000000000000000000000000000000001e39"), "1");
    CHECK_STRING(again("100000000000000000000000000000000000000e-38"), "1");
    /* 2^53 + 1 lies halfway: what follows far behind decides */
    CHECK_STRING(again("9007199254740993.0000000000000000000000000000000000"), "9007199254740992");
    CHECK_STRING(again("9007199254740993.0000000000000000000000000000000001"),
                 "9007199254740994.0");
}

TEST(a_digit_beyond_every_limit_still_rounds)
{
    static char text[2100];
    int size = snprintf(text, sizeof(text), "9007199254740993.");
    memset(text + size, '0', 2000);
    CHECK_STRING(again(text), "9007199254740992");
    text[size + 1999] = '1';
    CHECK_STRING(again(text), "9007199254740994.0");
}

TEST(reading_ends_where_the_number_ends)
{
    fl_number number;
    size_t end;
    CHECK(read_copy(FL_SLICE("12,5"), &number, &end));
    CHECK(end == 2 && number.value == 12);
    CHECK(read_copy(FL_SLICE("-1.5e3]"), &number, &end));
    CHECK(end == 6 && number.value == -1500);
    CHECK(read_copy(FL_SLICE("0x10"), &number, &end));
    CHECK(end == 1 && number.value == 0);
}

TEST(integers_beyond_2_to_the_53_that_fit_are_int64)
{
    fl_number number;
    size_t end;
    CHECK(read_copy(FL_SLICE("9007199254740992"), &number, &end) && !number.is_int64);
    CHECK(read_copy(FL_SLICE("9007199254740993"), &number, &end) && number.is_int64);
    CHECK(read_copy(FL_SLICE("9007199254740993.0"), &number, &end) && !number.is_int64);
    CHECK(read_copy(FL_SLICE("9223372036854775807"), &number, &end) && number.is_int64);
    CHECK(number.integer == INT64_MAX);
    CHECK(read_copy(FL_SLICE("-9223372036854775808"), &number, &end) && number.is_int64);
    CHECK(number.integer == INT64_MIN);
    CHECK(read_copy(FL_SLICE("9223372036854775808"), &number, &end) && !number.is_int64);
}

TEST(malformed_numbers_are_refused)
{
    CHECK_MALFORMED("", 0, "expected a digit");
    CHECK_MALFORMED("-", 1, "expected a digit");
    CHECK_MALFORMED("--1", 1, "expected a digit");
    CHECK_MALFORMED(".5", 0, "expected a digit");
    CHECK_MALFORMED("+1", 0, "expected a digit");
    CHECK_MALFORMED("NaN", 0, "expected a digit");
    CHECK_MALFORMED("-Infinity", 1, "expected a digit");
    CHECK_MALFORMED("01", 1, "a number cannot start with 0");
    CHECK_MALFORMED("-00", 2, "a number cannot start with 0");
    CHECK_MALFORMED("1.", 2, "expected a digit after the point");
    CHECK_MALFORMED("1.e1", 2, "expected a digit after the point");
    CHECK_MALFORMED("1e", 2, "expected a digit of the exponent");
    CHECK_MALFORMED("1e+", 3, "expected a digit of the exponent");
    CHECK_MALFORMED("1e+-1", 3, "expected a digit of the exponent");
}

TEST(numbers_out_of_range_are_refused)
{
    CHECK_MALFORMED("1E400", 0, "number out of range");
    CHECK_MALFORMED("-1e309", 0, "number out of range");
    CHECK_MALFORMED("1e99999999999999999999999", 0, "number out of range");
    CHECK_MALFORMED("1.7976931348623159e308", 0, "number out of range");
}

TEST(numbers_do_not_follow_the_locale)
{
    if (!setlocale(LC_ALL, "de_DE.UTF-8")) return; /* one with a decimal comma, if installed */
    CHECK_STRING(written(1.5e300), "1.5e+300");
    CHECK_STRING(again("1.5e300"), "1.5e+300");
    CHECK_STRING(again("0.30000000000000004"), "0.30000000000000004");
    (void)setlocale(LC_ALL, "C");
}

/* Numbers of every kind: any bits, decimals, fractions of any size, integers beyond 2^53. */
static double number_from(uint64_t bits, int kind)
{
    double number;
    switch (kind) {
    case 0: memcpy(&number, &bits, sizeof(number)); return number;
    case 1: return (double)(int64_t)(bits >> 24) / 1000;
    case 2: return (double)(bits >> 11) / (double)(UINT64_C(1) << (bits % 64));
    case 3: return (double)bits;
    default: return (double)(bits >> 50) * 0.01;
    }
}

static int significant_digits(const char *text)
{
    int count = 0, zeros = 0;
    for (; *text && *text != 'e'; text++) {
        if (*text < '0' || *text > '9' || (*text == '0' && count == 0)) continue;
        count++;
        zeros = *text == '0' ? zeros + 1 : 0;
    }
    return count - zeros;
}

static int fewest_digits(double number)
{
    char text[32];
    for (int precision = 15; precision < 17; precision++) {
        (void)snprintf(text, sizeof(text), "%.*g", precision, number);
        if (strtod(text, NULL) == number) break;
        (void)snprintf(text, sizeof(text), "%.17g", number);
    }
    return significant_digits(text);
}

TEST(numbers_read_back_bit_by_bit)
{
    fl_buffer out;
    fl_buffer_init(&out);
    uint64_t bits = 88172645463325252u;
    for (int i = 0; i < 200000; i++) {
        bits ^= bits << 13, bits ^= bits >> 7, bits ^= bits << 17;
        double number = number_from(bits, i % 5);
        if (number != number || number - number != 0) continue;
        out.size = 0;
        fl_number_write(&out, number);
        fl_number again;
        CHECK(fl_number_read(fl_slice_of(out.data, out.size), &again));
        CHECK(again.end == out.data + out.size);
        CHECK(!again.is_int64 && again.value == number);
        fl_buffer_byte(&out, '\0');
        CHECK(strtod(out.data, NULL) == number);
        CHECK(significant_digits(out.data) <= fewest_digits(number));
    }
    fl_buffer_close(&out);
}

TEST(decimals_are_rounded_like_strtod_rounds_them)
{
    uint64_t bits = 88172645463325252u;
    for (int i = 0; i < 200000; i++) {
        bits ^= bits << 13, bits ^= bits >> 7, bits ^= bits << 17;
        char text[64];
        int places = (int)((bits >> 20) % 26), digits = (int)((bits >> 40) % 20);
        int size = snprintf(text, sizeof(text), "%.*s%de-%d", digits, "90071992547409930000",
                            1 + (int)(bits % 99), places);
        fl_number number;
        CHECK(fl_number_read(fl_slice_of(text, (size_t)size), &number));
        CHECK(!number.is_int64 && number.value == strtod(text, NULL));
    }
}

TEST_MAIN
