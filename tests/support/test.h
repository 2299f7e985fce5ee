/* test: the smallest harness that reads as a specification.
 *
 *     TEST(an_empty_buffer_has_no_bytes) { … CHECK(buffer.size == 0); }
 *     TEST_MAIN
 *
 * Each test prints "ok - name" or "not ok - name (file:line: what)"; the exit status says whether
 * all passed. */
#ifndef FL_TEST_H
#define FL_TEST_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* What bounds of time are multiplied with: a sanitizer makes everything slower. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SLOWDOWN 4
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TEST_SLOWDOWN 4
#endif
#endif
#ifndef TEST_SLOWDOWN
#define TEST_SLOWDOWN 1
#endif

typedef struct fl_test {
    const char *name;
    void (*run)(void);
    struct fl_test *next;
} fl_test;

static fl_test *test_first, **test_last = &test_first;
static bool test_failed;

static inline void test_fail(const char *file, int line, const char *what)
{
    if (!test_failed) printf("# %s:%d: %s\n", file, line, what);
    test_failed = true;
}

#define TEST(title)                                                                                \
    static void title(void);                                                                       \
    __attribute__((constructor)) static void title##_register(void)                                \
    {                                                                                              \
        static fl_test self = {#title, title, NULL};                                               \
        *test_last = &self;                                                                        \
        test_last = &self.next;                                                                    \
    }                                                                                              \
    static void title(void)

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            test_fail(__FILE__, __LINE__, #condition);                                             \
            return;                                                                                \
        }                                                                                          \
    } while (0)

#define CHECK_EQUAL_INT(actual, expected)                                                          \
    do {                                                                                           \
        long long test_actual = (long long)(actual), test_expected = (long long)(expected);        \
        if (test_actual != test_expected) {                                                        \
            char test_what[256];                                                                   \
            (void)snprintf(test_what, sizeof(test_what), "%s is %lld, expected %lld", #actual,     \
                           test_actual, test_expected);                                            \
            test_fail(__FILE__, __LINE__, test_what);                                              \
            return;                                                                                \
        }                                                                                          \
    } while (0)

#define CHECK_EQUAL_BYTES(actual, actual_size, expected)                                           \
    do {                                                                                           \
        size_t test_size = (actual_size);                                                          \
        if (test_size != strlen(expected) || memcmp((actual), (expected), test_size) != 0) {       \
            char test_what[512];                                                                   \
            (void)snprintf(test_what, sizeof(test_what), "%s is \"%.*s\", expected \"%s\"",        \
                           #actual, (int)test_size, (const char *)(actual), (expected));           \
            test_fail(__FILE__, __LINE__, test_what);                                              \
            return;                                                                                \
        }                                                                                          \
    } while (0)

#define CHECK_STRING(actual, expected)                                                             \
    do {                                                                                           \
        const char *test_text = (actual);                                                          \
        CHECK_EQUAL_BYTES(test_text, strlen(test_text), expected);                                 \
    } while (0)

#define CHECK_EQUAL_TEXT(slice, expected) CHECK_EQUAL_BYTES((slice).data, (slice).size, expected)

#define TEST_MAIN                                                                                  \
    int main(void)                                                                                 \
    {                                                                                              \
        bool failed = false;                                                                       \
        for (fl_test *test = test_first; test; test = test->next) {                                \
            test_failed = false;                                                                   \
            test->run();                                                                           \
            failed |= test_failed;                                                                 \
            printf("%s - %s\n", test_failed ? "not ok" : "ok", test->name);                        \
        }                                                                                          \
        return failed;                                                                             \
    }

#endif
