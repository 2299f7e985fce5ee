#include "scarcity.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define ATTEMPTS_MOST 10000

typedef struct scarcity {
    unsigned until; /* allocations that succeed; meaningful while `is_on` */
    bool is_on, is_lasting, has_failed;
} scarcity;

static _Thread_local scarcity now;
static _Atomic long blocks; /* that our code has, of all threads */

/* The linker gives these names to what is called malloc … and to what they stand for. */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t size);
int __real_vasprintf(char **out, const char *format, va_list arguments);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t size);
int __wrap_vasprintf(char **out, const char *format, va_list arguments);
void __wrap_free(void *block);

static bool fails(void)
{
    if (!now.is_on) return false;
    if (now.has_failed) return now.is_lasting;
    now.has_failed = now.until-- == 0;
    return now.has_failed;
}

static void *counted(void *block)
{
    if (block) atomic_fetch_add_explicit(&blocks, 1, memory_order_relaxed);
    return block;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_realloc(void *block, size_t size)
{
    if (fails()) return NULL;
    return block ? __real_realloc(block, size) : counted(__real_realloc(NULL, size));
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : counted(__real_aligned_alloc(alignment, size));
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : counted(__real_strdup(text));
}

char *__wrap_strndup(const char *text, size_t size)
{
    return fails() ? NULL : counted(__real_strndup(text, size));
}

int __wrap_vasprintf(char **out, const char *format, va_list arguments)
{
    if (fails()) return -1;
    int size = __real_vasprintf(out, format, arguments);
    if (size >= 0) (void)counted(*out);
    return size;
}

void __wrap_free(void *block)
{
    if (block) atomic_fetch_sub_explicit(&blocks, 1, memory_order_relaxed);
    __real_free(block);
}

void scarcity_pause(void)
{
    now.is_on = false;
}

void scarcity_resume(void)
{
    now.is_on = true;
}

static const char *judge(int status, long left, bool may_cope)
{
    if (left > 0) return "it leaks";
    if (status > 0) return "it returns something positive";
    if (!now.has_failed && status < 0) return "it fails with all the memory it wants";
    if (now.has_failed && status == 0 && !may_cope) return "it says that all went well";
    return NULL;
}

static const char *try(fl_attempt attempt, unsigned until, bool is_lasting, bool may_cope)
{
    long before = atomic_load(&blocks);
    now = (scarcity){.until = until, .is_on = true, .is_lasting = is_lasting};
    int status = attempt();
    now.is_on = false;
    return judge(status, atomic_load(&blocks) - before, may_cope);
}

static const char *try_each(fl_attempt attempt, bool is_lasting, bool may_cope, unsigned *number)
{
    const char *what = NULL;
    for (*number = 0; !what && *number < ATTEMPTS_MOST; ++*number) {
        what = try(attempt, *number, is_lasting, may_cope);
        if (!what && !now.has_failed) return *number ? NULL : "it allocates nothing";
    }
    return what ? what : "it never has enough";
}

const char *scarcity_problem(fl_attempt attempt, const char *name, bool may_cope)
{
    static char problem[256];
    for (int is_lasting = 0; is_lasting <= 1; is_lasting++) {
        unsigned number;
        const char *what = try_each(attempt, is_lasting, may_cope, &number);
        if (!what) continue;
        (void)snprintf(problem, sizeof(problem), "%s, allocation %u%s failing: %s", name, number,
                       is_lasting ? " and all after it" : "", what);
        return problem;
    }
    return NULL;
}
