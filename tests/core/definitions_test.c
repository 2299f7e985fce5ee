#include "definitions.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "scarcity.h"
#include "test.h"

static bool is_named(const char *line, const char *expected)
{
    fl_slice name;
    return fl_definitions_parse(fl_slice_from_string(line), &name) &&
           fl_slice_equal(name, fl_slice_from_string(expected));
}

static bool is_unknown(const char *line)
{
    fl_slice name;
    return !fl_definitions_parse(fl_slice_from_string(line), &name);
}

TEST(functions_have_the_name_of_their_definition)
{
    CHECK(is_named("local function compute(n)", "compute"));
    CHECK(is_named("  function M.compute(n)", "M.compute"));
    CHECK(is_named("function request:header (name)", "request:header"));
    CHECK(is_named("M.compute = function(n) return n end", "M.compute"));
    CHECK(is_named("local compute=function (n)", "compute"));
    CHECK(is_named("  get = function() end,", "get"));
}

TEST(a_function_without_a_name_has_none)
{
    CHECK(is_named("app:get('/', function(req)", ""));
    CHECK(is_named("return function()", ""));
    CHECK(is_named("handlers['a'] = function()", ""));
    CHECK(is_named("= function()", ""));
}

TEST(what_cannot_be_told_is_not_told)
{
    CHECK(is_unknown(""));
    CHECK(is_unknown("local functions, my_function = 1, 2"));
    CHECK(is_unknown("f(function() end, function() end)"));
}

TEST(a_files_lines_are_looked_up)
{
    char path[] = "/tmp/definitions-XXXXXX";
    int fd = mkstemp(path);
    const char text[] = "-- a module\nlocal function first()\nend\nlocal second = function() end";
    CHECK(write(fd, text, sizeof(text) - 1) == sizeof(text) - 1);
    close(fd);
    fl_definitions definitions;
    fl_slice name;
    fl_definitions_init(&definitions);
    CHECK(fl_definitions_find(&definitions, path, 2, &name));
    CHECK(fl_slice_equal(name, FL_SLICE("first")));
    CHECK(fl_definitions_find(&definitions, path, 4, &name));
    CHECK(fl_slice_equal(name, FL_SLICE("second")));
    CHECK(!fl_definitions_find(&definitions, path, 1, &name));
    CHECK(!fl_definitions_find(&definitions, path, 5, &name));
    CHECK(!fl_definitions_find(&definitions, path, 5000, &name));
    CHECK(!fl_definitions_find(&definitions, "/nowhere/at/all.lua", 1, &name));
    CHECK(definitions.count == 2);
    for (int i = 0; i < 2 * FL_DEFINITIONS_FILES; i++) {
        char other[64];
        (void)snprintf(other, sizeof(other), "/nowhere/%d.lua", i);
        CHECK(!fl_definitions_find(&definitions, other, 1, &name));
    }
    CHECK(definitions.count == FL_DEFINITIONS_FILES);
    fl_definitions_close(&definitions);
    (void)unlink(path);
}

static int look_up_scarcely(void)
{
    fl_definitions definitions;
    fl_slice name;
    fl_definitions_init(&definitions);
    bool found = fl_definitions_find(&definitions, "tests/run", 1, &name);
    int status = definitions.count == 1 && definitions.files[0].text.size > 0 ? 0 : -1;
    fl_definitions_close(&definitions);
    return found ? 1 : status;
}

TEST(without_memory_nothing_is_found)
{
    CHECK_SCARCITY_COPES(look_up_scarcely);
}

TEST_MAIN
