#include "drivers/mariadb/arguments.h"
#include "drivers/mariadb/columns.h"
#include "drivers/mariadb/fault.h"
#include "test.h"

#include <math.h>
#include <mysqld_error.h>
#include <stdlib.h>
#include <uv.h>

static fl_buffer out;

/* What a column makes of the bytes; NULL: it did not read all of them. */
static const fl_value *read_binary(fl_mariadb_column column, const void *bytes, size_t size)
{
    static fl_value value;
    unsigned char *copy = malloc(size + 1), *at = copy;
    memcpy(copy, bytes, size);
    fl_buffer_close(&out);
    fl_mariadb_column_binary(&column, &out, &at);
    bool is_whole = at == copy + size;
    free(copy);
    if (!is_whole || out.failed) return NULL;
    const char *from = out.data;
    value = fl_values_read(&from);
    return &value;
}

static bool is_text(const fl_value *value, const char *text)
{
    return value && value->tag == FL_VALUE_TEXT &&
           fl_slice_equal(value->text, fl_slice_from_string(text));
}

#define READ(type_, ...)                                                                           \
    read_binary((fl_mariadb_column){.type = MYSQL_TYPE_##type_},                                   \
                (const unsigned char[]){__VA_ARGS__},                                              \
                sizeof((const unsigned char[]){__VA_ARGS__}))
#define READ_UNSIGNED(type_, ...)                                                                  \
    read_binary((fl_mariadb_column){.type = MYSQL_TYPE_##type_, .is_unsigned = true},              \
                (const unsigned char[]){__VA_ARGS__},                                              \
                sizeof((const unsigned char[]){__VA_ARGS__}))

static bool is_integer(const fl_value *value, int64_t expected)
{
    return value && value->tag == FL_VALUE_INTEGER && value->integer == expected;
}

TEST(integers_have_their_sign_and_size)
{
    CHECK(is_integer(READ(TINY, 0x80), -128));
    CHECK(is_integer(READ_UNSIGNED(TINY, 0xff), 255));
    CHECK(is_integer(READ(SHORT, 0xff, 0xff), -1));
    CHECK(is_integer(READ(YEAR, 0xe8, 0x07), 2024));
    CHECK(is_integer(READ(INT24, 0x00, 0x00, 0x80, 0xff), -8388608));
    CHECK(is_integer(READ_UNSIGNED(LONG, 0xff, 0xff, 0xff, 0xff), 4294967295));
    CHECK(is_integer(READ(LONGLONG, 0, 0, 0, 0, 0, 0, 0, 0x80), INT64_MIN));
    CHECK(is_text(READ_UNSIGNED(LONGLONG, 255, 255, 255, 255, 255, 255, 255, 255),
                  "18446744073709551615"));
    CHECK(is_integer(READ(BIT, 2, 0x0a, 0xaa), 2730));
}

TEST(a_tinyint_of_width_one_is_a_boolean_where_it_is_one)
{
    fl_mariadb_column column = {.type = MYSQL_TYPE_TINY, .is_bool = true};
    CHECK(read_binary(column, "\1", 1)->tag == FL_VALUE_TRUE);
    CHECK(read_binary(column, "\0", 1)->tag == FL_VALUE_FALSE);
    CHECK(is_integer(read_binary(column, "\5", 1), 5));
}

TEST(a_float_is_the_shortest_number_that_it_may_be)
{
    const fl_value *value = READ(FLOAT, 0xcd, 0xcc, 0xcc, 0x3d);
    CHECK(value && value->tag == FL_VALUE_NUMBER && fabs(value->number - 0.1) < 1e-17);
    value = READ(DOUBLE, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f);
    CHECK(value && value->tag == FL_VALUE_NUMBER && fabs(value->number - 0.5) < 1e-17);
}

TEST(times_are_written_as_iso_8601)
{
    CHECK(is_text(READ(DATE, 4, 0xe8, 0x07, 5, 1), "2024-05-01"));
    CHECK(is_text(READ(DATE, 0), "0000-00-00"));
    CHECK(is_text(READ(DATETIME, 4, 0xe8, 0x07, 5, 1), "2024-05-01T00:00:00Z"));
    CHECK(is_text(READ(TIMESTAMP, 7, 0xe8, 0x07, 5, 1, 10, 2, 3), "2024-05-01T10:02:03Z"));
    CHECK(is_text(READ(DATETIME, 11, 0xe8, 0x07, 5, 1, 10, 2, 3, 0x7d, 0, 0, 0),
                  "2024-05-01T10:02:03.000125Z"));
    CHECK(is_text(READ(DATETIME, 0), "0000-00-00 00:00:00"));
    CHECK(is_text(READ(DATETIME, 4, 0xe8, 0x07, 0, 1), "2024-00-01 00:00:00"));
    CHECK(is_text(READ(TIME, 8, 1, 4, 0, 0, 0, 4, 5, 9), "-100:05:09"));
    CHECK(is_text(READ(TIME, 12, 0, 0, 0, 0, 0, 1, 2, 3, 0x20, 0xa1, 7, 0), "01:02:03.500000"));
    CHECK(is_text(READ(TIME, 0), "00:00:00"));
}

TEST(texts_have_lengths_of_any_size)
{
    unsigned char bytes[300] = {252, 0x28, 0x01};
    CHECK(is_text(READ(VAR_STRING, 1, 'x'), "x"));
    CHECK(is_text(READ(BLOB, 0), ""));
    const fl_value *value =
        read_binary((fl_mariadb_column){.type = MYSQL_TYPE_BLOB}, bytes, 3 + 0x128);
    CHECK(value && value->text.size == 0x128);
    value = read_binary((fl_mariadb_column){.type = MYSQL_TYPE_BLOB, .is_json = true}, "\2[]", 3);
    CHECK(value && value->tag == FL_VALUE_JSON);
}

TEST(a_value_that_is_not_wanted_is_skipped)
{
    unsigned char bytes[] = {3, 'a', 'b', 'c', 7}, *at = bytes;
    fl_mariadb_column column = {.type = MYSQL_TYPE_BLOB};
    fl_mariadb_column_binary(&column, NULL, &at);
    CHECK(at == bytes + 4);
}

static const fl_value *read_text(enum enum_field_types type, const char *text)
{
    static fl_value value;
    fl_mariadb_column column = {.type = type};
    fl_buffer_close(&out);
    fl_mariadb_column_text(&column, &out, fl_slice_from_string(text));
    const char *from = out.data;
    value = fl_values_read(&from);
    return &value;
}

TEST(the_text_protocol_brings_the_same)
{
    CHECK(is_integer(read_text(MYSQL_TYPE_LONG, "-12"), -12));
    CHECK(is_text(read_text(MYSQL_TYPE_DATETIME, "2024-05-01 10:02:03"), "2024-05-01T10:02:03Z"));
    CHECK(is_text(read_text(MYSQL_TYPE_DATETIME, "2024-05-01 10:02:03.000000"),
                  "2024-05-01T10:02:03Z"));
    CHECK(is_text(read_text(MYSQL_TYPE_TIMESTAMP, "2024-05-01 10:02:03.000125"),
                  "2024-05-01T10:02:03.000125Z"));
    CHECK(is_text(read_text(MYSQL_TYPE_DATETIME, "0000-00-00 00:00:00"), "0000-00-00 00:00:00"));
    CHECK(read_text(MYSQL_TYPE_DOUBLE, "0.5")->tag == FL_VALUE_NUMBER);
    CHECK(is_text(read_text(MYSQL_TYPE_NEWDECIMAL, "1.50"), "1.50"));
}

TEST(arguments_are_bound_by_their_kind)
{
    fl_mariadb_arguments arguments = {0};
    fl_buffer values;
    fl_buffer_init(&values);
    fl_values_null(&values);
    fl_values_bool(&values, true);
    fl_values_integer(&values, -7);
    fl_values_number(&values, 0.5);
    fl_values_text(&values, FL_SLICE("a\0b"));
    CHECK_EQUAL_INT(fl_mariadb_arguments_set(&arguments, values.data, 5), 0);
    const MYSQL_BIND *bind = arguments.binds;
    CHECK(bind[0].buffer_type == MYSQL_TYPE_NULL);
    CHECK(bind[1].buffer_type == MYSQL_TYPE_TINY && *(const int8_t *)bind[1].buffer == 1);
    CHECK(bind[2].buffer_type == MYSQL_TYPE_LONGLONG && *(const int64_t *)bind[2].buffer == -7);
    CHECK(bind[3].buffer_type == MYSQL_TYPE_DOUBLE);
    CHECK(bind[4].buffer_type == MYSQL_TYPE_STRING && bind[4].buffer_length == 3);
    CHECK(memcmp(bind[4].buffer, "a\0b", 3) == 0);
    fl_mariadb_arguments_close(&arguments);
    fl_buffer_close(&values);
}

/* The query that is told of a fault. */
static fl_query told;

static const fl_db_error *tell(unsigned number, const char *state, const char *message)
{
    fl_mariadb_fault fault;
    fl_db_error *error = &told.error;
    free(error->message), free(error->detail), free(error->constraint);
    free(error->table), free(error->column);
    memset(error, 0, sizeof(*error));
    fl_mariadb_fault_set(&fault, number, message);
    (void)snprintf(fault.state, sizeof(fault.state), "%s", state);
    fl_mariadb_fault_tell(&fault, &told);
    return error;
}

TEST(faults_name_what_was_broken)
{
    const fl_db_error *error =
        tell(ER_DUP_ENTRY, "23000", "Duplicate entry 'for key 'x'' for key 'users.name'");
    CHECK(strcmp(error->code, "23000") == 0 && strcmp(error->constraint, "name") == 0);
    CHECK(strcmp(error->detail, "errno 1062") == 0);
    error = tell(ER_NO_REFERENCED_ROW_2, "23000",
                 "Cannot add or update a child row: a foreign key constraint fails "
                 "(`shop`.`items`, CONSTRAINT `of_order` FOREIGN KEY (`o`) REFERENCES `x` (`id`))");
    CHECK(strcmp(error->constraint, "of_order") == 0 && strcmp(error->table, "items") == 0);
    error = tell(ER_NO_DEFAULT_FOR_FIELD, "HY000", "Field 'a' doesn't have a default value");
    CHECK(strcmp(error->code, "1364") == 0 && strcmp(error->column, "a") == 0);
}

TEST(faults_that_pass_are_told_from_those_that_stay)
{
    CHECK(strcmp(tell(ER_LOCK_DEADLOCK, "40001", "Deadlock found")->code, "40001") == 0);
    CHECK(strcmp(tell(ER_LOCK_WAIT_TIMEOUT, "HY000", "Lock wait timeout")->code, "40001") == 0);
    CHECK_EQUAL_INT(tell(ER_CON_COUNT_ERROR, "08004", "Too many connections")->status, 503);
    CHECK_EQUAL_INT(tell(ER_PARSE_ERROR, "42000", "You have an error")->status, 0);
    (void)tell(1, "HY000", "");
}

TEST_MAIN
