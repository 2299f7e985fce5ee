/* A thread's rows hang in a hash table whose chains only that thread extends, with a release store
 * of the head: the rendering thread walks them at any time without a lock. A row is never removed,
 * and a state that is made anew finds the rows of its predecessor.
 *
 * Counters of one rendering are read one after the other, so two families may differ by the
 * requests that ended meanwhile; within a histogram, count and buckets agree.
 *
 * Left out: rows without a request (an app may have 10,000 routes) are not rendered. */
#include "metrics.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#define CHAINS 256
#define CACHE_LINE 64
#define STATUSES 8 /* different ones of one route; further ones count in their class */
#define STATUS_END 600
#define CLASSES 5
#define SECOND_NS 1000000000u

/* Upper bounds, inclusive; the last bucket has none. */
static const uint64_t bucket_ns[FL_METRICS_BUCKETS - 1] = {
    100000,   250000,    500000,    1000000,   2500000,    5000000,    10000000,   25000000,
    50000000, 100000000, 250000000, 500000000, 1000000000, 2500000000, 10000000000};
static const char *const bucket_names[FL_METRICS_BUCKETS] = {
    "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025",
    "0.05",   "0.1",     "0.25",   "0.5",   "1",      "2.5",   "10",   "+Inf"};

typedef struct status_count {
    _Atomic uint64_t count;
    _Atomic int status; /* 0: free; stored once */
} status_count;

struct fl_route_metrics {
    alignas(CACHE_LINE) fl_route_metrics *next;
    uint32_t hash;
    fl_slice app, method, pattern; /* point behind the struct */
    _Atomic uint64_t duration;     /* ns, sum */
    _Atomic uint64_t buckets[FL_METRICS_BUCKETS];
    status_count statuses[STATUSES];
    _Atomic uint64_t classes[CLASSES];
};

typedef struct thread {
    alignas(2 * CACHE_LINE) fl_thread_metrics counters;
    alignas(2 * CACHE_LINE) _Atomic(fl_route_metrics *) chains[CHAINS];
} thread;

struct fl_metrics {
    unsigned threads;
    thread *thread;
};

static uint64_t load(_Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Rows */

static uint32_t hash_bytes(uint32_t hash, fl_slice bytes)
{
    for (size_t i = 0; i < bytes.size; i++)
        hash = (hash ^ (unsigned char)bytes.data[i]) * 16777619u; /* FNV-1a */
    return (hash ^ 0xFF) * 16777619u;
}

static fl_route_metrics *find_row(fl_route_metrics *row, uint32_t hash, fl_slice app,
                                  fl_slice method, fl_slice pattern)
{
    for (; row; row = row->next)
        if (row->hash == hash && fl_slice_equal(row->pattern, pattern) &&
            fl_slice_equal(row->method, method) && fl_slice_equal(row->app, app))
            return row;
    return NULL;
}

static fl_slice copy_bytes(char **at, fl_slice bytes)
{
    fl_slice copy = fl_slice_of(*at, bytes.size);
    if (bytes.size > 0) memcpy(*at, bytes.data, bytes.size);
    *at += bytes.size;
    return copy;
}

static fl_route_metrics *new_row(fl_slice app, fl_slice method, fl_slice pattern)
{
    size_t size = sizeof(fl_route_metrics) + app.size + method.size + pattern.size;
    size = (size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    fl_route_metrics *row = aligned_alloc(CACHE_LINE, size);
    if (!row) return NULL;
    memset(row, 0, size);
    char *at = (char *)(row + 1);
    row->app = copy_bytes(&at, app);
    row->method = copy_bytes(&at, method);
    row->pattern = copy_bytes(&at, pattern);
    return row;
}

int fl_metrics_new(fl_metrics **out, unsigned threads)
{
    fl_metrics *metrics = calloc(1, sizeof(*metrics));
    thread *rows = aligned_alloc(alignof(thread), sizeof(thread) * (threads ? threads : 1));
    if (!metrics || !rows) {
        free(metrics);
        free(rows);
        return UV_ENOMEM;
    }
    memset(rows, 0, sizeof(thread) * threads);
    metrics->threads = threads;
    metrics->thread = rows;
    *out = metrics;
    return 0;
}

static void free_chain(fl_route_metrics *row)
{
    while (row) {
        fl_route_metrics *next = row->next;
        free(row);
        row = next;
    }
}

void fl_metrics_free(fl_metrics *metrics)
{
    if (!metrics) return;
    for (unsigned i = 0; i < metrics->threads; i++)
        for (unsigned j = 0; j < CHAINS; j++)
            free_chain(atomic_load_explicit(&metrics->thread[i].chains[j], memory_order_acquire));
    free(metrics->thread);
    free(metrics);
}

fl_thread_metrics *fl_metrics_thread(fl_metrics *metrics, unsigned thread_number)
{
    assert(thread_number < metrics->threads);
    return &metrics->thread[thread_number].counters;
}

fl_route_metrics *fl_metrics_route(fl_metrics *metrics, unsigned thread_number, fl_slice app,
                                   fl_slice method, fl_slice pattern)
{
    assert(thread_number < metrics->threads);
    uint32_t hash = hash_bytes(hash_bytes(hash_bytes(2166136261u, app), method), pattern);
    _Atomic(fl_route_metrics *) *chain = &metrics->thread[thread_number].chains[hash % CHAINS];
    fl_route_metrics *head = atomic_load_explicit(chain, memory_order_relaxed);
    fl_route_metrics *row = find_row(head, hash, app, method, pattern);
    if (row) return row;
    row = new_row(app, method, pattern);
    if (!row) return NULL;
    row->hash = hash;
    row->next = head;
    atomic_store_explicit(chain, row, memory_order_release);
    return row;
}

static _Atomic uint64_t *status_counter(fl_route_metrics *row, int status)
{
    if (status < 100 || status >= STATUS_END) status = 500; /* our own mistake, not to be lost */
    for (size_t i = 0; i < STATUSES; i++) {
        int held = atomic_load_explicit(&row->statuses[i].status, memory_order_relaxed);
        if (held == 0)
            atomic_store_explicit(&row->statuses[i].status, status, memory_order_relaxed);
        if (held == 0 || held == status) return &row->statuses[i].count;
    }
    return &row->classes[status / 100 - 1];
}

void fl_metrics_request(fl_route_metrics *row, int status, uint64_t duration)
{
    size_t bucket = 0;
    while (bucket < FL_METRICS_BUCKETS - 1 && duration > bucket_ns[bucket]) bucket++;
    fl_metric_add(&row->buckets[bucket], 1);
    fl_metric_add(&row->duration, duration);
    fl_metric_add(status_counter(row, status), 1);
}

/* Merging the threads' rows */

typedef struct route_totals {
    fl_slice app, method, pattern;
    uint64_t statuses[STATUS_END]; /* by code; what was counted by class only, by 1 to 5 */
    uint64_t buckets[FL_METRICS_BUCKETS];
    uint64_t duration;
} route_totals;

typedef struct row_list {
    fl_route_metrics **rows;
    size_t count, capacity;
} row_list;

static bool is_used(fl_route_metrics *row)
{
    for (size_t i = 0; i < FL_METRICS_BUCKETS; i++)
        if (load(&row->buckets[i])) return true;
    return false;
}

static bool list_add(row_list *list, fl_route_metrics *row)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        fl_route_metrics **rows = realloc(list->rows, capacity * sizeof(*rows));
        if (!rows) return false;
        list->rows = rows;
        list->capacity = capacity;
    }
    list->rows[list->count++] = row;
    return true;
}

static bool list_chain(row_list *list, _Atomic(fl_route_metrics *) *chain)
{
    fl_route_metrics *row = atomic_load_explicit(chain, memory_order_acquire);
    for (; row; row = row->next)
        if (is_used(row) && !list_add(list, row)) return false;
    return true;
}

static int compare_slices(fl_slice a, fl_slice b)
{
    size_t shorter = a.size < b.size ? a.size : b.size;
    int order = shorter ? memcmp(a.data, b.data, shorter) : 0;
    return order ? order : (a.size > b.size) - (a.size < b.size);
}

static int compare_rows(const void *left, const void *right)
{
    const fl_route_metrics *a = *(fl_route_metrics *const *)left;
    const fl_route_metrics *b = *(fl_route_metrics *const *)right;
    int order = compare_slices(a->app, b->app);
    if (order == 0) order = compare_slices(a->pattern, b->pattern);
    return order ? order : compare_slices(a->method, b->method);
}

/* All rows that have counted a request, equal ones side by side. */
static bool list_rows(row_list *list, fl_metrics *metrics)
{
    for (unsigned i = 0; i < metrics->threads; i++)
        for (unsigned j = 0; j < CHAINS; j++)
            if (!list_chain(list, &metrics->thread[i].chains[j])) return false;
    if (list->count > 0) qsort(list->rows, list->count, sizeof(*list->rows), compare_rows);
    return true;
}

static void add_row(route_totals *totals, fl_route_metrics *row)
{
    totals->duration += load(&row->duration);
    for (size_t i = 0; i < FL_METRICS_BUCKETS; i++) totals->buckets[i] += load(&row->buckets[i]);
    for (size_t i = 0; i < CLASSES; i++) totals->statuses[i + 1] += load(&row->classes[i]);
    for (size_t i = 0; i < STATUSES; i++) {
        int status = atomic_load_explicit(&row->statuses[i].status, memory_order_relaxed);
        totals->statuses[status] += load(&row->statuses[i].count);
    }
    totals->statuses[0] = 0; /* a status that was not stored yet when we looked */
}

/* Sums the equal rows from `at`; returns where the next ones begin. */
static size_t merge_rows(route_totals *totals, const row_list *list, size_t at)
{
    const fl_route_metrics *first = list->rows[at];
    memset(totals, 0, sizeof(*totals));
    totals->app = first->app;
    totals->method = first->method;
    totals->pattern = first->pattern;
    while (at < list->count && compare_rows(&first, &list->rows[at]) == 0)
        add_row(totals, list->rows[at++]);
    return at;
}

/* Text format 0.0.4 */

static void put_family(fl_buffer *out, const char *name, const char *type, const char *help)
{
    fl_buffer_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_value(fl_buffer *out, uint64_t value)
{
    fl_buffer_byte(out, ' ');
    fl_buffer_number(out, value);
    fl_buffer_byte(out, '\n');
}

static void put_seconds(fl_buffer *out, uint64_t ns)
{
    fl_buffer_printf(out, " %llu.%09llu\n", (unsigned long long)(ns / SECOND_NS),
                     (unsigned long long)(ns % SECOND_NS));
}

static void put_single(fl_buffer *out, const char *name, const char *type, const char *help,
                       uint64_t value)
{
    put_family(out, name, type, help);
    fl_buffer_slice(out, fl_slice_from_string(name));
    put_value(out, value);
}

void fl_metrics_escape(fl_buffer *out, fl_slice text)
{
    for (size_t i = 0; i < text.size; i++) {
        char byte = text.data[i];
        if (byte == '\n')
            FL_BUFFER_LITERAL(out, "\\n");
        else if (byte == '"' || byte == '\\')
            fl_buffer_append(out, (char[]){'\\', byte}, 2);
        else
            fl_buffer_byte(out, byte);
    }
}

static void put_route(fl_buffer *out, const char *name, const route_totals *totals)
{
    fl_buffer_slice(out, fl_slice_from_string(name));
    FL_BUFFER_LITERAL(out, "{app=\"");
    fl_metrics_escape(out, totals->app);
    FL_BUFFER_LITERAL(out, "\",method=\"");
    fl_metrics_escape(out, totals->method);
    FL_BUFFER_LITERAL(out, "\",route=\"");
    fl_metrics_escape(out, totals->pattern);
    FL_BUFFER_LITERAL(out, "\"");
}

static void put_statuses(fl_buffer *out, const route_totals *totals)
{
    for (unsigned i = 1; i < STATUS_END; i++) {
        if (totals->statuses[i] == 0) continue;
        put_route(out, "fasterlua_requests_total", totals);
        fl_buffer_printf(out, ",status=\"%u%s\"}", i, i <= CLASSES ? "xx" : "");
        put_value(out, totals->statuses[i]);
    }
}

static void put_histogram(fl_buffer *out, const route_totals *totals)
{
    uint64_t count = 0;
    for (size_t i = 0; i < FL_METRICS_BUCKETS; i++) {
        count += totals->buckets[i];
        put_route(out, "fasterlua_request_duration_seconds_bucket", totals);
        fl_buffer_printf(out, ",le=\"%s\"}", bucket_names[i]);
        put_value(out, count);
    }
    put_route(out, "fasterlua_request_duration_seconds_sum", totals);
    FL_BUFFER_LITERAL(out, "}");
    put_seconds(out, totals->duration);
    put_route(out, "fasterlua_request_duration_seconds_count", totals);
    FL_BUFFER_LITERAL(out, "}");
    put_value(out, count);
}

static void put_routes(fl_buffer *out, const row_list *list)
{
    route_totals totals;
    put_family(out, "fasterlua_requests_total", "counter", "Requests answered.");
    for (size_t at = 0; at < list->count;) {
        at = merge_rows(&totals, list, at);
        put_statuses(out, &totals);
    }
    put_family(out, "fasterlua_request_duration_seconds", "histogram",
               "Time from the first byte of a request to the last of its response.");
    for (size_t at = 0; at < list->count;) {
        at = merge_rows(&totals, list, at);
        put_histogram(out, &totals);
    }
}

typedef struct thread_family { /* a member of fl_thread_metrics */
    size_t offset;
    const char *name, *type, *help;
} thread_family;

#define MEMBER(member) offsetof(fl_thread_metrics, member)

static const thread_family summed[] = {
    {MEMBER(accepted), "fasterlua_connections_accepted_total", "counter", "Connections accepted."},
    {MEMBER(handed_over), "fasterlua_connections_handed_over_total", "counter",
     "Connections accepted by one thread and served by another."},
    {MEMBER(in_flight), "fasterlua_requests_in_flight", "gauge", "Requests begun, not answered."},
    {MEMBER(shed), "fasterlua_requests_shed_total", "counter", "Requests refused for overload."},
    {MEMBER(protocol_errors), "fasterlua_protocol_errors_total", "counter",
     "Requests that broke the protocol or its limits."},
    {MEMBER(tasks), "fasterlua_tasks", "gauge", "Lua tasks alive."},
    {MEMBER(slow_handlers), "fasterlua_slow_handlers_total", "counter",
     "Handlers that held their loop longer than slow_handler."},
    {MEMBER(jit_flushes), "fasterlua_jit_flushes_total", "counter",
     "Times a state threw its compiled code away."},
    {MEMBER(bytes_in), "fasterlua_bytes_received_total", "counter", "Bytes read from clients."},
    {MEMBER(bytes_out), "fasterlua_bytes_sent_total", "counter", "Bytes written to clients."},
};

static const thread_family by_thread[] = {
    {MEMBER(requests), "fasterlua_thread_requests_total", "counter",
     "Requests begun, by web thread."},
    {MEMBER(connections), "fasterlua_connections", "gauge", "Connections open, by web thread."},
    {MEMBER(in_flight), "fasterlua_thread_requests_in_flight", "gauge",
     "Requests begun, not answered, by web thread."},
    {MEMBER(lua_bytes), "fasterlua_lua_memory_bytes", "gauge", "Lua heap, by web thread."},
};

static uint64_t read_member(fl_metrics *metrics, unsigned thread_number, size_t offset)
{
    char *counters = (char *)&metrics->thread[thread_number].counters;
    return load((_Atomic uint64_t *)(void *)(counters + offset));
}

static void put_summed(fl_buffer *out, fl_metrics *metrics, const thread_family *family)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < metrics->threads; i++) sum += read_member(metrics, i, family->offset);
    put_single(out, family->name, family->type, family->help, sum);
}

static void put_by_thread(fl_buffer *out, fl_metrics *metrics, const thread_family *family)
{
    put_family(out, family->name, family->type, family->help);
    for (unsigned i = 0; i < metrics->threads; i++) {
        fl_buffer_printf(out, "%s{thread=\"%u\"}", family->name, i);
        put_value(out, read_member(metrics, i, family->offset));
    }
}

static void put_loop_lag(fl_buffer *out, fl_metrics *metrics)
{
    put_family(out, "fasterlua_loop_lag_seconds", "gauge",
               "Longest loop turn of the last second, by web thread.");
    for (unsigned i = 0; i < metrics->threads; i++) {
        fl_buffer_printf(out, "fasterlua_loop_lag_seconds{thread=\"%u\"}", i);
        put_seconds(out, load(&metrics->thread[i].counters.loop_lag));
    }
}

static void put_threads(fl_buffer *out, fl_metrics *metrics)
{
    for (size_t i = 0; i < sizeof(by_thread) / sizeof(*by_thread); i++)
        put_by_thread(out, metrics, &by_thread[i]);
    put_loop_lag(out, metrics);
    for (size_t i = 0; i < sizeof(summed) / sizeof(*summed); i++)
        put_summed(out, metrics, &summed[i]);
}

/* The process */

static uint64_t resident_pages(void)
{
    unsigned long long total, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file) return 0;
    if (fscanf(file, "%llu %llu", &total, &resident) != 2) resident = 0;
    (void)fclose(file);
    return resident;
}

/* Not opendir, of whose descriptor ThreadSanitizer does not know that it is a new one. */
static DIR *list_descriptors(void)
{
    int fd = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (fd >= 0 && !directory) close(fd);
    return directory;
}

static uint64_t open_descriptors(void)
{
    uint64_t count = 0;
    DIR *directory = list_descriptors();
    if (!directory) return 0;
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.') count++;
    (void)closedir(directory);
    return count - 1; /* the directory's own */
}

static uint64_t time_ns(struct timeval time)
{
    return (uint64_t)time.tv_sec * SECOND_NS + (uint64_t)time.tv_usec * 1000;
}

static void put_cpu(fl_buffer *out)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) < 0) return;
    put_family(out, "process_cpu_seconds_total", "counter", "Processor time used.");
    FL_BUFFER_LITERAL(out, "process_cpu_seconds_total{mode=\"user\"}");
    put_seconds(out, time_ns(usage.ru_utime));
    FL_BUFFER_LITERAL(out, "process_cpu_seconds_total{mode=\"system\"}");
    put_seconds(out, time_ns(usage.ru_stime));
}

/* A figure that cannot be had now (no descriptor is free) is left out. */
static void put_process(fl_buffer *out, const fl_process_metrics *process)
{
    uint64_t pages = resident_pages(), descriptors = open_descriptors();
    put_single(out, "fasterlua_restarts_total", "counter", "Server processes started again.",
               process->restarts);
    put_single(out, "fasterlua_log_dropped_total", "counter",
               "Log lines dropped because stdout was blocked or gone.", process->log_dropped);
    put_single(out, "fasterlua_spare_threads", "gauge",
               "Web threads that stand by for one that is stuck.", process->spare_threads);
    put_single(out, "fasterlua_evacuations_total", "counter",
               "Web threads given up because a handler could not be stopped.",
               process->evacuations);
    put_single(out, "fasterlua_interruptions_total", "counter",
               "Handlers stopped by an error because they held their thread.",
               process->interruptions);
    put_single(out, "fasterlua_retired_threads", "gauge", "Threads given up that still run.",
               process->retired_threads);
    put_single(out, "fasterlua_database_connections_open", "gauge",
               "Connections to databases that count for db_connections.", process->db_connections);
    put_single(out, "fasterlua_database_connections_awaited", "gauge",
               "Databases of states that wait until others give a connection up.",
               process->db_waiting);
    put_single(out, "process_start_time_seconds", "gauge", "Start, in seconds since 1970.",
               process->start_time_unix);
    if (pages > 0)
        put_single(out, "process_resident_memory_bytes", "gauge", "Resident memory.",
                   pages * (uint64_t)sysconf(_SC_PAGESIZE));
    if (descriptors > 0)
        put_single(out, "process_open_fds", "gauge", "Open file descriptors.", descriptors);
    put_cpu(out);
}

static void put_build(fl_buffer *out, const char *version)
{
    put_family(out, "fasterlua_build_info", "gauge", "Always 1; the version is a label.");
    FL_BUFFER_LITERAL(out, "fasterlua_build_info{version=\"");
    fl_metrics_escape(out, fl_slice_from_string(version));
    FL_BUFFER_LITERAL(out, "\"} 1\n");
}

void fl_metrics_render(fl_metrics *metrics, const fl_process_metrics *process, fl_buffer *out)
{
    row_list list = {0};
    if (list_rows(&list, metrics))
        put_routes(out, &list);
    else
        out->failed = true;
    free(list.rows);
    put_threads(out, metrics);
    put_process(out, process);
    put_build(out, process->version);
}
