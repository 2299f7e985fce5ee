#include "sql_split.h"

#include <uv.h>

#include "sql_statement.h"

typedef struct reading { /* of one statement */
    fl_sql_statement statement;
    size_t from, to;   /* its tokens so far */
    size_t blocks;     /* of a routine of MariaDB: BEGIN and CASE that are open */
    bool maybe_closed; /* one more, unless the next word says what END ended */
} reading;

static bool is_one_of(fl_sql_token token, const char *const *words)
{
    for (; *words; words++)
        if (fl_sql_token_is_word(token, *words)) return true;
    return false;
}

/* END IF and the like end what is not counted: it stands in a block anyway. */
static void count_blocks(reading *self, fl_sql_token token)
{
    static const char *const uncounted[] = {"IF", "LOOP", "WHILE", "REPEAT", "FOR", NULL};
    bool ends_case = self->maybe_closed && fl_sql_token_is_word(token, "CASE");
    if (self->maybe_closed && !is_one_of(token, uncounted) && self->blocks > 0) self->blocks--;
    self->maybe_closed = fl_sql_token_is_word(token, "END");
    if (ends_case) return;
    if (fl_sql_token_is_word(token, "BEGIN") || fl_sql_token_is_word(token, "CASE")) self->blocks++;
}

static bool is_within(const reading *self)
{
    if (self->statement.body == FL_SQL_BODY_REST) return self->blocks > 0;
    return fl_sql_statement_goes_on(&self->statement);
}

static size_t line_at(fl_sql_split *split, size_t at)
{
    for (; split->counted < at; split->counted++)
        if (split->scan.text.data[split->counted] == '\n') split->line++;
    return split->line;
}

static int refuse(fl_sql_split *split, size_t at, const char *problem, const char *hint)
{
    split->wrong_line = line_at(split, at);
    split->problem = problem;
    split->hint = hint;
    return UV_EINVAL;
}

static int finish(fl_sql_split *split, const reading *self, fl_sql_part *part)
{
    if (self->from == self->to) return 0;
    part->text = fl_slice_of(split->scan.text.data + self->from, self->to - self->from);
    part->line = line_at(split, self->from);
    part->kind = fl_sql_statement_kind(&self->statement, &part->verb);
    return 1;
}

static int finish_last(fl_sql_split *split, reading *self, fl_sql_token end, fl_sql_part *part)
{
    count_blocks(self, end);
    bool is_rule = self->statement.body == FL_SQL_BODY_PARENTHESES;
    if (self->from < self->to && is_within(self) && !is_rule)
        return refuse(split, self->from, "a body whose END is missing", "");
    return finish(split, self, part);
}

static void add(reading *self, fl_sql_token token)
{
    if (self->from == self->to) self->from = token.at;
    self->to = token.at + token.text.size;
    count_blocks(self, token);
    fl_sql_statement_take(&self->statement, token);
}

static bool is_delimiter(const fl_sql_split *split, const reading *self, fl_sql_token token)
{
    return split->scan.dialect == FL_SQL_MARIADB && self->from == self->to &&
           fl_sql_token_is_word(token, "DELIMITER");
}

void fl_sql_split_init(fl_sql_split *split, fl_sql_dialect dialect, fl_slice text)
{
    *split = (fl_sql_split){.line = 1, .hint = ""};
    fl_sql_scan_init(&split->scan, dialect, text);
}

int fl_sql_split_next(fl_sql_split *split, fl_sql_part *part)
{
    reading self = {.from = 0};
    fl_sql_statement_init(&self.statement, split->scan.dialect);
    for (;;) {
        fl_sql_token token = fl_sql_scan_next(&split->scan);
        if (token.type == FL_SQL_TOKEN_END) return finish_last(split, &self, token, part);
        if (token.type == FL_SQL_TOKEN_BAD)
            return refuse(split, token.at, split->scan.problem, split->scan.hint);
        if (is_delimiter(split, &self, token))
            return refuse(split, token.at, "DELIMITER",
                          ": that is for a client; what stands between BEGIN and END is one "
                          "statement here");
        if (self.maybe_closed && fl_sql_token_is_sign(token, ';')) count_blocks(&self, token);
        if (!fl_sql_token_is_sign(token, ';') || is_within(&self))
            add(&self, token);
        else if (self.from < self.to)
            return finish(split, &self, part);
    }
}
