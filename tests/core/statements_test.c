#include "statements.h"

#include <stdlib.h>
#include <uv.h>

#include "scarcity.h"
#include "test.h"

static fl_statements *make(void)
{
    fl_statements *statements = NULL;
    if (fl_statements_new(&statements, FL_SQL_POSTGRES) < 0) abort();
    return statements;
}

static fl_template *find(fl_statements *statements, const char *sql)
{
    char error[256];
    fl_template *found = NULL;
    (void)fl_statements_find(statements, &found, fl_slice_from_string(sql), error, sizeof(error));
    return found;
}

static fl_statement *expand(fl_statements *statements, const char *sql, const uint32_t *lengths)
{
    fl_statement *statement = NULL;
    fl_template *template = find(statements, sql);
    if (template) (void)fl_statements_expand(statements, &statement, template, lengths);
    return statement;
}

TEST(a_text_is_read_once)
{
    fl_statements *statements = make();
    fl_template *first = find(statements, "select ?");
    CHECK(first && find(statements, "select ?") == first);
    CHECK(find(statements, "select ?, 1") != first);
    fl_statements_free(statements);
}

TEST(the_same_text_is_the_same_statement)
{
    fl_statements *statements = make();
    fl_statement *first = expand(statements, "select ?", NULL);
    fl_statement *again = expand(statements, "select ?", NULL);
    CHECK(first && first == again);
    CHECK(strcmp(first->text, "select $1") == 0);
    CHECK_EQUAL_INT(first->parameters, 1);
    CHECK(first->kind == FL_SQL_READ);
    fl_statement_release(first);
    fl_statement_release(again);
    fl_statements_free(statements);
}

TEST(lists_of_other_lengths_are_other_statements)
{
    fl_statements *statements = make();
    const char *sql = "select 1 where 1 in (?) and 2 = ?";
    const uint32_t two[] = {2, FL_SQL_SINGLE}, three[] = {3, FL_SQL_SINGLE};
    fl_statement *a = expand(statements, sql, two), *b = expand(statements, sql, three);
    fl_statement *again = expand(statements, sql, two);
    CHECK(a && b && a != b && again == a);
    CHECK_EQUAL_INT(a->parameters, 3);
    CHECK_EQUAL_INT(b->parameters, 4);
    CHECK(a->id != b->id);
    fl_statement_release(a);
    fl_statement_release(b);
    fl_statement_release(again);
    fl_statements_free(statements);
}

TEST(the_least_recently_used_text_goes_and_its_statement_stays_while_it_is_held)
{
    fl_statements *statements = make();
    fl_statement *held = expand(statements, "select 'first'", NULL);
    char sql[64];
    for (int i = 0; i < FL_STATEMENTS_MOST + 10; i++) {
        (void)snprintf(sql, sizeof(sql), "select %d", i);
        CHECK(find(statements, sql));
    }
    CHECK(strcmp(held->text, "select 'first'") == 0);
    fl_statement *anew = expand(statements, "select 'first'", NULL);
    CHECK(anew && anew != held);
    fl_statement_release(held);
    fl_statement_release(anew);
    fl_statements_free(statements);
}

TEST(what_cannot_be_read_is_said_and_not_kept)
{
    fl_statements *statements = make();
    char error[256] = "";
    fl_template *found = NULL;
    CHECK_EQUAL_INT(
        fl_statements_find(statements, &found, FL_SLICE("select 'a"), error, sizeof(error)),
        UV_EINVAL);
    CHECK(error[0] && !found);
    fl_statements_free(statements);
}

/* 1, 2, 3 … 100 µs again and again: the nineteenth twentieth is 95. */
TEST(the_time_that_most_runs_take_is_estimated)
{
    fl_statements *statements = make();
    fl_statement *statement = expand(statements, "select 1", NULL);
    for (unsigned i = 0; i < 20000; i++)
        fl_statement_took(statement, (uint64_t)((i * 37) % 100 + 1) * 1000);
    CHECK(statement->p95 > 80000 && statement->p95 < 110000);
    for (unsigned i = 0; i < 200; i++) fl_statement_took(statement, 20000000);
    CHECK(statement->p95 > 5000000); /* slow from now on */
    fl_statement_release(statement);
    fl_statements_free(statements);
}

TEST(what_a_driver_knows_of_a_statement_goes_with_it)
{
    fl_statements *statements = make();
    fl_statement *statement = expand(statements, "select 1", NULL);
    statement->known = malloc(100);
    statement->forget = free;
    fl_statement_release(statement);
    fl_statements_free(statements); /* the sanitizer sees a leak */
}

static unsigned gone;

static void count_gone(void *known)
{
    (void)known;
    gone++;
}

TEST(large_texts_are_kept_in_a_bounded_number_of_bytes)
{
    fl_statements *statements = make();
    size_t size = 1u << 20;
    char *sql = malloc(size + 1);
    if (!sql) abort();
    memset(sql, ' ', size);
    sql[size] = '\0';
    gone = 0;
    for (unsigned i = 0; i < 100; i++) {
        (void)snprintf(sql, size, "select %u", i);
        sql[strlen(sql)] = ' ';
        fl_statement *statement = expand(statements, sql, NULL);
        if (!statement) abort();
        statement->forget = count_gone;
        fl_statement_release(statement);
    }
    CHECK(gone > 80 && gone < 99); /* the last ones stay */
    free(sql);
    fl_statements_free(statements);
    CHECK_EQUAL_INT(gone, 100);
}

TEST(so_are_texts_that_long_lists_have_made_long)
{
    fl_statements *statements = make();
    char sql[64];
    gone = 0;
    for (unsigned i = 0; i < 20 * 8; i++) {
        uint32_t length = 60000 + i % 8;
        (void)snprintf(sql, sizeof(sql), "select %u where a in (?)", i / 8);
        fl_statement *statement = expand(statements, sql, &length);
        if (!statement) abort();
        statement->forget = count_gone;
        fl_statement_release(statement);
    }
    CHECK(gone > 80 && gone < 159);
    fl_statements_free(statements);
    CHECK_EQUAL_INT(gone, 160);
}

static int use_statements(void)
{
    fl_statements *statements = NULL;
    fl_template *found = NULL;
    fl_statement *plain = NULL, *listed = NULL;
    const uint32_t lengths[] = {3, FL_SQL_SINGLE};
    char error[256];
    const fl_slice sql = FL_SLICE("select 1 where 1 in (?) and 2 = ?");
    int status = fl_statements_new(&statements, FL_SQL_POSTGRES);
    if (status == 0) status = fl_statements_find(statements, &found, sql, error, sizeof(error));
    if (status == 0) status = fl_statements_expand(statements, &plain, found, NULL);
    if (status == 0) status = fl_statements_expand(statements, &listed, found, lengths);
    if (status == 0 && (plain->parameters != 2 || listed->parameters != 4)) status = 1;
    fl_statement_release(plain);
    fl_statement_release(listed);
    fl_statements_free(statements);
    return status;
}

/* What an expansion needs to be kept is the last that is asked for: it is made anew each time. */
TEST(without_memory_there_is_no_statement)
{
    CHECK_SCARCITY_COPES(use_statements);
}

TEST_MAIN
