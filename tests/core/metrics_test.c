#include "metrics.h"

#include <pthread.h>
#include <stdlib.h>
#include <uv.h>

#include "scarcity.h"
#include "test.h"

#define MS 1000000u

static const fl_process_metrics process = {.restarts = 2,
                                           .log_dropped = 7,
                                           .evacuations = 3,
                                           .interruptions = 4,
                                           .retired_threads = 1,
                                           .start_time_unix = 1767225600,
                                           .version = "1.\"0\""};

static const char *render(fl_metrics *metrics, fl_buffer *out)
{
    fl_buffer_reset(out, SIZE_MAX);
    fl_metrics_render(metrics, &process, out);
    fl_buffer_byte(out, '\0');
    return out->failed ? "" : out->data;
}

static size_t count_of(const char *text, const char *what)
{
    size_t count = 0;
    for (const char *at = text; (at = strstr(at, what)); at += strlen(what)) count++;
    return count;
}

static fl_metrics *new_metrics(unsigned threads)
{
    fl_metrics *metrics;
    if (fl_metrics_new(&metrics, threads) < 0) abort();
    return metrics;
}

static fl_route_metrics *route(fl_metrics *metrics, unsigned thread, const char *pattern)
{
    return fl_metrics_route(metrics, thread, FL_SLICE("shop"), FL_SLICE("GET"),
                            fl_slice_from_string(pattern));
}

#define ROUTE "{app=\"shop\",method=\"GET\",route=\"/x\""

TEST(requests_are_counted_by_route_and_status)
{
    fl_metrics *metrics = new_metrics(1);
    fl_buffer out = {0};
    fl_route_metrics *row = route(metrics, 0, "/x");
    fl_metrics_request(row, 200, 1);
    fl_metrics_request(row, 404, 1);
    fl_metrics_request(row, 200, 1);
    const char *text = render(metrics, &out);
    CHECK(strstr(text, "# TYPE fasterlua_requests_total counter\n"
                       "fasterlua_requests_total" ROUTE ",status=\"200\"} 2\n"
                       "fasterlua_requests_total" ROUTE ",status=\"404\"} 1\n# HELP") != NULL);
    fl_buffer_close(&out);
    fl_metrics_free(metrics);
}

TEST(buckets_are_cumulative_and_their_bounds_inclusive)
{
    fl_metrics *metrics = new_metrics(1);
    fl_buffer out = {0};
    fl_route_metrics *row = route(metrics, 0, "/x");
    fl_metrics_request(row, 200, MS / 10);
    fl_metrics_request(row, 200, MS / 10 + 1);
    fl_metrics_request(row, 200, 700 * (uint64_t)MS);
    fl_metrics_request(row, 200, 60000 * (uint64_t)MS);
    const char *text = render(metrics, &out);
#define BUCKET "fasterlua_request_duration_seconds_bucket" ROUTE ",le="
    CHECK(strstr(text,
                 "# TYPE fasterlua_request_duration_seconds histogram\n" BUCKET
                 "\"0.0001\"} 1\n" BUCKET "\"0.00025\"} 2\n" BUCKET "\"0.0005\"} 2\n") != NULL);
    CHECK(strstr(text, BUCKET "\"0.5\"} 2\n" BUCKET "\"1\"} 3\n" BUCKET "\"2.5\"} 3\n" BUCKET
                              "\"10\"} 3\n" BUCKET "\"+Inf\"} 4\n"
                              "fasterlua_request_duration_seconds_sum" ROUTE "} 60.700200001\n"
                              "fasterlua_request_duration_seconds_count" ROUTE "} 4\n") != NULL);
    CHECK_EQUAL_INT(count_of(text, BUCKET), FL_METRICS_BUCKETS);
    fl_buffer_close(&out);
    fl_metrics_free(metrics);
}

TEST(the_same_route_of_several_threads_is_one_row)
{
    fl_metrics *metrics = new_metrics(3);
    fl_buffer out = {0};
    for (unsigned i = 0; i < 3; i++) {
        fl_metrics_request(route(metrics, i, "/y"), 200, MS);
        fl_metrics_request(route(metrics, i, "/x"), i ? 200 : 500, MS);
    }
    const char *text = render(metrics, &out);
    CHECK(strstr(text, ROUTE ",status=\"200\"} 2\n") != NULL);
    CHECK(strstr(text, ROUTE ",status=\"500\"} 1\n") != NULL);
    CHECK(strstr(text, "route=\"/y\",status=\"200\"} 3\n") != NULL);
    CHECK_EQUAL_INT(count_of(text, "duration_seconds_count{"), 2);
    CHECK_EQUAL_INT(count_of(text, "# TYPE fasterlua_requests_total "), 1);
    fl_buffer_close(&out);
    fl_metrics_free(metrics);
}

TEST(registering_again_gives_the_same_row)
{
    fl_metrics *metrics = new_metrics(2);
    CHECK(route(metrics, 0, "/x") == route(metrics, 0, "/x"));
    CHECK(route(metrics, 0, "/x") != route(metrics, 1, "/x"));
    CHECK(route(metrics, 0, "/x") != route(metrics, 0, "/y"));
    fl_slice get = FL_SLICE("GET"), empty = FL_SLICE("");
    CHECK(fl_metrics_route(metrics, 0, empty, get, empty) !=
          fl_metrics_route(metrics, 0, get, empty, empty));
    fl_metrics_free(metrics);
}

TEST(a_route_without_requests_is_not_rendered)
{
    fl_metrics *metrics = new_metrics(1);
    fl_buffer out = {0};
    CHECK(route(metrics, 0, "/x") != NULL);
    CHECK(strstr(render(metrics, &out), "/x") == NULL);
    fl_buffer_close(&out);
    fl_metrics_free(metrics);
}

TEST(labels_are_escaped)
{
    fl_metrics *metrics = new_metrics(1);
    fl_buffer out = {0};
    fl_metrics_request(route(metrics, 0, "/\"\\\n"), 200, 1);
    const char *text = render(metrics, &out);
    CHECK(strstr(text, "route=\"/\\\"\\\\\\n\",status=\"200\"} 1\n") != NULL);
    CHECK(strstr(text, "fasterlua_build_info{version=\"1.\\\"0\\\"\"} 1\n") != NULL);
    fl_buffer_close(&out);
    fl_metrics_free(metrics);
}

TEST(more_statuses_than_a_row_holds_count_in_their_class)
{
    fl_metrics *metrics = new_metrics(1);
    fl_buffer out = {0};
    for (int status = 200; status < 500; status += 20)
        fl_metrics_request(route(metrics, 0, "/x"), status, 1);
    const char *text = render(metrics, &out);
    CHECK(strstr(text, "status=\"340\"} 1\n") != NULL);
    CHECK(strstr(text, "status=\"3xx\"} 2\n") != NULL);
    CHECK(strstr(text, "status=\"4xx\"} 5\n") != NULL);
    CHECK(strstr(text, "duration_seconds_count" ROUTE "} 15\n") != NULL);
    fl_buffer_close(&out);
    fl_metrics_free(metrics);
}

TEST(thread_counters_are_summed_or_labelled)
{
    fl_metrics *metrics = new_metrics(2);
    fl_buffer out = {0};
    for (unsigned i = 0; i < 2; i++) {
        fl_thread_metrics *counters = fl_metrics_thread(metrics, i);
        fl_metric_add(&counters->accepted, 5);
        fl_metric_add(&counters->connections, 5);
        fl_metric_subtract(&counters->connections, i);
        fl_metric_add(&counters->loop_lag, 1500 * (uint64_t)MS);
    }
    const char *text = render(metrics, &out);
    CHECK(strstr(text, "\nfasterlua_connections_accepted_total 10\n") != NULL);
    CHECK(strstr(text, "\nfasterlua_connections{thread=\"0\"} 5\n"
                       "fasterlua_connections{thread=\"1\"} 4\n") != NULL);
    CHECK(strstr(text, "\nfasterlua_loop_lag_seconds{thread=\"1\"} 1.500000000\n") != NULL);
    fl_buffer_close(&out);
    fl_metrics_free(metrics);
}

TEST(the_process_is_described)
{
    fl_metrics *metrics = new_metrics(1);
    fl_buffer out = {0};
    const char *text = render(metrics, &out);
    CHECK(strstr(text, "\nfasterlua_restarts_total 2\n") != NULL);
    CHECK(strstr(text, "\nfasterlua_log_dropped_total 7\n") != NULL);
    CHECK(strstr(text, "\nfasterlua_evacuations_total 3\n") != NULL);
    CHECK(strstr(text, "\nfasterlua_interruptions_total 4\n") != NULL);
    CHECK(strstr(text, "\nfasterlua_retired_threads 1\n") != NULL);
    CHECK(strstr(text, "\nprocess_start_time_seconds 1767225600\n") != NULL);
    const char *memory = strstr(text, "\nprocess_resident_memory_bytes ");
    CHECK(memory && strtoull(memory + 31, NULL, 10) > 500000);
    CHECK(strstr(text, "\nprocess_open_fds ") != NULL);
    CHECK(strstr(text, "\nprocess_cpu_seconds_total{mode=\"user\"} ") != NULL);
    CHECK(strstr(text, "\nprocess_cpu_seconds_total{mode=\"system\"} ") != NULL);
    fl_buffer_close(&out);
    fl_metrics_free(metrics);
}

/* name{label="value",…} number, or name number, or a comment */
static bool is_sample(const char *line, const char *end)
{
    size_t name = strspn(line, "abcdefghijklmnopqrstuvwxyz_");
    const char *at = line + name;
    if (name == 0) return false;
    if (*at == '{') {
        at = memchr(at, '}', (size_t)(end - at));
        if (!at) return false;
        at++;
    }
    return *at == ' ' && at + 1 + strspn(at + 1, "0123456789.") == end;
}

TEST(every_line_is_a_comment_or_a_sample_of_its_family)
{
    fl_metrics *metrics = new_metrics(2);
    fl_buffer out = {0};
    fl_metrics_request(route(metrics, 0, "/x"), 200, MS);
    char family[128] = "";
    for (const char *line = render(metrics, &out), *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        CHECK(end != NULL);
        if (sscanf(line, "# TYPE %127s", family) == 1 || strncmp(line, "# HELP ", 7) == 0) continue;
        CHECK(is_sample(line, end));
        CHECK(strncmp(line, family, strlen(family)) == 0);
    }
    fl_buffer_close(&out);
    fl_metrics_free(metrics);
}

static void *serve(void *argument)
{
    char pattern[16];
    for (unsigned i = 0; i < 20000; i++) {
        (void)snprintf(pattern, sizeof(pattern), "/%u", i % 500);
        fl_metrics_request(route(argument, 0, pattern), 200 + (int)(i % 20), i);
    }
    return NULL;
}

TEST(rendering_runs_beside_a_thread_that_adds_routes)
{
    fl_metrics *metrics = new_metrics(1);
    fl_buffer out = {0};
    pthread_t thread;
    CHECK_EQUAL_INT(pthread_create(&thread, NULL, serve, metrics), 0);
    for (int i = 0; i < 5; i++) CHECK(*render(metrics, &out));
    pthread_join(thread, NULL);
    CHECK_EQUAL_INT(count_of(render(metrics, &out), "duration_seconds_count{"), 500);
    fl_buffer_close(&out);
    fl_metrics_free(metrics);
}

static int count_and_render(void)
{
    fl_metrics *metrics = NULL;
    fl_buffer out;
    fl_buffer_init(&out);
    int status = fl_metrics_new(&metrics, 2);
    for (unsigned i = 0; status == 0 && i < 200; i++) {
        char pattern[32];
        (void)snprintf(pattern, sizeof(pattern), "/route/%u", i);
        fl_route_metrics *row = fl_metrics_route(metrics, i % 2, FL_SLICE("app"), FL_SLICE("GET"),
                                                 fl_slice_from_string(pattern));
        if (row)
            fl_metrics_request(row, 200, 1000);
        else
            status = UV_ENOMEM;
    }
    const fl_process_metrics own = {.version = "1"};
    if (status == 0) {
        fl_metrics_render(metrics, &own, &out);
        if (out.failed) status = UV_ENOMEM;
    }
    fl_metrics_free(metrics);
    fl_buffer_close(&out);
    return status;
}

TEST(without_memory_nothing_is_counted_and_rendered)
{
    CHECK_SCARCITY(count_and_render);
}

TEST_MAIN
