/* slice: text from the network, a file or a Lua string, as pointer and length.
 *
 * A slice owns nothing: it lives as long as the bytes it points into, which the function that
 * returns it states. It is never NUL-terminated. Pure functions, any thread. */
#ifndef FL_SLICE_H
#define FL_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef struct fl_slice {
    const char *data;
    size_t size;
} fl_slice;

#define FL_SLICE(literal) ((fl_slice){(literal), sizeof(literal) - 1})

static inline fl_slice fl_slice_of(const char *data, size_t size)
{
    return (fl_slice){data, size};
}

static inline fl_slice fl_slice_from_string(const char *string)
{
    return (fl_slice){string, strlen(string)};
}

static inline bool fl_slice_equal(fl_slice a, fl_slice b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static inline char fl_lower(char c)
{
    return (c >= 'A' && c <= 'Z') ? (char)(c | 0x20) : c;
}

/* Letters, digits and "_", no digit first. */
static inline bool fl_slice_is_name(fl_slice text)
{
    for (size_t i = 0; i < text.size; i++) {
        char lower = fl_lower(text.data[i]);
        bool digit = lower >= '0' && lower <= '9';
        if (lower != '_' && !(lower >= 'a' && lower <= 'z') && !(digit && i > 0)) return false;
    }
    return text.size > 0;
}

/* ASCII only, as header names and tokens need it (RFC 9110 section 5.1). */
static inline bool fl_slice_equal_nocase(fl_slice a, fl_slice b)
{
    if (a.size != b.size) return false;
    for (size_t i = 0; i < a.size; i++)
        if (fl_lower(a.data[i]) != fl_lower(b.data[i])) return false;
    return true;
}

#endif
