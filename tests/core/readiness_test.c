#include "readiness.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include "test.h"
#include "thread.h"

typedef struct watched {
    fl_readiness readiness;
    unsigned calls;
    int status;
    struct watched *closes; /* when it is told that it has failed */
} watched;

typedef struct place { /* as much of a thread as its loop needs */
    fl_thread thread;
    fl_thread_metrics metrics;
} place;

static place *place_open(void)
{
    place *self = calloc(1, sizeof(*self));
    if (!self) abort();
    self->thread.metrics = &self->metrics;
    if (fl_thread_init(&self->thread, self) < 0) abort();
    fl_thread_begin(&self->thread);
    return self;
}

static void place_close(place *self)
{
    fl_thread_end_loop(&self->thread);
    fl_thread_close(&self->thread);
    free(self);
}

static void told(fl_readiness *readiness, int status, int events)
{
    watched *self = (watched *)((char *)readiness - offsetof(watched, readiness));
    (void)events;
    self->calls++;
    self->status = status;
    if (status == 0) fl_readiness_want(readiness, 0);
    if (!self->closes) return;
    fl_readiness_want(readiness, UV_WRITABLE); /* harmless, if in vain */
    fl_readiness_close(&self->closes->readiness);
    fl_readiness_close(readiness);
}

/* A pipe that has something to read. */
static void open_pipe(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0 || write(ends[1], "x", 1) != 1) abort();
}

TEST(what_is_wanted_is_told_by_the_thread_that_its_state_moves_to)
{
    place *before = place_open(), *after = place_open();
    fl_state state = {.thread = &before->thread};
    watched one = {0};
    int ends[2];
    open_pipe(ends);
    CHECK_EQUAL_INT(fl_readiness_open(&one.readiness, &state, ends[0], told), 0);
    fl_readiness_want(&one.readiness, UV_READABLE);
    uv_poll_t *left = one.readiness.handle; /* the loop that is given up keeps it */
    state.thread = &after->thread;
    fl_readiness_move_all(&state);
    uv_run(&after->thread.loop, UV_RUN_NOWAIT);
    uv_run(&after->thread.loop, UV_RUN_NOWAIT);
    CHECK_EQUAL_INT(one.calls, 1);
    CHECK_EQUAL_INT(one.status, 0);
    fl_readiness_close(&one.readiness);
    place_close(before);
    place_close(after);
    free(left);
    close(ends[0]);
    close(ends[1]);
}

/* A file cannot be polled: so moving fails, and a driver gives up all it has. */
TEST(one_that_cannot_be_moved_may_close_the_others)
{
    place *before = place_open(), *after = place_open();
    fl_state state = {.thread = &before->thread};
    watched all[3] = {{.closes = NULL}};
    uv_poll_t *left[3];
    int ends[3][2], file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    for (unsigned i = 0; i < 3; i++) {
        open_pipe(ends[i]);
        CHECK_EQUAL_INT(fl_readiness_open(&all[i].readiness, &state, ends[i][0], told), 0);
        fl_readiness_want(&all[i].readiness, UV_READABLE);
        left[i] = all[i].readiness.handle;
    }
    if (file < 0 || dup3(file, ends[2][0], O_CLOEXEC) < 0) abort();
    all[2].closes = &all[1]; /* the last opened is moved first */
    state.thread = &after->thread;
    fl_readiness_move_all(&state);
    CHECK(all[2].status < 0);
    CHECK(!all[2].readiness.link && !all[1].readiness.link);
    CHECK(state.readiness == &all[0].readiness && !state.readiness->next);
    uv_run(&after->thread.loop, UV_RUN_NOWAIT);
    uv_run(&after->thread.loop, UV_RUN_NOWAIT);
    CHECK_EQUAL_INT(all[0].calls, 1);
    CHECK_EQUAL_INT(all[1].calls, 0);
    CHECK(!all[1].readiness.handle);
    fl_readiness_close(&all[0].readiness);
    place_close(before);
    place_close(after);
    for (unsigned i = 0; i < 3; i++) {
        free(left[i]);
        close(ends[i][0]);
        close(ends[i][1]);
    }
    close(file);
}

TEST_MAIN
