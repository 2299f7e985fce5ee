#include "json_string.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "utf8.h"

#define EACH_BYTE(byte) (UINT64_C(0x0101010101010101) * (byte))

static uint64_t eight_bytes(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof(word));
    return word;
}

static uint64_t has_zero(uint64_t word)
{
    return (word - EACH_BYTE(1)) & ~word;
}

static bool all_plain(uint64_t word)
{
    uint64_t below_space = (word - EACH_BYTE(0x20)) & ~word;
    uint64_t marks = has_zero(word ^ EACH_BYTE('"')) | has_zero(word ^ EACH_BYTE('\\'));
    return ((word | below_space | marks) & EACH_BYTE(0x80)) == 0;
}

#ifdef __SSE2__
static unsigned special_mask(const uint8_t *at)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
    __m128i controls = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
    __m128i quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
    __m128i backslashes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));
    __m128i special = _mm_or_si128(_mm_or_si128(controls, quotes), backslashes);
    return (unsigned)_mm_movemask_epi8(_mm_or_si128(special, bytes));
}
#endif

/* The first byte that is a quote, a backslash, a control character or no ASCII. */
static const uint8_t *plain_end(const uint8_t *at, const uint8_t *end)
{
#ifdef __SSE2__
    for (; end - at >= 16; at += 16) {
        unsigned special = special_mask(at);
        if (special) return at + __builtin_ctz(special);
    }
#endif
    while (end - at >= 8 && all_plain(eight_bytes(at))) at += 8;
    while (at < end && fl_json_is_plain(*at)) at++;
    return at;
}

static void write_escape(fl_buffer *out, uint8_t byte)
{
    static const char hex[] = "0123456789abcdef";
    static const char letters[32] = {
        ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
    char letter = byte >= 0x20 ? (char)byte : letters[byte];
    if (letter) {
        fl_buffer_append(out, (char[]){'\\', letter}, 2);
    } else {
        fl_buffer_append(out, (char[]){'\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15]}, 6);
    }
}

const uint8_t *fl_json_string_stop(const uint8_t *at, const uint8_t *end)
{
    for (;;) {
        at = plain_end(at, end);
        if (at == end || *at < 0x80) return at;
        at = fl_utf8_skip(at, end);
        if (at < end && *at >= 0x80) return at;
    }
}

bool fl_json_string_write(fl_buffer *out, fl_slice text)
{
    const uint8_t *at = (const uint8_t *)text.data, *end = at + text.size;
    if (!fl_buffer_room(out, text.size + 2)) return true;
    fl_buffer_byte(out, '"');
    for (;;) {
        const uint8_t *stop = fl_json_string_stop(at, end);
        fl_buffer_append(out, (const char *)at, (size_t)(stop - at));
        if (stop == end) break;
        if (*stop >= 0x80) return false;
        write_escape(out, *stop);
        at = stop + 1;
    }
    fl_buffer_byte(out, '"');
    return true;
}
