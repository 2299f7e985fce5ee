#include "number.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define EXACT_INTEGER ((double)FL_NUMBER_EXACT)
#define UNIT (UINT64_C(1) << 52) /* the bit of a mantissa that a double leaves out */
#define KEPT_DIGITS 19           /* as many as always fit a uint64_t */
#define MOST_DIGITS 780          /* more cannot change how a double is rounded */

/* printf and strtod follow the thread's locale, which a library may have changed. Making the "C"
 * locale costs nothing: the C library hands out a constant. */
static locale_t enter_c_locale(void)
{
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return uselocale(c);
}

static void leave_c_locale(locale_t former)
{
    locale_t c = uselocale(former);
    if (c != former && c != LC_GLOBAL_LOCALE) freelocale(c);
}

__extension__ typedef unsigned __int128 wide;

static const uint64_t powers[] = {UINT64_C(1),
                                  UINT64_C(10),
                                  UINT64_C(100),
                                  UINT64_C(1000),
                                  UINT64_C(10000),
                                  UINT64_C(100000),
                                  UINT64_C(1000000),
                                  UINT64_C(10000000),
                                  UINT64_C(100000000),
                                  UINT64_C(1000000000),
                                  UINT64_C(10000000000),
                                  UINT64_C(100000000000),
                                  UINT64_C(1000000000000),
                                  UINT64_C(10000000000000),
                                  UINT64_C(100000000000000),
                                  UINT64_C(1000000000000000),
                                  UINT64_C(10000000000000000),
                                  UINT64_C(100000000000000000),
                                  UINT64_C(1000000000000000000),
                                  UINT64_C(10000000000000000000)};

static void write_places(fl_buffer *out, uint64_t digits, unsigned places)
{
    char text[32];
    size_t at = sizeof(text);
    for (unsigned i = 0; i < places; i++, digits /= 10) text[--at] = (char)('0' + digits % 10);
    text[--at] = '.';
    do {
        text[--at] = (char)('0' + digits % 10);
        digits /= 10;
    } while (digits);
    fl_buffer_append(out, text + at, sizeof(text) - at);
}

/* A double as mantissa / 2^shift, for the range whose products with powers of ten fit 128 bits. */
typedef struct fraction {
    uint64_t mantissa;
    int shift;
    int magnitude; /* of the value's first digit: 10^magnitude, or one less than the truth */
} fraction;

static bool to_fraction(double magnitude, fraction *f)
{
    uint64_t bits;
    memcpy(&bits, &magnitude, sizeof(bits));
    int exponent = (int)(bits >> 52) - 1023;
    f->mantissa = (bits & (UNIT - 1)) | UNIT;
    f->shift = 52 - exponent;
    f->magnitude = (exponent * 1233) >> 12;  /* log10(2) × 4096 */
    bool power_of_two = f->mantissa == UNIT; /* its lower neighbour is nearer */
    return magnitude >= 1e-5 && magnitude < EXACT_INTEGER / 2 && !power_of_two;
}

/* The value with `places` decimals, rounded; `*same` says whether that text reads back as the same
 * double: whether it lies within half a unit of the mantissa. */
static uint64_t round_places(const fraction *f, int places, bool *same)
{
    wide power = places <= 19 ? (wide)powers[places] : (wide)powers[19] * powers[places - 19];
    wide product = f->mantissa * power;
    wide rest = product & (((wide)1 << f->shift) - 1);
    bool up = rest >> (f->shift - 1) != 0;
    wide distance = up ? ((wide)1 << f->shift) - rest : rest;
    *same = distance * 2 < power;
    return (uint64_t)(product >> f->shift) + up;
}

/* The exact way without printf, for the numbers that occur: 15 digits, or 16, or 17. */
static bool write_common_decimal(fl_buffer *out, double magnitude)
{
    fraction f;
    bool same;
    if (!to_fraction(magnitude, &f)) return false;
    int places = 14 - f.magnitude;
    if (places > 0 && round_places(&f, places, &same) >= powers[15]) places--;
    for (int last = places + 2; places <= last; places++) {
        if (places <= 0) continue;
        uint64_t digits = round_places(&f, places, &same);
        if (!same) continue;
        while (digits % 10 == 0 && places > 1) {
            digits /= 10;
            places--;
        }
        write_places(out, digits, (unsigned)places);
        return true;
    }
    return false;
}

static void write_decimal(fl_buffer *out, double number)
{
    if (number < 0) fl_buffer_byte(out, '-');
    double magnitude = fabs(number);
    if (write_common_decimal(out, magnitude)) return;
    char text[32];
    locale_t former = enter_c_locale();
    for (int precision = 15; precision <= 17; precision++) {
        (void)snprintf(text, sizeof(text), "%.*g", precision, magnitude);
        if (strtod(text, NULL) == magnitude) break;
    }
    leave_c_locale(former);
    size_t size = strlen(text);
    fl_buffer_append(out, text, size);
    /* without a point it would be read as an int64 */
    if (strspn(text, "0123456789") == size) FL_BUFFER_LITERAL(out, ".0");
}

typedef struct decimal {
    const char *at, *end;
    const char *problem;
    uint64_t mantissa; /* the first KEPT_DIGITS significant digits */
    int64_t exponent;  /* value = mantissa × 10^exponent, if nothing was dropped */
    unsigned digits;
    bool negative;
    bool whole; /* neither fraction nor exponent */
    bool dropped;
} decimal;

static bool malformed(decimal *n, const char *problem)
{
    n->problem = problem;
    return false;
}

static bool at_digit(const decimal *n)
{
    return n->at < n->end && *n->at >= '0' && *n->at <= '9';
}

static void read_digits(decimal *n, bool decimals)
{
    for (; at_digit(n); n->at++) {
        if (n->digits == KEPT_DIGITS) {
            n->dropped = true;
            n->exponent += !decimals;
            continue;
        }
        n->mantissa = n->mantissa * 10 + (uint64_t)(*n->at - '0');
        n->digits += n->mantissa != 0;
        n->exponent -= decimals;
    }
}

static bool read_exponent(decimal *n)
{
    n->at++;
    bool negative = n->at < n->end && *n->at == '-';
    if (negative || (n->at < n->end && *n->at == '+')) n->at++;
    if (!at_digit(n)) return malformed(n, "expected a digit of the exponent");
    int64_t exponent = 0;
    for (; at_digit(n); n->at++) /* stops growing far beyond any range, far before it overflows */
        if (exponent < INT64_C(1000000000000000)) exponent = exponent * 10 + (*n->at - '0');
    n->exponent += negative ? -exponent : exponent;
    return true;
}

/* RFC 8259 section 6 */
static bool read_decimal(decimal *n)
{
    if (n->at < n->end && *n->at == '-') {
        n->negative = true;
        n->at++;
    }
    if (!at_digit(n)) return malformed(n, "expected a digit");
    if (*n->at == '0') {
        n->at++;
        if (at_digit(n)) return malformed(n, "a number cannot start with 0");
    } else {
        read_digits(n, false);
    }
    n->whole = true;
    if (n->at < n->end && *n->at == '.') {
        n->at++;
        n->whole = false;
        if (!at_digit(n)) return malformed(n, "expected a digit after the point");
        read_digits(n, true);
    }
    if (n->at == n->end || (*n->at | 0x20) != 'e') return true;
    n->whole = false;
    return read_exponent(n);
}

/* Significant digits of the number's text, at most MOST_DIGITS; when there are more, the last one
 * only says whether anything but zeros followed, which is all that rounding asks. */
static size_t copy_digits(const char *at, const char *end, char *digits)
{
    size_t size = 0;
    for (; at < end && (*at | 0x20) != 'e'; at++) {
        bool digit = *at >= '0' && *at <= '9';
        if (!digit || (size == 0 && *at == '0')) continue;
        if (size < MOST_DIGITS)
            digits[size++] = *at;
        else if (*at != '0')
            digits[size - 1] = '1';
    }
    return size;
}

static double read_slowly(const decimal *n, const char *from)
{
    char text[MOST_DIGITS + 32];
    int64_t magnitude = n->exponent + n->digits;
    if (magnitude < -400) return 0;
    if (magnitude > 400) return HUGE_VAL;
    size_t size = copy_digits(from, n->at, text);
    (void)snprintf(text + size, 32, "e%d", (int)(magnitude - (int64_t)size));
    locale_t former = enter_c_locale();
    double value = strtod(text, NULL);
    leave_c_locale(former);
    return value;
}

/* mantissa / 10^places, rounded once: a quotient of at least 62 bits whose last bit also stands for
 * the remainder is as good as the endless one. */
static double divide(uint64_t mantissa, int64_t places)
{
    int zeros = __builtin_clzll(mantissa);
    wide dividend = (wide)(mantissa << zeros) << 63;
    wide quotient = dividend / powers[places];
    if (quotient * powers[places] != dividend) quotient |= 1;
    return ldexp((double)quotient, -63 - zeros);
}

static double decimal_value(const decimal *n, const char *from)
{
    if (n->mantissa == 0) return 0;
    bool exact = n->mantissa <= (uint64_t)EXACT_INTEGER; /* so one rounding operation is right */
    bool in_table = n->exponent >= -19 && n->exponent <= 19 && !n->dropped;
    if (in_table && exact && n->exponent >= 0)
        return (double)n->mantissa * (double)powers[n->exponent];
    if (in_table && exact) return (double)n->mantissa / (double)powers[-n->exponent];
    if (in_table && n->exponent < 0) return divide(n->mantissa, -n->exponent);
    return read_slowly(n, from);
}

static bool is_int64(const decimal *n)
{
    if (!n->whole || n->dropped || n->mantissa <= (uint64_t)EXACT_INTEGER) return false;
    return n->mantissa <= (uint64_t)INT64_MAX + n->negative;
}

void fl_number_write(fl_buffer *out, double number)
{
    bool whole = fabs(number) <= EXACT_INTEGER && (double)(int64_t)number == number;
    if (!whole) {
        write_decimal(out, number);
        return;
    }
    if (signbit(number)) fl_buffer_byte(out, '-'); /* -0 too: it must read back the same */
    fl_buffer_number(out, (uint64_t)fabs(number));
}

bool fl_number_read(fl_slice text, fl_number *number)
{
    decimal n = {.at = text.data, .end = text.data + text.size};
    bool valid = read_decimal(&n);
    number->end = n.at;
    number->problem = n.problem;
    if (!valid) return false;
    number->is_int64 = is_int64(&n);
    if (number->is_int64) {
        number->integer = (int64_t)(n.negative ? -n.mantissa : n.mantissa);
        return true;
    }
    double value = decimal_value(&n, text.data);
    number->value = n.negative ? -value : value;
    if (!isinf(value)) return true;
    number->end = text.data;
    number->problem = "number out of range";
    return false;
}
