/* answer: reads a server's answers, one after another, as far as a client of ours looks: the
 * status, where each ends, whether it is the last. */
#ifndef BENCH_ANSWER_H
#define BENCH_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { line_size = 64 }; /* longer lines are cut: only their beginning matters */

typedef enum answer_part {
    ANSWER_STATUS,
    ANSWER_HEADERS,
    ANSWER_BODY,
    ANSWER_CHUNK_SIZE,
    ANSWER_CHUNK,
    ANSWER_CHUNK_END,
    ANSWER_TRAILERS,
} answer_part;

typedef struct load_answer {
    answer_part part;
    int status;
    bool is_chunked, is_last, is_begun;
    uint64_t remaining;
    char line[line_size];
    size_t line_used;
} load_answer;

static inline bool line_starts(const load_answer *answer, const char *text)
{
    return strncasecmp(answer->line, text, strlen(text)) == 0;
}

static inline void read_header(load_answer *answer)
{
    if (line_starts(answer, "content-length:"))
        answer->remaining = strtoull(answer->line + strlen("content-length:"), NULL, 10);
    else if (line_starts(answer, "transfer-encoding: chunked"))
        answer->is_chunked = true;
    else if (line_starts(answer, "connection: close"))
        answer->is_last = true;
}

/* True when the answer ends with its head. Interim answers (RFC 9110 15.2) are passed over. */
static inline bool end_head(load_answer *answer)
{
    if (answer->status < 200)
        answer->part = ANSWER_STATUS;
    else if (answer->is_chunked)
        answer->part = ANSWER_CHUNK_SIZE;
    else
        answer->part = ANSWER_BODY;
    return answer->part == ANSWER_BODY && answer->remaining == 0;
}

static inline bool end_line(load_answer *answer)
{
    bool is_empty = answer->line_used == 0;
    answer->line[answer->line_used] = 0;
    answer->line_used = 0;
    switch (answer->part) {
    case ANSWER_STATUS:
        answer->status = line_starts(answer, "HTTP/1.") ? atoi(answer->line + 9) : 0;
        answer->part = ANSWER_HEADERS;
        return false;
    case ANSWER_HEADERS:
        if (is_empty) return end_head(answer);
        read_header(answer);
        return false;
    case ANSWER_CHUNK_SIZE:
        answer->remaining = strtoull(answer->line, NULL, 16);
        answer->part = answer->remaining ? ANSWER_CHUNK : ANSWER_TRAILERS;
        return false;
    case ANSWER_CHUNK_END: answer->part = ANSWER_CHUNK_SIZE; return false;
    case ANSWER_TRAILERS: return is_empty;
    case ANSWER_BODY:
    case ANSWER_CHUNK: break;
    }
    return false;
}

static inline bool read_byte(load_answer *answer, char byte)
{
    if (byte == '\n') return end_line(answer);
    if (byte != '\r' && answer->line_used < line_size - 1) answer->line[answer->line_used++] = byte;
    return false;
}

/* Reads up to the end of one answer and sets *is_complete there. Returns the bytes it took. */
static inline size_t answer_read(load_answer *answer, const char *bytes, size_t size,
                                 bool *is_complete)
{
    size_t used = 0;
    answer->is_begun = true;
    *is_complete = false;
    while (used < size && !*is_complete) {
        if (answer->part != ANSWER_BODY && answer->part != ANSWER_CHUNK) {
            *is_complete = read_byte(answer, bytes[used++]);
            continue;
        }
        size_t part = size - used < answer->remaining ? size - used : (size_t)answer->remaining;
        used += part;
        answer->remaining -= part;
        if (answer->remaining) break;
        if (answer->part == ANSWER_BODY)
            *is_complete = true;
        else
            answer->part = ANSWER_CHUNK_END;
    }
    return used;
}

#endif
