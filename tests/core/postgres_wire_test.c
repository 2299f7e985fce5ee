#include "drivers/postgres/wire.h"

#include <uv.h>

#include "drivers/postgres/arguments.h"
#include "drivers/postgres/columns.h"
#include "drivers/postgres/known.h"
#include "scarcity.h"
#include "test.h"
#include "values.h"

static fl_buffer out;

static void begin(void)
{
    fl_buffer_reset(&out, 0);
}

#define CHECK_OUT(literal)                                                                         \
    do {                                                                                           \
        CHECK(out.size == sizeof(literal) - 1);                                                    \
        CHECK(memcmp(out.data, literal, sizeof(literal) - 1) == 0);                                \
    } while (0)

/* messages */

TEST(messages_have_their_length_behind_their_type)
{
    const uint32_t types[] = {23};
    begin();
    fl_pg_write_parse(&out, "s1", FL_SLICE("select $1"), types, 1);
    CHECK_OUT("P\0\0\0\027s1\0select $1\0\0\1\0\0\0\27");
    begin();
    fl_pg_write_execute(&out, "", 500);
    fl_pg_write_bare(&out, 'S');
    CHECK_OUT("E\0\0\0\11\0\0\0\1\xf4S\0\0\0\4");
    begin();
    fl_pg_write_close(&out, 'S', "s1");
    CHECK_OUT("C\0\0\0\10Ss1\0");
}

TEST(a_message_is_read_when_it_is_complete)
{
    static const char bytes[] = "Z\0\0\0\5I";
    fl_pg_message message;
    for (size_t size = 0; size < 6; size++) {
        CHECK_EQUAL_INT(fl_pg_message_read(&message, fl_slice_of(bytes, size)), 0);
        CHECK_EQUAL_INT(message.size, size < 5 ? 0 : 6);
    }
    CHECK_EQUAL_INT(fl_pg_message_read(&message, fl_slice_of(bytes, 6)), 1);
    CHECK(message.type == 'Z');
    CHECK_EQUAL_TEXT(message.body, "I");
}

TEST(a_message_that_cannot_be_is_refused)
{
    fl_pg_message message;
    CHECK_EQUAL_INT(fl_pg_message_read(&message, FL_SLICE("Z\0\0\0\3I")), UV_EPROTO);
    CHECK_EQUAL_INT(fl_pg_message_read(&message, FL_SLICE("Z\xff\xff\xff\xffI")), UV_EPROTO);
}

TEST(a_reader_does_not_pass_its_end)
{
    fl_pg_reader reader = fl_pg_reader_of(FL_SLICE("\0\1ab"));
    CHECK_EQUAL_INT(fl_pg_read_int16(&reader), 1);
    CHECK_EQUAL_INT(fl_pg_read_string(&reader).size, 0);
    CHECK(reader.failed);
    reader = fl_pg_reader_of(FL_SLICE("\0\0\0\3ab"));
    (void)fl_pg_read_value(&reader);
    CHECK(reader.failed);
    reader = fl_pg_reader_of(FL_SLICE("\xff\xff\xff\xfe"));
    (void)fl_pg_read_value(&reader);
    CHECK(reader.failed);
    reader = fl_pg_reader_of(FL_SLICE("\xff\xff\xff\xff"));
    CHECK(fl_pg_read_value(&reader).data == NULL);
    CHECK(!reader.failed);
}

TEST(errors_have_fields)
{
    fl_pg_error error;
    static const char body[] = "SFEHLER\0VERROR\0C23505\0Mtwice\0Rx\0nunique_n\0";
    CHECK_EQUAL_INT(fl_pg_error_read(&error, fl_slice_of(body, sizeof(body))), 0);
    CHECK_EQUAL_TEXT(error.severity, "ERROR");
    CHECK_EQUAL_TEXT(error.code, "23505");
    CHECK_EQUAL_TEXT(error.message, "twice");
    CHECK_EQUAL_TEXT(error.constraint, "unique_n");
    CHECK(error.detail.data == NULL);
    CHECK_EQUAL_INT(fl_pg_error_read(&error, FL_SLICE("SERROR")), UV_EPROTO);
    CHECK_EQUAL_INT(fl_pg_error_read(&error, FL_SLICE("SERROR\0")), UV_EPROTO);
}

TEST(tags_tell_how_many_rows_were_affected)
{
    CHECK_EQUAL_INT(fl_pg_affected(FL_SLICE("INSERT 0 12\0")), 12);
    CHECK_EQUAL_INT(fl_pg_affected(FL_SLICE("UPDATE 3\0")), 3);
    CHECK_EQUAL_INT(fl_pg_affected(FL_SLICE("CREATE TABLE\0")), 0);
    CHECK_EQUAL_INT(fl_pg_affected(FL_SLICE("5\0")), 0);
    CHECK_EQUAL_INT(fl_pg_affected(FL_SLICE("UPDATE 3")), 0);
}

/* arguments */

static int write_arguments(uint16_t count, const uint32_t *types, const fl_buffer *values,
                           char *why)
{
    fl_pg_bind message = {.portal = "",
                          .statement = "s1",
                          .types = types,
                          .count = count,
                          .values = values->data,
                          .formats = FL_SLICE("\0\0")};
    begin();
    return fl_pg_write_bind(&out, &message, why, 256);
}

TEST(arguments_go_in_binary_where_their_type_is_theirs)
{
    char why[256];
    fl_buffer values;
    const uint32_t types[] = {FL_PG_INT4, FL_PG_BOOL, FL_PG_TEXT, FL_PG_INT8};
    fl_buffer_init(&values);
    fl_values_integer(&values, -2);
    fl_values_bool(&values, true);
    fl_values_integer(&values, 7);
    fl_values_null(&values);
    CHECK_EQUAL_INT(write_arguments(4, types, &values, why), 0);
    CHECK_OUT("B\0\0\0\x2c\0s1\0"
              "\0\4\0\1\0\1\0\0\0\0"
              "\0\4\0\0\0\4\xff\xff\xff\xfe\0\0\0\1\1\0\0\0\1"
              "7\xff\xff\xff\xff"
              "\0\0");
    fl_buffer_close(&values);
}

static const char *as_text(uint32_t type, void (*write)(fl_buffer *values))
{
    static char text[512];
    char why[256];
    fl_buffer values;
    fl_buffer_init(&values);
    write(&values);
    int status = write_arguments(1, &type, &values, why);
    fl_buffer_close(&values);
    if (status < 0) {
        (void)snprintf(text, sizeof(text), "%s", why);
        return text;
    }
    size_t start = 5 + 1 + 3 + 2 + 2 + 2 + 4, size = out.size - start - 2;
    (void)snprintf(text, sizeof(text), "%.*s", (int)size, out.data + start);
    return text;
}

#define CHECK_TEXT(type, write, expected)                                                          \
    do {                                                                                           \
        const char *test_text = as_text(type, write);                                              \
        CHECK_EQUAL_BYTES(test_text, strlen(test_text), expected);                                 \
    } while (0)

static void large(fl_buffer *values)
{
    fl_values_integer(values, 3000000000);
}

static void half(fl_buffer *values)
{
    fl_values_number(values, 0.5);
}

static void json(fl_buffer *values)
{
    fl_values_json(values,
                   FL_SLICE("[[1,null],[\"a\\\"\\u00e9\\ud83d\\ude00\\\\\",{\"k\":\"]\"}]]"));
}

static void empty_json(fl_buffer *values)
{
    fl_values_json(values, FL_SLICE("{}"));
}

static void list(fl_buffer *values)
{
    fl_values_list(values, 3);
    fl_values_integer(values, 1);
    fl_values_null(values);
    fl_values_text(values, FL_SLICE("a\"b"));
}

TEST(arguments_go_as_text_otherwise)
{
    CHECK_TEXT(FL_PG_NUMERIC, large, "3000000000");
    CHECK_TEXT(FL_PG_NUMERIC, half, "0.5");
    CHECK_TEXT(FL_PG_INT4, half, "0.5");
    CHECK_TEXT(1009, json, "{{1,NULL},{\"a\\\"é😀\\\\\",\"{\\\"k\\\":\\\"]\\\"}\"}}");
    CHECK_TEXT(FL_PG_JSONB, empty_json, "{}");
    CHECK_TEXT(1007, empty_json, "{}");
    CHECK_TEXT(1009, list, "{1,NULL,\"a\\\"b\"}");
}

TEST(arguments_out_of_range_are_refused_and_leave_nothing)
{
    CHECK_TEXT(FL_PG_INT4, large,
               "argument 1 is 3000000000, which is out of range for type integer");
    CHECK_EQUAL_INT(out.size, 0);
}

/* columns */

static const char *column(uint32_t type, fl_slice bytes)
{
    static char text[256];
    begin();
    if (fl_pg_column_read(&out, type, bytes) < 0) return "refused";
    const char *at = out.data;
    fl_value value = fl_values_read(&at);
    switch (value.tag) {
    case FL_VALUE_INTEGER:
        (void)snprintf(text, sizeof(text), "%lld", (long long)value.integer);
        break;
    case FL_VALUE_NUMBER: (void)snprintf(text, sizeof(text), "%.17g", value.number); break;
    case FL_VALUE_TEXT:
    case FL_VALUE_JSON:
        (void)snprintf(text, sizeof(text), "%.*s", (int)value.text.size, value.text.data);
        break;
    case FL_VALUE_LIST: (void)snprintf(text, sizeof(text), "list of %u", value.count); break;
    case FL_VALUE_NULL:
    case FL_VALUE_FALSE:
    case FL_VALUE_TRUE: (void)snprintf(text, sizeof(text), "%d", value.tag); break;
    }
    return text;
}

#define CHECK_COLUMN(type, literal, expected)                                                      \
    do {                                                                                           \
        const char *test_text = column(type, FL_SLICE(literal));                                   \
        CHECK_EQUAL_BYTES(test_text, strlen(test_text), expected);                                 \
    } while (0)

TEST(columns_become_values)
{
    CHECK_COLUMN(FL_PG_INT2, "\xff\xfe", "-2");
    CHECK_COLUMN(FL_PG_INT8, "\x7f\xff\xff\xff\xff\xff\xff\xff", "9223372036854775807");
    CHECK_COLUMN(FL_PG_OID, "\xff\xff\xff\xff", "4294967295");
    CHECK_COLUMN(FL_PG_FLOAT4, "\x3d\xcc\xcc\xcd", "0.10000000000000001");
    CHECK_COLUMN(FL_PG_JSONB, "\1{\"a\":1}", "{\"a\":1}");
    CHECK_COLUMN(FL_PG_UUID, "\xa0\xee\xbc\x99\x9c\x0b\x4e\xf8\xbb\x6d\x6b\xb9\xbd\x38\x0a\x11",
                 "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
    CHECK_COLUMN(FL_PG_DATE, "\0\0\0\0", "2000-01-01");
    CHECK_COLUMN(FL_PG_DATE, "\x7f\xff\xff\xff", "infinity");
    CHECK_COLUMN(FL_PG_TIMESTAMPTZ, "\0\0\0\0\0\0\0\1", "2000-01-01T00:00:00.000001Z");
    CHECK_COLUMN(FL_PG_TIMESTAMP, "\xff\xff\xff\xff\xff\xff\xff\xff", "1999-12-31T23:59:59.999999");
    CHECK_COLUMN(FL_PG_NUMERIC, "\0\2\0\0\x40\0\0\4\0\14\15\x80", "-12.3456");
    CHECK_COLUMN(FL_PG_NUMERIC, "\0\1\xff\xfe\0\0\0\6\x03\xe8", "0.000010");
    CHECK_COLUMN(FL_PG_NUMERIC, "\0\0\0\0\xc0\0\0\0", "NaN");
    CHECK_COLUMN(600, "(1,2)", "(1,2)");
}

TEST(columns_that_are_none_are_refused)
{
    CHECK_COLUMN(FL_PG_INT4, "\0\0\0", "refused");
    CHECK_COLUMN(FL_PG_BOOL, "", "refused");
    CHECK_COLUMN(FL_PG_JSONB, "\2{}", "refused");
    CHECK_COLUMN(FL_PG_UUID, "short", "refused");
    CHECK_COLUMN(FL_PG_NUMERIC, "\0\2\0\0\0\0\0\0\0\14", "refused");
    CHECK_COLUMN(FL_PG_NUMERIC, "\0\1\0\0\0\0\0\0\xff\xff", "refused");
    CHECK_COLUMN(FL_PG_TIME, "\xff\0\0\0\0\0\0\0", "refused");
}

#define HEAD "\0\0\0\1\0\0\0\0\0\0\0\27"

TEST(arrays_become_lists)
{
    static const char two[] =
        "\0\0\0\2\0\0\0\1\0\0\0\27\0\0\0\2\0\0\0\1\0\0\0\1\0\0\0\1\0\0\0\4\0\0\0\5\xff\xff\xff\xff";
    CHECK_COLUMN(1007, HEAD "\0\0\0\1\0\0\0\1\0\0\0\4\0\0\0\7", "list of 1");
    const char *text = column(1007, fl_slice_of(two, sizeof(two) - 1));
    CHECK_EQUAL_BYTES(text, strlen(text), "list of 2");
    CHECK_COLUMN(1007, "\0\0\0\0\0\0\0\0\0\0\0\27", "list of 0");
    CHECK_COLUMN(1007, HEAD "\0\0\0\2\0\0\0\1\0\0\0\4\0\0\0\7", "refused");
    CHECK_COLUMN(1007, HEAD "\x7f\xff\xff\xff\0\0\0\1\0\0\0\4\0\0\0\7", "refused");
    CHECK_COLUMN(1007, "\0\0\0\7\0\0\0\0\0\0\0\27", "refused");
    CHECK_COLUMN(1016, HEAD "\0\0\0\1\0\0\0\1\0\0\0\4\0\0\0\7", "refused");
}

/* descriptions */

TEST(descriptions_tell_parameters_and_columns)
{
    fl_pg_known *known;
    static const char columns[] = "\0\2a\0\0\0\0\0\0\0\0\0\0\27\0\4\xff\xff\xff\xff\0\0"
                                  "b\0\0\0\0\0\0\0\0\0\2\x58\0\4\xff\xff\xff\xff\0\0";
    CHECK_EQUAL_INT(fl_pg_known_new(&known, FL_SLICE("\0\1\0\0\0\24"),
                                    fl_slice_of(columns, sizeof(columns) - 1)),
                    0);
    CHECK_EQUAL_INT(known->parameters[0], FL_PG_INT8);
    CHECK_EQUAL_INT(known->column_count, 2);
    CHECK(known->formats.size == 6 && memcmp(known->formats.data, "\0\2\0\1\0\0", 6) == 0);
    fl_pg_known_release(known);
    CHECK_EQUAL_INT(fl_pg_known_new(&known, FL_SLICE("\0\0"), fl_slice_of(NULL, 0)), 0);
    CHECK_EQUAL_INT(known->column_count, 0);
    fl_pg_known_release(known);
}

TEST(descriptions_that_are_none_are_refused)
{
    fl_pg_known *known;
    CHECK_EQUAL_INT(fl_pg_known_new(&known, FL_SLICE("\0\2\0\0\0\24"), FL_SLICE("\0\0")),
                    UV_EPROTO);
    CHECK_EQUAL_INT(fl_pg_known_new(&known, FL_SLICE("\0\0"),
                                    FL_SLICE("\xff\xff"
                                             "a\0")),
                    UV_EPROTO);
    CHECK_EQUAL_INT(fl_pg_known_new(&known, FL_SLICE("\0\0"), FL_SLICE("\0\0x")), UV_EPROTO);
}

static int describe_scarcely(void)
{
    fl_pg_known *known;
    int status = fl_pg_known_new(&known, FL_SLICE("\0\1\0\0\0\24"),
                                 FL_SLICE("\0\1a\0\0\0\0\0\0\0\0\0\0\24\0\10\0\0\0\0\0\0"));
    if (status == 0) fl_pg_known_release(known);
    return status;
}

TEST(without_memory_nothing_is_known_of_a_statement)
{
    CHECK_SCARCITY(describe_scarcely);
}

TEST_MAIN
