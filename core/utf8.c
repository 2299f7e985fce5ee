#include "utf8.h"

#define HIGH_BITS UINT64_C(0x8080808080808080)

static bool is_ascii(const uint8_t *eight)
{
    uint64_t word;
    memcpy(&word, eight, sizeof(word));
    return (word & HIGH_BITS) == 0;
}

static bool is_tail(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* Bytes of the well-formed sequence at `at` (Unicode 15 table 3-7), 0 when there is none. */
static inline size_t sequence_length(const uint8_t *at, const uint8_t *end)
{
    size_t left = (size_t)(end - at);
    uint8_t first = at[0];
    if (first < 0x80) return 1;
    if (first < 0xc2 || first > 0xf4 || left < 2 || !is_tail(at[1])) return 0;
    if (first < 0xe0) return 2;
    if (left < 3 || !is_tail(at[2])) return 0;
    if (first < 0xf0) {
        bool overlong = first == 0xe0 && at[1] < 0xa0;
        bool surrogate = first == 0xed && at[1] > 0x9f;
        return overlong || surrogate ? 0 : 3;
    }
    if (left < 4 || !is_tail(at[3])) return 0;
    bool overlong = first == 0xf0 && at[1] < 0x90;
    bool too_big = first == 0xf4 && at[1] > 0x8f;
    return overlong || too_big ? 0 : 4;
}

bool fl_utf8_valid(fl_slice text)
{
    if (text.size == 0) return true; /* its pointer may be NULL */
    const uint8_t *at = (const uint8_t *)text.data, *end = at + text.size;
    while (at < end) {
        if (end - at >= 8 && is_ascii(at)) {
            at += 8;
            continue;
        }
        size_t length = sequence_length(at, end);
        if (length == 0) return false;
        at += length;
    }
    return true;
}

const uint8_t *fl_utf8_skip(const uint8_t *at, const uint8_t *end)
{
    while (at < end && *at >= 0x80) {
        size_t length = sequence_length(at, end);
        if (length == 0) break;
        at += length;
    }
    return at;
}

size_t fl_utf8_decode(const uint8_t *at, const uint8_t *end, uint32_t *code)
{
    size_t length = sequence_length(at, end);
    if (length == 0) return 0;
    *code = length == 1 ? at[0] : at[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) *code = *code << 6 | (at[i] & 0x3fu);
    return length;
}

uint8_t *fl_utf8_encode(uint8_t *out, uint32_t code)
{
    if (code < 0x80) {
        *out++ = (uint8_t)code;
        return out;
    }
    if (code < 0x800) {
        *out++ = (uint8_t)(0xc0 | code >> 6);
    } else if (code < 0x10000) {
        *out++ = (uint8_t)(0xe0 | code >> 12);
        *out++ = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    } else {
        *out++ = (uint8_t)(0xf0 | code >> 18);
        *out++ = (uint8_t)(0x80 | (code >> 12 & 0x3f));
        *out++ = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    }
    *out++ = (uint8_t)(0x80 | (code & 0x3f));
    return out;
}
