/* Input: a byte for the dialect, one for the lists' lengths, then a statement. What is written is
 * compared with the input byte by byte, by rules that know nothing of strings and comments; read
 * again, it has as many parameters as values were given. */
#include <stdio.h>
#include <uv.h>

#include "fuzz.h"
#include "sql.h"

static size_t run_of(fl_slice text, size_t at)
{
    size_t end = at;
    while (end < text.size && text.data[end] == '?') end++;
    return end - at;
}

static bool begins_with(fl_slice text, size_t at, fl_slice start)
{
    return text.size - at >= start.size && memcmp(text.data + at, start.data, start.size) == 0;
}

/* "$n", between spaces where they are needed; where it ends. */
static size_t follow_number(fl_slice out, size_t at, uint32_t number)
{
    char text[16];
    int length = snprintf(text, sizeof(text), "$%u", number);
    bool begins = begins_with(out, at, fl_slice_of(text, (size_t)length));
    if (!begins && at < out.size && out.data[at] == ' ') at++;
    demand(begins_with(out, at, fl_slice_of(text, (size_t)length)));
    return at + (size_t)length;
}

/* Each run of question marks is text, as it was, or half as many and a number if it was odd. */
static void demand_translation(fl_slice in, fl_slice out, uint32_t parameters)
{
    uint32_t number = 0;
    size_t i = 0, o = 0;
    while (i < in.size && (o < out.size || run_of(in, i))) {
        size_t before = run_of(in, i), after = run_of(out, o);
        if (before != after) {
            demand(after == before / 2);
            o += after;
            if (before % 2) o = follow_number(out, o, ++number);
            i += before;
            if (o < out.size && out.data[o] == ' ' && (i == in.size || in.data[i] != ' ')) o++;
        } else if (before) {
            i += before;
            o += before;
        } else {
            demand(in.data[i++] == out.data[o++]);
        }
    }
    demand(o == out.size && number == parameters);
}

static void check_values(const fl_sql *sql, fl_slice text, fl_buffer *out)
{
    demand(fl_sql_write(sql, NULL, out) == 0);
    fl_slice written = fl_slice_of(out->data, out->size);
    if (sql->dialect == FL_SQL_POSTGRES)
        demand_translation(text, written, sql->mark_count);
    else
        demand(begins_with(text, 0, written));
}

static bool has_operators(fl_slice text)
{
    return text.size > 1 && memmem(text.data, text.size, "??", 2);
}

static void check_lists(const fl_sql *sql, fl_slice text, uint32_t seed, fl_buffer *out)
{
    uint32_t *lengths = malloc((sql->parameters + 1) * sizeof(*lengths));
    uint32_t total = 0;
    char error[200];
    fl_sql again;
    demand(lengths != NULL);
    for (uint32_t i = 0; i < sql->parameters; i++) {
        seed = seed * 1664525 + 1013904223;
        lengths[i] = fl_sql_is_list(sql, i) && seed >> 30 ? seed >> 28 & 3 : FL_SQL_SINGLE;
        total += lengths[i] == FL_SQL_SINGLE ? 1 : lengths[i];
    }
    out->size = 0;
    int status = fl_sql_write(sql, lengths, out);
    demand(status == (total > fl_sql_most_parameters(sql->dialect) ? UV_E2BIG : 0));
    free(lengths);
    if (status || has_operators(text)) return;
    fl_slice written = fl_slice_of(out->data, out->size);
    demand(fl_sql_read(&again, sql->dialect, written, error, sizeof(error)) == 0);
    demand(again.parameters == total && again.kind == sql->kind);
    fl_sql_close(&again);
}

static void check_refusal(int status, const char *error)
{
    demand(status == UV_EINVAL);
    demand(strstr(error, "byte") != NULL && strlen(error) < 199);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[200] = "";
    fl_sql sql;
    fl_buffer out;
    if (size < 2) return 0;
    fl_slice text = fl_slice_of((const char *)data + 2, size - 2);
    int status = fl_sql_read(&sql, (fl_sql_dialect)(data[0] % 3), text, error, sizeof(error));
    if (status) {
        check_refusal(status, error);
        return 0;
    }
    demand(sql.verb != NULL && sql.mark_count <= sql.parameters);
    fl_buffer_init(&out);
    check_values(&sql, text, &out);
    check_lists(&sql, text, data[1], &out);
    fl_buffer_close(&out);
    fl_sql_close(&sql);
    return 0;
}
