#include "bell.h"

#include <pthread.h>

#include "actor.h"
#include "scarcity.h"
#include "test.h"

enum { RINGERS = 4, RINGS = 5000 };

typedef struct fl_tower {
    fl_actor actor;
    fl_bell bell;
    unsigned times, strokes; /* heard */
    _Atomic unsigned latest[RINGERS];
    unsigned seen[RINGERS];
} fl_tower;

static fl_tower *tower_of(fl_bell *bell)
{
    return (fl_tower *)((char *)bell - offsetof(fl_tower, bell));
}

static void heard(fl_bell *bell, unsigned strokes, void *owner)
{
    fl_tower *tower = tower_of(bell);
    CHECK(owner == &tower->actor);
    tower->times++;
    tower->strokes |= strokes;
    for (unsigned i = 0; i < RINGERS; i++)
        if (strokes & 1u << i) tower->seen[i] = atomic_load(&tower->latest[i]);
}

static void tower_open(fl_tower *tower)
{
    *tower = (fl_tower){0};
    CHECK_EQUAL_INT(actor_open(&tower->actor), 0);
    fl_bell_init(&tower->bell, heard);
}

static void ring(fl_tower *tower, unsigned strokes)
{
    fl_bell_ring(&tower->bell, tower->actor.mailbox, strokes);
}

TEST(strokes_are_heard_on_the_owners_loop_all_at_once)
{
    fl_tower tower;
    tower_open(&tower);
    ring(&tower, 1);
    ring(&tower, 4);
    ring(&tower, 1);
    CHECK_EQUAL_INT(tower.times, 0);
    actor_turn(&tower.actor);
    CHECK_EQUAL_INT(tower.times, 1);
    CHECK_EQUAL_INT(tower.strokes, 5);
    CHECK_EQUAL_INT(actor_close(&tower.actor), 0);
}

TEST(it_is_rung_again_and_again)
{
    fl_tower tower;
    tower_open(&tower);
    for (unsigned i = 1; i <= 3; i++) {
        tower.strokes = 0;
        ring(&tower, i);
        actor_turn(&tower.actor);
        CHECK_EQUAL_INT(tower.times, i);
        CHECK_EQUAL_INT(tower.strokes, i);
    }
    CHECK_EQUAL_INT(actor_close(&tower.actor), 0);
}

TEST(it_needs_no_memory)
{
    fl_tower tower;
    tower_open(&tower);
    scarcity_resume();
    ring(&tower, 2);
    scarcity_pause();
    actor_turn(&tower.actor);
    CHECK_EQUAL_INT(tower.strokes, 2);
    CHECK_EQUAL_INT(actor_close(&tower.actor), 0);
}

TEST(what_was_not_heard_when_the_mailbox_closed_never_is)
{
    fl_tower tower;
    tower_open(&tower);
    fl_mailbox *mailbox = tower.actor.mailbox;
    fl_mailbox_hold(mailbox);
    ring(&tower, 1);
    CHECK_EQUAL_INT(actor_close(&tower.actor), 0);
    fl_bell_ring(&tower.bell, mailbox, 2);
    CHECK_EQUAL_INT(tower.times, 0);
    fl_mailbox_release(mailbox);
}

typedef struct fl_ringer {
    pthread_t thread;
    fl_tower *tower;
    unsigned number;
} fl_ringer;

static void *ring_often(void *data)
{
    fl_ringer *ringer = data;
    for (unsigned i = 1; i <= RINGS; i++) {
        atomic_store_explicit(&ringer->tower->latest[ringer->number], i, memory_order_relaxed);
        ring(ringer->tower, 1u << ringer->number);
    }
    return NULL;
}

static bool all_seen(const fl_tower *tower)
{
    for (unsigned i = 0; i < RINGERS; i++)
        if (tower->seen[i] != RINGS) return false;
    return true;
}

TEST(several_threads_ring_at_once_and_the_last_of_each_is_heard)
{
    static fl_tower tower;
    fl_ringer ringers[RINGERS];
    tower_open(&tower);
    for (unsigned i = 0; i < RINGERS; i++) {
        ringers[i] = (fl_ringer){.tower = &tower, .number = i};
        CHECK_EQUAL_INT(pthread_create(&ringers[i].thread, NULL, ring_often, &ringers[i]), 0);
    }
    while (!all_seen(&tower)) actor_wait(&tower.actor);
    for (unsigned i = 0; i < RINGERS; i++) pthread_join(ringers[i].thread, NULL);
    CHECK_EQUAL_INT(actor_close(&tower.actor), 0);
}

TEST_MAIN
