/* scarcity: makes each allocation of our code fail once, and looks at what comes of it.
 *
 *     static int open_and_close(void) { …; return status; }
 *     CHECK_SCARCITY(open_and_close);
 *
 * runs it again and again: the first allocation fails, the second, …, until a run needs no more;
 * and once more all over with every allocation after that one failing too. What runs begins with
 * nothing and closes all it opened. It must return an error when an allocation has failed, 0 when
 * none has, and free all it took; CHECK_SCARCITY_COPES is for what may also do without the memory.
 *
 * malloc, calloc, realloc, aligned_alloc, strdup, strndup and vasprintf are meant, called by the
 * core and the test (the linker's --wrap, in every unit test), on the thread that runs this: those
 * within libuv, LuaJIT and the C library always succeed. */
#ifndef FL_SCARCITY_H
#define FL_SCARCITY_H

#include <stdbool.h>

typedef int (*fl_attempt)(void); /* 0 or negative */

/* NULL: all is well; else what is not, valid until the next call. */
const char *scarcity_problem(fl_attempt attempt, const char *name, bool may_cope);

/* Within an attempt: what prepares and checks shall not fail. */
void scarcity_pause(void);
void scarcity_resume(void);

#define CHECK_SCARCITY_(attempt, may_cope)                                                         \
    do {                                                                                           \
        const char *scarcity_what = scarcity_problem(attempt, #attempt, may_cope);                 \
        if (scarcity_what) {                                                                       \
            test_fail(__FILE__, __LINE__, scarcity_what);                                          \
            return;                                                                                \
        }                                                                                          \
    } while (0)

#define CHECK_SCARCITY(attempt) CHECK_SCARCITY_(attempt, false)
#define CHECK_SCARCITY_COPES(attempt) CHECK_SCARCITY_(attempt, true)

#endif
