#include "ring.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "test.h"

enum { SMALL = 4096, MESSAGES = 20000, WRITERS = 3 };

static fl_segment *open_segment(size_t ring)
{
    int fd;
    char why[256];
    fl_segment *segment = NULL;
    if (fl_segment_create(&fd, fl_ring_room(ring)) != 0) return NULL;
    (void)fl_segment_map(&segment, fd, why, sizeof(why));
    close(fd);
    return segment;
}

/* Two processes' ends of one ring, in one process. */
typedef struct fl_pair {
    fl_segment *segment;
    fl_ring *here, *there;
    fl_buffer buffer;
    uint64_t missed;
} fl_pair;

static bool pair_open(fl_pair *pair, size_t bytes)
{
    *pair = (fl_pair){.segment = open_segment(bytes)};
    return pair->segment && fl_ring_open(&pair->here, pair->segment, bytes) == 0 &&
           fl_ring_open(&pair->there, pair->segment, bytes) == 0;
}

static void pair_close(fl_pair *pair)
{
    fl_ring_close(pair->here);
    fl_ring_close(pair->there);
    fl_segment_close(pair->segment);
    fl_buffer_close(&pair->buffer);
}

static int write_text(fl_ring *ring, const char *text)
{
    return fl_ring_write(ring, fl_slice_from_string(text));
}

static int write_number(fl_ring *ring, uint32_t number, size_t bytes)
{
    char message[2000] = {0};
    memcpy(message, &number, sizeof(number));
    return fl_ring_write(ring, fl_slice_of(message, bytes < 4 ? 4 : bytes));
}

/* Takes the first message off the buffer. */
static fl_slice next_message(const fl_buffer *buffer, size_t *at)
{
    uint32_t size;
    if (*at >= buffer->size) return FL_SLICE("nothing");
    memcpy(&size, buffer->data + *at, sizeof(size));
    fl_slice found = fl_slice_of(buffer->data + *at + sizeof(size), size);
    *at += sizeof(size) + size;
    return found;
}

static bool next_is(const fl_buffer *buffer, size_t *at, const char *expected)
{
    return fl_slice_equal(next_message(buffer, at), fl_slice_from_string(expected));
}

static uint32_t number_of(fl_slice message)
{
    uint32_t number;
    memcpy(&number, message.data, sizeof(number));
    return number;
}

static unsigned read_here(fl_pair *pair)
{
    pair->buffer.size = 0;
    return fl_ring_read(pair->here, &pair->buffer, &pair->missed);
}

TEST(one_reads_what_the_other_writes_in_order)
{
    fl_pair pair;
    size_t at = 0;
    CHECK(pair_open(&pair, SMALL));
    CHECK(write_text(pair.there, "too early") == 0);
    CHECK_EQUAL_INT(fl_ring_join(pair.here), 0);
    CHECK(write_text(pair.there, "one") == 0 && write_text(pair.there, "") == 0 &&
          write_text(pair.there, "three") == 0);
    CHECK_EQUAL_INT(read_here(&pair), 3);
    CHECK(next_is(&pair.buffer, &at, "one"));
    CHECK(next_is(&pair.buffer, &at, ""));
    CHECK(next_is(&pair.buffer, &at, "three"));
    CHECK(at == pair.buffer.size && pair.missed == 0);
    CHECK_EQUAL_INT(read_here(&pair), 0);
    fl_ring_leave(pair.here);
    pair_close(&pair);
}

TEST(nobody_reads_what_it_wrote_itself)
{
    fl_pair pair;
    size_t at = 0;
    CHECK(pair_open(&pair, SMALL));
    CHECK_EQUAL_INT(fl_ring_join(pair.here), 0);
    CHECK(write_text(pair.here, "mine") == 0 && write_text(pair.there, "theirs") == 0);
    CHECK_EQUAL_INT(read_here(&pair), 2);
    CHECK(next_is(&pair.buffer, &at, "theirs"));
    CHECK_EQUAL_INT(at, pair.buffer.size);
    fl_ring_leave(pair.here);
    pair_close(&pair);
}

TEST(it_knows_whether_anybody_else_reads)
{
    fl_pair pair;
    CHECK(pair_open(&pair, SMALL));
    CHECK(!fl_ring_has_others(pair.here) && !fl_ring_has_others(pair.there));
    CHECK_EQUAL_INT(fl_ring_join(pair.here), 0);
    CHECK(!fl_ring_has_others(pair.here) && fl_ring_has_others(pair.there));
    CHECK_EQUAL_INT(fl_ring_join(pair.there), 0);
    CHECK(fl_ring_has_others(pair.here));
    fl_ring_leave(pair.there);
    fl_ring_leave(pair.here);
    CHECK(!fl_ring_has_others(pair.here) && !fl_ring_has_others(pair.there));
    pair_close(&pair);
}

TEST(messages_of_every_size_wrap_around_its_end)
{
    fl_pair pair;
    CHECK(pair_open(&pair, SMALL));
    CHECK_EQUAL_INT(fl_ring_join(pair.here), 0);
    for (uint32_t i = 0; i < 3000; i++) {
        size_t at = 0, bytes = 4 + i % (fl_ring_most(pair.there) - 3);
        CHECK_EQUAL_INT(write_number(pair.there, i, bytes), 0);
        CHECK_EQUAL_INT(read_here(&pair), 1);
        fl_slice message = next_message(&pair.buffer, &at);
        CHECK(message.size == bytes && number_of(message) == i && at == pair.buffer.size);
    }
    CHECK_EQUAL_INT(pair.missed, 0);
    fl_ring_leave(pair.here);
    pair_close(&pair);
}

TEST(a_message_has_a_quarter_of_it_at_most)
{
    fl_pair pair;
    char large[SMALL / 4] = {0};
    CHECK(pair_open(&pair, SMALL));
    CHECK(fl_ring_most(pair.here) < sizeof(large) && fl_ring_most(pair.here) > SMALL / 4 - 64);
    CHECK_EQUAL_INT(fl_ring_write(pair.here, fl_slice_of(large, fl_ring_most(pair.here))), 0);
    CHECK_EQUAL_INT(fl_ring_write(pair.here, fl_slice_of(large, fl_ring_most(pair.here) + 1)),
                    UV_E2BIG);
    pair_close(&pair);
}

TEST(who_reads_too_late_is_told_how_many_it_missed)
{
    fl_pair pair;
    size_t at = 0;
    CHECK(pair_open(&pair, SMALL));
    CHECK_EQUAL_INT(fl_ring_join(pair.here), 0);
    for (uint32_t i = 0; i < 1000; i++) CHECK_EQUAL_INT(write_number(pair.there, i, 100), 0);
    unsigned count = read_here(&pair);
    CHECK(count > 10 && count < 40);
    CHECK_EQUAL_INT(pair.missed + count, 1000);
    CHECK_EQUAL_INT(number_of(next_message(&pair.buffer, &at)), pair.missed);
    fl_ring_leave(pair.here);
    pair_close(&pair);
}

TEST(its_own_messages_are_none_it_missed)
{
    fl_pair pair;
    CHECK(pair_open(&pair, SMALL));
    CHECK_EQUAL_INT(fl_ring_join(pair.here), 0);
    unsigned theirs = 0, got = 0;
    for (unsigned round = 0; round < 20; round++) {
        for (uint32_t i = 0; i < 100 + round; i++) {
            CHECK_EQUAL_INT(write_number(i % 3 ? pair.here : pair.there, i, 100), 0);
            theirs += i % 3 == 0;
        }
        while (read_here(&pair))
            for (size_t at = 0; at < pair.buffer.size; got++) (void)next_message(&pair.buffer, &at);
    }
    CHECK(pair.missed > 0);
    CHECK_EQUAL_INT(pair.missed + got, theirs);
    fl_ring_leave(pair.here);
    pair_close(&pair);
}

TEST(waiting_ends_with_the_time_or_with_a_message)
{
    fl_pair pair;
    CHECK(pair_open(&pair, SMALL));
    CHECK(!fl_ring_wait(pair.here, fl_ring_mark(pair.here), 1));
    uint32_t mark = fl_ring_mark(pair.here);
    CHECK_EQUAL_INT(write_text(pair.there, "x"), 0);
    CHECK(fl_ring_wait(pair.here, mark, 10000));
    pair_close(&pair);
}

/* threads */

typedef struct fl_writer {
    fl_ring *ring;
    uint32_t number;
    pthread_t thread;
} fl_writer;

static void *write_many(void *data)
{
    const fl_writer *self = data;
    for (uint32_t i = 0; i < MESSAGES; i++)
        (void)write_number(self->ring, self->number << 24 | i, 4 + i % 60);
    return NULL;
}

/* Each writer's messages come in order; what does not come is counted. */
static bool read_many(fl_pair *pair, uint32_t total)
{
    uint32_t next[WRITERS] = {0}, got = 0;
    while (got + pair->missed < total) {
        uint32_t mark = fl_ring_mark(pair->here);
        if (!read_here(pair) && !fl_ring_wait(pair->here, mark, 10000)) return false;
        for (size_t at = 0; at < pair->buffer.size; got++) {
            uint32_t number = number_of(next_message(&pair->buffer, &at));
            if ((number & 0xffffff) < next[number >> 24]) return false;
            next[number >> 24] = (number & 0xffffff) + 1;
        }
    }
    return got + pair->missed == total;
}

static void threads_write_what_one_reads(size_t bytes, bool may_miss)
{
    fl_pair pair;
    fl_writer writers[WRITERS];
    CHECK(pair_open(&pair, bytes));
    CHECK_EQUAL_INT(fl_ring_join(pair.here), 0);
    for (uint32_t i = 0; i < WRITERS; i++) {
        writers[i] = (fl_writer){pair.there, i, 0};
        CHECK(pthread_create(&writers[i].thread, NULL, write_many, &writers[i]) == 0);
    }
    bool complete = read_many(&pair, WRITERS * MESSAGES);
    for (uint32_t i = 0; i < WRITERS; i++) pthread_join(writers[i].thread, NULL);
    CHECK(complete);
    CHECK(may_miss || pair.missed == 0);
    fl_ring_leave(pair.here);
    pair_close(&pair);
}

TEST(threads_write_and_one_reads_all)
{
    threads_write_what_one_reads((size_t)WRITERS * MESSAGES * 100, false);
}

TEST(threads_write_faster_than_one_reads)
{
    threads_write_what_one_reads(SMALL, true);
}

/* processes */

static pid_t in_child(void (*run)(fl_segment *segment, size_t bytes), fl_segment *segment,
                      size_t bytes)
{
    (void)fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        run(segment, bytes);
        _exit(0);
    }
    return pid;
}

static void write_in_child(fl_segment *segment, size_t bytes)
{
    fl_ring *ring;
    if (fl_ring_open(&ring, segment, bytes) != 0) _exit(1);
    for (uint32_t i = 0; i < MESSAGES; i++) (void)write_number(ring, i, 4 + i % 60);
}

TEST(a_process_reads_what_another_writes)
{
    fl_pair pair;
    int status;
    size_t bytes = (size_t)MESSAGES * 100;
    CHECK(pair_open(&pair, bytes));
    CHECK_EQUAL_INT(fl_ring_join(pair.here), 0);
    pid_t pid = in_child(write_in_child, pair.segment, bytes);
    CHECK(read_many(&pair, MESSAGES));
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK_EQUAL_INT(pair.missed, 0);
    fl_ring_leave(pair.here);
    pair_close(&pair);
}

/* Every byte of a message says which it is. */
static void write_for_ever(fl_segment *segment, size_t bytes)
{
    fl_ring *ring;
    char message[900];
    if (fl_ring_open(&ring, segment, bytes) != 0) _exit(1);
    for (unsigned i = 0;; i++) {
        memset(message, (int)(i % 251), sizeof(message));
        (void)fl_ring_write(ring, fl_slice_of(message, 1 + i % sizeof(message)));
    }
}

static bool is_whole(fl_slice message)
{
    for (size_t i = 1; i < message.size; i++)
        if (message.data[i] != message.data[0]) return false;
    return message.size > 0;
}

static bool all_are_whole(fl_pair *pair)
{
    for (unsigned empty = 0; empty < 2;) {
        if (!read_here(pair)) empty++;
        for (size_t at = 0; at < pair->buffer.size;)
            if (!is_whole(next_message(&pair->buffer, &at))) return false;
    }
    return true;
}

TEST(a_writer_that_is_killed_leaves_no_broken_message)
{
    fl_pair pair;
    int status;
    CHECK(pair_open(&pair, SMALL));
    CHECK_EQUAL_INT(fl_ring_join(pair.here), 0);
    for (unsigned round = 0; round < 100; round++) {
        pid_t pid = in_child(write_for_ever, pair.segment, SMALL);
        uint32_t mark = fl_ring_mark(pair.here);
        CHECK(fl_ring_wait(pair.here, mark, 10000));
        for (unsigned i = 0; i < 20 + round; i++) {
            size_t at = 0;
            (void)read_here(&pair);
            while (at < pair.buffer.size) CHECK(is_whole(next_message(&pair.buffer, &at)));
        }
        CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
        CHECK_EQUAL_INT(write_text(pair.there, "xxx"), 0); /* not held up, not confused */
        CHECK(all_are_whole(&pair));
    }
    fl_ring_leave(pair.here);
    pair_close(&pair);
}

static void join_and_tell(fl_segment *segment, size_t bytes)
{
    fl_ring *ring;
    if (fl_ring_open(&ring, segment, bytes) != 0 || fl_ring_join(ring) != 0) _exit(1);
    (void)fl_ring_write(ring, FL_SLICE("joined"));
    for (;;) pause();
}

TEST(a_reader_that_is_killed_is_forgotten)
{
    fl_pair pair;
    int status;
    CHECK(pair_open(&pair, SMALL));
    uint32_t mark = fl_ring_mark(pair.here);
    pid_t pid = in_child(join_and_tell, pair.segment, SMALL);
    CHECK(fl_ring_wait(pair.here, mark, 10000));
    CHECK(fl_ring_has_others(pair.here));
    fl_ring_sweep(pair.here);
    CHECK(fl_ring_has_others(pair.here));
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
    fl_ring_sweep(pair.here);
    CHECK(!fl_ring_has_others(pair.here));
    CHECK_EQUAL_INT(fl_ring_join(pair.here), 0); /* in its place */
    fl_ring_leave(pair.here);
    pair_close(&pair);
}

TEST_MAIN
