#include "channel.h"

#include <stdlib.h>

#include "actor.h"
#include "scarcity.h"
#include "test.h"

enum { BYTES = 100000, PRODUCERS = 2, CONSUMERS = 3, ITEMS = 20000 };

static char why[512];

typedef struct fl_world {
    fl_channels *channels;
    fl_channel *channel;
    fl_actor actor, other;
} fl_world;

static bool world_open(fl_world *world, size_t size)
{
    return fl_channels_new(&world->channels, 10, BYTES) == 0 && actor_open(&world->actor) == 0 &&
           actor_open(&world->other) == 0 &&
           fl_channel_open(&world->channel, world->channels, 0, FL_SLICE("a"), size, why,
                           sizeof(why)) == 0;
}

static bool world_close(fl_world *world)
{
    bool clean = actor_close(&world->actor) == 0 && actor_close(&world->other) == 0;
    fl_channel_close_handle(world->channel);
    fl_channels_free(world->channels);
    return clean;
}

/* One that waits; `is_over` when it has ended. */
typedef struct fl_user {
    fl_channel_wait *wait;
    bool is_over;
} fl_user;

static void ended(fl_channel_wait *wait)
{
    fl_user *user = wait->waiter;
    wait->waiter = NULL;
    user->is_over = true;
}

static void begin(fl_user *user, fl_channel *channel, fl_actor *actor)
{
    *user = (fl_user){.wait = fl_channel_wait_new(channel, actor->address)};
    user->wait->ended = ended;
    user->wait->waiter = user;
}

static int put_bytes(fl_user *user, fl_channel *channel, fl_actor *actor, int number, size_t bytes)
{
    static const char zeros[1000];
    begin(user, channel, actor);
    user->wait->item = fl_channel_item_new();
    fl_buffer *out = &user->wait->item->parcel.bytes;
    fl_buffer_append(out, (const char *)&number, sizeof(number));
    while (out->size < bytes) fl_buffer_append(out, zeros, sizeof(zeros));
    return fl_channel_put(user->wait, true);
}

static int put(fl_user *user, fl_channel *channel, fl_actor *actor, int number)
{
    return put_bytes(user, channel, actor, number, 0);
}

static int take(fl_user *user, fl_channel *channel, fl_actor *actor)
{
    begin(user, channel, actor);
    return fl_channel_take(user->wait, true);
}

static void leave(fl_user *user)
{
    fl_channel_wait_release(user->wait);
    user->wait = NULL;
}

static int number_of(fl_user *user)
{
    int number = -1;
    fl_channel_item *item = fl_channel_look(user->wait);
    if (!item) return number;
    memcpy(&number, item->parcel.bytes.data, sizeof(number));
    fl_channel_item_release(item);
    return number;
}

/* What it got, for good; -1: nothing. */
static int receive(fl_user *user)
{
    int number = number_of(user);
    if (number >= 0 && !fl_channel_received(user->wait)) number = -1;
    leave(user);
    return number;
}

static bool put_now(fl_world *world, int number)
{
    fl_user user;
    int status = put(&user, world->channel, &world->actor, number);
    if (status == UV_EAGAIN) fl_channel_cancel(user.wait);
    leave(&user);
    return status == 0;
}

static int take_now(fl_world *world)
{
    fl_user user;
    if (take(&user, world->channel, &world->actor) == 0) return receive(&user);
    fl_channel_cancel(user.wait);
    leave(&user);
    return -1;
}

TEST(items_come_out_as_they_went_in)
{
    fl_world world;
    CHECK(world_open(&world, 3));
    CHECK(put_now(&world, 1) && put_now(&world, 2) && put_now(&world, 3));
    CHECK(!put_now(&world, 4));
    CHECK_EQUAL_INT(fl_channel_length(world.channel), 3);
    CHECK(take_now(&world) == 1 && take_now(&world) == 2 && take_now(&world) == 3);
    CHECK_EQUAL_INT(take_now(&world), -1);
    CHECK(world_close(&world));
}

TEST(who_waits_is_served_in_order_of_arrival_over_all_states)
{
    fl_world world;
    fl_user first, second, third;
    CHECK(world_open(&world, 1));
    CHECK_EQUAL_INT(take(&first, world.channel, &world.actor), UV_EAGAIN);
    CHECK_EQUAL_INT(take(&second, world.channel, &world.other), UV_EAGAIN);
    CHECK_EQUAL_INT(take(&third, world.channel, &world.actor), UV_EAGAIN);
    CHECK(put_now(&world, 1) && put_now(&world, 2) && put_now(&world, 3));
    actor_turn(&world.other);
    CHECK(second.is_over && !first.is_over && !third.is_over);
    actor_turn(&world.actor);
    CHECK(first.is_over && third.is_over);
    CHECK(receive(&first) == 1 && receive(&second) == 2 && receive(&third) == 3);
    CHECK(world_close(&world));
}

TEST(putters_wait_for_room_in_order)
{
    fl_world world;
    fl_user first, second;
    CHECK(world_open(&world, 1));
    CHECK(put_now(&world, 1));
    CHECK_EQUAL_INT(put(&first, world.channel, &world.other, 2), UV_EAGAIN);
    CHECK_EQUAL_INT(put(&second, world.channel, &world.actor, 3), UV_EAGAIN);
    CHECK(!put_now(&world, 4)); /* does not overtake them */
    CHECK_EQUAL_INT(take_now(&world), 1);
    actor_turn(&world.other);
    actor_turn(&world.actor);
    CHECK(first.is_over && !second.is_over);
    CHECK(take_now(&world) == 2 && take_now(&world) == 3);
    actor_turn(&world.actor);
    CHECK(second.is_over);
    leave(&first);
    leave(&second);
    CHECK(world_close(&world));
}

TEST(a_cancelled_putter_has_not_put)
{
    fl_world world;
    fl_user user;
    CHECK(world_open(&world, 1));
    CHECK(put_now(&world, 1));
    CHECK_EQUAL_INT(put(&user, world.channel, &world.actor, 2), UV_EAGAIN);
    fl_channel_cancel(user.wait);
    leave(&user);
    CHECK(take_now(&world) == 1 && take_now(&world) == -1);
    CHECK(world_close(&world));
}

TEST(its_bytes_are_bounded_too)
{
    fl_world world;
    fl_user large, small, huge;
    CHECK(world_open(&world, 10));
    CHECK_EQUAL_INT(put_bytes(&huge, world.channel, &world.actor, 0, BYTES), UV_E2BIG);
    leave(&huge);
    CHECK_EQUAL_INT(put_bytes(&large, world.channel, &world.actor, 1, 60000), 0);
    leave(&large);
    CHECK_EQUAL_INT(put_bytes(&large, world.channel, &world.actor, 2, 60000), UV_EAGAIN);
    CHECK_EQUAL_INT(put(&small, world.channel, &world.actor, 3), UV_EAGAIN); /* first come */
    fl_channel_cancel(large.wait);
    leave(&large);
    actor_turn(&world.actor);
    CHECK(small.is_over);
    leave(&small);
    CHECK(take_now(&world) == 1 && take_now(&world) == 3);
    CHECK(world_close(&world));
}

TEST(what_a_cancelled_taker_was_given_goes_back_to_its_place)
{
    fl_world world;
    fl_user gone[2];
    CHECK(world_open(&world, 5));
    for (int i = 0; i < 2; i++)
        CHECK_EQUAL_INT(take(&gone[i], world.channel, &world.other), UV_EAGAIN);
    for (int i = 1; i <= 4; i++) CHECK(put_now(&world, i));
    for (int i = 0; i < 2; i++) fl_channel_cancel(gone[i].wait); /* their letters are under way */
    CHECK_EQUAL_INT(fl_channel_length(world.channel), 2);
    actor_turn(&world.other);
    CHECK_EQUAL_INT(fl_channel_length(world.channel), 4);
    for (int i = 1; i <= 4; i++) CHECK_EQUAL_INT(take_now(&world), i);
    for (int i = 0; i < 2; i++) {
        CHECK(!gone[i].is_over);
        leave(&gone[i]);
    }
    CHECK(world_close(&world));
}

TEST(what_is_given_back_late_still_comes_first)
{
    fl_world world;
    fl_user first, second;
    CHECK(world_open(&world, 5));
    for (int i = 1; i <= 3; i++) CHECK(put_now(&world, i));
    CHECK(take(&first, world.channel, &world.actor) == 0 &&
          take(&second, world.channel, &world.actor) == 0);
    fl_channel_give_back(first.wait);
    fl_channel_give_back(second.wait);
    fl_channel_give_back(second.wait); /* harmless */
    CHECK(!fl_channel_received(first.wait));
    for (int i = 1; i <= 3; i++) CHECK_EQUAL_INT(take_now(&world), i);
    leave(&first);
    leave(&second);
    CHECK(world_close(&world));
}

TEST(what_is_given_back_goes_to_who_waits)
{
    fl_world world;
    fl_user first, second;
    CHECK(world_open(&world, 1));
    CHECK(put_now(&world, 1));
    CHECK_EQUAL_INT(take(&first, world.channel, &world.actor), 0);
    CHECK_EQUAL_INT(take(&second, world.channel, &world.other), UV_EAGAIN);
    fl_channel_give_back(first.wait);
    actor_turn(&world.other);
    CHECK(second.is_over);
    CHECK_EQUAL_INT(receive(&second), 1);
    leave(&first);
    CHECK(world_close(&world));
}

TEST(a_state_that_is_given_up_gives_its_items_back)
{
    fl_world world;
    fl_user taken, told, waiting;
    CHECK(world_open(&world, 5));
    CHECK(put_now(&world, 1));
    CHECK_EQUAL_INT(take(&taken, world.channel, &world.other), 0);
    CHECK_EQUAL_INT(take(&told, world.channel, &world.other), UV_EAGAIN);
    CHECK(put_now(&world, 2)); /* under way */
    CHECK_EQUAL_INT(take(&waiting, world.channel, &world.other), UV_EAGAIN);
    actor_give_up(&world.other);
    CHECK_EQUAL_INT(fl_channel_length(world.channel), 2);
    CHECK(!fl_channel_received(taken.wait));
    CHECK_EQUAL_INT(number_of(&taken), -1);
    CHECK(put_now(&world, 3)); /* whoever waits there is passed over */
    actor_turn(&world.other);
    CHECK(!told.is_over && !waiting.is_over);
    for (int i = 1; i <= 3; i++) CHECK_EQUAL_INT(take_now(&world), i);
    leave(&taken);
    leave(&told);
    leave(&waiting);
    CHECK(world_close(&world));
}

TEST(a_putter_whose_state_is_given_up_has_not_put)
{
    fl_world world;
    fl_user user;
    CHECK(world_open(&world, 1));
    CHECK(put_now(&world, 1));
    CHECK_EQUAL_INT(put(&user, world.channel, &world.other, 2), UV_EAGAIN);
    actor_give_up(&world.other);
    CHECK(take_now(&world) == 1 && take_now(&world) == -1);
    leave(&user);
    CHECK(world_close(&world));
}

TEST(a_thread_that_is_retired_gets_nothing_any_more)
{
    fl_world world;
    fl_user taken, waiting;
    CHECK(world_open(&world, 5));
    CHECK(put_now(&world, 1));
    CHECK_EQUAL_INT(take(&taken, world.channel, &world.other), 0);
    CHECK_EQUAL_INT(take(&waiting, world.channel, &world.other), UV_EAGAIN);
    fl_leases_release(fl_mailbox_leases(world.other.mailbox), NULL);
    CHECK_EQUAL_INT(take_now(&world), 1);
    CHECK(put_now(&world, 2));
    CHECK_EQUAL_INT(take_now(&world), 2);
    fl_channel_cancel(waiting.wait);
    leave(&waiting);
    CHECK(put_now(&world, 3));
    CHECK_EQUAL_INT(take(&waiting, world.channel, &world.other), UV_ECANCELED);
    leave(&waiting);
    leave(&taken);
    CHECK(world_close(&world));
}

TEST(a_closed_channel_gives_what_is_left_and_then_ends)
{
    fl_world world;
    fl_user putter, taker;
    CHECK(world_open(&world, 1));
    CHECK(put_now(&world, 1));
    CHECK_EQUAL_INT(put(&putter, world.channel, &world.actor, 2), UV_EAGAIN);
    fl_channel_end(world.channel);
    actor_turn(&world.actor);
    CHECK(putter.is_over && putter.wait->is_closed);
    leave(&putter);
    CHECK_EQUAL_INT(put(&putter, world.channel, &world.actor, 3), UV_EOF);
    leave(&putter);
    CHECK_EQUAL_INT(take_now(&world), 1);
    CHECK_EQUAL_INT(take(&taker, world.channel, &world.actor), UV_EOF);
    leave(&taker);
    CHECK(world_close(&world));
}

TEST(closing_ends_who_waits_for_items)
{
    fl_world world;
    fl_user taker;
    CHECK(world_open(&world, 1));
    CHECK_EQUAL_INT(take(&taker, world.channel, &world.other), UV_EAGAIN);
    fl_channel_end(world.channel);
    actor_turn(&world.other);
    CHECK(taker.is_over && taker.wait->is_closed);
    CHECK_EQUAL_INT(receive(&taker), -1);
    CHECK(world_close(&world));
}

TEST(a_closed_channel_does_not_end_while_an_item_may_come_back)
{
    fl_world world;
    fl_user lent, taker, last;
    CHECK(world_open(&world, 1));
    CHECK(put_now(&world, 1));
    CHECK_EQUAL_INT(take(&lent, world.channel, &world.actor), 0);
    fl_channel_end(world.channel);
    CHECK_EQUAL_INT(take(&taker, world.channel, &world.other), UV_EAGAIN);
    CHECK_EQUAL_INT(take(&last, world.channel, &world.other), UV_EAGAIN);
    fl_channel_give_back(lent.wait);
    leave(&lent);
    actor_turn(&world.other);
    CHECK(taker.is_over && !last.is_over);
    CHECK_EQUAL_INT(receive(&taker), 1);
    actor_turn(&world.other);
    CHECK(last.is_over && last.wait->is_closed);
    leave(&last);
    CHECK(world_close(&world));
}

/* the registry */

static int open_one(fl_world *world, fl_channel **out, unsigned app, const char *name, size_t size)
{
    return fl_channel_open(out, world->channels, app, fl_slice_from_string(name), size, why,
                           sizeof(why));
}

TEST(a_channel_is_found_by_app_and_name)
{
    fl_world world;
    fl_channel *same, *other_app, *other;
    CHECK(world_open(&world, 7));
    CHECK_EQUAL_INT(open_one(&world, &same, 0, "a", 0), 0);
    CHECK_EQUAL_INT(open_one(&world, &other_app, 1, "a", 0), 0);
    CHECK_EQUAL_INT(open_one(&world, &other, 0, "b", 0), 0);
    CHECK(same == world.channel && other_app != same && other != same);
    CHECK_EQUAL_INT(fl_channel_size(same), 7);
    CHECK_EQUAL_INT(fl_channel_size(other), FL_CHANNEL_SIZE);
    fl_channel_close_handle(same);
    fl_channel_close_handle(other_app);
    fl_channel_close_handle(other);
    CHECK(world_close(&world));
}

TEST(another_size_is_refused)
{
    fl_world world;
    fl_channel *other;
    CHECK(world_open(&world, 7));
    CHECK_EQUAL_INT(open_one(&world, &other, 0, "a", 8), UV_EEXIST);
    CHECK(strstr(why, "channel \"a\" is there with a size of 7, and was asked for with 8"));
    CHECK(world_close(&world));
}

TEST(there_are_only_so_many_but_those_that_are_not_used_make_room)
{
    fl_world world;
    fl_channel *each[10], *more;
    char name[8];
    CHECK(world_open(&world, 1)); /* the first of ten */
    for (int i = 1; i < 10; i++) {
        (void)snprintf(name, sizeof(name), "%d", i);
        CHECK_EQUAL_INT(open_one(&world, &each[i], 0, name, 1), 0);
    }
    CHECK_EQUAL_INT(open_one(&world, &more, 0, "more", 1), UV_ENOSPC);
    CHECK(strstr(why, "there are 10 already (setting channels)"));
    CHECK(put_now(&world, 1));
    fl_channel_close_handle(world.channel); /* has an item: it stays */
    CHECK_EQUAL_INT(open_one(&world, &more, 0, "more", 1), UV_ENOSPC);
    fl_channel_close_handle(each[5]);
    CHECK_EQUAL_INT(open_one(&world, &more, 0, "more", 1), 0);
    CHECK_EQUAL_INT(open_one(&world, &world.channel, 0, "a", 0), 0);
    CHECK_EQUAL_INT(take_now(&world), 1);
    fl_channel_close_handle(more);
    for (int i = 1; i < 10; i++)
        if (i != 5) fl_channel_close_handle(each[i]);
    CHECK(world_close(&world));
}

/* threads */

typedef struct fl_crowd {
    fl_channel *channel;
    _Atomic unsigned seen[PRODUCERS * ITEMS];
    _Atomic unsigned total;
    _Atomic unsigned given_back;
} fl_crowd;

typedef struct fl_member {
    fl_crowd *crowd;
    unsigned number;
    pthread_t thread;
} fl_member;

static void wait_for(fl_actor *actor, fl_user *user)
{
    while (!user->is_over) actor_wait(actor);
}

static void *produce(void *data)
{
    fl_member *self = data;
    fl_actor actor;
    if (actor_open(&actor) != 0) return NULL;
    for (unsigned i = 0; i < ITEMS; i++) {
        fl_user user;
        int number = (int)(self->number * ITEMS + i);
        if (put(&user, self->crowd->channel, &actor, number) == UV_EAGAIN) wait_for(&actor, &user);
        leave(&user);
    }
    actor_close(&actor);
    return NULL;
}

static void note(fl_crowd *crowd, int number)
{
    atomic_fetch_add(&crowd->seen[number], 1);
    atomic_fetch_add(&crowd->total, 1);
}

/* Takes; now and then changes its mind, before or after it was given something. */
static void *consume(void *data)
{
    fl_member *self = data;
    fl_crowd *crowd = self->crowd;
    fl_actor actor;
    unsigned turn = self->number;
    int status = 0;
    if (actor_open(&actor) != 0) return NULL;
    while (status != UV_EOF) {
        fl_user user;
        turn++;
        status = take(&user, crowd->channel, &actor);
        if (status == UV_EAGAIN && turn % 5 == 0) {
            fl_channel_cancel(user.wait);
            actor_turn(&actor);
            leave(&user);
            continue;
        }
        if (status == UV_EAGAIN) wait_for(&actor, &user);
        if (user.wait->is_closed) status = UV_EOF;
        if (turn % 7 == 0) {
            fl_channel_give_back(user.wait);
            atomic_fetch_add(&crowd->given_back, 1);
            leave(&user);
            continue;
        }
        int number = receive(&user);
        if (number >= 0) note(crowd, number);
    }
    actor_close(&actor);
    return NULL;
}

TEST(nothing_is_lost_or_doubled_between_threads)
{
    fl_channels *channels;
    fl_member producers[PRODUCERS], consumers[CONSUMERS];
    fl_crowd *crowd = calloc(1, sizeof(*crowd));
    CHECK(crowd && fl_channels_new(&channels, 10, BYTES) == 0);
    CHECK(fl_channel_open(&crowd->channel, channels, 0, FL_SLICE("a"), 10, why, sizeof(why)) == 0);
    for (unsigned i = 0; i < CONSUMERS; i++) {
        consumers[i] = (fl_member){crowd, i, 0};
        CHECK(pthread_create(&consumers[i].thread, NULL, consume, &consumers[i]) == 0);
    }
    for (unsigned i = 0; i < PRODUCERS; i++) {
        producers[i] = (fl_member){crowd, i, 0};
        CHECK(pthread_create(&producers[i].thread, NULL, produce, &producers[i]) == 0);
    }
    for (unsigned i = 0; i < PRODUCERS; i++) pthread_join(producers[i].thread, NULL);
    fl_channel_end(crowd->channel);
    for (unsigned i = 0; i < CONSUMERS; i++) pthread_join(consumers[i].thread, NULL);
    CHECK_EQUAL_INT(crowd->total, PRODUCERS * ITEMS);
    for (int i = 0; i < PRODUCERS * ITEMS; i++) CHECK_EQUAL_INT(crowd->seen[i], 1);
    CHECK(crowd->given_back > 0);
    fl_channel_close_handle(crowd->channel);
    fl_channels_free(channels);
    free(crowd);
}

static int put_and_take(fl_channel *channel, fl_actor *actor)
{
    fl_channel_wait *putter = fl_channel_wait_new(channel, actor->address);
    fl_channel_wait *taker = putter ? fl_channel_wait_new(channel, actor->address) : NULL;
    fl_channel_item *item = taker ? fl_channel_item_new() : NULL;
    int status = UV_ENOMEM;
    if (item) {
        fl_buffer_append(&item->parcel.bytes, "word", 4);
        status = item->parcel.bytes.failed ? UV_ENOMEM : 0;
        putter->item = item;
        if (status == 0) status = fl_channel_put(putter, false);
        if (status == 0) status = fl_channel_take(taker, false);
        if (status == 0) status = fl_channel_received(taker) ? 0 : 1;
    }
    if (taker) fl_channel_wait_release(taker);
    if (putter) fl_channel_wait_release(putter);
    return status;
}

static int use_a_channel(void)
{
    fl_channels *channels = NULL;
    fl_channel *channel = NULL;
    fl_actor actor;
    scarcity_pause();
    if (actor_open(&actor) < 0) return 1;
    scarcity_resume();
    int status = fl_channels_new(&channels, 10, BYTES);
    if (status == 0)
        status = fl_channel_open(&channel, channels, 0, FL_SLICE("a"), 5, why, sizeof(why));
    if (status == 0) {
        status = put_and_take(channel, &actor);
        fl_channel_close_handle(channel);
    }
    scarcity_pause();
    if (actor_close(&actor) != 0) status = 1;
    fl_channels_free(channels);
    return status;
}

TEST(without_memory_there_is_no_channel_and_nothing_to_put)
{
    CHECK_SCARCITY(use_a_channel);
}

TEST_MAIN
