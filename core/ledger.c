#include "ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "memory_file.h"

#define MAGIC 0x666c6c31u /* changes with the layout: a replaced binary may map an older one's */
#define ROUTE_TEXT 192
#define BUCKETS (2 * FL_LEDGER_ROUTES) /* a power of two, never more than half full */

/* The shared memory: this head, then threads * slots slots. Untouched pages cost nothing. */
typedef struct shared {
    uint32_t magic, boot, threads, slots;
    uint32_t route_count;
    char routes[FL_LEDGER_ROUTES][ROUTE_TEXT]; /* routes[0] is "?" */
    fl_ledger_slot slot[];
} shared;

struct fl_ledger {
    shared *shared;
    size_t size;
    unsigned threads, slots; /* copies that the other process cannot change */
    uint32_t boot;
    pthread_mutex_t lock; /* of the two below and of shared->routes */
    uint32_t *index; /* route text -> its number, by hash; NULL until the first is registered */
};

static size_t shared_size(unsigned threads, unsigned slots)
{
    return sizeof(shared) + (size_t)threads * slots * sizeof(fl_ledger_slot);
}

/* Takes over nothing: `fd` stays the caller's. */
static int open_shared(fl_ledger **out, int fd, size_t size)
{
    fl_ledger *ledger = calloc(1, sizeof(*ledger));
    if (!ledger) return UV_ENOMEM;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        int error = uv_translate_sys_error(errno);
        free(ledger);
        return error;
    }
    ledger->shared = memory;
    ledger->size = size;
    pthread_mutex_init(&ledger->lock, NULL);
    *out = ledger;
    return 0;
}

static void copy_numbers(fl_ledger *ledger)
{
    ledger->threads = ledger->shared->threads;
    ledger->slots = ledger->shared->slots;
    ledger->boot = ledger->shared->boot;
}

static uint32_t random_boot(void)
{
    uint32_t boot = 0;
    while (boot == 0)
        if (getrandom(&boot, sizeof(boot), 0) != sizeof(boot)) boot = (uint32_t)uv_hrtime() | 1;
    return boot;
}

int fl_ledger_create(fl_ledger **out, int *fd, unsigned threads, unsigned slots)
{
    size_t size = shared_size(threads, slots);
    int error = fl_memory_file_create(fd, "fasterlua-ledger", size);
    if (error) return error;
    error = open_shared(out, *fd, size);
    if (error) {
        close(*fd);
        return error;
    }
    shared *head = (*out)->shared;
    head->threads = threads;
    head->slots = slots;
    head->boot = random_boot();
    head->route_count = 1;
    memcpy(head->routes[0], "?", 2);
    head->magic = MAGIC;
    copy_numbers(*out);
    return 0;
}

int fl_ledger_map(fl_ledger **out, int fd)
{
    struct stat status;
    if (fstat(fd, &status) != 0) return uv_translate_sys_error(errno);
    if (status.st_size < (off_t)sizeof(shared)) return UV_EINVAL;
    int error = open_shared(out, fd, (size_t)status.st_size);
    if (error) return error;
    copy_numbers(*out);
    const fl_ledger *ledger = *out;
    if (ledger->shared->magic == MAGIC &&
        ledger->size >= shared_size(ledger->threads, ledger->slots))
        return 0;
    fl_ledger_close(*out);
    return UV_EINVAL;
}

void fl_ledger_close(fl_ledger *ledger)
{
    if (!ledger) return;
    munmap(ledger->shared, ledger->size);
    pthread_mutex_destroy(&ledger->lock);
    free(ledger->index);
    free(ledger);
}

unsigned fl_ledger_threads(const fl_ledger *ledger)
{
    return ledger->threads;
}

unsigned fl_ledger_slots_each(const fl_ledger *ledger)
{
    return ledger->slots;
}

static size_t write_route(char text[ROUTE_TEXT], fl_slice method, fl_slice pattern)
{
    size_t size = 0;
    fl_slice parts[] = {method, FL_SLICE(" "), pattern};
    for (size_t i = 0; i < 3; i++) {
        size_t room = ROUTE_TEXT - 1 - size;
        size_t take = parts[i].size < room ? parts[i].size : room;
        if (take > 0) memcpy(text + size, parts[i].data, take);
        size += take;
    }
    text[size] = '\0';
    return size;
}

/* FNV-1a: short texts, at boot, from our own program. */
static uint32_t hash(const char *text, size_t size)
{
    uint32_t value = 2166136261u;
    for (size_t i = 0; i < size; i++) value = (value ^ (unsigned char)text[i]) * 16777619u;
    return value;
}

static uint32_t find_or_add(fl_ledger *ledger, const char *text, size_t size)
{
    shared *head = ledger->shared;
    uint32_t bucket = hash(text, size) & (BUCKETS - 1);
    for (; ledger->index[bucket]; bucket = (bucket + 1) & (BUCKETS - 1))
        if (strcmp(head->routes[ledger->index[bucket]], text) == 0) return ledger->index[bucket];
    if (head->route_count >= FL_LEDGER_ROUTES) return 0;
    uint32_t route = head->route_count++;
    memcpy(head->routes[route], text, size + 1);
    ledger->index[bucket] = route;
    return route;
}

uint32_t fl_ledger_route(fl_ledger *ledger, fl_slice method, fl_slice pattern)
{
    char text[ROUTE_TEXT];
    size_t size = write_route(text, method, pattern);
    uint32_t route = 0;
    pthread_mutex_lock(&ledger->lock);
    if (!ledger->index) ledger->index = calloc(BUCKETS, sizeof(*ledger->index));
    if (ledger->index) route = find_or_add(ledger, text, size);
    pthread_mutex_unlock(&ledger->lock);
    return route;
}

fl_ledger_slot *fl_ledger_slots(fl_ledger *ledger, unsigned thread)
{
    return ledger->shared->slot + (size_t)thread * ledger->slots;
}

uint32_t fl_ledger_boot(const fl_ledger *ledger)
{
    return ledger->boot;
}

size_t fl_ledger_route_text(const fl_ledger *ledger, uint32_t route, char *out, size_t size)
{
    const char *text = ledger->shared->routes[route < FL_LEDGER_ROUTES ? route : 0];
    size_t length = strnlen(text, ROUTE_TEXT);
    if (length >= size) length = size - 1;
    memcpy(out, text, length);
    out[length] = '\0';
    return length;
}

static void describe_slot(const fl_ledger *ledger, const fl_ledger_slot *slot, fl_buffer *out)
{
    uint32_t route = slot->route < FL_LEDGER_ROUTES ? slot->route : 0;
    const char *text = ledger->shared->routes[route];
    fl_buffer_append(out, text, strnlen(text, ROUTE_TEXT));
    char id[40];
    size_t size = fl_request_id(id, ledger->boot, slot->request);
    FL_BUFFER_LITERAL(out, " (request ");
    fl_buffer_append(out, id, size);
    if (slot->in_lua) FL_BUFFER_LITERAL(out, ", running");
    FL_BUFFER_LITERAL(out, ")");
}

static unsigned describe_those(const fl_ledger *ledger, bool in_lua, unsigned already,
                               fl_buffer *out, unsigned most)
{
    unsigned count = already;
    for (size_t i = 0; i < (size_t)ledger->threads * ledger->slots; i++) {
        const fl_ledger_slot *slot = ledger->shared->slot + i;
        if (slot->request == 0 || (slot->in_lua != 0) != in_lua) continue;
        if (count++ >= most) continue;
        if (count > 1) FL_BUFFER_LITERAL(out, ", ");
        describe_slot(ledger, slot, out);
    }
    return count;
}

unsigned fl_ledger_describe(const fl_ledger *ledger, fl_buffer *out, unsigned most)
{
    unsigned count = describe_those(ledger, true, 0, out, most);
    count = describe_those(ledger, false, count, out, most);
    if (count > most) fl_buffer_printf(out, "%sand %u more", most ? " " : "", count - most);
    return count;
}

static size_t write_hex(char *out, uint64_t number, unsigned digits)
{
    while (digits < 16 && number >> (4 * digits)) digits++;
    for (unsigned i = 0; i < digits; i++)
        out[i] = "0123456789abcdef"[(number >> (4 * (digits - 1 - i))) & 15];
    return digits;
}

size_t fl_request_id(char id[40], uint32_t boot, uint64_t number)
{
    size_t size = write_hex(id, boot, 8);
    id[size++] = '-';
    size += write_hex(id + size, number >> 48, 1);
    id[size++] = '-';
    size += write_hex(id + size, number & 0xffffffffffffu, 1);
    return size;
}
