/* fortunes: messages of a table, and the page that shows them, sorted and escaped. */
#ifndef BENCH_FORTUNES_H
#define BENCH_FORTUNES_H

#include "floor.h"

enum { fortune_limit = 32 };

typedef struct db_fortune {
    uint32_t id;
    size_t start, size; /* of its message in `text` */
} db_fortune;

typedef struct db_fortunes { /* zeros to begin with; `count` and `text.used` 0 to begin anew */
    size_t count;
    db_fortune list[fortune_limit];
    floor_buffer text;
} db_fortunes;

static inline const char *escape_of(char byte)
{
    switch (byte) {
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '&': return "&amp;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    default: return NULL;
    }
}

static inline void put_escaped(floor_buffer *body, const char *text, size_t size)
{
    size_t start = 0;
    for (size_t i = 0; i < size; i++) {
        const char *escape = escape_of(text[i]);
        if (!escape) continue;
        put(body, text + start, i - start);
        put_text(body, escape);
        start = i + 1;
    }
    put(body, text + start, size - start);
}

static inline void fortunes_add(db_fortunes *fortunes, uint32_t id, const char *message,
                                size_t size)
{
    if (fortunes->count == fortune_limit) return;
    fortunes->list[fortunes->count++] = (db_fortune){id, fortunes->text.used, size};
    put(&fortunes->text, message, size);
}

static inline int compare_messages(const db_fortunes *fortunes, const db_fortune *a,
                                   const db_fortune *b)
{
    const char *text = fortunes->text.bytes;
    size_t common = a->size < b->size ? a->size : b->size;
    int order = memcmp(text + a->start, text + b->start, common);
    return order ? order : (a->size > b->size) - (a->size < b->size);
}

/* By insertion: there are thirteen. */
static inline void sort_fortunes(db_fortunes *fortunes)
{
    for (size_t i = 1; i < fortunes->count; i++) {
        db_fortune moved = fortunes->list[i];
        size_t to = i;
        while (to && compare_messages(fortunes, &fortunes->list[to - 1], &moved) > 0) {
            fortunes->list[to] = fortunes->list[to - 1];
            to--;
        }
        fortunes->list[to] = moved;
    }
}

static inline void fortunes_put(floor_buffer *body, db_fortunes *fortunes)
{
    static const char added[] = "Additional fortune added at request time.";
    fortunes_add(fortunes, 0, added, sizeof(added) - 1);
    sort_fortunes(fortunes);
    put_text(body, "<!DOCTYPE html><html><head><title>Fortunes</title></head><body><table>"
                   "<tr><th>id</th><th>message</th></tr>");
    for (size_t i = 0; i < fortunes->count; i++) {
        const db_fortune *fortune = &fortunes->list[i];
        put_text(body, "<tr><td>");
        put_number(body, fortune->id);
        put_text(body, "</td><td>");
        put_escaped(body, fortunes->text.bytes + fortune->start, fortune->size);
        put_text(body, "</td></tr>");
    }
    put_text(body, "</table></body></html>");
}

#endif
