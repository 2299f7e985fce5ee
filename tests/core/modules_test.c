#include "modules.h"

#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "scarcity.h"
#include "state.h"
#include "test.h"

#define THREADS 4
#define ROUNDS 5

static char folder[64];

static const char *path_of(const char *name)
{
    static char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const char *text)
{
    FILE *file = fopen(path_of(name), "w");
    if (!file) abort();
    (void)fputs(text, file);
    (void)fclose(file);
}

static void make_folder(void)
{
    (void)snprintf(folder, sizeof(folder), "/tmp/fasterlua-modules-XXXXXX");
    if (!mkdtemp(folder)) abort();
}

static void remove_folder(const char *const *names)
{
    for (; *names; names++) (void)unlink(path_of(*names));
    CHECK(rmdir(folder) == 0);
}

#define REMOVE_FOLDER(...) remove_folder((const char *const[]){__VA_ARGS__, NULL})

/* A state whose search path is `folder`; without a cache when `modules` is NULL. */
static lua_State *state_with(fl_modules *modules)
{
    lua_State *L = luaL_newstate();
    if (!L) abort();
    luaL_openlibs(L);
    lua_getglobal(L, "package");
    lua_pushfstring(L, "%s/?.lua;%s/?/init.lua", folder, folder);
    lua_setfield(L, -2, "path");
    lua_pop(L, 1);
    if (modules) fl_modules_install(modules, L);
    return L;
}

/* What the expression gives in such a state, or the error; valid until the next call. */
static const char *evaluate(fl_modules *modules, const char *expression)
{
    static char result[4096];
    lua_State *L = state_with(modules);
    lua_pushfstring(L, "return %s", expression);
    if (luaL_loadstring(L, lua_tostring(L, -1)) == 0) (void)lua_pcall(L, 0, 1, 0);
    (void)snprintf(result, sizeof(result), "%s", lua_tostring(L, -1));
    lua_close(L);
    return result;
}

#define CHECK_EVALUATES(modules, expression, expected)                                             \
    do {                                                                                           \
        const char *test_result = evaluate(modules, expression);                                   \
        CHECK_EQUAL_BYTES(test_result, strlen(test_result), expected);                             \
    } while (0)

/* As without a cache, to the letter. */
static void check_as_without(fl_modules *modules, const char *expression)
{
    char *expected = strdup(evaluate(NULL, expression));
    const char *result = evaluate(modules, expression);
    bool equal = expected && strcmp(result, expected) == 0;
    if (!equal) printf("# %s\n# not %s\n", result, expected ? expected : "?");
    free(expected);
    CHECK(equal);
}

TEST(a_file_is_compiled_once_for_all_states)
{
    fl_modules *modules;
    CHECK(fl_modules_new(&modules) == 0);
    make_folder();
    write_file("a.lua", "return 'one'");
    for (int i = 0; i < 3; i++) CHECK_EVALUATES(modules, "require 'a'", "one");
    fl_modules_counts counts = fl_modules_count(modules);
    CHECK_EQUAL_INT(counts.compiled, 1);
    CHECK_EQUAL_INT(counts.hits, 2);
    CHECK_EQUAL_INT(counts.names, 2); /* its path, and "a" on this search path */
    CHECK(counts.bytes > 0);
    REMOVE_FOLDER("a.lua");
    fl_modules_free(modules);
}

TEST(later_states_get_the_version_that_the_first_one_got)
{
    fl_modules *modules;
    CHECK(fl_modules_new(&modules) == 0);
    make_folder();
    write_file("a.lua", "return 'old'");
    CHECK_EVALUATES(modules, "require 'a'", "old");
    write_file("a.lua", "return 'new'");
    CHECK_EVALUATES(modules, "require 'a'", "old");
    (void)unlink(path_of("a.lua"));
    CHECK_EVALUATES(modules, "require 'a'", "old");
    write_file("a.lua", "return 'new'");
    fl_modules *others; /* as in a new process */
    CHECK(fl_modules_new(&others) == 0);
    CHECK_EVALUATES(others, "require 'a'", "new");
    fl_modules_free(others);
    REMOVE_FOLDER("a.lua");
    fl_modules_free(modules);
}

TEST(a_file_that_comes_up_earlier_on_the_path_does_not_take_a_modules_place)
{
    fl_modules *modules;
    CHECK(fl_modules_new(&modules) == 0);
    make_folder();
    CHECK(mkdir(path_of("a"), 0700) == 0);
    write_file("a/init.lua", "return 'first'");
    CHECK_EVALUATES(modules, "require 'a'", "first");
    write_file("a.lua", "return 'second'");
    CHECK_EVALUATES(modules, "require 'a'", "first");
    (void)unlink(path_of("a/init.lua"));
    (void)rmdir(path_of("a"));
    REMOVE_FOLDER("a.lua");
    fl_modules_free(modules);
}

TEST(one_name_means_different_files_on_different_search_paths)
{
    fl_modules *modules;
    CHECK(fl_modules_new(&modules) == 0);
    make_folder();
    write_file("a.lua", "return 'mine'");
    CHECK_EVALUATES(modules, "require 'a'", "mine");
    char first[64], other[64];
    (void)memcpy(first, folder, sizeof(first));
    make_folder();
    (void)memcpy(other, folder, sizeof(other));
    write_file("a.lua", "return 'theirs'");
    CHECK_EVALUATES(modules, "require 'a'", "theirs");
    REMOVE_FOLDER("a.lua");
    (void)memcpy(folder, first, sizeof(folder));
    CHECK_EVALUATES(modules, "require 'a'", "mine");
    REMOVE_FOLDER("a.lua");
    fl_modules_free(modules);
}

TEST(functions_know_their_file_lines_and_variables)
{
    fl_modules *modules;
    CHECK(fl_modules_new(&modules) == 0);
    make_folder();
    write_file("a.lua", "local counter = 41LL\n\nreturn function(amount)\n"
                        "  counter = counter + amount\n  return (counter.x)\nend\n");
    for (int i = 0; i < 2; i++) {
        check_as_without(modules, "debug.getinfo(require 'a').source");
        check_as_without(modules, "debug.getinfo(require 'a').linedefined");
        check_as_without(modules, "debug.getupvalue(require 'a', 1)");
        check_as_without(modules, "debug.getlocal(require 'a', 1)");
        check_as_without(modules, "select(2, pcall(require 'a', 1))");
        check_as_without(modules, "select(2, pcall(require 'a', {}))");
    }
    REMOVE_FOLDER("a.lua");
    fl_modules_free(modules);
}

TEST(literals_of_64_bits_are_compiled_too)
{
    make_folder();
    write_file("wide.lua", "return 0x7fffffffffffffffLL, 1ULL, 2i");
    fl_modules *modules;
    CHECK(fl_modules_new(&modules) == 0);
    for (int i = 0; i < 20; i++) {
        lua_State *L = state_with(modules);
        CHECK(fl_modules_load(modules, L, path_of("wide.lua")) == 0);
        CHECK(lua_pcall(L, 0, 3, 0) == 0);
        lua_close(L);
    }
    CHECK_EQUAL_INT(fl_modules_count(modules).compiled, 1);
    fl_modules_free(modules);
    REMOVE_FOLDER("wide.lua");
}

TEST(a_missing_module_is_reported_with_the_places_looked_at)
{
    fl_modules *modules;
    CHECK(fl_modules_new(&modules) == 0);
    make_folder();
    check_as_without(modules, "require 'not.there'");
    check_as_without(modules, "select(2, pcall(package.loaders[2]))");
    check_as_without(modules, "package.loaders[2]('not.there')");
    check_as_without(modules, "(function() package.path = '' return require 'no' end)()");
    check_as_without(modules, "(function() package.path = nil return require 'no' end)()");
    CHECK_EQUAL_INT(fl_modules_count(modules).compiled, 0);
    write_file("there.lua", "return 'now it is'");
    CHECK_EVALUATES(modules, "require 'there'", "now it is");
    REMOVE_FOLDER("there.lua");
    fl_modules_free(modules);
}

TEST(a_file_that_does_not_compile_is_not_kept)
{
    fl_modules *modules;
    CHECK(fl_modules_new(&modules) == 0);
    make_folder();
    write_file("a.lua", "return 1 +\nreturn 2");
    check_as_without(modules, "require 'a'");
    check_as_without(modules, "require 'a'");
    fl_modules_counts counts = fl_modules_count(modules);
    CHECK(counts.compiled == 0 && counts.names == 0 && counts.bytes == 0);
    write_file("a.lua", "return 'repaired'");
    CHECK_EVALUATES(modules, "require 'a'", "repaired");
    REMOVE_FOLDER("a.lua");
    fl_modules_free(modules);
}

TEST(bytecode_is_refused)
{
    fl_modules *modules;
    CHECK(fl_modules_new(&modules) == 0);
    make_folder();
    write_file("a.lua", "\033LJ\002 whatever");
    const char *message = evaluate(modules, "require 'a'");
    CHECK(strstr(message, "error loading module 'a' from file '/tmp/") != NULL);
    CHECK(strstr(message, "attempt to load chunk with wrong mode") != NULL);
    CHECK_EQUAL_INT(fl_modules_count(modules).compiled, 0);
    REMOVE_FOLDER("a.lua");
    fl_modules_free(modules);
}

TEST(a_file_is_loaded_by_its_path_too)
{
    fl_modules *modules;
    CHECK(fl_modules_new(&modules) == 0);
    make_folder();
    write_file("app.lua", "return ...");
    lua_State *L = state_with(modules);
    for (int i = 0; i < 2; i++) {
        CHECK(fl_modules_load(modules, L, path_of("app.lua")) == 0);
        lua_pushliteral(L, "argument");
        lua_call(L, 1, 1);
        CHECK_EQUAL_BYTES(lua_tostring(L, -1), lua_objlen(L, -1), "argument");
        lua_pop(L, 1);
        CHECK_EQUAL_INT(lua_gettop(L), 0);
        write_file("app.lua", "return 'too late'");
    }
    CHECK_EQUAL_INT(fl_modules_count(modules).hits, 1);
    CHECK(fl_modules_load(modules, L, path_of("nowhere.lua")) == LUA_ERRFILE);
    CHECK(strstr(lua_tostring(L, -1), "cannot open ") != NULL);
    lua_close(L);
    REMOVE_FOLDER("app.lua");
    fl_modules_free(modules);
}

TEST(beyond_its_bound_nothing_more_is_kept_and_everything_works)
{
    fl_modules *modules;
    CHECK(fl_modules_new(&modules) == 0);
    make_folder();
    write_file("a.lua", "return ...");
    write_file("b.lua", "return 'another'");
    CHECK_EVALUATES(modules,
                    "(function()"
                    "  local mine = package.path "
                    "  package.path = mine:match('^[^?]*') .. 'a.lua'"
                    "  for number = 1, 11000 do"
                    "    assert(require('n' .. number) == 'n' .. number)"
                    "  end"
                    "  package.path = mine"
                    "  return require 'b' "
                    "end)()",
                    "another");
    fl_modules_counts counts = fl_modules_count(modules);
    CHECK_EQUAL_INT(counts.names, FL_MODULES_MOST);
    CHECK_EQUAL_INT(counts.compiled, 1);
    REMOVE_FOLDER("a.lua", "b.lua");
    fl_modules_free(modules);
}

static void *require_one(void *modules)
{
    lua_State *L = state_with(modules);
    bool done = luaL_dostring(L, "return require 'a' == 'one'") == 0 && lua_toboolean(L, -1);
    lua_close(L);
    return done ? modules : NULL;
}

TEST(threads_that_come_at_once_compile_it_once)
{
    fl_modules *modules;
    pthread_t threads[THREADS];
    CHECK(fl_modules_new(&modules) == 0);
    make_folder();
    write_file("a.lua", "return 'one'");
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, require_one, modules) == 0);
    bool all = true;
    for (int i = 0; i < THREADS; i++) {
        void *result = NULL;
        (void)pthread_join(threads[i], &result);
        all = all && result == modules;
    }
    CHECK(all);
    CHECK_EQUAL_INT(fl_modules_count(modules).compiled, 1);
    REMOVE_FOLDER("a.lua");
    fl_modules_free(modules);
}

/* What core/state.c loads for every app, and what every app requires. */
static lua_State *open_framework(fl_modules *modules)
{
    static const char *const names[] = {"fasterlua.request", "fasterlua.report", "fasterlua.stream",
                                        "fasterlua.boot", "fasterlua"};
    (void)snprintf(folder, sizeof(folder), "lua");
    lua_State *L = state_with(modules);
    fl_state_preload(L);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        lua_getglobal(L, "require");
        lua_pushstring(L, names[i]);
        if (lua_pcall(L, 1, 0, 0) == 0) continue;
        (void)fprintf(stderr, "%s\n", lua_tostring(L, -1));
        abort();
    }
    return L;
}

static uint64_t time_to_open(fl_modules *modules, int *kilobytes)
{
    uint64_t start = uv_hrtime();
    lua_State *L = open_framework(modules);
    uint64_t took = uv_hrtime() - start;
    *kilobytes = lua_gc(L, LUA_GCCOUNT, 0);
    lua_close(L);
    return took;
}

static void keep_least(uint64_t *least, uint64_t value)
{
    if (*least == 0 || value < *least) *least = value;
}

TEST(a_later_state_with_the_framework_opens_in_half_the_time_of_the_first)
{
    uint64_t first = 0, later = 0, without = 0;
    int first_size = 0, later_size = 0, size_without = 0;
    for (int i = 0; i < ROUNDS; i++) {
        fl_modules *modules;
        CHECK(fl_modules_new(&modules) == 0);
        keep_least(&without, time_to_open(NULL, &size_without));
        keep_least(&first, time_to_open(modules, &first_size));
        keep_least(&later, time_to_open(modules, &later_size));
        fl_modules_free(modules);
    }
    printf(
        "# without a cache %.2f ms, %d KB; the first state %.2f ms; a later one %.2f ms, %d KB\n",
        (double)without / 1e6, size_without, (double)first / 1e6, (double)later / 1e6, later_size);
    CHECK(later * 2 <= first);
    CHECK(later_size < 1536);
}

/* A file that cannot be kept is compiled by each state for itself. */
static int load_scarcely(void)
{
    scarcity_pause();
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    scarcity_resume();
    fl_modules *modules = NULL;
    int status = fl_modules_new(&modules);
    if (status == 0 && fl_modules_load(modules, L, path_of("scarce.lua")) != 0) status = -1;
    if (status == 0 && (lua_pcall(L, 0, 1, 0) != 0 || lua_tointeger(L, -1) != 7)) status = 1;
    fl_modules_free(modules);
    scarcity_pause();
    lua_close(L);
    return status;
}

TEST(without_memory_a_file_is_loaded_all_the_same)
{
    make_folder();
    write_file("scarce.lua", "return 7");
    CHECK_SCARCITY_COPES(load_scarcely);
    REMOVE_FOLDER("scarce.lua");
}

TEST_MAIN
