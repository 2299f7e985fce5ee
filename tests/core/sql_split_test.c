#include "sql_split.h"

#include <stdlib.h>
#include <uv.h>

#include "test.h"

static const fl_sql_dialect dialects[] = {FL_SQL_POSTGRES, FL_SQL_SQLITE, FL_SQL_MARIADB};

/* Every statement as "LINE[text]", or "LINE!problem" at the end. The text lies in memory of its own
 * without a byte behind it. Valid until the next call. */
static const char *pieces(fl_sql_dialect dialect, const char *text)
{
    static char result[4096];
    size_t size = strlen(text), used = 0;
    char *copy = memcpy(malloc(size ? size : 1), text, size);
    fl_sql_split split;
    fl_sql_part part;
    int status;
    result[0] = '\0';
    fl_sql_split_init(&split, dialect, fl_slice_of(copy, size));
    while ((status = fl_sql_split_next(&split, &part)) == 1)
        used += (size_t)snprintf(result + used, sizeof(result) - used, "%zu[%.*s]", part.line,
                                 (int)part.text.size, part.text.data);
    if (status < 0)
        (void)snprintf(result + used, sizeof(result) - used, "%zu!%s", split.wrong_line,
                       split.problem);
    free(copy);
    return result;
}

static bool gives(fl_sql_dialect dialect, const char *text, const char *expected)
{
    const char *actual = pieces(dialect, text);
    if (strcmp(actual, expected) == 0) return true;
    printf("# dialect %d, %s: %s, expected %s\n", dialect, text, actual, expected);
    return false;
}

static bool gives_in_all(const char *text, const char *expected)
{
    for (size_t i = 0; i < sizeof(dialects) / sizeof(*dialects); i++)
        if (!gives(dialects[i], text, expected)) return false;
    return true;
}

static bool is_one(fl_sql_dialect dialect, const char *text)
{
    char both[2048], expected[2048];
    (void)snprintf(both, sizeof(both), "%s;\nselect 2", text);
    size_t line = 2;
    for (const char *at = text; (at = strchr(at, '\n')) != NULL; at++) line++;
    (void)snprintf(expected, sizeof(expected), "1[%s]%zu[select 2]", text, line);
    return gives(dialect, both, expected);
}

TEST(statements_end_at_semicolons)
{
    CHECK(gives_in_all("select 1; select 2", "1[select 1]1[select 2]"));
    CHECK(gives_in_all("select 1;\n\nselect 2;\n", "1[select 1]3[select 2]"));
    CHECK(gives_in_all("select 1", "1[select 1]"));
}

TEST(there_may_be_none)
{
    CHECK(gives_in_all("", ""));
    CHECK(gives_in_all(" \n ; ;; \n-- nothing; here\n/* nor; here */", ""));
}

TEST(comments_before_and_behind_are_no_part_of_a_statement)
{
    CHECK(gives_in_all("-- first;\nselect 1 -- one;\n;\n/* ; */ select 2 /* two */;",
                       "2[select 1]4[select 2]"));
    CHECK(gives_in_all("select /* ; */ 1;", "1[select /* ; */ 1]"));
}

TEST(strings_and_names_keep_theirs)
{
    CHECK(gives_in_all("insert into t values ('a;b', 'it''s;')",
                       "1[insert into t values ('a;b', 'it''s;')]"));
    CHECK(is_one(FL_SQL_POSTGRES, "select \"a;b\", e'a\\';b'"));
    CHECK(is_one(FL_SQL_SQLITE, "select \"a;b\", `c;d`, [e;f]"));
    CHECK(is_one(FL_SQL_MARIADB, "select \"a;b\", `c;d`, 'e\\';f'"));
}

TEST(dollar_quotes_keep_theirs)
{
    CHECK(is_one(FL_SQL_POSTGRES, "create function f() returns int language sql as $body$\n"
                                  "select 1; select $1 $$;$$;\n$body$"));
    CHECK(is_one(FL_SQL_POSTGRES, "do $$ begin perform 1; end $$"));
}

TEST(bodies_of_postgresql_keep_theirs)
{
    CHECK(is_one(FL_SQL_POSTGRES, "create function f() returns int begin atomic select 1; "
                                  "select case when true then 2 end; end"));
    CHECK(is_one(FL_SQL_POSTGRES, "create rule r as on insert to t do (select 1; select 2)"));
    CHECK(is_one(FL_SQL_POSTGRES, "create table t (begin int, \"end\" int)"));
}

TEST(triggers_of_sqlite_keep_theirs)
{
    CHECK(is_one(FL_SQL_SQLITE,
                 "create trigger a after insert on t when new.n > 1 begin\n"
                 "  update t set n = case n when 1 then 2 else 3 end;\n  delete from u;\nend"));
    CHECK(gives(FL_SQL_SQLITE, "begin; select 1; end;", "1[begin]1[select 1]1[end]"));
}

TEST(routines_of_mariadb_keep_theirs)
{
    CHECK(is_one(FL_SQL_MARIADB, "create definer = a@b procedure p() begin\n"
                                 "  if 1 then select 1; end if;\n"
                                 "  begin select case 1 when 1 then 2 end; end;\n"
                                 "  case 1 when 1 then select 2; end case;\n"
                                 "  while 0 do select 3; end while;\nend"));
    CHECK(is_one(FL_SQL_MARIADB, "create trigger a before insert on t for each row set new.n = 1"));
    CHECK(is_one(FL_SQL_MARIADB, "begin not atomic select 1; select 2; end"));
    CHECK(gives(FL_SQL_MARIADB, "begin; select 1; commit", "1[begin]1[select 1]1[commit]"));
    CHECK(gives(FL_SQL_MARIADB, "create function f() returns int begin return 1; end",
                "1[create function f() returns int begin return 1; end]"));
}

TEST(what_cannot_be_read_is_told_with_its_line)
{
    CHECK(gives_in_all("select 1;\nselect 'a", "1[select 1]2!an unterminated string"));
    CHECK(gives_in_all("select 1;\n\n/* a", "1[select 1]3!an unterminated comment"));
    CHECK(gives(FL_SQL_POSTGRES, "\n$$ a", "2!an unterminated dollar quote"));
    CHECK(gives(FL_SQL_SQLITE, "\ncreate trigger a after insert on t begin delete from t;",
                "2!a body whose END is missing"));
    CHECK(gives(FL_SQL_MARIADB, "\ncreate procedure p() begin select 1;",
                "2!a body whose END is missing"));
    CHECK(gives(FL_SQL_MARIADB, "select 1;\nDELIMITER $$\n", "1[select 1]2!DELIMITER"));
}

TEST(after_an_error_there_is_only_that)
{
    fl_sql_split split;
    fl_sql_part part;
    fl_sql_split_init(&split, FL_SQL_SQLITE, FL_SLICE("select 'a"));
    CHECK_EQUAL_INT(fl_sql_split_next(&split, &part), UV_EINVAL);
    CHECK_EQUAL_INT(fl_sql_split_next(&split, &part), UV_EINVAL);
}

TEST(each_says_what_it_does)
{
    fl_sql_split split;
    fl_sql_part part;
    fl_sql_split_init(&split, FL_SQL_MARIADB, FL_SLICE("create table t (n int); commit"));
    CHECK_EQUAL_INT(fl_sql_split_next(&split, &part), 1);
    CHECK_EQUAL_INT(part.kind, FL_SQL_SCHEMA);
    CHECK_EQUAL_INT(fl_sql_split_next(&split, &part), 1);
    CHECK_EQUAL_INT(part.kind, FL_SQL_SESSION);
    CHECK(strcmp(part.verb, "COMMIT") == 0);
    CHECK_EQUAL_INT(fl_sql_split_next(&split, &part), 0);
    CHECK_EQUAL_INT(fl_sql_split_next(&split, &part), 0);
}

TEST_MAIN
