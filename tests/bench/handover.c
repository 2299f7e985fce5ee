/* handover: the floor of what sending a job to another thread and back costs: a list under a lock
 * and a futex out, a list and a uv_async back. No Lua, no arguments.
 *
 *     handover [seconds]
 *
 * Prints one line of JSON: the median round trip of one job at a time, and with 64 in flight the
 * rate and the CPU time per job. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <uv.h>

enum { in_flight = 64, round_trips_kept = 200000 };

typedef struct job {
    struct job *next;
    uint64_t sent;
} job;

typedef struct list {
    pthread_mutex_t lock;
    job *first, **last;
} list;

typedef struct bench {
    list out, back;
    pthread_cond_t wake;
    bool parked, ending;
    uv_loop_t loop;
    uv_async_t done;
    uint64_t until, count;
    unsigned width; /* jobs in flight */
    uint64_t *round_trips;
    size_t kept;
} bench;

static void list_init(list *self)
{
    pthread_mutex_init(&self->lock, NULL);
    self->first = NULL;
    self->last = &self->first;
}

/* Locked; returns whether it was empty. */
static bool append(list *self, job *one)
{
    bool was_empty = self->first == NULL;
    one->next = NULL;
    *self->last = one;
    self->last = &one->next;
    return was_empty;
}

static job *take_all(list *self)
{
    job *first = self->first;
    self->first = NULL;
    self->last = &self->first;
    return first;
}

static void dispatch(bench *self, job *one)
{
    one->sent = uv_hrtime();
    pthread_mutex_lock(&self->out.lock);
    append(&self->out, one);
    if (self->parked) pthread_cond_signal(&self->wake);
    pthread_mutex_unlock(&self->out.lock);
}

static job *receive(bench *self)
{
    pthread_mutex_lock(&self->out.lock);
    while (!self->out.first && !self->ending) {
        self->parked = true;
        pthread_cond_wait(&self->wake, &self->out.lock);
        self->parked = false;
    }
    job *one = self->out.first;
    if (one) {
        self->out.first = one->next;
        if (!one->next) self->out.last = &self->out.first;
    }
    pthread_mutex_unlock(&self->out.lock);
    return one;
}

static void *work(void *data)
{
    bench *self = data;
    job *one;
    while ((one = receive(self)) != NULL) {
        pthread_mutex_lock(&self->back.lock);
        bool wake = append(&self->back, one);
        pthread_mutex_unlock(&self->back.lock);
        if (wake) uv_async_send(&self->done);
    }
    return NULL;
}

static void came_back(uv_async_t *done)
{
    bench *self = done->data;
    pthread_mutex_lock(&self->back.lock);
    job *one = take_all(&self->back);
    pthread_mutex_unlock(&self->back.lock);
    uint64_t now = uv_hrtime();
    while (one) {
        job *next = one->next;
        self->count++;
        if (self->kept < round_trips_kept) self->round_trips[self->kept++] = now - one->sent;
        if (now < self->until)
            dispatch(self, one);
        else if (--self->width == 0)
            uv_stop(&self->loop);
        one = next;
    }
}

static int by_time(const void *a, const void *b)
{
    const uint64_t *left = a, *right = b;
    return *left < *right ? -1 : *left > *right;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void run(bench *self, unsigned width, double seconds)
{
    static job jobs[in_flight];
    self->width = width;
    self->count = 0;
    self->kept = 0;
    self->until = uv_hrtime() + (uint64_t)(seconds * 1e9);
    for (unsigned i = 0; i < width; i++) dispatch(self, &jobs[i]);
    uv_run(&self->loop, UV_RUN_DEFAULT);
    qsort(self->round_trips, self->kept, sizeof(*self->round_trips), by_time);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    bench self = {.round_trips = malloc(round_trips_kept * sizeof(uint64_t))};
    if (!self.round_trips || seconds <= 0 || seconds > 60) return 1;
    list_init(&self.out);
    list_init(&self.back);
    pthread_cond_init(&self.wake, NULL);
    uv_loop_init(&self.loop);
    uv_async_init(&self.loop, &self.done, came_back);
    self.done.data = &self;
    pthread_t worker;
    if (pthread_create(&worker, NULL, work, &self) != 0) return 1;
    run(&self, 1, seconds);
    double median = (double)self.round_trips[self.kept / 2] / 1e3;
    double before = cpu_seconds();
    uint64_t began = uv_hrtime();
    run(&self, in_flight, seconds);
    double took = (double)(uv_hrtime() - began) / 1e9;
    printf("{\"median_us\":%.2f,\"jobs_per_second\":%.0f,\"cpu_us\":%.3f}\n", median,
           (double)self.count / took, (cpu_seconds() - before) / (double)self.count * 1e6);
    pthread_mutex_lock(&self.out.lock);
    self.ending = true;
    pthread_cond_signal(&self.wake);
    pthread_mutex_unlock(&self.out.lock);
    pthread_join(worker, NULL);
    free(self.round_trips);
    return 0;
}
