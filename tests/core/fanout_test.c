#include "fanout.h"

#include <stdlib.h>

#include "actor.h"
#include "scarcity.h"
#include "test.h"

enum { PUBLISHERS = 2, MESSAGES = 5000, READERS = 3 };

static _Atomic int holds;

static void hold(fl_fanout *fanout)
{
    (void)fanout;
    atomic_fetch_add(&holds, 1);
}

static void release(fl_fanout *fanout)
{
    (void)fanout;
    atomic_fetch_sub(&holds, 1);
}

static void fanout_open(fl_fanout *fanout)
{
    *fanout = (fl_fanout){.name = "news", .bytes = 10000, .hold = hold, .release = release};
    fl_fanout_init(fanout);
    atomic_store(&holds, 0);
}

/* true when nothing of it is left. */
static bool fanout_end(fl_fanout *fanout)
{
    bool clean = atomic_load(&holds) == 0 && !fanout->stations && fanout->subscribers == 0;
    fl_fanout_close(fanout);
    return clean;
}

static size_t publish_bytes(fl_fanout *fanout, int number, size_t bytes)
{
    static const char zeros[1000];
    fl_fanout_message *message = fl_fanout_message_new();
    fl_buffer *out = &message->parcel.bytes;
    fl_buffer_append(out, (const char *)&number, sizeof(number));
    while (out->size < bytes) fl_buffer_append(out, zeros, sizeof(zeros));
    fl_fanout_message_weigh(message);
    size_t count = fl_fanout_publish(fanout, message);
    fl_fanout_message_release(message);
    return count;
}

static size_t publish(fl_fanout *fanout, int number)
{
    return publish_bytes(fanout, number, 0);
}

/* One that waits for a message. */
typedef struct fl_reader {
    fl_fanout_wait wait;
    bool is_over;
} fl_reader;

static void ended(fl_fanout_wait *wait)
{
    ((fl_reader *)wait)->is_over = true;
}

static int next(fl_reader *reader, fl_subscriber *subscriber)
{
    *reader = (fl_reader){.wait = {.ended = ended}};
    return fl_subscriber_next(subscriber, &reader->wait, true);
}

static int number_of(fl_reader *reader)
{
    int number = -1;
    if (!reader->wait.message) return number;
    memcpy(&number, reader->wait.message->parcel.bytes.data, sizeof(number));
    fl_fanout_message_release(reader->wait.message);
    reader->wait.message = NULL;
    return number;
}

/* -1: there is none. */
static int next_now(fl_subscriber *subscriber)
{
    fl_reader reader;
    int status = next(&reader, subscriber);
    if (status == UV_EAGAIN) fl_subscriber_cancel(subscriber, &reader.wait);
    return number_of(&reader);
}

static void end(fl_subscriber *subscriber)
{
    fl_subscriber_close(subscriber);
    fl_subscriber_release(subscriber);
}

static fl_subscriber *subscribe(fl_fanout *fanout, fl_actor *actor, size_t buffer,
                                fl_fanout_policy policy)
{
    fl_subscriber *subscriber = NULL;
    (void)fl_fanout_subscribe(&subscriber, fanout, actor->address, buffer, policy);
    return subscriber;
}

TEST(every_subscriber_gets_every_message_in_order)
{
    fl_fanout fanout;
    fl_actor actor, other;
    fanout_open(&fanout);
    CHECK(actor_open(&actor) == 0 && actor_open(&other) == 0);
    CHECK_EQUAL_INT(publish(&fanout, 0), 0);
    fl_subscriber *first = subscribe(&fanout, &actor, 10, FL_FANOUT_DROP_OLDEST);
    CHECK_EQUAL_INT(publish(&fanout, 1), 1);
    fl_subscriber *second = subscribe(&fanout, &actor, 10, FL_FANOUT_DROP_OLDEST);
    fl_subscriber *third = subscribe(&fanout, &other, 10, FL_FANOUT_DROP_OLDEST);
    CHECK_EQUAL_INT(publish(&fanout, 2), 3);
    CHECK_EQUAL_INT(publish(&fanout, 3), 3);
    for (int i = 1; i <= 3; i++) CHECK_EQUAL_INT(next_now(first), i);
    for (int i = 2; i <= 3; i++) CHECK_EQUAL_INT(next_now(second), i);
    actor_turn(&other);
    for (int i = 2; i <= 3; i++) CHECK_EQUAL_INT(next_now(third), i);
    CHECK(next_now(first) == -1 && next_now(second) == -1 && next_now(third) == -1);
    end(first);
    end(second);
    end(third);
    CHECK(actor_close(&actor) == 0 && actor_close(&other) == 0);
    CHECK(fanout_end(&fanout));
}

TEST(who_waits_is_told_on_its_own_loop)
{
    fl_fanout fanout;
    fl_actor actor;
    fl_reader first, second;
    fanout_open(&fanout);
    CHECK_EQUAL_INT(actor_open(&actor), 0);
    fl_subscriber *subscriber = subscribe(&fanout, &actor, 10, FL_FANOUT_DROP_OLDEST);
    CHECK(next(&first, subscriber) == UV_EAGAIN && next(&second, subscriber) == UV_EAGAIN);
    CHECK_EQUAL_INT(publish(&fanout, 1), 1);
    CHECK(!first.is_over);
    actor_turn(&actor);
    CHECK(first.is_over && !second.is_over);
    CHECK_EQUAL_INT(number_of(&first), 1);
    CHECK_EQUAL_INT(publish(&fanout, 2), 1);
    actor_turn(&actor);
    CHECK(second.is_over);
    CHECK_EQUAL_INT(number_of(&second), 2);
    end(subscriber);
    CHECK_EQUAL_INT(actor_close(&actor), 0);
    CHECK(fanout_end(&fanout));
}

TEST(nobody_overtakes_who_waits)
{
    fl_fanout fanout;
    fl_actor actor;
    fl_reader first, second;
    fanout_open(&fanout);
    CHECK_EQUAL_INT(actor_open(&actor), 0);
    fl_subscriber *subscriber = subscribe(&fanout, &actor, 10, FL_FANOUT_DROP_OLDEST);
    CHECK_EQUAL_INT(next(&first, subscriber), UV_EAGAIN);
    CHECK(publish(&fanout, 1) == 1 && publish(&fanout, 2) == 1);
    CHECK_EQUAL_INT(next(&second, subscriber), UV_EAGAIN);
    actor_turn(&actor);
    CHECK(number_of(&first) == 1 && number_of(&second) == 2);
    end(subscriber);
    CHECK_EQUAL_INT(actor_close(&actor), 0);
    CHECK(fanout_end(&fanout));
}

TEST(a_message_that_reached_nobody_is_the_next_one_again)
{
    fl_fanout fanout;
    fl_actor actor;
    fl_reader gone, other;
    fanout_open(&fanout);
    CHECK_EQUAL_INT(actor_open(&actor), 0);
    fl_subscriber *subscriber = subscribe(&fanout, &actor, 10, FL_FANOUT_DROP_OLDEST);
    CHECK(publish(&fanout, 1) == 1 && publish(&fanout, 2) == 1);
    CHECK_EQUAL_INT(next(&gone, subscriber), 0);
    fl_subscriber_put_back(subscriber, gone.wait.message);
    CHECK(next_now(subscriber) == 1 && next_now(subscriber) == 2);
    CHECK_EQUAL_INT(publish(&fanout, 3), 1);
    CHECK_EQUAL_INT(next(&gone, subscriber), 0);
    CHECK_EQUAL_INT(next(&other, subscriber), UV_EAGAIN);
    fl_subscriber_put_back(subscriber, gone.wait.message);
    CHECK(other.is_over);
    CHECK_EQUAL_INT(number_of(&other), 3);
    end(subscriber);
    CHECK_EQUAL_INT(actor_close(&actor), 0);
    CHECK(fanout_end(&fanout));
}

/* What a buffer of three does with five messages, and with 200, more than an inbox holds. */
TEST(a_full_buffer_drops_the_oldest)
{
    fl_fanout fanout;
    fl_actor actor;
    fanout_open(&fanout);
    CHECK_EQUAL_INT(actor_open(&actor), 0);
    fl_subscriber *subscriber = subscribe(&fanout, &actor, 3, FL_FANOUT_DROP_OLDEST);
    for (int i = 1; i <= 5; i++) (void)publish(&fanout, i);
    CHECK_EQUAL_INT(fl_subscriber_dropped(subscriber), 2);
    for (int i = 3; i <= 5; i++) CHECK_EQUAL_INT(next_now(subscriber), i);
    for (int i = 1; i <= 200; i++) (void)publish(&fanout, i);
    CHECK_EQUAL_INT(next_now(subscriber), 198);
    CHECK_EQUAL_INT(fl_subscriber_dropped(subscriber), 2 + 197);
    end(subscriber);
    CHECK_EQUAL_INT(actor_close(&actor), 0);
    CHECK(fanout_end(&fanout));
}

TEST(a_full_buffer_drops_the_newest)
{
    fl_fanout fanout;
    fl_actor actor;
    fanout_open(&fanout);
    CHECK_EQUAL_INT(actor_open(&actor), 0);
    fl_subscriber *subscriber = subscribe(&fanout, &actor, 3, FL_FANOUT_DROP_NEWEST);
    for (int i = 1; i <= 5; i++) (void)publish(&fanout, i);
    CHECK_EQUAL_INT(next_now(subscriber), 1);
    CHECK_EQUAL_INT(publish(&fanout, 6), 1); /* there is room again */
    CHECK(next_now(subscriber) == 2 && next_now(subscriber) == 3 && next_now(subscriber) == 6);
    CHECK_EQUAL_INT(fl_subscriber_dropped(subscriber), 2);
    end(subscriber);
    CHECK_EQUAL_INT(actor_close(&actor), 0);
    CHECK(fanout_end(&fanout));
}

TEST(a_full_buffer_closes_its_subscription)
{
    fl_fanout fanout;
    fl_actor actor;
    fl_reader reader;
    fanout_open(&fanout);
    CHECK_EQUAL_INT(actor_open(&actor), 0);
    fl_subscriber *subscriber = subscribe(&fanout, &actor, 3, FL_FANOUT_CLOSE);
    for (int i = 1; i <= 5; i++) (void)publish(&fanout, i);
    actor_turn(&actor);
    CHECK_EQUAL_INT(publish(&fanout, 6), 0);
    CHECK(fl_subscriber_overflowed(subscriber));
    for (int i = 1; i <= 3; i++) CHECK_EQUAL_INT(next_now(subscriber), i);
    CHECK_EQUAL_INT(next(&reader, subscriber), UV_EOF);
    end(subscriber);
    CHECK_EQUAL_INT(actor_close(&actor), 0);
    CHECK(fanout_end(&fanout));
}

TEST(who_waits_when_a_flood_closes_it_gets_what_came_first)
{
    fl_fanout fanout;
    fl_actor actor;
    fl_reader reader;
    fanout_open(&fanout);
    CHECK_EQUAL_INT(actor_open(&actor), 0);
    fl_subscriber *subscriber = subscribe(&fanout, &actor, 3, FL_FANOUT_CLOSE);
    CHECK_EQUAL_INT(next(&reader, subscriber), UV_EAGAIN);
    for (int i = 1; i <= 200; i++) (void)publish(&fanout, i);
    actor_turn(&actor);
    CHECK(reader.is_over);
    CHECK_EQUAL_INT(number_of(&reader), 1);
    end(subscriber);
    CHECK_EQUAL_INT(actor_close(&actor), 0);
    CHECK(fanout_end(&fanout));
}

TEST(a_buffers_bytes_are_bounded_but_for_one_message)
{
    fl_fanout fanout;
    fl_actor actor;
    fanout_open(&fanout);
    CHECK_EQUAL_INT(actor_open(&actor), 0);
    fl_subscriber *subscriber = subscribe(&fanout, &actor, 100, FL_FANOUT_DROP_OLDEST);
    for (int i = 1; i <= 5; i++) (void)publish_bytes(&fanout, i, 4000);
    CHECK_EQUAL_INT(fl_subscriber_dropped(subscriber), 3);
    (void)publish_bytes(&fanout, 6, 50000);
    CHECK_EQUAL_INT(fl_subscriber_dropped(subscriber), 5);
    CHECK(next_now(subscriber) == 6 && next_now(subscriber) == -1);
    end(subscriber);
    CHECK_EQUAL_INT(actor_close(&actor), 0);
    CHECK(fanout_end(&fanout));
}

TEST(closing_ends_who_waits)
{
    fl_fanout fanout;
    fl_actor actor;
    fl_reader waiting, late;
    fanout_open(&fanout);
    CHECK_EQUAL_INT(actor_open(&actor), 0);
    fl_subscriber *subscriber = subscribe(&fanout, &actor, 3, FL_FANOUT_DROP_OLDEST);
    CHECK_EQUAL_INT(next(&waiting, subscriber), UV_EAGAIN);
    fl_subscriber_close(subscriber);
    fl_subscriber_close(subscriber); /* harmless */
    CHECK(waiting.is_over);
    CHECK_EQUAL_INT(number_of(&waiting), -1);
    CHECK_EQUAL_INT(next(&late, subscriber), UV_EOF);
    CHECK_EQUAL_INT(publish(&fanout, 1), 0);
    fl_subscriber_release(subscriber);
    CHECK_EQUAL_INT(actor_close(&actor), 0);
    CHECK(fanout_end(&fanout));
}

TEST(a_state_that_is_given_up_has_no_subscribers)
{
    fl_fanout fanout;
    fl_actor actor, other;
    fl_subscriber *late = NULL;
    fanout_open(&fanout);
    CHECK(actor_open(&actor) == 0 && actor_open(&other) == 0);
    fl_subscriber *gone = subscribe(&fanout, &actor, 3, FL_FANOUT_DROP_OLDEST);
    fl_subscriber *stays = subscribe(&fanout, &other, 3, FL_FANOUT_DROP_OLDEST);
    CHECK_EQUAL_INT(publish(&fanout, 1), 2);
    actor_give_up(&actor);
    CHECK_EQUAL_INT(publish(&fanout, 2), 1);
    CHECK_EQUAL_INT(fl_fanout_subscribe(&late, &fanout, actor.address, 3, FL_FANOUT_DROP_OLDEST),
                    UV_ECANCELED);
    CHECK_EQUAL_INT(next_now(gone), -1);
    end(gone);
    CHECK(next_now(stays) == 1 && next_now(stays) == 2);
    end(stays);
    CHECK(actor_close(&actor) == 0 && actor_close(&other) == 0);
    CHECK(fanout_end(&fanout));
}

/* threads */

typedef struct fl_member {
    fl_fanout *fanout;
    _Atomic unsigned *ready;
    int number;
    bool in_order;
    unsigned got;
    uint64_t dropped;
    pthread_t thread;
} fl_member;

static void *publish_many(void *data)
{
    const fl_member *self = data;
    for (int i = 0; i < MESSAGES; i++) (void)publish(self->fanout, self->number << 24 | i);
    return NULL;
}

static void note(fl_member *self, int number, int *last)
{
    self->in_order &= (number & 0xffffff) > last[number >> 24];
    last[number >> 24] = number & 0xffffff;
    self->got++;
}

static void *read_many(void *data)
{
    fl_member *self = data;
    fl_actor actor;
    int last[PUBLISHERS] = {-1, -1};
    if (actor_open(&actor) != 0) return NULL;
    fl_subscriber *subscriber = subscribe(self->fanout, &actor, 300, FL_FANOUT_DROP_OLDEST);
    fl_subscriber *closing = subscribe(self->fanout, &actor, 5, FL_FANOUT_CLOSE);
    self->in_order = true;
    atomic_fetch_add(self->ready, 1);
    while (self->got + self->dropped < PUBLISHERS * MESSAGES) {
        fl_reader reader;
        if (next(&reader, subscriber) == UV_EAGAIN)
            while (!reader.is_over) actor_wait(&actor);
        note(self, number_of(&reader), last);
        self->dropped = fl_subscriber_dropped(subscriber);
    }
    end(closing);
    end(subscriber);
    actor_close(&actor);
    return NULL;
}

TEST(threads_publish_and_threads_read_in_order)
{
    fl_fanout fanout;
    _Atomic unsigned ready = 0;
    fl_member publishers[PUBLISHERS], readers[READERS];
    fanout_open(&fanout);
    for (int i = 0; i < READERS; i++) {
        readers[i] = (fl_member){.fanout = &fanout, .ready = &ready};
        CHECK(pthread_create(&readers[i].thread, NULL, read_many, &readers[i]) == 0);
    }
    while (atomic_load(&ready) < READERS) sched_yield();
    for (int i = 0; i < PUBLISHERS; i++) {
        publishers[i] = (fl_member){.fanout = &fanout, .number = i};
        CHECK(pthread_create(&publishers[i].thread, NULL, publish_many, &publishers[i]) == 0);
    }
    for (int i = 0; i < PUBLISHERS; i++) pthread_join(publishers[i].thread, NULL);
    for (int i = 0; i < READERS; i++) pthread_join(readers[i].thread, NULL);
    for (int i = 0; i < READERS; i++) {
        CHECK(readers[i].in_order);
        CHECK_EQUAL_INT(readers[i].got + readers[i].dropped, PUBLISHERS * MESSAGES);
    }
    CHECK(fanout_end(&fanout));
}

static int publish_and_take(fl_fanout *fanout, fl_actor *actor)
{
    fl_subscriber *subscriber = subscribe(fanout, actor, 100, FL_FANOUT_DROP_OLDEST);
    if (!subscriber) return UV_ENOMEM;
    int status = 0, taken = 0;
    for (int i = 0; status == 0 && i < 40; i++) {
        fl_fanout_message *message = fl_fanout_message_new();
        if (!message) {
            status = UV_ENOMEM;
            break;
        }
        fl_fanout_message_weigh(message);
        if (fl_fanout_publish(fanout, message) != 1) status = 1;
        fl_fanout_message_release(message);
    }
    actor_turn(actor);
    fl_reader reader;
    while (status == 0 && next(&reader, subscriber) == 0) {
        taken++;
        fl_fanout_message_release(reader.wait.message);
    }
    if (status == 0) fl_subscriber_cancel(subscriber, &reader.wait);
    uint64_t dropped = fl_subscriber_dropped(subscriber);
    if (status == 0 && taken + (int)dropped != 40) status = 1;
    if (status == 0 && dropped) status = UV_ENOMEM;
    end(subscriber);
    return status;
}

static int use_a_fanout(void)
{
    fl_fanout fanout;
    fl_actor actor;
    fanout_open(&fanout);
    scarcity_pause();
    if (actor_open(&actor) < 0) return 1;
    scarcity_resume();
    int status = publish_and_take(&fanout, &actor);
    scarcity_pause();
    if (actor_close(&actor) != 0) status = 1;
    if (!fanout_end(&fanout)) status = 1;
    return status;
}

TEST(without_memory_nobody_subscribes_and_what_is_dropped_is_counted)
{
    CHECK_SCARCITY(use_a_fanout);
}

TEST_MAIN
