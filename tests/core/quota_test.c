#include "quota.h"

#include <pthread.h>
#include <stdatomic.h>

#include "actor.h"
#include "test.h"

/* A database handle of a state, and its connections, which are but numbers. */
typedef struct fl_handle {
    fl_actor *actor;
    fl_quota_member *member;
    unsigned has, busy;
    unsigned wanted; /* queries that wait for a connection */
    unsigned asked, granted;
    bool is_stubborn; /* declines */
} fl_handle;

static void tell(fl_handle *handle)
{
    fl_quota_tell(handle->member, handle->has - handle->busy, handle->has);
}

static void serve(fl_handle *handle)
{
    while (handle->wanted > 0 && !fl_quota_is_in_line(handle->member)) {
        if (fl_quota_take(handle->member) != 0) break;
        handle->has++;
        handle->busy++;
        handle->wanted--;
    }
    if (handle->wanted == 0) fl_quota_withdraw(handle->member);
    tell(handle);
}

static void close_one(fl_handle *handle)
{
    handle->has--;
    fl_quota_give(handle->member);
}

static void granted(void *owner)
{
    fl_handle *handle = owner;
    handle->granted++;
    serve(handle);
}

static void pay(fl_handle *handle)
{
    while (fl_quota_owes(handle->member)) {
        if (handle->is_stubborn || handle->has == handle->busy)
            fl_quota_decline(handle->member);
        else
            close_one(handle);
    }
    serve(handle);
}

static void asked(void *owner)
{
    fl_handle *handle = owner;
    handle->asked++;
    pay(handle);
}

static const fl_quota_calls calls = {.granted = granted, .asked = asked};

static void open_handle(fl_handle *handle, fl_quota *quota, fl_actor *actor)
{
    *handle = (fl_handle){.actor = actor};
    CHECK_EQUAL_INT(fl_quota_join(&handle->member, quota, actor->address, &calls, handle), 0);
}

static void close_handle(fl_handle *handle)
{
    while (handle->has > 0) close_one(handle);
    fl_quota_leave(handle->member);
}

static void query(fl_handle *handle)
{
    handle->wanted++;
    serve(handle);
}

/* Its query has ended. */
static void become_idle(fl_handle *handle)
{
    handle->busy--;
    tell(handle);
}

enum { HANDLES = 4 };

typedef struct fl_scene {
    fl_quota *quota;
    fl_actor actors[HANDLES];
    fl_handle handles[HANDLES];
} fl_scene;

static uint64_t time_now = UINT64_C(1000000000); /* of scenes, ns */

static uint64_t scene_time(void)
{
    return time_now;
}

static void open_scene(fl_scene *scene, uint64_t most)
{
    CHECK_EQUAL_INT(fl_quota_new(&scene->quota, most, scene_time), 0);
    for (int i = 0; i < HANDLES; i++) {
        CHECK_EQUAL_INT(actor_open(&scene->actors[i]), 0);
        open_handle(&scene->handles[i], scene->quota, &scene->actors[i]);
    }
}

static void turn(fl_scene *scene)
{
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < HANDLES; i++) actor_turn(&scene->actors[i]);
}

static void close_scene(fl_scene *scene)
{
    for (int i = 0; i < HANDLES; i++) {
        close_handle(&scene->handles[i]);
        CHECK_EQUAL_INT(actor_close(&scene->actors[i]), 0);
    }
    fl_quota_counts counts = fl_quota_count(scene->quota);
    CHECK(counts.slots == 0 && counts.waiting == 0);
    fl_quota_free(scene->quota);
}

static bool counts_are(const fl_scene *scene, uint64_t slots, uint64_t waiting)
{
    fl_quota_counts counts = fl_quota_count(scene->quota);
    return counts.slots == slots && counts.waiting == waiting;
}

TEST(slots_are_taken_until_none_is_left)
{
    fl_scene scene;
    open_scene(&scene, 2);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1];
    query(a);
    query(b);
    CHECK(a->has == 1 && b->has == 1 && counts_are(&scene, 2, 0));
    query(b);
    CHECK(b->has == 1 && fl_quota_is_in_line(b->member) && counts_are(&scene, 2, 1));
    close_scene(&scene);
}

TEST(one_stands_in_line_once)
{
    fl_scene scene;
    open_scene(&scene, 1);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1];
    query(a);
    CHECK_EQUAL_INT(fl_quota_take(b->member), UV_EAGAIN);
    CHECK_EQUAL_INT(fl_quota_take(b->member), UV_EAGAIN);
    CHECK(counts_are(&scene, 1, 1));
    close_scene(&scene);
}

TEST(what_comes_back_goes_to_the_first_in_line)
{
    fl_scene scene;
    open_scene(&scene, 1);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1], *c = &scene.handles[2];
    query(a);
    query(b);
    query(c);
    a->busy--;
    close_one(a);
    CHECK(counts_are(&scene, 1, 1)); /* it is b's already: nobody else can take it */
    query(a);
    CHECK(a->has == 0);
    turn(&scene);
    CHECK(b->has == 1 && b->granted == 1 && c->has == 0);
    b->busy--;
    close_one(b);
    turn(&scene);
    CHECK(c->has == 1 && a->has == 0);
    c->busy--;
    close_one(c);
    turn(&scene);
    CHECK(a->has == 1 && counts_are(&scene, 1, 0));
    close_scene(&scene);
}

TEST(who_has_none_comes_before_who_wants_more)
{
    fl_scene scene;
    open_scene(&scene, 2);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1], *c = &scene.handles[2];
    query(a);
    query(b);
    query(b);
    query(c);
    a->busy--;
    close_one(a);
    turn(&scene);
    CHECK(c->has == 1 && b->has == 1);
    close_scene(&scene);
}

TEST(who_needs_it_no_more_passes_it_on)
{
    fl_scene scene;
    open_scene(&scene, 1);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1], *c = &scene.handles[2];
    query(a);
    query(b);
    query(c);
    a->busy--;
    close_one(a);
    b->wanted = 0; /* cancelled, after it was granted */
    turn(&scene);
    CHECK(b->has == 0 && b->granted == 1 && c->has == 1 && counts_are(&scene, 1, 0));
    query(a);
    query(b);
    b->wanted = 0; /* and before */
    serve(b);
    CHECK(counts_are(&scene, 1, 1));
    close_scene(&scene);
}

TEST(who_has_idle_ones_is_asked_in_turn_once_for_each_in_line)
{
    fl_scene scene;
    open_scene(&scene, 2);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1], *c = &scene.handles[2];
    query(a);
    query(b);
    become_idle(a);
    become_idle(b);
    query(c);
    CHECK(fl_quota_owes(a->member) != fl_quota_owes(b->member));
    turn(&scene);
    CHECK(c->has == 1 && a->asked + b->asked == 1);
    query(a->has ? b : a);
    turn(&scene);
    CHECK(a->asked == 1 && b->asked == 1 && a->has + b->has + c->has == 2);
    close_scene(&scene);
}

TEST(another_is_asked_when_one_declines)
{
    fl_scene scene;
    open_scene(&scene, 2);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1], *c = &scene.handles[2];
    query(a);
    query(b);
    become_idle(a);
    become_idle(b);
    a->is_stubborn = true;
    query(c);
    turn(&scene);
    CHECK(c->has == 1 && a->has == 1 && b->has == 0 && b->asked == 1);
    close_scene(&scene);
}

TEST(one_that_becomes_idle_later_is_owed)
{
    fl_scene scene;
    open_scene(&scene, 1);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1];
    query(a);
    query(b);
    turn(&scene);
    CHECK(a->asked == 0 && !fl_quota_owes(a->member));
    become_idle(a);
    CHECK(fl_quota_owes(a->member));
    pay(a);
    CHECK(!fl_quota_owes(a->member));
    turn(&scene);
    CHECK(a->has == 0 && b->has == 1);
    close_scene(&scene);
}

TEST(what_is_on_its_way_is_owed_no_more_and_nobody_else_is_asked)
{
    fl_scene scene;
    open_scene(&scene, 2);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1], *c = &scene.handles[2];
    query(a);
    query(b);
    query(c);
    become_idle(a);
    fl_quota_part(a->member);
    CHECK(!fl_quota_owes(a->member));
    a->has--;
    tell(a);
    become_idle(b);
    CHECK(!fl_quota_owes(b->member) && counts_are(&scene, 2, 1));
    fl_quota_give(a->member);
    turn(&scene);
    CHECK(c->has == 1 && b->has == 1 && counts_are(&scene, 2, 0));
    query(a); /* what was paid is not owed again */
    CHECK(fl_quota_owes(b->member));
    close_scene(&scene);
}

TEST(its_own_idle_one_is_not_asked_for)
{
    fl_scene scene;
    open_scene(&scene, 1);
    fl_handle *a = &scene.handles[0];
    query(a);
    become_idle(a);
    query(a);
    turn(&scene);
    CHECK(a->asked == 0 && fl_quota_is_in_line(a->member));
    close_scene(&scene);
}

TEST(two_handles_of_one_state_are_two_members)
{
    fl_scene scene;
    fl_handle other;
    open_scene(&scene, 1);
    fl_handle *a = &scene.handles[0];
    open_handle(&other, scene.quota, &scene.actors[0]);
    query(a);
    become_idle(a);
    query(&other);
    turn(&scene);
    CHECK(a->has == 0 && other.has == 1);
    close_handle(&other);
    close_scene(&scene);
}

TEST(who_does_not_answer_is_passed_over_until_it_does)
{
    fl_scene scene;
    open_scene(&scene, 2);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1], *c = &scene.handles[2];
    query(a);
    query(b);
    become_idle(a);
    query(c);
    CHECK(fl_quota_owes(a->member)); /* its state computes: the letter is not read */
    become_idle(b);
    CHECK(!fl_quota_owes(b->member));
    time_now += FL_QUOTA_PATIENCE + 1;
    tell(c);
    CHECK(!fl_quota_owes(a->member) && fl_quota_owes(b->member));
    actor_turn(b->actor);
    actor_turn(c->actor);
    CHECK(c->has == 1 && b->has == 0);
    query(b);
    CHECK(!fl_quota_owes(a->member)); /* still not asked */
    actor_turn(a->actor);
    CHECK(a->has == 1 && fl_quota_owes(a->member)); /* it told that one is idle */
    pay(a);
    actor_turn(b->actor);
    CHECK(a->has == 0 && b->has == 1);
    close_scene(&scene);
}

TEST(what_was_granted_is_taken_back_from_who_does_not_answer)
{
    fl_scene scene;
    open_scene(&scene, 1);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1], *c = &scene.handles[2];
    query(a);
    query(b);
    query(c);
    a->busy--;
    close_one(a);
    time_now += FL_QUOTA_PATIENCE + 1;
    tell(c);
    actor_turn(c->actor);
    CHECK(c->has == 1 && b->has == 0);
    actor_turn(b->actor); /* late: it goes back into line */
    CHECK(b->has == 0 && fl_quota_is_in_line(b->member) && counts_are(&scene, 1, 1));
    close_scene(&scene);
}

TEST(a_connection_has_its_turn_before_it_is_pressed)
{
    fl_scene scene;
    open_scene(&scene, 2);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1], *c = &scene.handles[2];
    uint64_t now = time_now, old = now - FL_QUOTA_TURN, young = now + FL_QUOTA_TURN;
    query(a);
    query(b);
    CHECK(!fl_quota_is_pressed(a->member, old)); /* nobody wants it */
    query(b);
    CHECK(!fl_quota_is_pressed(a->member, old)); /* who wants it has as many */
    query(c);
    CHECK(fl_quota_is_pressed(a->member, old) && !fl_quota_is_pressed(a->member, young));
    CHECK(fl_quota_ripe_at(a->member, old, now) <= now);
    CHECK(fl_quota_ripe_at(a->member, young, now) == now + FL_QUOTA_LINGER);
    become_idle(a);
    CHECK(fl_quota_owes(a->member) && fl_quota_is_pressed(a->member, old));
    CHECK(!fl_quota_is_pressed(b->member, old)); /* one is enough */
    pay(a);
    turn(&scene);
    CHECK(c->has == 1 && b->has == 1);
    close_scene(&scene);
}

TEST(who_has_two_more_is_pressed_for_who_has_less)
{
    fl_scene scene;
    open_scene(&scene, 5);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1];
    uint64_t old = time_now - FL_QUOTA_TURN;
    for (int i = 0; i < 3; i++) query(a);
    query(b);
    query(b);
    query(b);
    CHECK(b->has == 2 && fl_quota_is_in_line(b->member));
    CHECK(!fl_quota_is_pressed(a->member, old));
    query(a); /* both are in line now */
    b->busy--;
    close_one(b);
    serve(b);
    turn(&scene);
    CHECK(a->has == 3 && b->has == 2); /* b was the first */
    a->wanted = 0;
    serve(a);
    b->busy--;
    close_one(b);
    b->wanted = 2;
    serve(b);
    turn(&scene);
    close_scene(&scene);
}

TEST(a_state_that_is_given_up_leaves_line_and_list)
{
    fl_scene scene;
    open_scene(&scene, 1);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1], *c = &scene.handles[2],
              *d = &scene.handles[3];
    query(a);
    query(b);
    query(c);
    actor_give_up(b->actor);
    CHECK(counts_are(&scene, 1, 1));
    CHECK_EQUAL_INT(fl_quota_take(b->member), UV_ECANCELED);
    a->busy--;
    close_one(a);
    CHECK(counts_are(&scene, 1, 0)); /* granted to c, whose state goes before it knows */
    query(d);
    actor_give_up(c->actor);
    CHECK(counts_are(&scene, 1, 0));
    turn(&scene);
    CHECK(b->granted == 0 && c->granted == 0 && d->has == 1);
    become_idle(d);
    actor_give_up(d->actor); /* its connection's own lease gives the slot back */
    query(a);
    turn(&scene);
    CHECK(d->asked == 0 && a->has == 0);
    close_one(d);
    turn(&scene);
    CHECK(a->has == 1);
    close_scene(&scene);
}

TEST(who_has_left_is_not_called)
{
    fl_scene scene;
    fl_handle other;
    open_scene(&scene, 1);
    fl_handle *a = &scene.handles[0], *b = &scene.handles[1];
    open_handle(&other, scene.quota, &scene.actors[1]);
    query(&other);
    become_idle(&other);
    query(a); /* other is asked */
    query(b);
    close_handle(&other); /* a is granted its slot */
    turn(&scene);
    CHECK(other.asked == 0 && a->has == 1);
    close_scene(&scene);
}

/* threads */

enum { THREADS = 6, ROUNDS = 300, MOST = 2 };

typedef struct fl_worker {
    pthread_t thread;
    fl_quota *quota;
    _Atomic unsigned *working, *open;
    unsigned served;
    bool leaves; /* its state is given up in between */
} fl_worker;

static void *work(void *data)
{
    fl_worker *worker = data;
    fl_actor actor;
    fl_handle handle;
    (void)actor_open(&actor);
    open_handle(&handle, worker->quota, &actor);
    for (int i = 0; i < ROUNDS; i++) {
        if (handle.has > handle.busy)
            handle.busy++;
        else
            query(&handle);
        while (handle.busy == 0) actor_wait(&actor);
        if (atomic_fetch_add(worker->working, 1) < MOST) worker->served++;
        atomic_fetch_sub(worker->working, 1);
        become_idle(&handle);
        if (i % 3 == 0) pay(&handle);
        if (worker->leaves && i == ROUNDS / 2) break;
        actor_turn(&actor);
    }
    if (worker->leaves) actor_give_up(&actor);
    atomic_fetch_sub(worker->open, 1);
    while (!worker->leaves && atomic_load(worker->open) > 0) { /* others ask for what it has */
        actor_turn(&actor);
        pay(&handle);
    }
    close_handle(&handle);
    (void)actor_close(&actor);
    return NULL;
}

TEST(threads_that_want_more_than_there_are_all_get_their_turns)
{
    fl_worker workers[THREADS];
    _Atomic unsigned working = 0, open = THREADS;
    fl_quota *quota;
    CHECK_EQUAL_INT(fl_quota_new(&quota, MOST, uv_hrtime), 0);
    for (int i = 0; i < THREADS; i++) {
        workers[i] =
            (fl_worker){.quota = quota, .working = &working, .open = &open, .leaves = i % 3 == 2};
        CHECK_EQUAL_INT(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) (void)pthread_join(workers[i].thread, NULL);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQUAL_INT(workers[i].served, workers[i].leaves ? ROUNDS / 2 + 1 : ROUNDS);
    fl_quota_counts counts = fl_quota_count(quota);
    CHECK(counts.slots == 0 && counts.waiting == 0);
    fl_quota_free(quota);
}

TEST_MAIN
