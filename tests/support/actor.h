/* actor: as much of a thread with a Lua state as letters need: a loop, a mailbox and an address.
 *
 * Owner: the test; open ⇒ close, both on the thread that runs its loop meanwhile. */
#ifndef FL_ACTOR_H
#define FL_ACTOR_H

#include "address.h"
#include "thread.h"

typedef struct fl_actor {
    uv_loop_t loop;
    fl_mailbox *mailbox;
    fl_address *address;
} fl_actor;

static inline int actor_open(fl_actor *actor)
{
    *actor = (fl_actor){0};
    int status = uv_loop_init(&actor->loop);
    if (status == 0) status = fl_mailbox_new(&actor->mailbox, &actor->loop, actor);
    /* a state that nobody looks into */
    if (status == 0) status = fl_address_new(&actor->address, actor->mailbox, (fl_state *)actor);
    return status;
}

static inline void actor_turn(fl_actor *actor) /* delivers what has come */
{
    uv_run(&actor->loop, UV_RUN_NOWAIT);
}

static inline void actor_wait(fl_actor *actor) /* until something comes */
{
    uv_run(&actor->loop, UV_RUN_ONCE);
}

static inline void actor_give_up(fl_actor *actor)
{
    fl_address_close(actor->address);
}

/* 0 when nothing was left in its loop. */
static inline int actor_close(fl_actor *actor)
{
    fl_address_close(actor->address);
    fl_address_release(actor->address);
    fl_mailbox_close(actor->mailbox);
    uv_run(&actor->loop, UV_RUN_DEFAULT);
    return fl_thread_close_loop(&actor->loop);
}

#endif
