#include "pool_overdue.h"

#include "pool_thread.h"

/* ns after its deadline that a job has to notice, and then to be stopped by a signal; one that is
 * awaiting or being packed, to which no signal is sent, is on its way out and has longer */
#define NOTICE 20000000u
#define INTERRUPTION 50000000u
#define BLOCKED 400000000u
#define WAY_OUT 500000000u

/* Odd turns are in Lua, or in one of our own functions that Lua has called. */
static bool is_in_lua(fl_pool_thread *thread, uint64_t *turn)
{
    (void)fl_claim_look(&thread->thread.claim, turn);
    return *turn % 2 == 1;
}

/* On a crowded machine a thread may not have run at all since its first signal: it has so much time
 * of the processor to end, or, when it uses none, is blocked. */
static bool resists(fl_pool_thread *thread, uint64_t turn, uint64_t late)
{
    uint64_t used = fl_thread_cpu_time(&thread->thread);
    if (thread->interrupted != turn) {
        thread->interrupted = turn;
        thread->used_then = used;
    }
    if (late <= NOTICE + INTERRUPTION) return false;
    return used - thread->used_then > INTERRUPTION / 2 || late > NOTICE + BLOCKED;
}

/* Signals are sent again and again: one that finds the thread in one of our own functions has no
 * effect. */
static bool escalate(fl_pool_thread *thread, const fl_pool_options *options, uint64_t late)
{
    if (late <= NOTICE || options->process) return false;
    uint64_t turn;
    if (!is_in_lua(thread, &turn)) return late > NOTICE + WAY_OUT;
    if (resists(thread, turn, late)) return true;
    fl_interrupt(&thread->thread, turn, "timeout", 504);
    return false;
}

/* Tasks that a job has detached, or that run after it. */
static bool look_at_rest(fl_pool_thread *thread, const fl_pool_options *options, uint64_t now)
{
    uint64_t turn;
    if (!is_in_lua(thread, &turn) || turn != thread->turn) {
        thread->turn = turn;
        thread->turn_since = now;
        return false;
    }
    uint64_t held = now - thread->turn_since, most = options->timeout;
    return most && held > most && escalate(thread, options, held - most);
}

bool fl_pool_overdue(fl_pool_thread *thread, const fl_pool_options *options, uint64_t now)
{
    if (!thread->job) return look_at_rest(thread, options, now);
    if (!thread->deadline || now < thread->deadline) return false;
    fl_pool_thread_cancel(thread, "timeout");
    return escalate(thread, options, now - thread->deadline);
}
