#include "memory_file.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test.h"

TEST(it_has_its_size_and_is_of_zeros)
{
    int fd;
    struct stat status;
    CHECK_EQUAL_INT(fl_memory_file_create(&fd, "a-test", 8192), 0);
    CHECK(fstat(fd, &status) == 0);
    CHECK_EQUAL_INT(status.st_size, 8192);
    const char *memory = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    for (size_t i = 0; i < 8192; i++) CHECK(memory[i] == 0);
    CHECK(munmap((void *)(size_t)memory, 8192) == 0);
    close(fd);
}

TEST(nobody_can_change_its_size)
{
    int fd;
    CHECK_EQUAL_INT(fl_memory_file_create(&fd, "a-test", 8192), 0);
    CHECK(ftruncate(fd, 4096) != 0);
    CHECK(ftruncate(fd, 16384) != 0);
    close(fd);
}

TEST(what_is_too_large_is_an_error)
{
    int fd = -1;
    CHECK(fl_memory_file_create(&fd, "a-test", (size_t)1 << 63) < 0);
    CHECK_EQUAL_INT(fd, -1);
}

TEST_MAIN
