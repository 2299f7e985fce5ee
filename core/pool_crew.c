#include "pool_crew.h"

#include "log.h"
#include "pool_thread.h"
#include "pools.h"
#include "server.h"

void fl_pool_crew_init(fl_pool_crew *crew, fl_pool *pool)
{
    crew->pool = pool;
    crew->options = fl_pool_options_of(pool);
    crew->idle_last = &crew->idle;
}

static void insert(fl_pool_thread **list, fl_pool_thread *thread)
{
    thread->next = *list;
    if (thread->next) thread->next->link = &thread->next;
    thread->link = list;
    *list = thread;
}

static void take_out(fl_pool_thread *thread)
{
    *thread->link = thread->next;
    if (thread->next) thread->next->link = thread->link;
    thread->link = NULL;
}

void fl_pool_crew_add(fl_pool_crew *crew)
{
    fl_pool_thread *thread = NULL;
    if (fl_pool_thread_start(&thread, crew->pool) < 0) return; /* the others do its work */
    fl_pools_thread_started(fl_server_pools(fl_pool_server(crew->pool)));
    insert(&crew->threads, thread);
    crew->count++;
}

/* the idle */

/* Threads that stay take turns, so that their states age alike. Where idle ones end, the one that
 * fell idle last comes first, so that the others may. */
static void set_idle(fl_pool_crew *crew, fl_pool_thread *thread)
{
    fl_pool_thread **link = crew->options->idle ? &crew->idle : crew->idle_last;
    thread->next_idle = *link;
    if (thread->next_idle)
        thread->next_idle->idle_link = &thread->next_idle;
    else
        crew->idle_last = &thread->next_idle;
    thread->idle_link = link;
    *link = thread;
    crew->idle_count++;
}

static void unset_idle(fl_pool_crew *crew, fl_pool_thread *thread)
{
    if (!thread->idle_link) return;
    *thread->idle_link = thread->next_idle;
    if (thread->next_idle)
        thread->next_idle->idle_link = thread->idle_link;
    else
        crew->idle_last = thread->idle_link;
    thread->idle_link = NULL;
    crew->idle_count--;
}

/* One that sleeps, or else one that is busy with what jobs have left behind. */
static fl_pool_thread *best_idle(const fl_pool_crew *crew)
{
    fl_pool_thread *thread = crew->idle;
    while (thread && thread->place != FL_POOL_ASLEEP) thread = thread->next_idle;
    return thread ? thread : crew->idle;
}

static unsigned size_now(const fl_pool_crew *crew)
{
    unsigned size = crew->options->size, rate = crew->options->retire_rate;
    if (crew->retired_in_window <= rate) return size;
    if (uv_hrtime() - crew->window > crew->options->retire_window) return size;
    unsigned missing = crew->retired_in_window - rate;
    return missing < size ? size - missing : 0;
}

void fl_pool_crew_call(fl_pool_crew *crew)
{
    fl_pool_thread *idle = best_idle(crew);
    if (idle) {
        unset_idle(crew, idle);
        fl_pool_thread_summon(idle);
    } else if (crew->count < size_now(crew)) {
        fl_pool_crew_add(crew);
    }
}

void fl_pool_crew_call_idle(fl_pool_crew *crew)
{
    for (fl_pool_thread *thread = crew->idle; thread; thread = thread->next_idle)
        fl_pool_thread_summon(thread);
}

bool fl_pool_crew_rest(fl_pool_crew *crew, fl_pool_thread *thread, pthread_mutex_t *lock)
{
    set_idle(crew, thread);
    bool called = fl_pool_thread_wait(thread, lock, crew->options->idle);
    unset_idle(crew, thread);
    return called;
}

/* the retired */

static bool may_replace(fl_pool_crew *crew, uint64_t now)
{
    if (!crew->window || now - crew->window > crew->options->retire_window) {
        crew->window = now;
        crew->retired_in_window = 0;
    }
    return ++crew->retired_in_window <= crew->options->retire_rate;
}

static void tell_retired(const fl_pool_crew *crew, const fl_pool_thread *thread, bool replaced,
                         uint64_t now)
{
    uint64_t since = thread->job ? thread->job->begun : thread->turn_since;
    fl_log_printf(thread->thread.log, FL_LOG_ERROR,
                  "pool \"%s\": %s has run for %.1f s and cannot be stopped: its thread is "
                  "retired and %s; isolation = \"process\" would end it",
                  crew->options->name, thread->job ? "a job" : "what a job left behind",
                  (double)(now - since) / 1e9,
                  replaced ? "replaced" : "not replaced, that was too often of late");
}

bool fl_pool_crew_retire(fl_pool_crew *crew, fl_pool_thread *thread, uint64_t now)
{
    fl_pool_crew_forget(crew, thread);
    thread->retired = true;
    thread->retired_at = now;
    insert(&crew->retired, thread);
    crew->retired_count++;
    crew->retirements++;
    fl_leases_release(fl_mailbox_leases(thread->thread.mailbox), NULL);
    bool replaced = may_replace(crew, now);
    tell_retired(crew, thread, replaced, now);
    return replaced;
}

bool fl_pool_crew_is_exhausted(const fl_pool_crew *crew)
{
    return crew->count == 0 && size_now(crew) == 0;
}

uint64_t fl_pool_crew_retired(const fl_pool_crew *crew, uint64_t now)
{
    uint64_t longest = 0;
    for (const fl_pool_thread *thread = crew->retired; thread; thread = thread->next)
        if (now - thread->retired_at > longest) longest = now - thread->retired_at;
    return longest;
}

/* leaving */

void fl_pool_crew_forget(fl_pool_crew *crew, fl_pool_thread *thread)
{
    unset_idle(crew, thread);
    if (!thread->link) return;
    take_out(thread);
    crew->count--;
}

void fl_pool_crew_left(fl_pool_crew *crew, fl_pool_thread *thread)
{
    crew->jit_flushes += atomic_load(&thread->metrics.jit_flushes);
    if (thread->retired) {
        crew->retired_count--;
        take_out(thread);
    } else {
        fl_pool_crew_forget(crew, thread);
    }
}

void fl_pool_crew_get_stats(const fl_pool_crew *crew, fl_pool_stats *stats)
{
    stats->threads = crew->count;
    stats->idle = crew->idle_count;
    stats->retired = crew->retired_count;
    stats->retirements = crew->retirements;
    stats->jit_flushes = crew->jit_flushes;
    for (const fl_pool_thread *thread = crew->threads; thread; thread = thread->next)
        stats->jit_flushes += atomic_load(&thread->metrics.jit_flushes);
}
