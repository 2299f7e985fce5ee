#include "pools.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "condition.h"

#define FIRST_NUMBER 1024 /* of a pool's thread: there are fewer web threads */
#define LAST_NUMBER 65535 /* a request's number has 16 bits for its thread */

struct fl_pools {
    fl_server *server;
    pthread_mutex_t lock;
    pthread_cond_t gone; /* a thread has left */
    fl_pool *list[FL_POOLS_MOST];
    _Atomic unsigned count;
    unsigned alive; /* threads */
    pthread_t last; /* of the threads that have ended: to be joined by the next, or at the end */
    bool has_last;
    _Atomic unsigned numbers; /* that were given to threads */
    bool stopping;
};

/* What is below the count stays. */
static unsigned count_of(fl_pools *pools)
{
    return atomic_load_explicit(&pools->count, memory_order_acquire);
}

int fl_pools_new(fl_pools **out, fl_server *server)
{
    fl_pools *pools = calloc(1, sizeof(*pools));
    *out = pools;
    if (!pools) return UV_ENOMEM;
    pools->server = server;
    pthread_mutex_init(&pools->lock, NULL);
    fl_condition_init(&pools->gone);
    return 0;
}

bool fl_pools_stop(fl_pools *pools, uint64_t patience)
{
    pthread_mutex_lock(&pools->lock);
    pools->stopping = true; /* pools that jobs still open are closed from the start */
    pthread_mutex_unlock(&pools->lock);
    unsigned count = count_of(pools);
    for (unsigned i = 0; i < count; i++) fl_pool_stop(pools->list[i]);
    uint64_t until = uv_hrtime() + patience;
    pthread_mutex_lock(&pools->lock);
    while (pools->alive && fl_condition_wait(&pools->gone, &pools->lock, until)) continue;
    bool ended = pools->alive == 0;
    pthread_mutex_unlock(&pools->lock);
    return ended;
}

void fl_pools_free(fl_pools *pools)
{
    if (!pools) return;
    if (pools->has_last) pthread_join(pools->last, NULL);
    unsigned count = count_of(pools);
    for (unsigned i = 0; i < count; i++) fl_pool_free(pools->list[i]);
    pthread_cond_destroy(&pools->gone);
    pthread_mutex_destroy(&pools->lock);
    free(pools);
}

/* opening */

static fl_pool *find(fl_pools *pools, unsigned app, const char *name)
{
    unsigned count = count_of(pools);
    for (unsigned i = 0; i < count; i++) {
        fl_pool *pool = pools->list[i];
        if (fl_pool_app(pool) == app && strcmp(fl_pool_options_of(pool)->name, name) == 0)
            return pool;
    }
    return NULL;
}

static int check_same(const fl_pool *pool, const fl_pool_options *wanted, char *error, size_t size)
{
    const fl_pool_options *has = fl_pool_options_of(pool);
    const struct {
        const char *name;
        uint64_t has, wanted;
    } options[] = {{"size", has->size, wanted->size},
                   {"queue", has->queue, wanted->queue},
                   {"timeout", has->timeout, wanted->timeout},
                   {"max_memory", has->max_memory, wanted->max_memory},
                   {"recycle_after", has->recycle_after, wanted->recycle_after},
                   {"retire_rate", has->retire_rate, wanted->retire_rate},
                   {"retire_window", has->retire_window, wanted->retire_window},
                   {"isolation", has->process, wanted->process}};
    for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++) {
        if (options[i].has == options[i].wanted) continue;
        (void)snprintf(error, size, "there is a pool \"%s\" with another %s", has->name,
                       options[i].name);
        return UV_EEXIST;
    }
    return 0;
}

static fl_pool *add(fl_pools *pools, unsigned app, const fl_pool_options *options)
{
    unsigned number = count_of(pools);
    fl_pool *pool = fl_pool_new(pools->server, number, app, options);
    if (!pool) return NULL;
    if (pools->stopping) fl_pool_close(pool);
    pools->list[number] = pool;
    atomic_store_explicit(&pools->count, number + 1, memory_order_release);
    return pool;
}

static int open_locked(fl_pool **out, fl_pools *pools, unsigned app, const fl_pool_options *options,
                       char *error, size_t error_size)
{
    fl_pool *pool = find(pools, app, options->name);
    *out = pool;
    if (pool) return check_same(pool, options, error, error_size);
    if (count_of(pools) == FL_POOLS_MOST) {
        (void)snprintf(error, error_size, "a server has at most %d pools", FL_POOLS_MOST);
        return UV_ENOBUFS;
    }
    *out = add(pools, app, options);
    if (*out) return 0;
    (void)snprintf(error, error_size, "not enough memory");
    return UV_ENOMEM;
}

int fl_pools_open(fl_pool **out, fl_pools *pools, unsigned app, const fl_pool_options *options,
                  char *error, size_t error_size)
{
    pthread_mutex_lock(&pools->lock);
    int status = open_locked(out, pools, app, options, error, error_size);
    pthread_mutex_unlock(&pools->lock);
    return status;
}

fl_pool *fl_pools_at(fl_pools *pools, unsigned number)
{
    return number < count_of(pools) ? pools->list[number] : NULL;
}

/* all of them */

void fl_pools_drop_orphans(fl_pools *pools)
{
    unsigned count = count_of(pools);
    for (unsigned i = 0; i < count; i++) fl_pool_drop_orphans(pools->list[i]);
}

void fl_pools_look(fl_pools *pools, uint64_t now)
{
    unsigned count = count_of(pools);
    for (unsigned i = 0; i < count; i++) fl_pool_look(pools->list[i], now);
}

uint64_t fl_pools_retired(fl_pools *pools, uint64_t now)
{
    uint64_t longest = 0;
    unsigned count = count_of(pools);
    for (unsigned i = 0; i < count; i++) {
        uint64_t own = fl_pool_retired(pools->list[i], now);
        if (own > longest) longest = own;
    }
    return longest;
}

/* the census */

unsigned fl_pools_new_number(fl_pools *pools)
{
    unsigned number = atomic_fetch_add(&pools->numbers, 1);
    return FIRST_NUMBER + number % (LAST_NUMBER - FIRST_NUMBER);
}

void fl_pools_thread_started(fl_pools *pools)
{
    pthread_mutex_lock(&pools->lock);
    pools->alive++;
    pthread_mutex_unlock(&pools->lock);
}

/* Each joins the one before it, so that no more than one is ever unjoined, and no pool has to wait
 * for a thread that it does not need any more. */
void fl_pools_thread_ended(fl_pools *pools)
{
    pthread_mutex_lock(&pools->lock);
    pthread_t before = pools->last;
    bool has_before = pools->has_last;
    pools->last = pthread_self();
    pools->has_last = true;
    pools->alive--;
    pthread_cond_signal(&pools->gone);
    pthread_mutex_unlock(&pools->lock);
    if (has_before) pthread_join(before, NULL);
}
