/* floor: what both floors need: the bytes of an answer, the date in its head, a listener that
 * threads share. Each is one file; these parts are the same. No model for the core. */
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { date_size = 29 };

typedef struct floor_buffer {
    char *bytes;
    size_t used, size;
} floor_buffer;

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

static inline void buffer_reserve(floor_buffer *buffer, size_t more)
{
    if (buffer->used + more <= buffer->size) return;
    while (buffer->size < buffer->used + more)
        buffer->size = buffer->size ? buffer->size * 2 : 4096;
    buffer->bytes = realloc(buffer->bytes, buffer->size);
    if (!buffer->bytes) die("realloc");
}

static inline void put(floor_buffer *buffer, const void *bytes, size_t size)
{
    if (!size) return;
    buffer_reserve(buffer, size);
    memcpy(buffer->bytes + buffer->used, bytes, size);
    buffer->used += size;
}

static inline void put_text(floor_buffer *buffer, const char *text)
{
    put(buffer, text, strlen(text));
}

static inline void put_number(floor_buffer *buffer, size_t number)
{
    char digits[20];
    size_t first = sizeof(digits);
    do {
        digits[--first] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    put(buffer, digits + first, sizeof(digits) - first);
}

static inline void buffer_consume(floor_buffer *buffer, size_t size)
{
    buffer->used -= size;
    if (buffer->used) memmove(buffer->bytes, buffer->bytes + size, buffer->used);
}

/* As a head has it; of date_size bytes and a NUL. */
static inline void write_date(char date[date_size + 1], time_t now)
{
    struct tm utc;
    (void)strftime(date, date_size + 1, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &utc));
}

static inline int listening_socket(uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 2048)) die("listen");
    return fd;
}

#endif
