#include "thread.h"

#include <stddef.h>
#include <stdlib.h>

#include "test.h"

typedef struct turning {
    fl_turn_end end;
    unsigned calls, again;
    fl_turn_end *stops;
} turning;

typedef struct turner { /* as much of a thread as its loop needs */
    fl_thread thread;
    fl_thread_metrics metrics;
    fl_state state, other;
} turner;

static turner *turner_open(void)
{
    turner *self = calloc(1, sizeof(*self));
    if (!self) abort();
    self->thread.metrics = &self->metrics;
    if (fl_thread_init(&self->thread, self) < 0) abort();
    fl_thread_begin(&self->thread);
    self->state.thread = self->other.thread = &self->thread;
    return self;
}

static void turner_close(turner *self)
{
    fl_thread_end_loop(&self->thread);
    fl_thread_close(&self->thread);
    free(self);
}

static void turner_turn(turner *self)
{
    uv_run(&self->thread.loop, UV_RUN_NOWAIT);
}

static void called(fl_turn_end *end)
{
    turning *self = (turning *)((char *)end - offsetof(turning, end));
    self->calls++;
    if (self->stops) fl_turn_end_stop(self->stops);
    if (self->again && self->again--) fl_turn_end_start(end, end->state, called);
}

TEST(what_is_started_is_called_once_before_the_loop_polls)
{
    turner *it = turner_open();
    turning one = {0}, two = {0};
    fl_turn_end_start(&one.end, &it->state, called);
    fl_turn_end_start(&one.end, &it->state, called);
    fl_turn_end_start(&two.end, &it->state, called);
    unsigned before = one.calls;
    turner_turn(it);
    turner_turn(it);
    turner_close(it);
    CHECK_EQUAL_INT(before, 0);
    CHECK_EQUAL_INT(one.calls, 1);
    CHECK_EQUAL_INT(two.calls, 1);
}

TEST(what_is_stopped_is_not_called)
{
    turner *it = turner_open();
    turning one = {0};
    fl_turn_end_start(&one.end, &it->state, called);
    fl_turn_end_stop(&one.end);
    fl_turn_end_stop(&one.end);
    turner_turn(it);
    turner_close(it);
    CHECK_EQUAL_INT(one.calls, 0);
}

TEST(one_that_is_called_may_stop_another_and_start_itself_for_the_next_turn)
{
    turner *it = turner_open();
    turning one = {.again = 1}, two = {0};
    fl_turn_end_start(&two.end, &it->state, called);
    fl_turn_end_start(&one.end, &it->state, called); /* the last is called first */
    one.stops = &two.end;
    turner_turn(it);
    unsigned first = one.calls;
    turner_turn(it);
    turner_turn(it);
    turner_close(it);
    CHECK_EQUAL_INT(first, 1);
    CHECK_EQUAL_INT(one.calls, 2);
    CHECK_EQUAL_INT(two.calls, 0);
}

TEST(those_of_other_states_move_to_another_thread)
{
    turner *it = turner_open(), *spare = turner_open();
    turning one = {0}, two = {0};
    fl_turn_end_start(&one.end, &it->state, called);
    fl_turn_end_start(&two.end, &it->other, called);
    fl_thread_take_turn_ends(&spare->thread, &it->thread, &it->other);
    turner_turn(spare);
    unsigned moved = one.calls, left = two.calls;
    turner_turn(it);
    turner_close(it);
    turner_close(spare);
    CHECK_EQUAL_INT(moved, 1);
    CHECK_EQUAL_INT(left, 0);
    CHECK_EQUAL_INT(two.calls, 1);
}

TEST_MAIN
