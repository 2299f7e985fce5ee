#include "segment.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "test.h"

static char why[256];

static fl_segment *open_segment(size_t bytes)
{
    int fd;
    fl_segment *segment = NULL;
    if (fl_segment_create(&fd, bytes) != 0) return NULL;
    (void)fl_segment_map(&segment, fd, why, sizeof(why));
    close(fd);
    return segment;
}

static void init_nothing(void *region, size_t bytes)
{
    (void)region;
    (void)bytes;
}

static void init_seven(void *region, size_t bytes)
{
    memset(region, 7, bytes);
}

static void init_and_die(void *region, size_t bytes)
{
    memset(region, 9, bytes);
    (void)raise(SIGKILL);
}

static int open_region(fl_segment *segment, const char *name, size_t bytes, fl_segment_init init,
                       void **region)
{
    return fl_segment_region(segment, fl_slice_from_string(name), &bytes, 4096, init, region);
}

TEST(a_region_is_made_once_and_found_by_its_name)
{
    fl_segment *segment = open_segment(1 << 20);
    void *first, *second, *other;
    CHECK(segment);
    CHECK_EQUAL_INT(open_region(segment, "a", 5000, init_seven, &first), 0);
    CHECK_EQUAL_INT(((char *)first)[4999], 7);
    memset(first, 1, 5000);
    CHECK_EQUAL_INT(open_region(segment, "a", 5000, init_seven, &second), 0);
    CHECK(first == second);
    CHECK_EQUAL_INT(((char *)first)[0], 1);
    CHECK_EQUAL_INT(open_region(segment, "b", 4096, init_nothing, &other), 0);
    CHECK((char *)other >= (char *)first + 5000);
    CHECK_EQUAL_INT(((char *)other)[0], 0);
    fl_segment_close(segment);
}

TEST(two_mappings_see_the_same_region)
{
    int fd;
    fl_segment *ours, *theirs;
    void *here, *there;
    CHECK_EQUAL_INT(fl_segment_create(&fd, 1 << 20), 0);
    CHECK_EQUAL_INT(fl_segment_map(&ours, fd, why, sizeof(why)), 0);
    CHECK_EQUAL_INT(fl_segment_map(&theirs, fd, why, sizeof(why)), 0);
    CHECK_EQUAL_INT(open_region(ours, "a", 100, init_nothing, &here), 0);
    memcpy(here, "hello", 6);
    CHECK_EQUAL_INT(open_region(theirs, "a", 100, init_seven, &there), 0);
    CHECK(here != there);
    CHECK(strcmp(there, "hello") == 0);
    CHECK(fl_segment_born(ours) == fl_segment_born(theirs));
    fl_segment_close(theirs);
    fl_segment_close(ours);
    close(fd);
}

TEST(a_region_keeps_its_size_and_tells_it)
{
    fl_segment *segment = open_segment(1 << 20);
    void *region;
    size_t bytes = 0;
    CHECK_EQUAL_INT(fl_segment_region(segment, FL_SLICE("a"), &bytes, 8192, init_nothing, &region),
                    0);
    CHECK_EQUAL_INT(bytes, 8192);
    bytes = 4096;
    CHECK_EQUAL_INT(fl_segment_region(segment, FL_SLICE("a"), &bytes, 1, init_nothing, &region),
                    UV_EEXIST);
    CHECK_EQUAL_INT(bytes, 8192);
    bytes = 0;
    CHECK_EQUAL_INT(fl_segment_region(segment, FL_SLICE("a"), &bytes, 1, init_nothing, &region), 0);
    CHECK_EQUAL_INT(bytes, 8192);
    fl_segment_close(segment);
}

TEST(there_is_as_much_room_as_was_asked_for_and_no_more)
{
    fl_segment *segment = open_segment(3 * 4096);
    void *region;
    CHECK_EQUAL_INT(fl_segment_size(segment), 3 * 4096);
    CHECK_EQUAL_INT(open_region(segment, "large", 3 * 4096 + 1, init_nothing, &region), UV_ENOSPC);
    CHECK_EQUAL_INT(open_region(segment, "a", 4097, init_nothing, &region), 0);
    CHECK_EQUAL_INT(fl_segment_left(segment), 4096);
    CHECK_EQUAL_INT(open_region(segment, "b", 4097, init_nothing, &region), UV_ENOSPC);
    CHECK_EQUAL_INT(open_region(segment, "b", 4096, init_seven, &region), 0);
    CHECK_EQUAL_INT(fl_segment_left(segment), 0);
    fl_segment_close(segment);
}

TEST(there_are_only_so_many_regions)
{
    fl_segment *segment = open_segment((FL_SEGMENT_REGIONS + 1) * 4096);
    void *region;
    char name[16];
    for (int i = 0; i < FL_SEGMENT_REGIONS; i++) {
        (void)snprintf(name, sizeof(name), "%d", i);
        CHECK_EQUAL_INT(open_region(segment, name, 1, init_nothing, &region), 0);
    }
    CHECK_EQUAL_INT(open_region(segment, "one more", 1, init_nothing, &region), UV_ENFILE);
    CHECK_EQUAL_INT(open_region(segment, "7", 1, init_nothing, &region), 0);
    fl_segment_close(segment);
}

TEST(what_another_layout_has_made_is_refused_and_says_what_to_do)
{
    int fd;
    fl_segment *segment;
    CHECK_EQUAL_INT(fl_segment_create(&fd, 4096), 0);
    uint32_t *head = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    head[1]++;
    CHECK_EQUAL_INT(fl_segment_map(&segment, fd, why, sizeof(why)), UV_EPROTO);
    CHECK(strstr(why, "layout 3, this program needs layout 2: restart the server"));
    head[0]++;
    CHECK_EQUAL_INT(fl_segment_map(&segment, fd, why, sizeof(why)), UV_EPROTO);
    CHECK(strstr(why, "something else"));
    munmap(head, 4096);
    close(fd);
}

TEST(what_is_no_segment_is_refused)
{
    fl_segment *segment;
    int fd = memfd_create("other", MFD_CLOEXEC);
    CHECK_EQUAL_INT(fl_segment_map(&segment, fd, why, sizeof(why)), UV_EINVAL);
    close(fd);
    CHECK_EQUAL_INT(fl_segment_map(&segment, fd, why, sizeof(why)), UV_EBADF);
}

TEST(its_memory_cannot_be_shrunk)
{
    int fd;
    CHECK_EQUAL_INT(fl_segment_create(&fd, 1 << 20), 0);
    CHECK(ftruncate(fd, 0) != 0);
    close(fd);
}

static bool dies(void (*run)(fl_segment *segment), fl_segment *segment)
{
    (void)fflush(stdout);
    pid_t pid = fork();
    int status;
    if (pid == 0) {
        run(segment);
        _exit(0);
    }
    return waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void make_and_die(fl_segment *segment)
{
    void *region;
    (void)open_region(segment, "a", 3 * 4096, init_and_die, &region);
}

TEST(a_process_that_dies_making_a_region_has_made_none)
{
    fl_segment *segment = open_segment(4 * 4096);
    void *region;
    CHECK(dies(make_and_die, segment));
    CHECK_EQUAL_INT(fl_segment_left(segment), 4 * 4096);
    CHECK_EQUAL_INT(open_region(segment, "b", 4096, init_nothing, &region), 0);
    CHECK_EQUAL_INT(((char *)region)[0], 0);
    CHECK_EQUAL_INT(open_region(segment, "a", 2 * 4096, init_nothing, &region), 0);
    for (size_t i = 0; i < (size_t)2 * 4096; i++) CHECK_EQUAL_INT(((char *)region)[i], 0);
    fl_segment_close(segment);
}

TEST_MAIN
