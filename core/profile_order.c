#include "profile_order.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#define VALUE_MOST 256 /* with its end */

typedef struct range {
    const char *name, *meaning;
    double least, most;
    bool whole;
} range;

static const range seconds_range = {"seconds", "a number from 0.1 to 300", 0.1, 300, false};
static const range thread_range = {"thread", "the number of a web thread", 0, 65535, true};
static const range interval_range = {"interval", "a whole number of milliseconds from 1 to 1000", 1,
                                     1000, true};

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9') return digit - '0';
    char letter = fl_lower(digit);
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

/* Percent-decodes; false: too long, malformed or with a zero byte. */
static bool decode(char value[VALUE_MOST], fl_slice text)
{
    size_t size = 0;
    for (size_t i = 0; i < text.size; i++) {
        char byte = text.data[i] == '+' ? ' ' : text.data[i];
        if (byte == '%') {
            int high = i + 2 < text.size ? hex_value(text.data[i + 1]) : -1;
            int low = i + 2 < text.size ? hex_value(text.data[i + 2]) : -1;
            if (high < 0 || low < 0) return false;
            byte = (char)(high * 16 + low);
            i += 2;
        }
        if (byte == '\0' || size + 1 >= VALUE_MOST) return false;
        value[size++] = byte;
    }
    value[size] = '\0';
    return true;
}

static int read_number(double *number, const char *value, const range *bounds, char *why,
                       size_t size)
{
    const char *digits = bounds->whole ? "0123456789" : "0123456789.";
    char *end = NULL;
    *number = strtod(value, &end);
    bool is_number = *value && end && !*end && value[strspn(value, digits)] == '\0';
    if (is_number && *number >= bounds->least && *number <= bounds->most) return 0;
    (void)snprintf(why, size, "%s=%s: expected %s", bounds->name, value, bounds->meaning);
    return UV_EINVAL;
}

static int set(fl_profile_order *order, fl_slice name, const char *value, char *why, size_t size)
{
    double number = 0;
    int status = 0;
    if (fl_slice_equal(name, FL_SLICE("app"))) {
        (void)snprintf(order->app, sizeof(order->app), "%s", value);
    } else if (fl_slice_equal(name, FL_SLICE("seconds"))) {
        status = read_number(&number, value, &seconds_range, why, size);
        if (status == 0) order->milliseconds = (unsigned)(number * 1000 + 0.5);
    } else if (fl_slice_equal(name, FL_SLICE("thread"))) {
        status = read_number(&number, value, &thread_range, why, size);
        if (status == 0) order->thread = (int)number;
    } else if (fl_slice_equal(name, FL_SLICE("interval"))) {
        status = read_number(&number, value, &interval_range, why, size);
        if (status == 0) order->interval = (unsigned)number;
    } else {
        status = UV_EINVAL;
        (void)snprintf(why, size, "%.*s: expected seconds, app, thread or interval",
                       (int)(name.size < 64 ? name.size : 64), name.data);
    }
    return status;
}

static int set_pair(fl_profile_order *order, fl_slice pair, char *why, size_t size)
{
    char value[VALUE_MOST];
    const char *equals = memchr(pair.data, '=', pair.size);
    size_t name_size = equals ? (size_t)(equals - pair.data) : pair.size;
    size_t at = equals ? name_size + 1 : name_size;
    if (decode(value, fl_slice_of(pair.data + at, pair.size - at)))
        return set(order, fl_slice_of(pair.data, name_size), value, why, size);
    (void)snprintf(why, size, "%.*s: malformed value", (int)(name_size < 64 ? name_size : 64),
                   pair.data);
    return UV_EINVAL;
}

int fl_profile_order_parse(fl_profile_order *order, fl_slice query, char *why, size_t size)
{
    *order = (fl_profile_order){.thread = -1, .milliseconds = 10000, .interval = 4};
    for (size_t at = 0; at < query.size;) {
        const char *start = query.data + at;
        const char *ampersand = memchr(start, '&', query.size - at);
        size_t length = ampersand ? (size_t)(ampersand - start) : query.size - at;
        int status = length ? set_pair(order, fl_slice_of(start, length), why, size) : 0;
        if (status < 0) return status;
        at += length + 1;
    }
    return 0;
}
