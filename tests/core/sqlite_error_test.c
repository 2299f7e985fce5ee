#include "drivers/sqlite/sqlite_error.h"

#include "test.h"

TEST(an_extended_result_has_its_name)
{
    CHECK(strcmp(fl_sqlite_error_name(SQLITE_CONSTRAINT_UNIQUE), "SQLITE_CONSTRAINT_UNIQUE") == 0);
    CHECK(strcmp(fl_sqlite_error_name(SQLITE_FULL), "SQLITE_FULL") == 0);
}

TEST(an_unknown_extension_has_the_name_of_its_kind)
{
    CHECK(strcmp(fl_sqlite_error_name(SQLITE_IOERR | (250 << 8)), "SQLITE_IOERR") == 0);
    CHECK(fl_sqlite_error_name(200) == NULL);
}

TEST(every_name_fits_into_a_code)
{
    fl_sqlite_error error = {0};
    for (int i = 0; i < 1 << 14; i++) {
        const char *name = fl_sqlite_error_name(i);
        CHECK(!name || strlen(name) < sizeof(error.code));
    }
}

TEST(a_unique_column_is_found)
{
    fl_sqlite_error error = {0};
    fl_sqlite_error_parse(&error, FL_SLICE("UNIQUE constraint failed: items.name"));
    CHECK_EQUAL_TEXT(error.constraint, "items.name");
    CHECK_EQUAL_TEXT(error.table, "items");
    CHECK_EQUAL_TEXT(error.column, "name");
}

TEST(several_unique_columns_have_a_table_alone)
{
    fl_sqlite_error error = {0};
    fl_sqlite_error_parse(&error, FL_SLICE("UNIQUE constraint failed: t.a, t.b"));
    CHECK_EQUAL_TEXT(error.constraint, "t.a, t.b");
    CHECK_EQUAL_TEXT(error.table, "t");
    CHECK(error.column.data == NULL);
}

TEST(an_index_of_expressions_has_no_table)
{
    fl_sqlite_error error = {0};
    fl_sqlite_error_parse(&error, FL_SLICE("UNIQUE constraint failed: index 'lower_name'"));
    CHECK_EQUAL_TEXT(error.constraint, "index 'lower_name'");
    CHECK(error.table.data == NULL);
}

TEST(a_check_has_its_name)
{
    fl_sqlite_error error = {0};
    fl_sqlite_error_parse(&error, FL_SLICE("CHECK constraint failed: price > 0"));
    CHECK_EQUAL_TEXT(error.constraint, "price > 0");
}

TEST(other_messages_name_nothing)
{
    fl_sqlite_error error = {0};
    fl_sqlite_error_parse(&error, FL_SLICE("FOREIGN KEY constraint failed"));
    fl_sqlite_error_parse(&error, FL_SLICE("UNIQUE constraint failed:"));
    fl_sqlite_error_parse(&error, FL_SLICE(""));
    CHECK(error.constraint.data == NULL && error.table.data == NULL && error.column.data == NULL);
}

TEST(the_first_error_stays)
{
    fl_sqlite_error error = {0};
    fl_sqlite_error_set(&error, "first", 503, "%d is wrong", 7);
    fl_sqlite_error_set(&error, "second", 0, "too");
    CHECK(strcmp(error.code, "first") == 0);
    CHECK_EQUAL_INT(error.status, 503);
    CHECK(strcmp(error.message, "7 is wrong") == 0);
    fl_sqlite_error_close(&error);
    CHECK(!fl_sqlite_error_is_set(&error));
}

TEST(an_error_about_the_file_names_it)
{
    fl_sqlite_error error = {0};
    fl_sqlite_error_take(&error, NULL, SQLITE_FULL, "/srv/shop.db");
    CHECK(strcmp(error.code, "SQLITE_FULL") == 0);
    CHECK(strstr(error.message, "/srv/shop.db: ") == error.message);
    fl_sqlite_error_close(&error);
}

TEST_MAIN
