/* postgres_messages: what a client sends to PostgreSQL, by its wire protocol, version 3: each
 * message is a type, a length that counts itself, and the content. */
#ifndef BENCH_POSTGRES_MESSAGES_H
#define BENCH_POSTGRES_MESSAGES_H

#include "floor.h"

static inline void put_int16(floor_buffer *buffer, uint16_t value)
{
    value = htons(value);
    put(buffer, &value, sizeof(value));
}

static inline void put_int32(floor_buffer *buffer, uint32_t value)
{
    value = htonl(value);
    put(buffer, &value, sizeof(value));
}

static inline uint32_t int32_at(const char *bytes)
{
    uint32_t value = 0;
    memcpy(&value, bytes, sizeof(value));
    return ntohl(value);
}

static inline size_t message_begin(floor_buffer *output, char type)
{
    if (type) put(output, &type, 1);
    size_t start = output->used;
    put_int32(output, 0);
    return start;
}

static inline void message_end(floor_buffer *output, size_t start)
{
    uint32_t length = htonl((uint32_t)(output->used - start));
    memcpy(output->bytes + start, &length, sizeof(length));
}

static inline void put_string(floor_buffer *output, const char *text)
{
    put(output, text, strlen(text) + 1);
}

static inline void put_start_up(floor_buffer *output)
{
    size_t start = message_begin(output, 0);
    put_int32(output, 3 << 16); /* version 3.0 */
    put_string(output, "user");
    put_string(output, getenv("PGUSER"));
    put_string(output, "database");
    put_string(output, getenv("PGDATABASE"));
    put_string(output, "");
    message_end(output, start);
}

static inline void put_parse(floor_buffer *output, const char *name, const char *statement)
{
    size_t start = message_begin(output, 'P');
    put_string(output, name);
    put_string(output, statement);
    put_int16(output, 0); /* the server infers all types of parameters */
    message_end(output, start);
}

static inline size_t bind_begin(floor_buffer *output, const char *statement, uint16_t parameters)
{
    size_t start = message_begin(output, 'B');
    put_string(output, ""); /* the unnamed portal */
    put_string(output, statement);
    put_int16(output, 1);
    put_int16(output, 1); /* all parameters are binary */
    put_int16(output, parameters);
    return start;
}

static inline void bind_end(floor_buffer *output, size_t start)
{
    put_int16(output, 1);
    put_int16(output, 1); /* all results are binary */
    message_end(output, start);
}

static inline void put_sync(floor_buffer *output)
{
    message_end(output, message_begin(output, 'S'));
}

static inline void put_execute_and_sync(floor_buffer *output)
{
    size_t start = message_begin(output, 'E');
    put_string(output, "");
    put_int32(output, 0); /* all rows */
    message_end(output, start);
    put_sync(output);
}

#endif
