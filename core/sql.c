#include "sql.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "sql_scan.h"
#include "sql_statement.h"

#define MOST_PARAMETERS 65535 /* of any dialect */
#define BEFORE 4              /* tokens that are kept: not in ( ? */

/* A token and where it stands in the template. */
typedef struct fl_sql_place {
    fl_sql_token token;
    size_t at;
} fl_sql_place;

typedef struct fl_sql_reading {
    fl_sql *sql;
    fl_sql_scan scan;
    fl_sql_statement statement;
    fl_sql_place before[BEFORE]; /* the last one first */
    size_t copied;               /* of the text, into the template */
    bool has_ended;              /* there was a `;` */
    size_t numbered_at;          /* of the highest $n */
    uint64_t numbers[(MOST_PARAMETERS + 64) / 64];
    char *error;
    size_t error_size;
} fl_sql_reading;

__attribute__((format(printf, 2, 3))) static int refuse(fl_sql_reading *reading, const char *format,
                                                        ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(reading->error, reading->error_size, format, arguments);
    va_end(arguments);
    return UV_EINVAL;
}

/* Copies the text up to `end`; what lies there takes a place in the template of its own. */
static void copy_until(fl_sql_reading *reading, size_t end)
{
    fl_buffer_append(&reading->sql->text, reading->scan.text.data + reading->copied,
                     end - reading->copied);
    reading->copied = end;
}

static bool touches(const fl_sql_reading *reading, size_t at)
{
    return at < reading->scan.text.size && fl_sql_is_name_byte(reading->scan.text.data[at]);
}

static bool grow_marks(fl_sql *sql)
{
    if (sql->mark_count < sql->mark_capacity) return true;
    uint32_t capacity = sql->mark_capacity ? sql->mark_capacity * 2 : 8;
    fl_sql_mark *marks = realloc(sql->marks, capacity * sizeof(*marks));
    if (!marks) return false;
    sql->marks = marks;
    sql->mark_capacity = capacity;
    return true;
}

/* `a?b` would become the name a$1b. */
static int take_placeholder(fl_sql_reading *reading, fl_sql_token token)
{
    fl_sql *sql = reading->sql;
    bool spaces = sql->dialect == FL_SQL_POSTGRES;
    uint32_t most = fl_sql_most_parameters(sql->dialect);
    if (sql->mark_count == most)
        return refuse(reading, "more than %u parameters: one more at byte %zu", most, token.at + 1);
    if (!grow_marks(sql)) return UV_ENOMEM;
    copy_until(reading, token.at);
    reading->copied = token.at + 1;
    if (spaces && token.at > 0 && touches(reading, token.at - 1)) fl_buffer_byte(&sql->text, ' ');
    sql->marks[sql->mark_count++] = (fl_sql_mark){.at = (uint32_t)sql->text.size};
    if (spaces && touches(reading, token.at + 1)) fl_buffer_byte(&sql->text, ' ');
    return 0;
}

static int take_numbered(fl_sql_reading *reading, fl_sql_token token)
{
    uint32_t number = 0;
    for (size_t i = 1; i < token.text.size && number <= MOST_PARAMETERS; i++)
        number = number * 10 + (uint32_t)(token.text.data[i] - '0');
    if (number > MOST_PARAMETERS)
        return refuse(reading, "more than %d parameters at byte %zu", MOST_PARAMETERS,
                      token.at + 1);
    if (number == 0)
        return refuse(reading, "$0 at byte %zu: parameters begin with $1", token.at + 1);
    reading->numbers[number / 64] |= UINT64_C(1) << number % 64;
    if (number <= reading->sql->parameters) return 0;
    reading->sql->parameters = number;
    reading->numbered_at = token.at;
    return 0;
}

static int check_mixture(fl_sql_reading *reading, fl_sql_token token)
{
    bool is_numbered = token.type == FL_SQL_TOKEN_NUMBERED;
    if (is_numbered ? reading->sql->mark_count == 0 : reading->sql->parameters == 0) return 0;
    return refuse(reading,
                  "%s at byte %zu behind %s: use one of the two (two ? are the operator ?)",
                  is_numbered ? "a $n" : "a ?", token.at + 1, is_numbered ? "a ?" : "a $n");
}

static int take_parameter(fl_sql_reading *reading, fl_sql_token token)
{
    int status = check_mixture(reading, token);
    if (status) return status;
    if (token.type == FL_SQL_TOKEN_NUMBERED) return take_numbered(reading, token);
    return take_placeholder(reading, token);
}

/* At the `)` of what may be `in (?)`. */
static void take_parenthesis(fl_sql_reading *reading, size_t end)
{
    fl_sql *sql = reading->sql;
    const fl_sql_place *before = reading->before;
    if (before[0].token.type != FL_SQL_TOKEN_PLACEHOLDER ||
        !fl_sql_token_is_sign(before[1].token, '(') || !fl_sql_token_is_word(before[2].token, "IN"))
        return;
    fl_sql_mark *mark = &sql->marks[sql->mark_count - 1];
    mark->is_list = true;
    mark->is_negated = fl_sql_token_is_word(before[3].token, "NOT");
    mark->in = (uint32_t)before[mark->is_negated ? 3 : 2].at;
    mark->end = (uint32_t)end;
}

static void remember(fl_sql_reading *reading, fl_sql_token token, size_t at)
{
    memmove(reading->before + 1, reading->before, (BEFORE - 1) * sizeof(*reading->before));
    reading->before[0] = (fl_sql_place){token, at};
    fl_sql_statement_take(&reading->statement, token);
}

static int take_sign(fl_sql_reading *reading, fl_sql_token token, size_t at)
{
    if (fl_sql_token_is_sign(token, ')')) take_parenthesis(reading, at + 1);
    if (!fl_sql_token_is_sign(token, ';') || fl_sql_statement_goes_on(&reading->statement))
        return 0;
    if (!reading->statement.has_begun)
        return refuse(reading, "an empty statement at byte %zu", token.at + 1);
    reading->has_ended = true;
    copy_until(reading, token.at);
    return 0;
}

static int take_by_type(fl_sql_reading *reading, fl_sql_token token, size_t at)
{
    switch (token.type) {
    case FL_SQL_TOKEN_PLACEHOLDER:
    case FL_SQL_TOKEN_NUMBERED: return take_parameter(reading, token);
    case FL_SQL_TOKEN_SIGN: return take_sign(reading, token, at);
    case FL_SQL_TOKEN_QUESTION:
        copy_until(reading, token.at + 1);
        reading->copied++;
        return 0;
    case FL_SQL_TOKEN_BAD:
        return refuse(reading, "%s at byte %zu%s", reading->scan.problem, token.at + 1,
                      reading->scan.hint);
    case FL_SQL_TOKEN_WORD:
    case FL_SQL_TOKEN_QUOTED:
    case FL_SQL_TOKEN_STRING:
    case FL_SQL_TOKEN_NUMBER:
    case FL_SQL_TOKEN_END: return 0;
    }
    return 0;
}

static int take(fl_sql_reading *reading, fl_sql_token token)
{
    size_t at = reading->sql->text.size + (token.at - reading->copied);
    if (reading->has_ended && token.type != FL_SQL_TOKEN_BAD)
        return refuse(reading, "more than one statement: another begins at byte %zu", token.at + 1);
    int status = take_by_type(reading, token, at);
    if (status == 0 && !reading->has_ended) remember(reading, token, at);
    return status;
}

static int check_numbers(fl_sql_reading *reading)
{
    for (uint32_t number = 1; number < reading->sql->parameters; number++)
        if (!(reading->numbers[number / 64] >> number % 64 & 1))
            return refuse(reading, "$%u at byte %zu, but no $%u", reading->sql->parameters,
                          reading->numbered_at + 1, number);
    return 0;
}

/* A body that goes on to the end of the text ends before the last `;`. */
static int finish(fl_sql_reading *reading)
{
    fl_sql *sql = reading->sql;
    const fl_sql_token *last = &reading->before[0].token;
    if (!reading->statement.has_begun)
        return refuse(reading, "an empty statement at byte %zu", reading->scan.text.size + 1);
    if (!reading->has_ended)
        copy_until(reading, fl_sql_token_is_sign(*last, ';') ? last->at : reading->scan.text.size);
    sql->kind = fl_sql_statement_kind(&reading->statement, &sql->verb);
    if (sql->text.failed) return UV_ENOMEM;
    if (sql->mark_count == 0) return check_numbers(reading);
    sql->parameters = sql->mark_count;
    return 0;
}

static int read_tokens(fl_sql_reading *reading)
{
    for (;;) {
        fl_sql_token token = fl_sql_scan_next(&reading->scan);
        if (token.type == FL_SQL_TOKEN_END) return finish(reading);
        int status = take(reading, token);
        if (status) return status;
    }
}

static int check_text(fl_sql_reading *reading, fl_slice text)
{
    if (text.size > FL_SQL_TEXT_SIZE)
        return refuse(reading, "a statement of %zu bytes: more than %zu", text.size,
                      FL_SQL_TEXT_SIZE);
    if (text.size == 0) return refuse(reading, "an empty statement at byte 1");
    const char *nul = memchr(text.data, '\0', text.size);
    if (nul) return refuse(reading, "a NUL byte at byte %zu", (size_t)(nul - text.data) + 1);
    return fl_buffer_room(&reading->sql->text, text.size) ? 0 : UV_ENOMEM;
}

static void write_placeholders(const fl_sql *sql, uint32_t first, uint32_t count, fl_buffer *out)
{
    bool is_numbered = sql->dialect == FL_SQL_POSTGRES;
    for (uint32_t i = 0; i < count; i++) {
        if (i > 0) fl_buffer_byte(out, ',');
        fl_buffer_byte(out, is_numbered ? '$' : '?');
        if (is_numbered) fl_buffer_number(out, first + i);
    }
}

/* PostgreSQL: `null` in a subselect would be text and `in (null)` is neither true nor false; the
 * operator binds as `in` does, and `'{}'` takes its type from the left side. */
static void write_empty_list(const fl_sql *sql, const fl_sql_mark *mark, fl_buffer *out)
{
    static const char *const forms[][2] = {
        [FL_SQL_POSTGRES] = {"operator(=) any ('{}')", "operator(<>) all ('{}')"},
        [FL_SQL_SQLITE] = {"in ()", "not in ()"},
        [FL_SQL_MARIADB] = {"in (select null from dual where false)",
                            "not in (select null from dual where false)"},
    };
    fl_buffer_slice(out, fl_slice_from_string(forms[sql->dialect][mark->is_negated]));
}

static uint32_t length_of(const uint32_t *lengths, uint32_t parameter)
{
    return lengths && lengths[parameter] != FL_SQL_SINGLE ? lengths[parameter] : 1;
}

static int check_lengths(const fl_sql *sql, const uint32_t *lengths)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < sql->parameters; i++) {
        if (lengths && lengths[i] != FL_SQL_SINGLE && !fl_sql_is_list(sql, i)) return UV_EINVAL;
        total += length_of(lengths, i);
    }
    return total > fl_sql_most_parameters(sql->dialect) ? UV_E2BIG : 0;
}

int fl_sql_read(fl_sql *sql, fl_sql_dialect dialect, fl_slice text, char *error, size_t error_size)
{
    fl_sql_reading reading = {.sql = sql, .error = error, .error_size = error_size};
    *sql = (fl_sql){.dialect = dialect};
    fl_buffer_init(&sql->text);
    fl_sql_scan_init(&reading.scan, dialect, text);
    fl_sql_statement_init(&reading.statement, dialect);
    int status = check_text(&reading, text);
    if (status == 0) status = read_tokens(&reading);
    if (status) fl_sql_close(sql);
    return status;
}

int fl_sql_write(const fl_sql *sql, const uint32_t *lengths, fl_buffer *out)
{
    size_t written = 0;
    uint32_t number = 1;
    int status = check_lengths(sql, lengths);
    if (status) return status;
    for (uint32_t i = 0; i < sql->mark_count; i++) {
        const fl_sql_mark *mark = &sql->marks[i];
        uint32_t length = length_of(lengths, i);
        size_t end = length == 0 ? mark->in : mark->at;
        fl_buffer_append(out, sql->text.data + written, end - written);
        write_placeholders(sql, number, length, out);
        if (length == 0) write_empty_list(sql, mark, out);
        written = length == 0 ? mark->end : mark->at;
        number += length;
    }
    fl_buffer_append(out, sql->text.data + written, sql->text.size - written);
    return out->failed ? UV_ENOMEM : 0;
}

uint32_t fl_sql_most_parameters(fl_sql_dialect dialect)
{
    return dialect == FL_SQL_SQLITE ? 32766 : MOST_PARAMETERS;
}

void fl_sql_close(fl_sql *sql)
{
    fl_buffer_close(&sql->text);
    free(sql->marks);
    *sql = (fl_sql){.dialect = sql->dialect};
}
