#include "pool_metrics.h"

#include <limits.h>
#include <stddef.h>

#include "metrics.h"
#include "server.h"

#define FEWEST 3 /* buckets of a histogram below 8 µs, and above 4 s, are not shown one by one */
#define MOST 23

typedef struct pool_snapshot {
    fl_slice app, name;
    fl_pool_stats stats;
} pool_snapshot;

typedef struct pool_list {
    pool_snapshot pools[FL_POOLS_MOST];
    unsigned count;
} pool_list;

static void take_snapshots(fl_pools *pools, pool_list *list)
{
    fl_pool *pool;
    for (list->count = 0; (pool = fl_pools_at(pools, list->count)) != NULL; list->count++) {
        pool_snapshot *snapshot = &list->pools[list->count];
        unsigned app = fl_pool_app(pool);
        snapshot->name = fl_slice_from_string(fl_pool_options_of(pool)->name);
        snapshot->app = (fl_slice){0};
        if (app != UINT_MAX)
            snapshot->app = fl_slice_from_string(fl_server_app(fl_pool_server(pool), app)->name);
        fl_pool_get_stats(pool, &snapshot->stats);
    }
}

static void put_family(fl_buffer *out, const char *name, const char *type, const char *help)
{
    fl_buffer_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* name{app="…",pool="…" */
static void put_name(fl_buffer *out, const char *name, const pool_snapshot *pool)
{
    fl_buffer_slice(out, fl_slice_from_string(name));
    FL_BUFFER_LITERAL(out, "{app=\"");
    fl_metrics_escape(out, pool->app);
    FL_BUFFER_LITERAL(out, "\",pool=\"");
    fl_metrics_escape(out, pool->name);
    FL_BUFFER_LITERAL(out, "\"");
}

static void put_number(fl_buffer *out, uint64_t value)
{
    FL_BUFFER_LITERAL(out, "} ");
    fl_buffer_number(out, value);
    FL_BUFFER_LITERAL(out, "\n");
}

static void put_seconds(fl_buffer *out, uint64_t nanoseconds)
{
    fl_buffer_printf(out, "} %.9f\n", (double)nanoseconds / 1e9);
}

typedef struct gauge_family { /* a member of fl_pool_stats */
    size_t offset;
    const char *name, *help;
} gauge_family;

#define MEMBER(member) offsetof(fl_pool_stats, member)

static const gauge_family gauges[] = {
    {MEMBER(threads), "fasterlua_pool_threads", "Threads of a pool."},
    {MEMBER(busy), "fasterlua_pool_busy", "Threads of a pool that run a job."},
    {MEMBER(queued), "fasterlua_pool_queued", "Jobs that wait for a thread."},
    {MEMBER(retired), "fasterlua_pool_retired",
     "Threads given up because their job cannot be stopped, which still run."},
};

static const gauge_family counters[] = {
    {MEMBER(retirements), "fasterlua_pool_retirements_total", "Threads given up."},
    {MEMBER(jit_flushes), "fasterlua_pool_jit_flushes_total",
     "Times that LuaJIT threw a state's machine code away."},
    {MEMBER(states_replaced), "fasterlua_pool_states_replaced_total",
     "Lua states made anew because they had broken."},
};

static const struct {
    size_t offset;
    const char *name;
} outcomes[] = {{MEMBER(completed), "completed"},
                {MEMBER(failed), "failed"},
                {MEMBER(timed_out), "timed_out"},
                {MEMBER(cancelled), "cancelled"},
                {MEMBER(refused), "refused"}};

static uint64_t counter_at(const pool_snapshot *pool, size_t offset)
{
    return *(const uint64_t *)(const void *)((const char *)&pool->stats + offset);
}

static uint64_t gauge_at(const pool_snapshot *pool, size_t offset)
{
    return *(const unsigned *)(const void *)((const char *)&pool->stats + offset);
}

static void put_gauge(fl_buffer *out, const pool_list *list, const gauge_family *family)
{
    put_family(out, family->name, "gauge", family->help);
    for (unsigned i = 0; i < list->count; i++) {
        put_name(out, family->name, &list->pools[i]);
        put_number(out, gauge_at(&list->pools[i], family->offset));
    }
}

static void put_counter(fl_buffer *out, const pool_list *list, const gauge_family *family)
{
    put_family(out, family->name, "counter", family->help);
    for (unsigned i = 0; i < list->count; i++) {
        put_name(out, family->name, &list->pools[i]);
        put_number(out, counter_at(&list->pools[i], family->offset));
    }
}

static void put_outcomes(fl_buffer *out, const pool_list *list)
{
    const char *name = "fasterlua_pool_jobs_total";
    put_family(out, name, "counter", "Jobs that have ended, or were refused.");
    for (unsigned i = 0; i < list->count; i++) {
        for (size_t n = 0; n < sizeof(outcomes) / sizeof(*outcomes); n++) {
            put_name(out, name, &list->pools[i]);
            fl_buffer_printf(out, ",outcome=\"%s\"", outcomes[n].name);
            put_number(out, counter_at(&list->pools[i], outcomes[n].offset));
        }
    }
}

static void put_bucket(fl_buffer *out, const char *name, const pool_snapshot *pool,
                       const char *edge, uint64_t count)
{
    char full[80];
    (void)snprintf(full, sizeof(full), "%s_bucket", name);
    put_name(out, full, pool);
    fl_buffer_printf(out, ",le=\"%s\"", edge);
    put_number(out, count);
}

/* Bucket n holds what took less than 2^n µs. */
static void put_histogram(fl_buffer *out, const char *name, const pool_snapshot *pool,
                          const uint64_t *buckets, uint64_t sum)
{
    uint64_t count = 0;
    char full[80], edge[32];
    for (unsigned n = 0; n < FL_POOL_BUCKETS; n++) {
        count += buckets[n];
        (void)snprintf(edge, sizeof(edge), "%.6f", (double)(1u << n) / 1e6);
        if (n >= FEWEST && n < MOST) put_bucket(out, name, pool, edge, count);
    }
    put_bucket(out, name, pool, "+Inf", count);
    (void)snprintf(full, sizeof(full), "%s_sum", name);
    put_name(out, full, pool);
    put_seconds(out, sum);
    (void)snprintf(full, sizeof(full), "%s_count", name);
    put_name(out, full, pool);
    put_number(out, count);
}

static void put_times(fl_buffer *out, const pool_list *list)
{
    const char *wait = "fasterlua_pool_wait_seconds", *run = "fasterlua_pool_run_seconds";
    put_family(out, wait, "histogram", "Time that jobs lay in the queue.");
    for (unsigned i = 0; i < list->count; i++)
        put_histogram(out, wait, &list->pools[i], list->pools[i].stats.waits,
                      list->pools[i].stats.waited);
    put_family(out, run, "histogram", "Time that jobs' functions ran.");
    for (unsigned i = 0; i < list->count; i++)
        put_histogram(out, run, &list->pools[i], list->pools[i].stats.runs,
                      list->pools[i].stats.running);
}

void fl_pools_render(fl_pools *pools, fl_buffer *out)
{
    pool_list list;
    take_snapshots(pools, &list);
    for (size_t i = 0; i < sizeof(gauges) / sizeof(*gauges); i++) put_gauge(out, &list, &gauges[i]);
    put_outcomes(out, &list);
    for (size_t i = 0; i < sizeof(counters) / sizeof(*counters); i++)
        put_counter(out, &list, &counters[i]);
    put_times(out, &list);
}
