#include "sql_scan.h"

static char peek(const fl_sql_scan *scan, size_t ahead)
{
    return ahead < scan->text.size - scan->at ? scan->text.data[scan->at + ahead] : '\0';
}

static bool refuse(fl_sql_scan *scan, const char *problem, const char *hint)
{
    scan->problem = problem;
    scan->hint = hint;
    return false;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* MariaDB reads `5--3` as a subtraction. */
static bool is_line_comment(const fl_sql_scan *scan)
{
    bool is_mariadb = scan->dialect == FL_SQL_MARIADB;
    unsigned char third = (unsigned char)peek(scan, 2);
    if (peek(scan, 0) == '#') return is_mariadb;
    if (peek(scan, 0) != '-' || peek(scan, 1) != '-') return false;
    return !is_mariadb || third <= ' ' || third == 0x7f;
}

static void skip_line(fl_sql_scan *scan)
{
    for (; scan->at < scan->text.size; scan->at++) {
        char c = scan->text.data[scan->at];
        if (c == '\n' || (c == '\r' && scan->dialect == FL_SQL_POSTGRES)) return;
    }
}

/* Only PostgreSQL's comments hold comments. */
static bool skip_block(fl_sql_scan *scan)
{
    bool nests = scan->dialect == FL_SQL_POSTGRES;
    size_t depth = 1;
    scan->start = scan->at;
    scan->at += 2;
    if (scan->dialect == FL_SQL_MARIADB &&
        (peek(scan, 0) == '!' || (peek(scan, 0) == 'M' && peek(scan, 1) == '!')))
        return refuse(scan, "an executable comment", ": write what the server is to run");
    while (scan->at < scan->text.size) {
        bool opens = nests && peek(scan, 0) == '/' && peek(scan, 1) == '*';
        bool closes = peek(scan, 0) == '*' && peek(scan, 1) == '/';
        scan->at += opens || closes ? 2 : 1;
        if (opens) depth++;
        if (closes && --depth == 0) return true;
    }
    return refuse(scan, "an unterminated comment", "");
}

static bool skip_blanks(fl_sql_scan *scan)
{
    for (;;) {
        while (is_blank(peek(scan, 0))) scan->at++;
        if (is_line_comment(scan))
            skip_line(scan);
        else if (peek(scan, 0) != '/' || peek(scan, 1) != '*')
            return true;
        else if (!skip_block(scan))
            return false;
    }
}

/* From the quote to behind the one that ends it; two within stand for one. */
static bool skip_quoted(fl_sql_scan *scan, char end, bool has_escapes)
{
    bool doubles = end != ']';
    while (++scan->at < scan->text.size) {
        char c = peek(scan, 0);
        if (c == '\\' && has_escapes) {
            if (++scan->at == scan->text.size) break;
        } else if (c == end) {
            scan->at++;
            if (!doubles || peek(scan, 0) != end) return true;
        }
    }
    return false;
}

static bool quoted(fl_sql_scan *scan, char end)
{
    return skip_quoted(scan, end, false) || refuse(scan, "an unterminated quoted name", "");
}

static bool string(fl_sql_scan *scan, char end)
{
    return skip_quoted(scan, end, scan->dialect == FL_SQL_MARIADB) ||
           refuse(scan, "an unterminated string", "");
}

/* PostgreSQL: a string goes on behind a line's end, with the escapes it began with. */
static bool continues(fl_sql_scan *scan)
{
    size_t end = scan->at;
    bool has_newline = false;
    for (;;) {
        char c = peek(scan, 0);
        if (is_line_comment(scan)) {
            skip_line(scan);
        } else if (is_blank(c)) {
            has_newline = has_newline || c == '\n' || c == '\r';
            scan->at++;
        } else {
            if (c == '\'' && has_newline) return true;
            scan->at = end;
            return false;
        }
    }
}

static bool escape_string(fl_sql_scan *scan)
{
    scan->at++;
    do
        if (!skip_quoted(scan, '\'', true)) return refuse(scan, "an unterminated string", "");
    while (continues(scan));
    return true;
}

/* $tag$ … $tag$; a `$` that begins none is a sign. */
static fl_sql_token_type dollar_quote(fl_sql_scan *scan)
{
    size_t size = 1;
    while (fl_sql_is_name_byte(peek(scan, size)) && peek(scan, size) != '$') size++;
    scan->at++;
    if (peek(scan, size - 1) != '$') return FL_SQL_TOKEN_SIGN;
    const char *tag = scan->text.data + scan->start;
    size++; /* with its second `$` */
    const char *end = memmem(tag + size, scan->text.size - scan->start - size, tag, size);
    if (!end) {
        (void)refuse(scan, "an unterminated dollar quote", "");
        return FL_SQL_TOKEN_BAD;
    }
    scan->at = (size_t)(end - scan->text.data) + size;
    return FL_SQL_TOKEN_STRING;
}

static fl_sql_token_type dollar(fl_sql_scan *scan)
{
    if (!fl_sql_is_digit(peek(scan, 1))) return dollar_quote(scan);
    scan->at++;
    while (fl_sql_is_digit(peek(scan, 0))) scan->at++;
    return FL_SQL_TOKEN_NUMBERED;
}

static fl_sql_token_type question(fl_sql_scan *scan)
{
    bool doubled = peek(scan, 1) == '?';
    if (doubled && scan->dialect != FL_SQL_POSTGRES) {
        (void)refuse(scan, "\"??\"", ": that is an operator of PostgreSQL alone");
        return FL_SQL_TOKEN_BAD;
    }
    if (scan->dialect == FL_SQL_SQLITE && fl_sql_is_digit(peek(scan, 1))) {
        (void)refuse(scan, "a numbered parameter", ": write ? and give the values in order");
        return FL_SQL_TOKEN_BAD;
    }
    scan->at += doubled ? 2 : 1;
    return doubled ? FL_SQL_TOKEN_QUESTION : FL_SQL_TOKEN_PLACEHOLDER;
}

static fl_sql_token_type word(fl_sql_scan *scan)
{
    char first = peek(scan, 0);
    bool is_number = fl_sql_is_digit(first);
    bool has_dollars = !is_number || scan->dialect != FL_SQL_POSTGRES; /* 1$1 is 1 and $1 there */
    if (scan->dialect == FL_SQL_POSTGRES && fl_lower(first) == 'e' && peek(scan, 1) == '\'')
        return escape_string(scan) ? FL_SQL_TOKEN_STRING : FL_SQL_TOKEN_BAD;
    while (fl_sql_is_name_byte(peek(scan, 0)) && (has_dollars || peek(scan, 0) != '$')) scan->at++;
    return is_number ? FL_SQL_TOKEN_NUMBER : FL_SQL_TOKEN_WORD;
}

static bool is_named_parameter(const fl_sql_scan *scan)
{
    char c = peek(scan, 0);
    return scan->dialect == FL_SQL_SQLITE && (c == ':' || c == '@' || c == '$') &&
           fl_sql_is_name_byte(peek(scan, 1));
}

static fl_sql_token_type sign(fl_sql_scan *scan)
{
    if (is_named_parameter(scan)) {
        (void)refuse(scan, "a named parameter", ": write ? and give the values in order");
        return FL_SQL_TOKEN_BAD;
    }
    scan->at++;
    return FL_SQL_TOKEN_SIGN;
}

static fl_sql_token_type take(fl_sql_scan *scan)
{
    char c = peek(scan, 0);
    fl_sql_dialect dialect = scan->dialect;
    if (c == '?') return question(scan);
    if (c == '\'' || (c == '"' && dialect == FL_SQL_MARIADB))
        return string(scan, c) ? FL_SQL_TOKEN_STRING : FL_SQL_TOKEN_BAD;
    if (c == '"' || (c == '`' && dialect != FL_SQL_POSTGRES))
        return quoted(scan, c) ? FL_SQL_TOKEN_QUOTED : FL_SQL_TOKEN_BAD;
    if (c == '[' && dialect == FL_SQL_SQLITE)
        return quoted(scan, ']') ? FL_SQL_TOKEN_QUOTED : FL_SQL_TOKEN_BAD;
    if (c == '$' && dialect == FL_SQL_POSTGRES) return dollar(scan);
    if (fl_sql_is_name_byte(c) && (c != '$' || dialect == FL_SQL_MARIADB)) return word(scan);
    return sign(scan);
}

void fl_sql_scan_init(fl_sql_scan *scan, fl_sql_dialect dialect, fl_slice text)
{
    *scan = (fl_sql_scan){.dialect = dialect, .text = text, .hint = ""};
}

fl_sql_token fl_sql_scan_next(fl_sql_scan *scan)
{
    fl_sql_token_type type = FL_SQL_TOKEN_BAD;
    if (!scan->problem && skip_blanks(scan)) {
        scan->start = scan->at;
        type = scan->at == scan->text.size ? FL_SQL_TOKEN_END : take(scan);
    }
    fl_slice text = fl_slice_of(scan->text.data + scan->start, scan->at - scan->start);
    return (fl_sql_token){type, scan->start, text};
}
