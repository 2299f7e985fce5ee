#include "slot.h"

#include <string.h>

#define SLOTS 16384

static unsigned crc16(const char *data, size_t size)
{
    unsigned crc = 0;
    for (size_t i = 0; i < size; i++) {
        crc ^= (unsigned)(unsigned char)data[i] << 8;
        for (int bit = 0; bit < 8; bit++) crc = (crc << 1 ^ (crc & 0x8000 ? 0x1021u : 0)) & 0xffff;
    }
    return crc;
}

unsigned fl_redis_slot(fl_slice key)
{
    const char *open = memchr(key.data, '{', key.size);
    const char *close = open ? memchr(open, '}', key.size - (size_t)(open - key.data)) : NULL;
    if (close && close > open + 1) key = fl_slice_of(open + 1, (size_t)(close - open - 1));
    return crc16(key.data, key.size) % SLOTS;
}
