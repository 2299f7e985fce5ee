/* boundary_count: counts what one thread of a server does per request. Preloaded into a server
 * under test (LD_PRELOAD); its app reads the counts of its own thread through the FFI:
 *
 *     ffi.cdef "typedef struct { … } fl_test_counts; fl_test_counts fl_test_counts_now(void);"
 *
 * Counted are allocations from the C library (LuaJIT's own come from mmap), entries into Lua, and
 * reads and writes of sockets. */
#include <dlfcn.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef struct lua_State lua_State;

typedef struct fl_test_counts {
    double allocations, entries, reads, writes;
} fl_test_counts;

static __thread fl_test_counts counts;

fl_test_counts fl_test_counts_now(void);
fl_test_counts fl_test_counts_now(void)
{
    return counts;
}

/* What the C library's own functions are called beneath these names. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *pointer, size_t size);

void *malloc(size_t size)
{
    counts.allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    counts.allocations++;
    return __libc_calloc(count, size);
}

void *realloc(void *pointer, size_t size)
{
    counts.allocations++;
    return __libc_realloc(pointer, size);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int lua_resume(lua_State *L, int arguments);
int lua_resume(lua_State *L, int arguments)
{
    counts.entries++;
    return NEXT(lua_resume)(L, arguments);
}

int lua_pcall(lua_State *L, int arguments, int results, int handler);
int lua_pcall(lua_State *L, int arguments, int results, int handler)
{
    counts.entries++;
    return NEXT(lua_pcall)(L, arguments, results, handler);
}

int lua_cpcall(lua_State *L, int (*function)(lua_State *), void *data);
int lua_cpcall(lua_State *L, int (*function)(lua_State *), void *data)
{
    counts.entries++;
    return NEXT(lua_cpcall)(L, function, data);
}

void lua_call(lua_State *L, int arguments, int results);
void lua_call(lua_State *L, int arguments, int results)
{
    counts.entries++;
    NEXT(lua_call)(L, arguments, results);
}

ssize_t read(int fd, void *data, size_t size)
{
    counts.reads++;
    return NEXT(read)(fd, data, size);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    counts.reads++;
    return NEXT(recvmsg)(fd, message, flags);
}

ssize_t write(int fd, const void *data, size_t size)
{
    counts.writes++;
    return NEXT(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    counts.writes++;
    return NEXT(writev)(fd, pieces, count);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    counts.writes++;
    return NEXT(sendmsg)(fd, message, flags);
}
