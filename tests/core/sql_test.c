#include "sql.h"

#include <stdlib.h>
#include <uv.h>

#include "scarcity.h"
#include "test.h"

#define COUNT(list) (sizeof(list) / sizeof(*(list)))

static const fl_sql_dialect dialects[] = {FL_SQL_POSTGRES, FL_SQL_SQLITE, FL_SQL_MARIADB};

/* What the database gets, "error: …" or a uv error's name. The text lies in memory of its own,
 * freed before writing. Valid until the next call. */
static const char *written(fl_sql_dialect dialect, const char *text, const uint32_t *lengths)
{
    static char result[4096];
    char error[200] = "";
    fl_sql sql;
    fl_buffer out;
    size_t size = strlen(text);
    char *copy = memcpy(malloc(size + 1), text, size);
    int status = fl_sql_read(&sql, dialect, fl_slice_of(copy, size), error, sizeof(error));
    free(copy);
    if (status) {
        (void)snprintf(result, sizeof(result), "error: %s", error);
        return result;
    }
    fl_buffer_init(&out);
    status = fl_sql_write(&sql, lengths, &out);
    if (status)
        (void)snprintf(result, sizeof(result), "%s", uv_err_name(status));
    else
        (void)snprintf(result, sizeof(result), "%.*s", (int)out.size, out.data);
    fl_buffer_close(&out);
    fl_sql_close(&sql);
    return result;
}

static bool gives(fl_sql_dialect dialect, const char *text, const char *expected)
{
    const char *actual = written(dialect, text, NULL);
    if (strcmp(actual, expected) == 0) return true;
    printf("# dialect %d, %s: %s, expected %s\n", dialect, text, actual, expected);
    return false;
}

static bool gives_in_all(const char *text, const char *expected)
{
    for (size_t i = 0; i < COUNT(dialects); i++)
        if (!gives(dialects[i], text, expected)) return false;
    return true;
}

static bool stays(fl_sql_dialect dialect, const char *text)
{
    return gives(dialect, text, text);
}

/* Its parameters as "v" for a value and "l" for what may be a list; NULL after an error. */
static const char *parameters_of(fl_sql_dialect dialect, const char *text)
{
    static char result[64];
    char error[200];
    fl_sql sql;
    if (fl_sql_read(&sql, dialect, fl_slice_from_string(text), error, sizeof(error))) return NULL;
    uint32_t i = 0;
    for (; i < sql.parameters && i + 1 < sizeof(result); i++)
        result[i] = fl_sql_is_list(&sql, i) ? 'l' : 'v';
    result[i] = '\0';
    fl_sql_close(&sql);
    return result;
}

static bool has_parameters(fl_sql_dialect dialect, const char *text, const char *expected)
{
    const char *actual = parameters_of(dialect, text);
    if (actual && strcmp(actual, expected) == 0) return true;
    printf("# dialect %d, %s: %s, expected %s\n", dialect, text, actual ? actual : "an error",
           expected);
    return false;
}

typedef struct kind_case {
    const char *text;
    fl_sql_kind kind;
    const char *verb; /* NULL: any */
} kind_case;

static bool is_kind(fl_sql_dialect dialect, const kind_case *expected)
{
    char error[200] = "";
    fl_sql sql;
    if (fl_sql_read(&sql, dialect, fl_slice_from_string(expected->text), error, sizeof(error))) {
        printf("# dialect %d, %s: %s\n", dialect, expected->text, error);
        return false;
    }
    bool same =
        sql.kind == expected->kind && (!expected->verb || strcmp(sql.verb, expected->verb) == 0);
    if (!same)
        printf("# dialect %d, %s: kind %d, %s\n", dialect, expected->text, sql.kind, sql.verb);
    fl_sql_close(&sql);
    return same;
}

#define CHECK_KINDS(dialect, cases)                                                                \
    for (size_t n = 0; n < COUNT(cases); n++) CHECK(is_kind((dialect), &(cases)[n]))

TEST(placeholders_are_numbered_in_postgresql_alone)
{
    CHECK(gives(FL_SQL_POSTGRES, "select ?, ? + ?", "select $1, $2 + $3"));
    CHECK(stays(FL_SQL_SQLITE, "select ?, ? + ?"));
    CHECK(stays(FL_SQL_MARIADB, "select ?, ? + ?"));
}

TEST(a_statement_without_parameters_stays_as_it_is)
{
    CHECK(gives_in_all("select 1", "select 1"));
    CHECK(gives_in_all("  select /* a */ 1 -- b", "  select /* a */ 1 -- b"));
    CHECK(gives_in_all("sélect «é»", "sélect «é»"));
}

TEST(a_postgresql_placeholder_keeps_apart_from_what_it_touches)
{
    const char *cases[][2] = {
        {"select?", "select $1"},
        {"select 1?2", "select 1 $1 2"},
        {"a=?and b=?", "a=$1 and b=$2"},
        {"é?é", "é $1 é"},
        {"select ?::int, ?[1], (?)", "select $1::int, $2[1], ($3)"},
        {"x$?$y", "x$ $1 $y"},
        {"select $?$", "select $ $1 $"},
        {"select 1e5+?", "select 1e5+$1"},
        {"'a'?'b'", "'a'$1'b'"},
        {"?+?", "$1+$2"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        CHECK(gives(FL_SQL_POSTGRES, cases[i][0], cases[i][1]));
    CHECK(stays(FL_SQL_MARIADB, "select?, 1?2"));
    CHECK(stays(FL_SQL_SQLITE, "select?and a?b"));
}

TEST(two_question_marks_are_one_operator_of_postgresql)
{
    CHECK(gives(FL_SQL_POSTGRES, "a ?? b", "a ? b"));
    CHECK(gives(FL_SQL_POSTGRES, "a ??| ?", "a ?| $1"));
    CHECK(gives(FL_SQL_POSTGRES, "a ??& ? and b @?? ?", "a ?& $1 and b @? $2"));
    CHECK(gives(FL_SQL_POSTGRES,
                "a??"
                "?",
                "a?$1"));
    CHECK(gives(FL_SQL_POSTGRES, "a ?? $1", "a ? $1"));
    CHECK(gives(FL_SQL_POSTGRES,
                "'?"
                "?' ??",
                "'?"
                "?' ?"));
    CHECK(gives(FL_SQL_SQLITE, "a ?? b",
                "error: \"??\" at byte 3: that is an operator of PostgreSQL alone"));
    CHECK(gives(FL_SQL_MARIADB, "a ?? b",
                "error: \"??\" at byte 3: that is an operator of PostgreSQL alone"));
}

TEST(postgresqls_own_numbers_are_kept)
{
    CHECK(stays(FL_SQL_POSTGRES, "select $2, $1, $2"));
    CHECK(has_parameters(FL_SQL_POSTGRES, "select $2, $1, $2", "vv"));
    CHECK(has_parameters(FL_SQL_POSTGRES, "select a from t where a in ($1)", "v"));
    CHECK(has_parameters(FL_SQL_POSTGRES, "select a$1, é$2, _$3", ""));
    CHECK(has_parameters(FL_SQL_POSTGRES, "select 1$1", "v"));
    CHECK(stays(FL_SQL_MARIADB, "select $1, ?"));
    CHECK(has_parameters(FL_SQL_MARIADB, "select $1, ?", "v"));
}

TEST(question_marks_in_strings_names_and_comments_are_text)
{
    CHECK(gives_in_all("select '?', '''?', \"?\", \"\"\"?\", /* ? */ 1 -- ?\n",
                       "select '?', '''?', \"?\", \"\"\"?\", /* ? */ 1 -- ?\n"));
    CHECK(stays(FL_SQL_SQLITE, "select [?], [a?[b], `?`, `a``?`"));
    CHECK(stays(FL_SQL_MARIADB, "select `?`, `a``?` # ?\n"));
    CHECK(gives(FL_SQL_POSTGRES, "select 1 # ?", "select 1 # $1"));
    CHECK(gives(FL_SQL_POSTGRES, "a[?]", "a[$1]"));
}

TEST(backslashes_escape_where_the_database_says_so)
{
    CHECK(stays(FL_SQL_MARIADB, "select '\\'?', \"\\\"?\", '\\\\'"));
    CHECK(gives(FL_SQL_POSTGRES, "select '\\', ?, '\\'", "select '\\', $1, '\\'"));
    CHECK(stays(FL_SQL_SQLITE, "select '\\', ?, '\\'"));
    CHECK(stays(FL_SQL_POSTGRES, "select E'\\'?', e'\\'?', e'''?'"));
    CHECK(gives(FL_SQL_POSTGRES, "select the'\\', ?, '\\'", "select the'\\', $1, '\\'"));
    CHECK(gives(FL_SQL_POSTGRES, "select U&'\\', B'\\', ?", "select U&'\\', B'\\', $1"));
    CHECK(stays(FL_SQL_POSTGRES, "select E'a' -- b'\n  '\\'?'"));
    CHECK(gives(FL_SQL_POSTGRES, "select E'a' '\\', ?", "select E'a' '\\', $1"));
    CHECK(gives(FL_SQL_MARIADB, "select '\\'", "error: an unterminated string at byte 8"));
}

TEST(comments_are_those_of_the_database)
{
    CHECK(stays(FL_SQL_POSTGRES, "select /* a /* ? */ ? */ 1"));
    CHECK(has_parameters(FL_SQL_POSTGRES, "select /* a /* ? */ ? */ 1", ""));
    CHECK(has_parameters(FL_SQL_POSTGRES, "select /*/ ? /*/ ? */ ? */ 1", ""));
    CHECK(has_parameters(FL_SQL_SQLITE, "select /* /* ? */ ?", "v"));
    CHECK(has_parameters(FL_SQL_MARIADB, "select /* /* ? /*/ ?", "v"));
    CHECK(has_parameters(FL_SQL_MARIADB, "select 5--?", "v"));
    CHECK(has_parameters(FL_SQL_MARIADB, "select 5-- ?", ""));
    CHECK(has_parameters(FL_SQL_MARIADB, "select 5 --", ""));
    CHECK(has_parameters(FL_SQL_SQLITE, "select 5--?\n + ?", "v"));
    CHECK(has_parameters(FL_SQL_POSTGRES, "select 5--?\r + ?", "v"));
    CHECK(has_parameters(FL_SQL_SQLITE, "select 5--?\r + ?", ""));
}

TEST(mariadbs_executable_comments_are_refused)
{
    const char *expected =
        "error: an executable comment at byte 8: write what the server is to run";
    CHECK(gives(FL_SQL_MARIADB, "select /*!50000 ? */ 1", expected));
    CHECK(gives(FL_SQL_MARIADB, "select /*M! 1 */", expected));
    CHECK(stays(FL_SQL_MARIADB, "select /*+ hint */ '/*!'"));
    CHECK(stays(FL_SQL_SQLITE, "select /*! a */ 1"));
}

TEST(dollar_quotes_hold_any_text)
{
    CHECK(stays(FL_SQL_POSTGRES, "do $$ ?; ' $1 $$"));
    CHECK(stays(FL_SQL_POSTGRES, "do $a$ ? $$ ? $b$ ? $a$"));
    CHECK(stays(FL_SQL_POSTGRES, "do $é1_$ ?$é1_$"));
    CHECK(gives(FL_SQL_POSTGRES, "a$b$ ? c$b$", "a$b$ $1 c$b$"));
    CHECK(gives(FL_SQL_POSTGRES, "do $a$ $x$a$ ?", "do $a$ $x$a$ $1"));
    CHECK(gives(FL_SQL_POSTGRES, "select $a ?", "select $a $1"));
    CHECK(gives(FL_SQL_POSTGRES, "do $a$ $A$", "error: an unterminated dollar quote at byte 4"));
}

TEST(sqlites_named_parameters_are_refused)
{
    const char *names[] = {":a", "@a", "$a", "$1", ":1"};
    for (size_t i = 0; i < COUNT(names); i++) {
        char text[32];
        (void)snprintf(text, sizeof(text), "select %s", names[i]);
        CHECK(gives(FL_SQL_SQLITE, text,
                    "error: a named parameter at byte 8: write ? and give the values in order"));
    }
    CHECK(gives(FL_SQL_SQLITE, "select ?1",
                "error: a numbered parameter at byte 8: write ? and give the values in order"));
    CHECK(stays(FL_SQL_SQLITE, "select a$1, ':a', ?"));
    CHECK(stays(FL_SQL_MARIADB, "select @a, @@b, :c"));
    CHECK(gives(FL_SQL_POSTGRES, "select a[?:?]", "select a[$1:$2]"));
}

TEST(what_is_wrong_is_named_with_its_place)
{
    const char *cases[][2] = {
        {"", "error: an empty statement at byte 1"},
        {" -- a\n", "error: an empty statement at byte 7"},
        {" ; ", "error: an empty statement at byte 2"},
        {"select 'a", "error: an unterminated string at byte 8"},
        {"select 'a''", "error: an unterminated string at byte 8"},
        {"select 1 /* *", "error: an unterminated comment at byte 10"},
        {"select 1; select 2", "error: more than one statement: another begins at byte 11"},
        {"select 1; 'a", "error: an unterminated string at byte 11"},
        {"select 1;;", "error: more than one statement: another begins at byte 10"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) CHECK(gives_in_all(cases[i][0], cases[i][1]));
    CHECK(gives(FL_SQL_POSTGRES, "select \"a", "error: an unterminated quoted name at byte 8"));
    CHECK(gives(FL_SQL_POSTGRES, "select E'\\'", "error: an unterminated string at byte 8"));
    CHECK(gives(FL_SQL_POSTGRES, "/* /* */", "error: an unterminated comment at byte 1"));
    CHECK(gives(FL_SQL_SQLITE, "select [a", "error: an unterminated quoted name at byte 8"));
    CHECK(gives(FL_SQL_MARIADB, "select `a", "error: an unterminated quoted name at byte 8"));
}

TEST(numbers_of_parameters_have_no_gap_and_no_zero)
{
    CHECK(gives(FL_SQL_POSTGRES, "select $1, $4, $2", "error: $4 at byte 12, but no $3"));
    CHECK(gives(FL_SQL_POSTGRES, "select $65535", "error: $65535 at byte 8, but no $1"));
    CHECK(gives(FL_SQL_POSTGRES, "select $0", "error: $0 at byte 8: parameters begin with $1"));
    CHECK(gives(FL_SQL_POSTGRES, "select $65536", "error: more than 65535 parameters at byte 8"));
    CHECK(gives(FL_SQL_POSTGRES, "select $4294967297",
                "error: more than 65535 parameters at byte 8"));
}

TEST(a_statement_may_be_a_lone_placeholder)
{
    CHECK(gives(FL_SQL_POSTGRES, "?", "$1"));
    CHECK(gives(FL_SQL_MARIADB, "?", "?"));
}

TEST(question_marks_do_not_mix_with_numbers)
{
    CHECK(
        gives(FL_SQL_POSTGRES, "select ?, $1",
              "error: a $n at byte 11 behind a ?: use one of the two (two ? are the operator ?)"));
    CHECK(
        gives(FL_SQL_POSTGRES, "select $1, ?",
              "error: a ? at byte 12 behind a $n: use one of the two (two ? are the operator ?)"));
}

TEST(a_nul_byte_is_refused_wherever_it_is)
{
    char error[100];
    fl_sql sql;
    fl_slice text = FL_SLICE("select '\0'");
    for (size_t i = 0; i < COUNT(dialects); i++) {
        CHECK_EQUAL_INT(fl_sql_read(&sql, dialects[i], text, error, sizeof(error)), UV_EINVAL);
        CHECK_EQUAL_BYTES(error, strlen(error), "a NUL byte at byte 9");
    }
}

TEST(the_semicolon_at_the_end_is_cut)
{
    CHECK(gives_in_all("select 1 ; -- a\n /* b */ ", "select 1 "));
    CHECK(gives_in_all("select ';';", "select ';'"));
}

TEST(a_body_keeps_its_semicolons)
{
    const char *trigger = "create trigger a after insert on t begin "
                          "update t set a = case when 1 then 2 end; delete from u; end";
    char longer[256];
    CHECK(stays(FL_SQL_SQLITE, trigger));
    (void)snprintf(longer, sizeof(longer), "%s;", trigger);
    CHECK(gives(FL_SQL_SQLITE, longer, trigger));
    (void)snprintf(longer, sizeof(longer), "%s; drop table t", trigger);
    CHECK(strstr(written(FL_SQL_SQLITE, longer, NULL), "more than one statement"));

    CHECK(stays(FL_SQL_POSTGRES, "create function a() returns int begin atomic select 1; end"));
    CHECK(stays(FL_SQL_POSTGRES, "create procedure a() begin atomic end"));
    CHECK(strstr(written(FL_SQL_POSTGRES, "create procedure a() begin atomic end; select 1", NULL),
                 "more than one statement"));
    CHECK(stays(FL_SQL_POSTGRES, "create rule a as on insert to t do (select 1; select 2)"));
    CHECK(strstr(written(FL_SQL_POSTGRES, "create rule a as on insert to t do (a; b); c", NULL),
                 "more than one statement"));

    CHECK(gives(FL_SQL_MARIADB, "create definer = 'a'@'b' procedure p() begin select 1; end;",
                "create definer = 'a'@'b' procedure p() begin select 1; end"));
    CHECK(stays(FL_SQL_MARIADB, "create or replace definer=a@b function p() begin x; end"));
    CHECK(stays(FL_SQL_MARIADB, "alter event e do begin select 1; end"));
    CHECK(stays(FL_SQL_MARIADB, "begin not atomic select 1; end"));
    CHECK(strstr(written(FL_SQL_MARIADB, "create table event (a int); select 1", NULL),
                 "more than one statement"));
    CHECK(strstr(written(FL_SQL_MARIADB, "begin; select 1", NULL), "more than one statement"));
}

TEST(in_before_a_lone_placeholder_may_be_given_a_list)
{
    const char *cases[][2] = {
        {"a in (?)", "l"},
        {"a not in (?)", "l"},
        {"a NOT/**/IN-- \n( /* a */ ?\n)and b = ?", "lv"},
        {"a in(?)and b in(?)", "ll"},
        {"a in (?, ?)", "vv"},
        {"a in (?+1)", "v"},
        {"a in ((?))", "v"},
        {"a within (?)", "v"},
        {"\"in\" (?)", "v"},
        {"a = (?)", "v"},
        {"a in ?", "v"},
    };
    for (size_t i = 0; i < COUNT(dialects); i++)
        for (size_t j = 0; j < COUNT(cases); j++)
            CHECK(has_parameters(dialects[i], cases[j][0], cases[j][1]));
}

TEST(a_list_takes_as_many_placeholders_as_it_has_items)
{
    const uint32_t lengths[] = {FL_SQL_SINGLE, 3, 1, FL_SQL_SINGLE};
    const char *text = "a = ? and b in ( ? ) and c not in (?) and d in (?)";
    CHECK(strcmp(written(FL_SQL_POSTGRES, text, lengths),
                 "a = $1 and b in ( $2,$3,$4 ) and c not in ($5) and d in ($6)") == 0);
    for (size_t i = 1; i < COUNT(dialects); i++)
        CHECK(strcmp(written(dialects[i], text, lengths),
                     "a = ? and b in ( ?,?,? ) and c not in (?) and d in (?)") == 0);
}

TEST(an_empty_list_matches_nothing_in_the_words_of_each_database)
{
    const uint32_t lengths[] = {0, 0, 2};
    const char *text = "a in (?) or é Not/**/In ( ?)and c in (?)";
    CHECK(strcmp(written(FL_SQL_POSTGRES, text, lengths),
                 "a operator(=) any ('{}') or é operator(<>) all ('{}')and c in ($1,$2)") == 0);
    CHECK(strcmp(written(FL_SQL_SQLITE, text, lengths), "a in () or é not in ()and c in (?,?)") ==
          0);
    CHECK(strcmp(written(FL_SQL_MARIADB, text, lengths),
                 "a in (select null from dual where false) or "
                 "é not in (select null from dual where false)and c in (?,?)") == 0);
}

TEST(a_list_where_there_can_be_none_is_refused)
{
    const uint32_t lengths[] = {1};
    CHECK(strcmp(written(FL_SQL_SQLITE, "select ?", lengths), "EINVAL") == 0);
    CHECK(strcmp(written(FL_SQL_POSTGRES, "a in ($1)", lengths), "EINVAL") == 0);
}

TEST(an_expansion_stops_at_what_the_database_takes)
{
    for (size_t i = 0; i < COUNT(dialects); i++) {
        uint32_t most = fl_sql_most_parameters(dialects[i]);
        const uint32_t too_many[] = {FL_SQL_SINGLE, most}, enough[] = {FL_SQL_SINGLE, most - 1},
                       twice[] = {UINT32_MAX - 1, UINT32_MAX - 1};
        char error[100];
        fl_sql sql;
        fl_buffer out;
        fl_buffer_init(&out);
        CHECK(strcmp(written(dialects[i], "a = ? and b in (?)", too_many), "E2BIG") == 0);
        CHECK(strcmp(written(dialects[i], "a in (?) and b in (?)", twice), "E2BIG") == 0);
        CHECK(fl_sql_read(&sql, dialects[i], FL_SLICE("a = ? and b in (?)"), error,
                          sizeof(error)) == 0);
        CHECK_EQUAL_INT(fl_sql_write(&sql, enough, &out), 0);
        CHECK(out.size > 2 * (size_t)(most - 1));
        fl_buffer_close(&out);
        fl_sql_close(&sql);
    }
}

TEST(a_statement_has_as_many_placeholders_as_the_database_takes)
{
    for (size_t i = 0; i < COUNT(dialects); i++) {
        uint32_t most = fl_sql_most_parameters(dialects[i]);
        char error[100], expected[100];
        fl_sql sql;
        fl_buffer text;
        fl_buffer_init(&text);
        fl_buffer_byte(&text, 'a');
        for (uint32_t j = 0; j < most; j++) FL_BUFFER_LITERAL(&text, " ?");
        fl_slice all = fl_slice_of(text.data, text.size);
        CHECK(fl_sql_read(&sql, dialects[i], all, error, sizeof(error)) == 0);
        CHECK_EQUAL_INT(sql.parameters, most);
        fl_sql_close(&sql);
        FL_BUFFER_LITERAL(&text, " ?");
        all = fl_slice_of(text.data, text.size);
        CHECK_EQUAL_INT(fl_sql_read(&sql, dialects[i], all, error, sizeof(error)), UV_EINVAL);
        (void)snprintf(expected, sizeof(expected), "more than %u parameters: one more at byte %zu",
                       most, text.size);
        CHECK_EQUAL_BYTES(error, strlen(error), expected);
        fl_buffer_close(&text);
    }
}

TEST(a_text_beyond_the_limit_is_refused)
{
    char error[100];
    fl_sql sql;
    size_t size = FL_SQL_TEXT_SIZE + 1;
    char *text = memset(malloc(size), ' ', size);
    memcpy(text, "select 1", 8);
    CHECK_EQUAL_INT(fl_sql_read(&sql, FL_SQL_SQLITE, fl_slice_of(text, size), error, 100),
                    UV_EINVAL);
    CHECK_EQUAL_BYTES(error, strlen(error), "a statement of 16777217 bytes: more than 16777216");
    CHECK_EQUAL_INT(fl_sql_read(&sql, FL_SQL_SQLITE, fl_slice_of(text, size - 1), error, 100), 0);
    fl_sql_close(&sql);
    free(text);
}

TEST(a_short_buffer_cuts_the_message)
{
    char error[] = "01234567";
    fl_sql sql;
    CHECK_EQUAL_INT(fl_sql_read(&sql, FL_SQL_SQLITE, FL_SLICE("'"), error, 4), UV_EINVAL);
    CHECK(memcmp(error,
                 "an \0"
                 "4567",
                 8) == 0);
    CHECK_EQUAL_INT(fl_sql_read(&sql, FL_SQL_SQLITE, FL_SLICE("'"), NULL, 0), UV_EINVAL);
}

TEST(first_words_say_what_a_statement_does)
{
    const kind_case cases[] = {
        {"select 1", FL_SQL_READ, "SELECT"},
        {"/* a */ ( ( -- b\n SELECT 1))", FL_SQL_READ, "SELECT"},
        {"values (1)", FL_SQL_READ, "VALUES"},
        {"Insert into t values (?)", FL_SQL_WRITE, "INSERT"},
        {"update t set a = 1", FL_SQL_WRITE, "UPDATE"},
        {"delete from t returning 1", FL_SQL_WRITE, "DELETE"},
        {"replace into t values (1)", FL_SQL_WRITE, "REPLACE"},
        {"merge into t", FL_SQL_WRITE, "MERGE"},
        {"create table temp (temporary int)", FL_SQL_SCHEMA, "CREATE"},
        {"create unique index i on t (a)", FL_SQL_SCHEMA, "CREATE"},
        {"alter table t add temp int", FL_SQL_SCHEMA, "ALTER"},
        {"drop table t", FL_SQL_SCHEMA, "DROP"},
        {"truncate t", FL_SQL_SCHEMA, "TRUNCATE"},
        {"grant all on t to u", FL_SQL_SCHEMA, "GRANT"},
        {"analyze", FL_SQL_SCHEMA, "ANALYZE"},
        {"vacuum", FL_SQL_SCHEMA, "VACUUM"},
        {"begin", FL_SQL_SESSION, "BEGIN"},
        {"start transaction", FL_SQL_SESSION, "START"},
        {"commit", FL_SQL_SESSION, "COMMIT"},
        {"END;", FL_SQL_SESSION, "END"},
        {"rollback to a", FL_SQL_SESSION, "ROLLBACK"},
        {"savepoint a", FL_SQL_SESSION, "SAVEPOINT"},
        {"release a", FL_SQL_SESSION, "RELEASE"},
        {"prepare a as select 1", FL_SQL_SESSION, "PREPARE"},
        {"set a = 1", FL_SQL_SESSION, "SET"},
        {"create temp table t (a int)", FL_SQL_SESSION, "CREATE TEMPORARY"},
        {"create TEMPORARY view v as select 1", FL_SQL_SESSION, "CREATE TEMPORARY"},
        {"create or replace temp view v as select 1", FL_SQL_SESSION, "CREATE TEMPORARY"},
        {"explain select 1", FL_SQL_OTHER, "EXPLAIN"},
        {"call p()", FL_SQL_OTHER, "CALL"},
        {"frobnicate", FL_SQL_OTHER, "the statement"},
        {"1 select", FL_SQL_OTHER, "the statement"},
        {"\"select\"", FL_SQL_OTHER, "the statement"},
        {"'begin'", FL_SQL_OTHER, "the statement"},
    };
    for (size_t i = 0; i < COUNT(dialects); i++) CHECK_KINDS(dialects[i], cases);
}

TEST(a_with_does_what_its_main_verb_does_or_any_part_that_changes_data)
{
    const kind_case cases[] = {
        {"with a as (select 1) select * from a", FL_SQL_READ, "SELECT"},
        {"with recursive a (b) as (select replace(b, 'c', 'd')) , c as (values (1)) select 1",
         FL_SQL_READ, "SELECT"},
        {"(with a as (select 1) select 1)", FL_SQL_READ, "SELECT"},
        {"with a as (select 1) insert into t select 1", FL_SQL_WRITE, "INSERT"},
        {"with a as (select 1) replace into t select 1", FL_SQL_WRITE, "REPLACE"},
        {"with a as (delete from t returning *) select * from a", FL_SQL_WRITE, "DELETE"},
        {"with a as (with b as (update t set c = 1) select 1) select 1", FL_SQL_WRITE, "UPDATE"},
        {"with a as (((insert into t values (1)))) select 1", FL_SQL_WRITE, "INSERT"},
        {"with a as (select 'delete' /* update */) select 1", FL_SQL_READ, "SELECT"},
        {"with a", FL_SQL_OTHER, "the statement"},
    };
    for (size_t i = 0; i < COUNT(dialects); i++) CHECK_KINDS(dialects[i], cases);
}

TEST(a_select_that_locks_rows_or_fills_a_table_writes)
{
    const kind_case postgres[] = {
        {"select a from t for update", FL_SQL_WRITE, "SELECT FOR UPDATE"},
        {"select a from t for no key update skip locked", FL_SQL_WRITE, "SELECT FOR UPDATE"},
        {"with a as (select 1) select 1 for share", FL_SQL_WRITE, "SELECT FOR UPDATE"},
        {"select a into b from t", FL_SQL_WRITE, "SELECT INTO"},
        {"select a into temp b from t", FL_SQL_SESSION, "SELECT INTO TEMPORARY"},
        {"select substring(a for 2), b as update from t", FL_SQL_READ, "SELECT"},
    };
    const kind_case mariadb[] = {
        {"select a from t for update", FL_SQL_WRITE, NULL},
        {"select a from t lock in share mode", FL_SQL_WRITE, "SELECT LOCK IN SHARE MODE"},
        {"select a into outfile 'b' from t", FL_SQL_WRITE, "SELECT INTO"},
        {"select a into @b from t", FL_SQL_SESSION, "a user variable"},
        {"select @a := 1", FL_SQL_SESSION, "a user variable"},
        {"select @a = 1", FL_SQL_READ, "SELECT"},
    };
    CHECK_KINDS(FL_SQL_POSTGRES, postgres);
    CHECK_KINDS(FL_SQL_MARIADB, mariadb);
}

TEST(postgresql_statements_that_bind_a_session_are_known)
{
    const kind_case cases[] = {
        {"copy t from stdin", FL_SQL_COPY, "COPY"},
        {"show search_path", FL_SQL_READ, "SHOW"},
        {"table t", FL_SQL_READ, "TABLE"},
        {"listen a", FL_SQL_SESSION, "LISTEN"},
        {"unlisten *", FL_SQL_SESSION, "UNLISTEN"},
        {"notify a", FL_SQL_OTHER, "NOTIFY"},
        {"declare a cursor for select 1", FL_SQL_SESSION, "DECLARE"},
        {"fetch a", FL_SQL_SESSION, "FETCH"},
        {"move a", FL_SQL_SESSION, "MOVE"},
        {"close a", FL_SQL_SESSION, "CLOSE"},
        {"lock t", FL_SQL_SESSION, "LOCK"},
        {"discard all", FL_SQL_SESSION, "DISCARD"},
        {"reset a", FL_SQL_SESSION, "RESET"},
        {"deallocate a", FL_SQL_SESSION, "DEALLOCATE"},
        {"abort", FL_SQL_SESSION, "ABORT"},
        {"prepare transaction 'a'", FL_SQL_SESSION, "PREPARE"},
        {"load 'a'", FL_SQL_SESSION, "LOAD"},
        {"create local temp table t (a int)", FL_SQL_SESSION, "CREATE TEMPORARY"},
        {"create table pg_temp.t (a int)", FL_SQL_SESSION, "CREATE TEMPORARY"},
        {"comment on table t is 'a'", FL_SQL_SCHEMA, "COMMENT"},
        {"reindex table t", FL_SQL_SCHEMA, "REINDEX"},
        {"select pg_advisory_lock(1)", FL_SQL_SESSION, "pg_advisory_lock"},
        {"select PG_CATALOG.PG_Advisory_Lock_Shared /* a */ (1)", FL_SQL_SESSION,
         "pg_advisory_lock_shared"},
        {"update t set a = pg_try_advisory_lock(1)", FL_SQL_SESSION, "pg_try_advisory_lock"},
        {"select \"pg_try_advisory_lock_shared\"(1)", FL_SQL_SESSION,
         "pg_try_advisory_lock_shared"},
        {"with a as (delete from t) select set_config('a', 'b', false)", FL_SQL_SESSION,
         "set_config"},
        {"select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(1)", FL_SQL_READ, "SELECT"},
        {"select set_config, 'set_config(' from t", FL_SQL_READ, "SELECT"},
        {"select get_lock(1)", FL_SQL_READ, "SELECT"},
    };
    CHECK_KINDS(FL_SQL_POSTGRES, cases);
}

TEST(sqlite_pragmas_ask_act_or_change_the_session)
{
    const kind_case cases[] = {
        {"pragma user_version", FL_SQL_READ, "PRAGMA"},
        {"pragma main.table_info(t)", FL_SQL_READ, "PRAGMA"},
        {"pragma integrity_check(10)", FL_SQL_READ, "PRAGMA"},
        {"pragma foreign_keys = on", FL_SQL_SESSION, "PRAGMA"},
        {"pragma foreign_keys(on)", FL_SQL_SESSION, "PRAGMA"},
        {"pragma wal_checkpoint(truncate)", FL_SQL_WRITE, "PRAGMA"},
        {"pragma optimize", FL_SQL_WRITE, "PRAGMA"},
        {"attach 'a' as b", FL_SQL_SESSION, "ATTACH"},
        {"detach b", FL_SQL_SESSION, "DETACH"},
        {"create table temp.t (a)", FL_SQL_SESSION, "CREATE TEMPORARY"},
    };
    CHECK_KINDS(FL_SQL_SQLITE, cases);
}

TEST(mariadb_statements_that_bind_a_session_are_known)
{
    const kind_case cases[] = {
        {"use a", FL_SQL_SESSION, "USE"},
        {"select get_lock('a', 1)", FL_SQL_SESSION, "get_lock"},
        {"do release_lock('a')", FL_SQL_SESSION, "release_lock"},
        {"select is_free_lock('a')", FL_SQL_READ, "SELECT"},
        {"lock tables t write", FL_SQL_SESSION, "LOCK"},
        {"unlock tables", FL_SQL_SESSION, "UNLOCK"},
        {"drop temporary table t", FL_SQL_SESSION, "DROP TEMPORARY"},
        {"load data infile 'a' into table t", FL_SQL_WRITE, "LOAD"},
        {"show tables", FL_SQL_READ, "SHOW"},
        {"describe t", FL_SQL_READ, "DESCRIBE"},
        {"select pg_advisory_lock(1)", FL_SQL_READ, "SELECT"},
    };
    CHECK_KINDS(FL_SQL_MARIADB, cases);
}

TEST(deep_nesting_and_long_texts_take_linear_time)
{
    const char *pieces[] = {"(", "/*", "$a$ $b", "E'a'\n", "$a ", "in(?)", "--\n", "'' ", "??"};
    for (size_t i = 0; i < COUNT(pieces) * COUNT(dialects); i++) {
        char error[100];
        fl_sql sql;
        fl_buffer text;
        fl_buffer_init(&text);
        while (text.size < 1000000) fl_buffer_slice(&text, fl_slice_from_string(pieces[i / 3]));
        int status =
            fl_sql_read(&sql, dialects[i % 3], fl_slice_of(text.data, text.size), error, 100);
        CHECK(status == 0 || status == UV_EINVAL);
        if (status == 0) fl_sql_close(&sql);
        fl_buffer_close(&text);
    }
}

static int read_and_write(void)
{
    static const char text[] = "select ?, ?, ?, ?, ?, ?, ?, ?, ? from a where b in (?) and c = ?";
    const uint32_t lengths[] = {FL_SQL_SINGLE, FL_SQL_SINGLE, FL_SQL_SINGLE, FL_SQL_SINGLE,
                                FL_SQL_SINGLE, FL_SQL_SINGLE, FL_SQL_SINGLE, FL_SQL_SINGLE,
                                FL_SQL_SINGLE, 300,           FL_SQL_SINGLE};
    char error[200];
    fl_sql sql;
    fl_buffer out;
    int status =
        fl_sql_read(&sql, FL_SQL_POSTGRES, fl_slice_from_string(text), error, sizeof(error));
    if (status < 0) return status;
    fl_buffer_init(&out);
    status = fl_sql_write(&sql, lengths, &out);
    fl_buffer_close(&out);
    fl_sql_close(&sql);
    return status;
}

TEST(without_memory_a_text_is_neither_read_nor_written)
{
    CHECK_SCARCITY(read_and_write);
}

TEST_MAIN
