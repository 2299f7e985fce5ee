#include "segment.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "memory_file.h"

#define MAGIC 0x666c7367u
#define PAGE ((size_t)4096)

typedef struct entry {
    char name[FL_SEGMENT_NAME_MOST];
    uint64_t name_size, offset, bytes;
} entry;

typedef struct header { /* the segment's beginning */
    uint32_t magic, version;
    uint64_t size, born;
    pthread_mutex_t lock;    /* of what follows */
    _Atomic uint32_t making; /* 1: a region is; memory behind the last one may be written */
    uint32_t count;          /* entries that are complete */
    entry entries[FL_SEGMENT_REGIONS];
} header;

struct fl_segment {
    header *header;
    size_t size;
};

static size_t to_pages(size_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

uint64_t fl_segment_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* locks */

void fl_segment_lock_init(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

bool fl_segment_lock(pthread_mutex_t *lock)
{
    int error = pthread_mutex_lock(lock);
    if (error == 0) return false;
    assert(error == EOWNERDEAD);
    pthread_mutex_consistent(lock);
    return true;
}

void fl_segment_unlock(pthread_mutex_t *lock)
{
    pthread_mutex_unlock(lock);
}

/* the memory */

static int map_memory(header **out, int fd, size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) return uv_translate_sys_error(errno);
    *out = memory;
    return 0;
}

int fl_segment_create(int *fd, size_t bytes)
{
    size_t size = to_pages(sizeof(header)) + to_pages(bytes);
    header *head = NULL;
    int error = fl_memory_file_create(fd, "fasterlua-shared", size);
    if (error) return error;
    error = map_memory(&head, *fd, size);
    if (error) {
        close(*fd);
        return error;
    }
    fl_segment_lock_init(&head->lock);
    head->size = size;
    head->born = fl_segment_clock();
    head->version = FL_SEGMENT_VERSION;
    head->magic = MAGIC;
    munmap(head, size);
    return 0;
}

static int check(const header *head, size_t size, char *why, size_t why_size)
{
    if (head->magic == MAGIC && head->version == FL_SEGMENT_VERSION && head->size == size) return 0;
    if (head->magic == MAGIC)
        (void)snprintf(why, why_size,
                       "the server's shared memory has layout %u, this program needs layout %u: "
                       "restart the server instead of reloading it",
                       head->version, FL_SEGMENT_VERSION);
    else
        (void)snprintf(why, why_size, "the server's shared memory is something else");
    return UV_EPROTO;
}

static int fail(int error, char *why, size_t why_size)
{
    (void)snprintf(why, why_size, "the server's shared memory: %s", uv_strerror(error));
    return error;
}

int fl_segment_map(fl_segment **out, int fd, char *why, size_t why_size)
{
    struct stat status;
    header *head = NULL;
    if (fstat(fd, &status) != 0) return fail(uv_translate_sys_error(errno), why, why_size);
    size_t size = (size_t)status.st_size;
    if (size < to_pages(sizeof(header))) return fail(UV_EINVAL, why, why_size);
    int error = map_memory(&head, fd, size);
    if (error) return fail(error, why, why_size);
    error = check(head, size, why, why_size);
    fl_segment *segment = error ? NULL : malloc(sizeof(*segment));
    if (!segment) {
        munmap(head, size);
        return error ? error : fail(UV_ENOMEM, why, why_size);
    }
    *segment = (fl_segment){.header = head, .size = size};
    *out = segment;
    return 0;
}

void fl_segment_close(fl_segment *segment)
{
    if (!segment) return;
    munmap(segment->header, segment->size);
    free(segment);
}

size_t fl_segment_size(const fl_segment *segment)
{
    return segment->size - to_pages(sizeof(header));
}

uint64_t fl_segment_born(const fl_segment *segment)
{
    return segment->header->born;
}

/* regions */

static size_t end_of_last(const header *head)
{
    if (head->count == 0) return to_pages(sizeof(*head));
    const entry *last = &head->entries[head->count - 1];
    return last->offset + to_pages(last->bytes);
}

size_t fl_segment_left(fl_segment *segment)
{
    header *head = segment->header;
    (void)fl_segment_lock(&head->lock);
    size_t left = segment->size - end_of_last(head);
    fl_segment_unlock(&head->lock);
    return left;
}

static const entry *find(const header *head, fl_slice name)
{
    for (uint32_t i = 0; i < head->count; i++) {
        const entry *each = &head->entries[i];
        if (fl_slice_equal(fl_slice_of(each->name, each->name_size), name)) return each;
    }
    return NULL;
}

/* Who dies in here has made nothing, for `count` is raised at the end; what it has written is given
 * back by the next one. */
static void add(header *head, fl_slice name, size_t bytes, fl_segment_init init)
{
    size_t offset = end_of_last(head);
    char *region = (char *)head + offset;
    if (atomic_load(&head->making)) (void)madvise(region, head->size - offset, MADV_REMOVE);
    atomic_store(&head->making, 1);
    entry *each = &head->entries[head->count];
    *each = (entry){.name_size = name.size, .offset = offset, .bytes = bytes};
    memcpy(each->name, name.data, name.size);
    init(region, bytes);
    head->count++;
    atomic_store(&head->making, 0);
}

static int make(const fl_segment *segment, fl_slice name, size_t bytes, fl_segment_init init)
{
    header *head = segment->header;
    if (head->count == FL_SEGMENT_REGIONS) return UV_ENFILE;
    if (bytes > segment->size - end_of_last(head)) return UV_ENOSPC;
    add(head, name, bytes, init);
    return 0;
}

static int find_or_make(fl_segment *segment, fl_slice name, size_t bytes, size_t otherwise,
                        fl_segment_init init, const entry **found)
{
    const header *head = segment->header;
    *found = find(head, name);
    if (*found) return bytes && bytes != (*found)->bytes ? UV_EEXIST : 0;
    int error = make(segment, name, bytes ? bytes : otherwise, init);
    if (!error) *found = &head->entries[head->count - 1];
    return error;
}

int fl_segment_region(fl_segment *segment, fl_slice name, size_t *bytes, size_t otherwise,
                      fl_segment_init init, void **region)
{
    assert(name.size <= FL_SEGMENT_NAME_MOST);
    header *head = segment->header;
    const entry *found;
    (void)fl_segment_lock(&head->lock);
    int error = find_or_make(segment, name, *bytes, otherwise, init, &found);
    if (found) {
        *region = (char *)head + found->offset;
        *bytes = found->bytes;
    }
    fl_segment_unlock(&head->lock);
    return error;
}
