/* metrics: counters that web threads bump and the admin listener renders in Prometheus' text
 * format.
 *
 * Owner: the server process. Each web thread has an fl_thread_metrics that only it writes (plain
 * relaxed atomics, no locks); fl_metrics_render may run on *any* thread at any time and sums them.
 * Routes are registered at *boot* of each thread's states; the same (app, method, pattern) gets
 * the same row in the rendering. Nothing is freed before fl_metrics_free. */
#ifndef FL_METRICS_H
#define FL_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

#include "buffer.h"
#include "slice.h"

#define FL_METRICS_BUCKETS 16 /* request duration histogram: 100 µs … 30 s, see metrics.c */

typedef struct fl_metrics fl_metrics;
typedef struct fl_route_metrics fl_route_metrics; /* one thread's row of one route */

typedef struct fl_thread_metrics {
    _Atomic uint64_t accepted, handed_over, requests, shed, protocol_errors;
    _Atomic uint64_t connections;   /* open now */
    _Atomic uint64_t in_flight;     /* requests begun and not answered */
    _Atomic uint64_t tasks;         /* Lua tasks alive */
    _Atomic uint64_t slow_handlers; /* written by the watch thread */
    _Atomic uint64_t loop_lag;      /* ns, longest loop turn of the last second */
    _Atomic uint64_t lua_bytes, jit_flushes;
    _Atomic uint64_t bytes_in, bytes_out;
} fl_thread_metrics;

int fl_metrics_new(fl_metrics **out, unsigned threads);
void fl_metrics_free(fl_metrics *metrics);

fl_thread_metrics *fl_metrics_thread(fl_metrics *metrics, unsigned thread);

/* *boot* or loop of `thread`. NULL when there is no memory. Method and pattern are copied. */
fl_route_metrics *fl_metrics_route(fl_metrics *metrics, unsigned thread, fl_slice app,
                                   fl_slice method, fl_slice pattern);

/* *loop* of the row's thread: one finished request, duration in ns. */
void fl_metrics_request(fl_route_metrics *row, int status, uint64_t duration);

typedef struct fl_process_metrics { /* what the process adds when it renders */
    uint64_t restarts, log_dropped, start_time_unix;
    uint64_t spare_threads;
    uint64_t evacuations, interruptions, retired_threads;
    uint64_t db_connections, db_waiting; /* to databases; handles in line for one */
    const char *version;
} fl_process_metrics;

/* A label's value. */
void fl_metrics_escape(fl_buffer *out, fl_slice text);

void fl_metrics_render(fl_metrics *metrics, const fl_process_metrics *process, fl_buffer *out);

static inline void fl_metric_add(_Atomic uint64_t *counter, uint64_t amount)
{
    /* one writer: a plain load and store, no locked instruction */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + amount,
                          memory_order_relaxed);
}

static inline void fl_metric_subtract(_Atomic uint64_t *counter, uint64_t amount)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) - amount,
                          memory_order_relaxed);
}

#endif
