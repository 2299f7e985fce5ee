#include "interruption.h"

#include <lauxlib.h>
#include <signal.h>
#include <unistd.h>
#include <uv.h>

#include "thread.h"

#define CLEAN_UP 20000 /* instructions between the first error and the second */

static int signal_number(void)
{
    return SIGRTMIN + 5;
}

static void push_error(lua_State *L, fl_interruption *interruption)
{
    lua_createtable(L, 0, 3);
    lua_pushstring(L, atomic_load(&interruption->kind));
    lua_setfield(L, -2, "kind");
    lua_pushinteger(L, atomic_load(&interruption->status));
    lua_setfield(L, -2, "status");
    luaL_where(L, 0); /* the traceback of a hook has no line for its topmost function */
    lua_pushliteral(L, "stopped: it has held its thread for too long");
    lua_concat(L, 2);
    lua_setfield(L, -2, "message");
}

/* [-0, +0, e] */
static void stop(lua_State *L, lua_Debug *activation)
{
    (void)activation;
    fl_thread *thread = fl_state_of(L)->thread;
    fl_interruption *interruption = &thread->interruption;
    if (interruption->turn != thread->claim.turn) {
        lua_sethook(L, NULL, 0, 0);
        return;
    }
    lua_sethook(L, stop, LUA_MASKCOUNT, interruption->raised++ == 0 ? CLEAN_UP : 1);
    push_error(L, interruption);
    lua_error(L);
}

/* On the interrupted thread, which stands still meanwhile. */
static void signalled(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    if (info->si_code != SI_QUEUE || info->si_pid != getpid()) return;
    fl_thread *thread = info->si_value.sival_ptr;
    fl_interruption *interruption = &thread->interruption;
    lua_State *L = atomic_load(&interruption->inside);
    uint64_t turn;
    /* in C with that turn's count: an owning function, after which the hook is called */
    if (fl_claim_look(&thread->claim, &turn) == FL_CLAIM_RETIRED) return;
    if (!L || turn != atomic_load(&interruption->turn)) return;
    if (atomic_load(&interruption->hooked)) return; /* asked before in this turn */
    atomic_store(&interruption->hooked, true);
    interruption->raised = 0;
    lua_sethook(L, stop, LUA_MASKCOUNT, 1);
}

int fl_interruption_open(void)
{
    struct sigaction action = {.sa_sigaction = signalled, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGPROF); /* it sets hooks too (profile.h) */
    return sigaction(signal_number(), &action, NULL) < 0 ? UV_EINVAL : 0;
}

void fl_interrupt(fl_thread *thread, uint64_t turn, const char *kind, int status)
{
    atomic_store(&thread->interruption.kind, kind);
    atomic_store(&thread->interruption.status, status);
    atomic_store(&thread->interruption.turn, turn);
    (void)pthread_sigqueue(thread->id, signal_number(), (union sigval){.sival_ptr = thread});
}

void fl_interruption_clear(fl_thread *thread, lua_State *L)
{
    lua_sethook(L, NULL, 0, 0);
    atomic_store(&thread->interruption.hooked, false);
}
