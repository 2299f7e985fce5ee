#include "drivers/sqlite/sqlite_cache.h"

#include <stdio.h>

#include "scarcity.h"
#include "test.h"
#include "values.h"

typedef struct opened {
    sqlite3 *db;
    fl_sqlite_cache cache;
} opened;

static void open_memory(opened *self)
{
    (void)sqlite3_open_v2(":memory:", &self->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_MEMORY, NULL);
    fl_sqlite_cache_init(&self->cache, self->db);
}

/* Whether SQLite, too, thinks that nothing is left. */
static bool is_closed(opened *self)
{
    fl_sqlite_cache_close(&self->cache);
    return sqlite3_close(self->db) == SQLITE_OK;
}

static fl_sqlite_text *text_of(const char *sql)
{
    return fl_sqlite_text_new(fl_slice_from_string(sql), FL_SQL_READ, "SELECT");
}

static fl_sqlite_prepared *take(opened *self, const char *sql)
{
    fl_sqlite_prepared *prepared = NULL;
    fl_sqlite_text *text = text_of(sql);
    int result = fl_sqlite_cache_take(&self->cache, &prepared, text);
    fl_sqlite_text_release(text);
    return result == SQLITE_OK ? prepared : NULL;
}

TEST(a_text_is_prepared_once)
{
    opened fixture;
    open_memory(&fixture);
    fl_sqlite_prepared *first = take(&fixture, "select 1");
    fl_sqlite_cache_give(&fixture.cache, first);
    fl_sqlite_prepared *second = take(&fixture, "select 1");
    CHECK(first && first == second);
    fl_sqlite_cache_give(&fixture.cache, second);
    CHECK(is_closed(&fixture));
}

TEST(a_text_that_is_out_is_prepared_once_more)
{
    opened fixture;
    open_memory(&fixture);
    fl_sqlite_prepared *first = take(&fixture, "select 1"), *second = take(&fixture, "select 1");
    CHECK(first && second && first != second);
    fl_sqlite_cache_give(&fixture.cache, second);
    fl_sqlite_cache_give(&fixture.cache, first);
    CHECK_EQUAL_INT(fixture.cache.count, 1);
    CHECK(is_closed(&fixture));
}

TEST(the_least_recently_used_one_goes)
{
    opened fixture;
    open_memory(&fixture);
    fl_sqlite_cache_give(&fixture.cache, take(&fixture, "select 0"));
    fl_sqlite_prepared *kept = take(&fixture, "select 'kept'");
    fl_sqlite_cache_give(&fixture.cache, kept);
    for (int i = 1; i < FL_SQLITE_CACHE_MOST; i++) {
        char sql[32];
        (void)snprintf(sql, sizeof(sql), "select %d", i);
        fl_sqlite_cache_give(&fixture.cache, take(&fixture, sql));
        fl_sqlite_cache_give(&fixture.cache, take(&fixture, "select 'kept'"));
    }
    CHECK_EQUAL_INT(fixture.cache.count, FL_SQLITE_CACHE_MOST);
    CHECK(fixture.cache.newest == kept);
    CHECK(strcmp(fixture.cache.oldest->text->bytes, "select 1") == 0);
    CHECK(is_closed(&fixture));
}

TEST(one_that_is_out_stays)
{
    opened fixture;
    open_memory(&fixture);
    fl_sqlite_prepared *out = take(&fixture, "select 'out'");
    for (int i = 0; i < 2 * FL_SQLITE_CACHE_MOST; i++) {
        char sql[32];
        (void)snprintf(sql, sizeof(sql), "select %d", i);
        fl_sqlite_cache_give(&fixture.cache, take(&fixture, sql));
    }
    CHECK(sqlite3_step(out->statement) == SQLITE_ROW);
    fl_sqlite_cache_give(&fixture.cache, out);
    CHECK(is_closed(&fixture));
}

TEST(what_is_wrong_is_not_kept)
{
    opened fixture;
    open_memory(&fixture);
    CHECK(take(&fixture, "selec 1") == NULL);
    CHECK_EQUAL_INT(fixture.cache.count, 0);
    CHECK(is_closed(&fixture));
}

TEST(columns_have_their_names_and_declared_types)
{
    opened fixture;
    open_memory(&fixture);
    (void)sqlite3_exec(fixture.db, "create table t (a Boolean, b BOOL, c json, d text)", NULL, NULL,
                       NULL);
    fl_sqlite_prepared *prepared = take(&fixture, "select a, b, c, d, 1 as e from t");
    CHECK(prepared);
    CHECK_EQUAL_INT(prepared->width, 5);
    fl_sqlite_column expected[] = {FL_SQLITE_BOOLEAN, FL_SQLITE_BOOLEAN, FL_SQLITE_JSON,
                                   FL_SQLITE_PLAIN, FL_SQLITE_PLAIN};
    CHECK(memcmp(prepared->columns, expected, sizeof(expected)) == 0);
    const char *at = prepared->names.data;
    fl_value name = fl_values_read(&at);
    CHECK_EQUAL_TEXT(name.text, "a");
    fl_sqlite_cache_give(&fixture.cache, prepared);
    CHECK(is_closed(&fixture));
}

TEST(columns_follow_the_schema)
{
    opened fixture;
    open_memory(&fixture);
    (void)sqlite3_exec(fixture.db, "create table t (a)", NULL, NULL, NULL);
    fl_sqlite_prepared *prepared = take(&fixture, "select * from t");
    fl_sqlite_cache_give(&fixture.cache, prepared);
    (void)sqlite3_exec(fixture.db, "alter table t add column b boolean", NULL, NULL, NULL);
    prepared = take(&fixture, "select * from t");
    CHECK_EQUAL_INT(sqlite3_step(prepared->statement), SQLITE_DONE);
    CHECK(fl_sqlite_prepared_look(prepared));
    CHECK_EQUAL_INT(prepared->width, 2);
    CHECK_EQUAL_INT(prepared->columns[1], FL_SQLITE_BOOLEAN);
    fl_sqlite_cache_give(&fixture.cache, prepared);
    CHECK(is_closed(&fixture));
}

TEST(an_empty_text_is_no_statement)
{
    opened fixture;
    open_memory(&fixture);
    fl_sqlite_prepared *prepared = take(&fixture, "-- nothing");
    CHECK(prepared && prepared->statement == NULL);
    fl_sqlite_cache_give(&fixture.cache, prepared);
    CHECK(is_closed(&fixture));
}

static opened scarce;

/* Its columns are described once more when the schema has changed. */
static int step_and_look(fl_sqlite_prepared **out)
{
    fl_sqlite_text *text = text_of("select * from t");
    if (!text) return SQLITE_NOMEM;
    int result = fl_sqlite_cache_take(&scarce.cache, out, text);
    fl_sqlite_text_release(text);
    if (result != SQLITE_OK) {
        *out = NULL;
        return result;
    }
    (void)sqlite3_step((*out)->statement);
    return fl_sqlite_prepared_look(*out) ? SQLITE_OK : SQLITE_NOMEM;
}

/* 0, -1 without memory, or 1. */
static int use_once(void)
{
    fl_sqlite_prepared *prepared = NULL;
    int result = step_and_look(&prepared);
    bool is_wrong = result == SQLITE_OK && (!prepared->columns || prepared->names.failed);
    if (prepared) fl_sqlite_cache_give(&scarce.cache, prepared);
    return is_wrong ? 1 : result == SQLITE_OK ? 0 : -1;
}

/* Who was told that there is no memory asks again. */
static int use_around_a_change(void)
{
    scarcity_pause();
    open_memory(&scarce);
    (void)sqlite3_exec(scarce.db, "create table t (a, b)", NULL, NULL, NULL);
    scarcity_resume();
    int first = use_once();
    (void)sqlite3_exec(scarce.db, "alter table t add column c", NULL, NULL, NULL);
    int second = use_once(), third = use_once();
    scarcity_pause();
    if (!is_closed(&scarce) || first > 0 || second > 0 || third > 0) return 1;
    return first < 0 || second < 0 || third < 0 ? -1 : 0;
}

TEST(without_memory_a_statement_is_prepared_or_looked_at_later)
{
    CHECK_SCARCITY(use_around_a_change);
}

TEST_MAIN
