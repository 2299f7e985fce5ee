#include "statements.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "buffer.h"

#define BUCKETS 1024 /* a power of two */
#define EXPANDED 8   /* combinations of lists' lengths that are kept of one text */
#define SETTLED 16   /* runs, after which one outlier says little */

typedef struct expansion {
    uint32_t *lengths; /* NULL: not used */
    fl_statement *statement;
} expansion;

typedef struct entry {
    fl_template template;
    char *text;
    size_t size;
    size_t bytes; /* of its texts */
    uint64_t hash;
    struct entry *chain;          /* of the same bucket */
    struct entry *newer, *older;  /* by last use */
    fl_statement *single;         /* without lists; NULL: not made yet */
    expansion expanded[EXPANDED]; /* the oldest is replaced */
    unsigned next_expanded;
} entry;

struct fl_statements {
    fl_sql_dialect dialect;
    entry *buckets[BUCKETS];
    entry *newest, *oldest;
    unsigned count;
    size_t bytes;
    uint64_t last_id;
};

/* statements */

static char *copy_text(const char *data, size_t size)
{
    char *text = malloc(size + 1);
    if (!text) return NULL;
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    return text;
}

int fl_statement_new(fl_statement **out, fl_statements *statements, fl_slice text, fl_sql_kind kind,
                     const char *verb)
{
    fl_statement *statement = calloc(1, sizeof(*statement));
    if (!statement) return UV_ENOMEM;
    statement->text = copy_text(text.data, text.size);
    if (!statement->text) {
        free(statement);
        return UV_ENOMEM;
    }
    statement->references = 1;
    statement->id = ++statements->last_id;
    statement->size = text.size;
    statement->kind = kind;
    statement->verb = verb;
    *out = statement;
    return 0;
}

void fl_statement_hold(fl_statement *statement)
{
    statement->references++;
}

void fl_statement_release(fl_statement *statement)
{
    if (!statement || --statement->references > 0) return;
    if (statement->forget) statement->forget(statement->known);
    free(statement->text);
    free(statement);
}

/* It moves up by a twentieth part and down by what keeps nineteen of twenty below it; faster in the
 * beginning, so that it is near after a few runs. */
void fl_statement_took(fl_statement *statement, uint64_t nanoseconds)
{
    uint64_t p95 = statement->p95;
    if (statement->runs++ == 0) {
        statement->p95 = nanoseconds ? nanoseconds : 1;
        return;
    }
    uint64_t step = (p95 > nanoseconds ? p95 : nanoseconds) / (statement->runs < SETTLED ? 4 : 16);
    if (nanoseconds > p95)
        p95 += step < nanoseconds - p95 ? step : nanoseconds - p95;
    else
        p95 -= step / 19 < p95 ? step / 19 : p95 - 1;
    statement->p95 = p95 ? p95 : 1;
}

/* templates */

static uint64_t hash_of(fl_slice text)
{
    uint64_t hash = 0xcbf29ce484222325u ^ text.size;
    size_t at = 0;
    for (; at + 8 <= text.size; at += 8) {
        uint64_t word;
        memcpy(&word, text.data + at, 8);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    for (; at < text.size; at++) hash = (hash ^ (uint8_t)text.data[at]) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

static void leave_order(fl_statements *self, entry *e)
{
    if (e->newer)
        e->newer->older = e->older;
    else
        self->newest = e->older;
    if (e->older)
        e->older->newer = e->newer;
    else
        self->oldest = e->newer;
}

static void become_newest(fl_statements *self, entry *e)
{
    e->newer = NULL;
    e->older = self->newest;
    if (e->older) e->older->newer = e;
    self->newest = e;
    if (!self->oldest) self->oldest = e;
}

static void free_entry(entry *e)
{
    fl_statement_release(e->single);
    for (unsigned i = 0; i < EXPANDED; i++) {
        fl_statement_release(e->expanded[i].statement);
        free(e->expanded[i].lengths);
    }
    fl_sql_close(&e->template.sql);
    free(e->text);
    free(e);
}

static void drop_oldest(fl_statements *self)
{
    entry *e = self->oldest, **link = &self->buckets[e->hash & (BUCKETS - 1)];
    while (*link != e) link = &(*link)->chain;
    *link = e->chain;
    leave_order(self, e);
    self->count--;
    self->bytes -= e->bytes;
    free_entry(e);
}

static void add_bytes(fl_statements *self, entry *e, size_t bytes)
{
    e->bytes += bytes;
    self->bytes += bytes;
    while (self->bytes > FL_STATEMENTS_BYTES && self->oldest != e) drop_oldest(self);
}

static void remove_bytes(fl_statements *self, entry *e, size_t bytes)
{
    e->bytes -= bytes;
    self->bytes -= bytes;
}

static size_t size_of_lengths(const entry *e)
{
    return e->template.sql.parameters * sizeof(uint32_t);
}

static int add(fl_statements *self, entry **out, fl_slice text, uint64_t hash, char *error,
               size_t error_size)
{
    entry *e = calloc(1, sizeof(*e));
    if (!e) return UV_ENOMEM;
    int status = fl_sql_read(&e->template.sql, self->dialect, text, error, error_size);
    if (status < 0) {
        free(e);
        return status;
    }
    e->text = copy_text(text.data, text.size);
    e->size = text.size;
    e->hash = hash;
    if (!e->text) {
        free_entry(e);
        return UV_ENOMEM;
    }
    if (self->count == FL_STATEMENTS_MOST) drop_oldest(self);
    self->count++;
    e->chain = self->buckets[hash & (BUCKETS - 1)];
    self->buckets[hash & (BUCKETS - 1)] = e;
    become_newest(self, e);
    add_bytes(self, e, sizeof(*e) + e->size + e->template.sql.text.capacity);
    *out = e;
    return 0;
}

int fl_statements_find(fl_statements *self, fl_template **out, fl_slice text, char *error,
                       size_t error_size)
{
    uint64_t hash = hash_of(text);
    entry *e = self->buckets[hash & (BUCKETS - 1)];
    while (e &&
           !(e->hash == hash && e->size == text.size && memcmp(e->text, text.data, text.size) == 0))
        e = e->chain;
    int status = e ? 0 : add(self, &e, text, hash, error, error_size);
    if (status < 0) return status;
    if (self->newest != e) {
        leave_order(self, e);
        become_newest(self, e);
    }
    *out = &e->template;
    return 0;
}

/* expanding */

static int make(fl_statements *self, fl_statement **out, const fl_sql *sql, const uint32_t *lengths)
{
    fl_buffer text;
    fl_buffer_init(&text);
    int status = fl_sql_write(sql, lengths, &text);
    if (status == 0)
        status =
            fl_statement_new(out, self, fl_slice_of(text.data, text.size), sql->kind, sql->verb);
    fl_buffer_close(&text);
    if (status < 0) return status;
    uint32_t count = sql->parameters;
    for (uint32_t i = 0; lengths && i < sql->parameters; i++)
        if (lengths[i] != FL_SQL_SINGLE) count += lengths[i] - 1;
    (*out)->parameters = count;
    return 0;
}

static fl_statement *find_expanded(const entry *e, const uint32_t *lengths)
{
    size_t size = size_of_lengths(e);
    for (unsigned i = 0; i < EXPANDED; i++)
        if (e->expanded[i].lengths && memcmp(e->expanded[i].lengths, lengths, size) == 0)
            return e->expanded[i].statement;
    return NULL;
}

static void drop_expanded(fl_statements *self, entry *e, expansion *place)
{
    if (!place->statement) return;
    remove_bytes(self, e, place->statement->size + size_of_lengths(e));
    fl_statement_release(place->statement);
    free(place->lengths);
    *place = (expansion){0};
}

static void keep_expanded(fl_statements *self, entry *e, const uint32_t *lengths,
                          fl_statement *statement)
{
    size_t size = size_of_lengths(e);
    uint32_t *copy = malloc(size);
    if (!copy) return; /* made anew each time */
    memcpy(copy, lengths, size);
    expansion *place = &e->expanded[e->next_expanded++ % EXPANDED];
    drop_expanded(self, e, place);
    fl_statement_hold(statement);
    *place = (expansion){copy, statement};
    add_bytes(self, e, statement->size + size);
}

int fl_statements_expand(fl_statements *self, fl_statement **out, fl_template *template,
                         const uint32_t *lengths)
{
    entry *e = (entry *)template;
    fl_statement *found = lengths ? find_expanded(e, lengths) : e->single;
    if (found) {
        fl_statement_hold(found);
        *out = found;
        return 0;
    }
    int status = make(self, out, &e->template.sql, lengths);
    if (status < 0) return status;
    if (lengths) {
        keep_expanded(self, e, lengths, *out);
    } else {
        fl_statement_hold(*out);
        e->single = *out;
        add_bytes(self, e, (*out)->size);
    }
    return 0;
}

int fl_statements_new(fl_statements **out, fl_sql_dialect dialect)
{
    fl_statements *self = calloc(1, sizeof(*self));
    if (!self) return UV_ENOMEM;
    self->dialect = dialect;
    *out = self;
    return 0;
}

void fl_statements_free(fl_statements *self)
{
    if (!self) return;
    while (self->oldest) drop_oldest(self);
    free(self);
}
