#include "bind/text.h"

#include <lauxlib.h>
#include <time.h>

#include "lua_buffer.h"

#define DAY 86400
#define EARLIEST INT64_C(-62167219200) /* 0000-01-01 */
#define LATEST INT64_C(253402300799)   /* 9999-12-31 23:59:59 */
#define CENTURY_WINDOW 50              /* years ahead that two digits may mean */

static const char day_names[] = "SunMonTueWedThuFriSat";
static const char month_names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";

static fl_slice reference_of(char c)
{
    switch (c) {
    case '&': return FL_SLICE("&amp;");
    case '<': return FL_SLICE("&lt;");
    case '>': return FL_SLICE("&gt;");
    case '"': return FL_SLICE("&quot;");
    case '\'': return FL_SLICE("&#39;");
    default: return (fl_slice){NULL, 0};
    }
}

/* How many bytes up to the first that has a meaning in HTML. */
static size_t harmless(fl_slice text)
{
    static const bool special[256] = {
        ['&'] = true, ['<'] = true, ['>'] = true, ['"'] = true, ['\''] = true};
    size_t size = 0;
    while (size < text.size && !special[(uint8_t)text.data[size]]) size++;
    return size;
}

void fl_escape_html(fl_slice text, fl_buffer *out)
{
    for (;;) {
        size_t size = harmless(text);
        fl_buffer_append(out, text.data, size);
        if (size == text.size) return;
        fl_buffer_slice(out, reference_of(text.data[size]));
        text = fl_slice_of(text.data + size + 1, text.size - size - 1);
    }
}

/* RFC 3986 section 2.3 */
static bool is_unreserved(char c)
{
    char lower = fl_lower(c);
    return (lower >= 'a' && lower <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
           c == '_' || c == '~';
}

void fl_percent_encode(fl_slice text, fl_buffer *out)
{
    static const char hex[] = "0123456789ABCDEF";
    for (size_t i = 0; i < text.size; i++) {
        uint8_t byte = (uint8_t)text.data[i];
        if (is_unreserved(text.data[i])) {
            fl_buffer_byte(out, text.data[i]);
        } else {
            fl_buffer_append(out, (char[]){'%', hex[byte >> 4], hex[byte & 15]}, 3);
        }
    }
}

static int hex_digit(char c)
{
    c = fl_lower(c);
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool fl_percent_decode(fl_slice text, fl_buffer *out)
{
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] != '%') {
            fl_buffer_byte(out, text.data[i]);
            continue;
        }
        if (text.size - i < 3) return false;
        int high = hex_digit(text.data[i + 1]), low = hex_digit(text.data[i + 2]);
        if (high < 0 || low < 0) return false;
        fl_buffer_byte(out, (char)(high << 4 | low));
        i += 2;
    }
    return true;
}

typedef struct date {
    int64_t year;
    int64_t month; /* 1 to 12 */
    int64_t day;
    int64_t hour, minute, second;
} date;

static bool is_leap(int64_t year)
{
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

static int64_t month_length(int64_t year, int64_t month)
{
    static const uint8_t lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return lengths[month - 1] + (month == 2 && is_leap(year));
}

/* Days from 1970-01-01 to the first of January, of years from 0 on. */
static int64_t days_to_year(int64_t year)
{
    int64_t before = year - 1 + 400; /* one cycle more keeps the divisions above zero */
    int64_t leap_days = before / 4 - before / 100 + before / 400;
    return before * 365 + leap_days - 719162 - 146097;
}

static int64_t date_to_days(const date *d)
{
    int64_t days = days_to_year(d->year) + d->day - 1;
    for (int64_t month = 1; month < d->month; month++) days += month_length(d->year, month);
    return days;
}

/* Our own calendar, because gmtime_r takes the C library's time zone lock. */
static date date_from_days(int64_t days)
{
    date d = {.year = (days - EARLIEST / DAY) * 400 / 146097, .month = 1};
    while (days_to_year(d.year) > days) d.year--;
    while (days_to_year(d.year + 1) <= days) d.year++;
    days -= days_to_year(d.year);
    for (; days >= month_length(d.year, d.month); d.month++) days -= month_length(d.year, d.month);
    d.day = days + 1;
    return d;
}

static char *put_digits(char *out, int64_t number, int count)
{
    for (int i = count - 1; i >= 0; i--, number /= 10) out[i] = (char)('0' + number % 10);
    return out + count;
}

static char *put(char *out, const char *text, size_t size)
{
    memcpy(out, text, size);
    return out + size;
}

bool fl_http_date(int64_t seconds, char out[FL_HTTP_DATE_SIZE + 1])
{
    if (seconds < EARLIEST || seconds > LATEST) return false;
    int64_t since = seconds - EARLIEST, days = since / DAY + EARLIEST / DAY, clock = since % DAY;
    date d = date_from_days(days);
    out = put(out, day_names + 3 * ((since / DAY + 6) % 7), 3);
    out = put_digits(put(out, ", ", 2), d.day, 2);
    out = put(put(out, " ", 1), month_names + 3 * (d.month - 1), 3);
    out = put_digits(put(out, " ", 1), d.year, 4);
    out = put_digits(put(out, " ", 1), clock / 3600, 2);
    out = put_digits(put(out, ":", 1), clock / 60 % 60, 2);
    out = put_digits(put(out, ":", 1), clock % 60, 2);
    (void)put(out, " GMT", 5);
    return true;
}

/* What is left of the text; every step below takes its part off or returns false. */
static bool take(fl_slice *text, fl_slice part)
{
    if (text->size < part.size || memcmp(text->data, part.data, part.size) != 0) return false;
    *text = fl_slice_of(text->data + part.size, text->size - part.size);
    return true;
}

static bool take_number(fl_slice *text, size_t digits, int64_t *number)
{
    if (text->size < digits) return false;
    *number = 0;
    for (size_t i = 0; i < digits; i++) {
        char c = text->data[i];
        if (c < '0' || c > '9') return false;
        *number = *number * 10 + (c - '0');
    }
    *text = fl_slice_of(text->data + digits, text->size - digits);
    return true;
}

/* One of the names of three letters; `*place` counts from 1. */
static bool take_name(fl_slice *text, fl_slice names, int64_t *place)
{
    for (size_t i = 0; i < names.size; i += 3) {
        if (!take(text, fl_slice_of(names.data + i, 3))) continue;
        *place = (int64_t)(i / 3) + 1;
        return true;
    }
    return false;
}

static bool take_month(fl_slice *text, date *d)
{
    return take_name(text, FL_SLICE(month_names), &d->month);
}

static bool take_clock(fl_slice *text, date *d)
{
    return take_number(text, 2, &d->hour) && take(text, FL_SLICE(":")) &&
           take_number(text, 2, &d->minute) && take(text, FL_SLICE(":")) &&
           take_number(text, 2, &d->second);
}

/* ", 06 Nov 1994 08:49:37 GMT" */
static bool take_fixdate(fl_slice *text, date *d)
{
    return take(text, FL_SLICE(", ")) && take_number(text, 2, &d->day) &&
           take(text, FL_SLICE(" ")) && take_month(text, d) && take(text, FL_SLICE(" ")) &&
           take_number(text, 4, &d->year) && take(text, FL_SLICE(" ")) && take_clock(text, d) &&
           take(text, FL_SLICE(" GMT"));
}

/* "day, 06-Nov-94 08:49:37 GMT", of which the beginning of the name was taken. A year that seems
 * more than 50 years ahead is the latest one in the past with these digits. */
static bool take_rfc850(fl_slice *text, int64_t weekday, int64_t now, date *d)
{
    static const fl_slice endings[] = {{"day", 3},   {"day", 3}, {"sday", 4}, {"nesday", 6},
                                       {"rsday", 5}, {"day", 3}, {"urday", 5}};
    bool taken = take(text, endings[weekday - 1]) && take(text, FL_SLICE(", ")) &&
                 take_number(text, 2, &d->day) && take(text, FL_SLICE("-")) &&
                 take_month(text, d) && take(text, FL_SLICE("-")) &&
                 take_number(text, 2, &d->year) && take(text, FL_SLICE(" ")) &&
                 take_clock(text, d) && take(text, FL_SLICE(" GMT"));
    if (!taken) return false;
    int64_t this_year = date_from_days(now / DAY).year;
    d->year += this_year / 100 * 100;
    if (d->year > this_year + CENTURY_WINDOW) d->year -= 100;
    return true;
}

/* " Nov  6 08:49:37 1994" */
static bool take_asctime(fl_slice *text, date *d)
{
    if (!take(text, FL_SLICE(" ")) || !take_month(text, d) || !take(text, FL_SLICE(" ")))
        return false;
    bool day =
        take(text, FL_SLICE(" ")) ? take_number(text, 1, &d->day) : take_number(text, 2, &d->day);
    return day && take(text, FL_SLICE(" ")) && take_clock(text, d) && take(text, FL_SLICE(" ")) &&
           take_number(text, 4, &d->year);
}

static bool is_possible(const date *d)
{
    return d->day >= 1 && d->day <= month_length(d->year, d->month) && d->hour < 24 &&
           d->minute < 60 && d->second <= 60; /* a leap second */
}

bool fl_http_date_parse(fl_slice text, int64_t now, int64_t *seconds)
{
    date d;
    int64_t weekday;
    if (!take_name(&text, FL_SLICE(day_names), &weekday) || text.size == 0) return false;
    bool taken = text.data[0] == ','   ? take_fixdate(&text, &d)
                 : text.data[0] == ' ' ? take_asctime(&text, &d)
                                       : take_rfc850(&text, weekday, now, &d);
    if (!taken || text.size > 0 || !is_possible(&d)) return false;
    *seconds = date_to_days(&d) * DAY + d.hour * 3600 + d.minute * 60 + d.second;
    return true;
}

static fl_slice check_text(lua_State *L)
{
    fl_slice text;
    text.data = luaL_checklstring(L, 1, &text.size);
    return text;
}

/* escape_html(text) -> string   [-0, +1, e] */
static int module_escape_html(lua_State *L)
{
    fl_slice text = check_text(L);
    if (harmless(text) == text.size) {
        lua_settop(L, 1);
        return 1;
    }
    fl_buffer *out = fl_lua_buffer_take(L);
    fl_escape_html(text, out);
    return fl_lua_buffer_push(L, out);
}

/* percent_encode(text) -> string   [-0, +1, e] */
static int module_percent_encode(lua_State *L)
{
    fl_slice text = check_text(L);
    fl_buffer *out = fl_lua_buffer_take(L);
    fl_percent_encode(text, out);
    return fl_lua_buffer_push(L, out);
}

/* percent_decode(text) -> string | nil, message   [-0, +1|2, e] */
static int module_percent_decode(lua_State *L)
{
    fl_slice text = check_text(L);
    fl_buffer *out = fl_lua_buffer_take(L);
    if (fl_percent_decode(text, out)) return fl_lua_buffer_push(L, out);
    lua_pushnil(L);
    lua_pushliteral(L, "a % that is not followed by two hexadecimal digits");
    return 2;
}

/* http_date(seconds) -> string   [-0, +1, e] */
static int module_http_date(lua_State *L)
{
    char text[FL_HTTP_DATE_SIZE + 1];
    lua_Number seconds = luaL_checknumber(L, 1);
    bool in_range = seconds >= (lua_Number)EARLIEST && seconds < (lua_Number)LATEST + 1;
    luaL_argcheck(L, in_range, 1, "expected seconds since 1970, of the years 0 to 9999");
    int64_t whole = (int64_t)seconds;
    (void)fl_http_date(whole - ((lua_Number)whole > seconds), text);
    lua_pushlstring(L, text, FL_HTTP_DATE_SIZE);
    return 1;
}

/* parse_http_date(text) -> seconds | nil   [-0, +1, e] */
static int module_parse_http_date(lua_State *L)
{
    int64_t seconds;
    if (fl_http_date_parse(check_text(L), (int64_t)time(NULL), &seconds)) {
        lua_pushnumber(L, (lua_Number)seconds);
    } else {
        lua_pushnil(L);
    }
    return 1;
}

int fl_text_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"escape_html", module_escape_html},         {"percent_encode", module_percent_encode},
        {"percent_decode", module_percent_decode},   {"http_date", module_http_date},
        {"parse_http_date", module_parse_http_date}, {NULL, NULL},
    };
    lua_createtable(L, 0, (int)(sizeof(functions) / sizeof(functions[0])) - 1);
    fl_lua_buffer_new(L);
    luaL_setfuncs(L, functions, 1);
    return 1;
}
