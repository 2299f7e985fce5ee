#include "frames.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "scarcity.h"
#include "test.h"

#define TURNS 2000
#define LARGE ((size_t)5 << 20)

typedef struct end { /* one side: what it was told */
    fl_frames *frames;
    unsigned arrived, ended;
    fl_frame_kind kind;
    size_t size, bytes;
    char first[64];
    bool closes; /* in the callback */
} end;

typedef struct both {
    uv_loop_t loop;
    end left, right;
    int raw; /* the right end when no frames read it; -1 */
} both;

static void arrived(void *data, fl_frame_kind kind, fl_slice bytes)
{
    end *self = data;
    self->arrived++;
    self->kind = kind;
    self->size = bytes.size;
    self->bytes += bytes.size;
    size_t kept = bytes.size < sizeof(self->first) ? bytes.size : sizeof(self->first);
    if (kept) memcpy(self->first, bytes.data, kept);
    if (!self->closes) return;
    fl_frames_close(self->frames);
    self->frames = NULL;
}

static void ended(void *data)
{
    ((end *)data)->ended++;
}

static int open_end(both *self, end *one, int fd)
{
    const fl_frames_events events = {one, arrived, ended};
    return fl_frames_open(&one->frames, &self->loop, fd, events);
}

static bool open_both(both *self, bool raw)
{
    int pair[2];
    *self = (both){.raw = -1};
    if (uv_loop_init(&self->loop) != 0) return false;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0) return false;
    if (open_end(self, &self->left, pair[0]) != 0) return false;
    if (raw) self->raw = pair[1];
    return raw || open_end(self, &self->right, pair[1]) == 0;
}

/* Until `*count` is `wanted`. */
static bool run_until(both *self, const unsigned *count, unsigned wanted)
{
    for (unsigned i = 0; i < TURNS && *count < wanted; i++) {
        (void)uv_run(&self->loop, UV_RUN_NOWAIT);
        if (*count < wanted) uv_sleep(1);
    }
    return *count == wanted;
}

/* false: a handle is left. */
static bool close_both(both *self)
{
    if (self->left.frames) fl_frames_close(self->left.frames);
    if (self->right.frames) fl_frames_close(self->right.frames);
    if (self->raw >= 0) close(self->raw);
    (void)uv_run(&self->loop, UV_RUN_DEFAULT);
    return uv_loop_close(&self->loop) == 0;
}

static int send_text(fl_frames *frames, fl_frame_kind kind, const char *text)
{
    fl_buffer_append(fl_frames_begin(frames, kind), text, strlen(text));
    return fl_frames_send(frames);
}

TEST(frames_arrive_in_order_with_their_kinds_and_bytes)
{
    both self;
    CHECK(open_both(&self, false));
    CHECK_EQUAL_INT(send_text(self.left.frames, FL_FRAME_JOB, "work"), 0);
    CHECK_EQUAL_INT(send_text(self.left.frames, FL_FRAME_READY, ""), 0);
    CHECK_EQUAL_INT(send_text(self.left.frames, FL_FRAME_CANCEL, "timeout"), 0);
    CHECK(run_until(&self, &self.right.arrived, 3));
    CHECK_EQUAL_INT(self.right.kind, FL_FRAME_CANCEL);
    CHECK_EQUAL_BYTES(self.right.first, self.right.size, "timeout");
    CHECK_EQUAL_INT(self.right.bytes, 11);
    CHECK_EQUAL_INT(send_text(self.right.frames, FL_FRAME_OUTCOME, "done"), 0);
    CHECK(run_until(&self, &self.left.arrived, 1));
    CHECK_EQUAL_INT(self.left.kind, FL_FRAME_OUTCOME);
    CHECK(close_both(&self));
}

TEST(a_frame_larger_than_the_socket_takes_arrives_whole)
{
    both self;
    char *bytes = calloc(1, LARGE);
    CHECK(bytes && open_both(&self, false));
    memcpy(bytes, "begins", 6);
    fl_buffer_append(fl_frames_begin(self.left.frames, FL_FRAME_JOB), bytes, LARGE);
    CHECK_EQUAL_INT(fl_frames_send(self.left.frames), 0);
    CHECK_EQUAL_INT(send_text(self.left.frames, FL_FRAME_CANCEL, "behind it"), 0);
    free(bytes);
    CHECK(run_until(&self, &self.right.arrived, 1) || self.right.arrived == 2);
    CHECK(run_until(&self, &self.right.arrived, 2));
    CHECK_EQUAL_INT(self.right.bytes, LARGE + 9);
    CHECK_EQUAL_BYTES(self.right.first, self.right.size, "behind it");
    CHECK(close_both(&self));
}

TEST(a_frame_may_come_byte_by_byte)
{
    both self;
    CHECK(open_both(&self, true));
    const uint32_t head[2] = {FL_FRAME_FAILED, 3};
    char bytes[sizeof(head) + 3];
    memcpy(bytes, head, sizeof(head));
    memcpy(bytes + sizeof(head), "why", 3);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        CHECK_EQUAL_INT(self.left.arrived, 0);
        CHECK_EQUAL_INT(write(self.raw, bytes + i, 1), 1);
        (void)uv_run(&self.loop, UV_RUN_NOWAIT);
    }
    CHECK(run_until(&self, &self.left.arrived, 1));
    CHECK_EQUAL_INT(self.left.kind, FL_FRAME_FAILED);
    CHECK_EQUAL_BYTES(self.left.first, self.left.size, "why");
    CHECK(close_both(&self));
}

TEST(what_is_said_before_frames_are_open_is_one)
{
    both self;
    CHECK(open_both(&self, true));
    fl_frames_say(self.raw, FL_FRAME_FAILED, "no such folder");
    CHECK(run_until(&self, &self.left.arrived, 1));
    CHECK_EQUAL_INT(self.left.kind, FL_FRAME_FAILED);
    CHECK_EQUAL_BYTES(self.left.first, self.left.size, "no such folder");
    CHECK(close_both(&self));
}

TEST(the_end_is_told_once_behind_the_last_frame)
{
    both self;
    CHECK(open_both(&self, false));
    CHECK_EQUAL_INT(send_text(self.right.frames, FL_FRAME_OUTCOME, "last"), 0);
    fl_frames_close(self.right.frames);
    self.right.frames = NULL;
    CHECK(run_until(&self, &self.left.ended, 1));
    CHECK_EQUAL_INT(self.left.arrived, 1);
    CHECK_EQUAL_INT(send_text(self.left.frames, FL_FRAME_JOB, "to nobody"), 0);
    for (unsigned i = 0; i < 5; i++) (void)uv_run(&self.loop, UV_RUN_NOWAIT);
    CHECK_EQUAL_INT(self.left.ended, 1);
    CHECK(close_both(&self));
}

TEST(bytes_that_are_no_frame_are_the_end)
{
    both self;
    CHECK(open_both(&self, true));
    const uint32_t head[2] = {FL_FRAME_OUTCOME, UINT32_MAX};
    CHECK_EQUAL_INT(write(self.raw, head, sizeof(head)), sizeof(head));
    CHECK(run_until(&self, &self.left.ended, 1));
    CHECK_EQUAL_INT(self.left.arrived, 0);
    CHECK(close_both(&self));
}

TEST(frames_may_be_closed_by_who_gets_one)
{
    both self;
    CHECK(open_both(&self, false));
    self.right.closes = true;
    CHECK_EQUAL_INT(send_text(self.left.frames, FL_FRAME_JOB, "a"), 0);
    CHECK_EQUAL_INT(send_text(self.left.frames, FL_FRAME_JOB, "b"), 0);
    CHECK(run_until(&self, &self.left.ended, 1));
    CHECK_EQUAL_INT(self.right.arrived, 1);
    CHECK(close_both(&self));
}

/* On the sending side: what is not sent is an error, and the next frame is. */
static int send_scarcely(void)
{
    both self;
    scarcity_pause();
    if (!open_both(&self, true)) return 1;
    fl_frames *frames = self.left.frames;
    scarcity_resume();
    int status = send_text(frames, FL_FRAME_JOB, "some work");
    scarcity_pause();
    if (send_text(frames, FL_FRAME_READY, "") != 0) status = 1;
    if (!close_both(&self)) status = 1;
    return status;
}

TEST(without_memory_nothing_of_a_frame_is_sent)
{
    CHECK_SCARCITY(send_scarcely);
}

/* On the receiving side: it is as if the other end had gone. */
static int receive_scarcely(void)
{
    both self;
    scarcity_pause();
    if (!open_both(&self, false)) return 1;
    char text[LARGE / 100] = "";
    memset(text, 'x', sizeof(text) - 1);
    scarcity_resume();
    int status = send_text(self.left.frames, FL_FRAME_JOB, text);
    for (unsigned i = 0; status == 0 && i < 10 && !self.right.ended && !self.right.arrived; i++)
        (void)uv_run(&self.loop, UV_RUN_NOWAIT);
    if (status == 0 && self.right.ended) status = UV_ENOMEM;
    if (status == 0 && self.right.bytes != sizeof(text) - 1) status = 1;
    scarcity_pause();
    if (!close_both(&self)) status = 1;
    return status;
}

TEST(without_memory_a_frame_that_arrives_ends_them)
{
    CHECK_SCARCITY(receive_scarcely);
}

TEST_MAIN
