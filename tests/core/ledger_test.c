#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uv.h>

#include "ledger.h"
#include "scarcity.h"
#include "test.h"

typedef struct two { /* the supervisor's view and the server process' */
    fl_ledger *ours, *theirs;
    int fd;
} two;

static bool open_two(two *ledgers, unsigned threads, unsigned slots)
{
    if (fl_ledger_create(&ledgers->ours, &ledgers->fd, threads, slots) != 0) return false;
    return fl_ledger_map(&ledgers->theirs, ledgers->fd) == 0;
}

static void close_two(two *ledgers)
{
    fl_ledger_close(ledgers->theirs);
    fl_ledger_close(ledgers->ours);
    close(ledgers->fd);
}

TEST(the_server_process_sees_what_the_supervisor_made)
{
    two ledgers;
    CHECK(open_two(&ledgers, 3, 5));
    CHECK_EQUAL_INT(fl_ledger_threads(ledgers.theirs), 3);
    CHECK_EQUAL_INT(fl_ledger_slots_each(ledgers.theirs), 5);
    CHECK(fl_ledger_boot(ledgers.theirs) != 0);
    CHECK_EQUAL_INT(fl_ledger_boot(ledgers.theirs), fl_ledger_boot(ledgers.ours));
    fl_ledger_slot *first = fl_ledger_slots(ledgers.theirs, 0);
    CHECK_EQUAL_INT(fl_ledger_slots(ledgers.theirs, 2) - first, 10);
    close_two(&ledgers);
}

TEST(each_ledger_has_a_boot_id_of_its_own)
{
    two first, second;
    CHECK(open_two(&first, 1, 1));
    CHECK(open_two(&second, 1, 1));
    CHECK(fl_ledger_boot(first.ours) != fl_ledger_boot(second.ours));
    close_two(&first);
    close_two(&second);
}

TEST(what_is_no_ledger_is_not_mapped)
{
    fl_ledger *ledger;
    int fd = memfd_create("other", MFD_CLOEXEC);
    CHECK_EQUAL_INT(fl_ledger_map(&ledger, fd), UV_EINVAL);
    CHECK_EQUAL_INT(ftruncate(fd, 16 << 20), 0);
    CHECK_EQUAL_INT(fl_ledger_map(&ledger, fd), UV_EINVAL);
    close(fd);
    CHECK_EQUAL_INT(fl_ledger_map(&ledger, fd), UV_EBADF);
}

TEST(the_server_process_cannot_shrink_it)
{
    two ledgers;
    CHECK(open_two(&ledgers, 1, 1));
    CHECK(ftruncate(ledgers.fd, 0) != 0);
    close_two(&ledgers);
}

TEST(a_route_is_registered_once)
{
    two ledgers;
    CHECK(open_two(&ledgers, 1, 1));
    uint32_t user = fl_ledger_route(ledgers.theirs, FL_SLICE("GET"), FL_SLICE("/user/{id}"));
    uint32_t other = fl_ledger_route(ledgers.theirs, FL_SLICE("PUT"), FL_SLICE("/user/{id}"));
    CHECK_EQUAL_INT(user, 1);
    CHECK_EQUAL_INT(other, 2);
    CHECK_EQUAL_INT(fl_ledger_route(ledgers.theirs, FL_SLICE("GET"), FL_SLICE("/user/{id}")), 1);
    close_two(&ledgers);
}

TEST(a_full_table_answers_with_the_unknown_route)
{
    two ledgers;
    char path[32];
    CHECK(open_two(&ledgers, 1, 1));
    for (unsigned i = 1; i < FL_LEDGER_ROUTES; i++) {
        int size = snprintf(path, sizeof(path), "/%u", i);
        CHECK_EQUAL_INT(
            fl_ledger_route(ledgers.theirs, FL_SLICE("GET"), fl_slice_of(path, (size_t)size)), i);
    }
    CHECK_EQUAL_INT(fl_ledger_route(ledgers.theirs, FL_SLICE("GET"), FL_SLICE("/one/more")), 0);
    CHECK_EQUAL_INT(fl_ledger_route(ledgers.theirs, FL_SLICE("GET"), FL_SLICE("/7")), 7);
    close_two(&ledgers);
}

TEST(a_route_of_any_length_is_cut)
{
    static char pattern[100000];
    two ledgers;
    CHECK(open_two(&ledgers, 1, 1));
    memset(pattern, 'x', sizeof(pattern));
    fl_slice slice = fl_slice_of(pattern, sizeof(pattern));
    CHECK_EQUAL_INT(fl_ledger_route(ledgers.theirs, FL_SLICE("GET"), slice), 1);
    CHECK_EQUAL_INT(fl_ledger_route(ledgers.theirs, slice, slice), 2);
    close_two(&ledgers);
}

TEST(an_idle_ledger_describes_nothing)
{
    two ledgers;
    fl_buffer text;
    fl_buffer_init(&text);
    CHECK(open_two(&ledgers, 2, 4));
    CHECK_EQUAL_INT(fl_ledger_describe(ledgers.ours, &text, 10), 0);
    CHECK_EQUAL_INT(text.size, 0);
    close_two(&ledgers);
    fl_buffer_close(&text);
}

static void put(fl_ledger *ledger, unsigned thread, unsigned slot, uint64_t counter, uint32_t route,
                bool running)
{
    fl_ledger_slots(ledger, thread)[slot] =
        (fl_ledger_slot){(uint64_t)thread << 48 | counter, route, running};
}

TEST(the_running_requests_are_named_first_and_the_rest_counted)
{
    two ledgers;
    fl_buffer text;
    char expected[256];
    fl_buffer_init(&text);
    CHECK(open_two(&ledgers, 2, 4));
    uint32_t wait = fl_ledger_route(ledgers.theirs, FL_SLICE("GET"), FL_SLICE("/wait"));
    uint32_t loop = fl_ledger_route(ledgers.theirs, FL_SLICE("GET"), FL_SLICE("/loop"));
    put(ledgers.theirs, 0, 0, 0x1f, wait, false);
    put(ledgers.theirs, 0, 3, 0x20, wait, false);
    put(ledgers.theirs, 1, 1, 0x2a, loop, true);
    CHECK_EQUAL_INT(fl_ledger_describe(ledgers.ours, &text, 2), 3);
    uint32_t boot = fl_ledger_boot(ledgers.ours);
    (void)snprintf(expected, sizeof(expected),
                   "GET /loop (request %08x-1-2a, running), GET /wait (request %08x-0-1f)"
                   " and 1 more",
                   boot, boot);
    CHECK_EQUAL_BYTES(text.data, text.size, expected);
    close_two(&ledgers);
    fl_buffer_close(&text);
}

TEST(a_route_out_of_range_is_unknown)
{
    two ledgers;
    fl_buffer text;
    fl_buffer_init(&text);
    CHECK(open_two(&ledgers, 1, 1));
    put(ledgers.theirs, 0, 0, 1, 0xffffffffu, false);
    CHECK_EQUAL_INT(fl_ledger_describe(ledgers.ours, &text, 9), 1);
    CHECK(text.size > 2 && memcmp(text.data, "? (", 3) == 0);
    close_two(&ledgers);
    fl_buffer_close(&text);
}

TEST(a_request_id_is_boot_thread_and_counter)
{
    char id[40];
    size_t size = fl_request_id(id, 0x9f03c1ab, UINT64_C(1) << 48 | 0x2a);
    CHECK_EQUAL_BYTES(id, size, "9f03c1ab-1-2a");
    size = fl_request_id(id, 0x1f, 0);
    CHECK_EQUAL_BYTES(id, size, "0000001f-0-0");
    size = fl_request_id(id, 0xffffffffu, UINT64_MAX);
    CHECK_EQUAL_BYTES(id, size, "ffffffff-ffff-ffffffffffff");
}

static int register_a_route(void)
{
    fl_ledger *ledger = NULL;
    int fd;
    int status = fl_ledger_create(&ledger, &fd, 1, 4);
    if (status < 0) return status;
    uint32_t route = fl_ledger_route(ledger, FL_SLICE("GET"), FL_SLICE("/a"));
    fl_ledger_note_request(fl_ledger_slots(ledger, 0), 1);
    fl_ledger_note_route(fl_ledger_slots(ledger, 0), route);
    fl_buffer out;
    fl_buffer_init(&out);
    if (fl_ledger_describe(ledger, &out, 10) != 1) status = 1;
    if (status == 0 && (out.failed || route == 0)) status = UV_ENOMEM;
    fl_buffer_close(&out);
    fl_ledger_close(ledger);
    close(fd);
    return status;
}

TEST(without_memory_a_route_has_no_name)
{
    CHECK_SCARCITY(register_a_route);
}

TEST_MAIN
