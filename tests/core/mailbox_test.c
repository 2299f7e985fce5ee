#include "mailbox.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "scarcity.h"
#include "test.h"

enum { POSTERS = 4, POSTS = 5000 };

typedef struct fl_owner { /* only its own thread touches it: the mailbox must see to that */
    uv_loop_t loop;
    fl_mailbox *mailbox;
    unsigned delivered;
    unsigned next[POSTERS];
    bool in_order;
} fl_owner;

typedef struct fl_letter {
    fl_message message;
    unsigned poster, number;
    _Atomic unsigned *dropped;
} fl_letter;

static void deliver(fl_message *message, void *data)
{
    fl_owner *owner = data;
    fl_letter *letter = (fl_letter *)message;
    owner->in_order &= letter->number == owner->next[letter->poster]++;
    owner->delivered++;
    free(letter);
}

static void drop(fl_message *message)
{
    fl_letter *letter = (fl_letter *)message;
    atomic_fetch_add(letter->dropped, 1);
    free(letter);
}

static int owner_init(fl_owner *owner)
{
    *owner = (fl_owner){.in_order = true};
    int status = uv_loop_init(&owner->loop);
    return status < 0 ? status : fl_mailbox_new(&owner->mailbox, &owner->loop, owner);
}

/* 0 when no handle is left in the loop. */
static int owner_close(fl_owner *owner)
{
    uv_run(&owner->loop, UV_RUN_DEFAULT);
    return uv_loop_close(&owner->loop);
}

static int post(fl_mailbox *mailbox, unsigned poster, unsigned number, _Atomic unsigned *dropped)
{
    fl_letter *letter = malloc(sizeof(*letter));
    if (!letter) return UV_ENOMEM;
    *letter = (fl_letter){{.deliver = deliver, .drop = drop}, poster, number, dropped};
    int status = fl_mailbox_post(mailbox, &letter->message);
    if (status < 0) free(letter);
    return status;
}

TEST(a_posted_message_is_delivered_on_the_owners_loop)
{
    fl_owner owner;
    _Atomic unsigned dropped = 0;
    CHECK(owner_init(&owner) == 0);
    CHECK(post(owner.mailbox, 0, 0, &dropped) == 0);
    CHECK_EQUAL_INT(owner.delivered, 0);
    uv_run(&owner.loop, UV_RUN_NOWAIT);
    CHECK_EQUAL_INT(owner.delivered, 1);
    fl_mailbox_close(owner.mailbox);
    CHECK_EQUAL_INT(owner_close(&owner), 0);
    CHECK_EQUAL_INT(dropped, 0);
}

TEST(messages_are_delivered_in_order_of_posting)
{
    fl_owner owner;
    _Atomic unsigned dropped = 0;
    CHECK(owner_init(&owner) == 0);
    for (unsigned i = 0; i < 100; i++) CHECK(post(owner.mailbox, 0, i, &dropped) == 0);
    uv_run(&owner.loop, UV_RUN_NOWAIT);
    CHECK_EQUAL_INT(owner.delivered, 100);
    CHECK(owner.in_order);
    fl_mailbox_close(owner.mailbox);
    CHECK_EQUAL_INT(owner_close(&owner), 0);
}

TEST(what_waits_when_the_mailbox_closes_is_dropped)
{
    fl_owner owner;
    _Atomic unsigned dropped = 0;
    CHECK(owner_init(&owner) == 0);
    for (unsigned i = 0; i < 3; i++) CHECK(post(owner.mailbox, 0, i, &dropped) == 0);
    fl_mailbox_close(owner.mailbox);
    CHECK_EQUAL_INT(dropped, 3);
    CHECK_EQUAL_INT(owner_close(&owner), 0);
    CHECK_EQUAL_INT(owner.delivered, 0);
}

TEST(a_closed_mailbox_refuses_and_the_message_stays_the_posters)
{
    fl_owner owner;
    _Atomic unsigned dropped = 0;
    CHECK(owner_init(&owner) == 0);
    fl_mailbox *mailbox = owner.mailbox;
    fl_mailbox_hold(mailbox);
    fl_mailbox_close(mailbox);
    CHECK_EQUAL_INT(owner_close(&owner), 0); /* the owner and its loop have gone */
    CHECK_EQUAL_INT(post(mailbox, 0, 0, &dropped), UV_ECANCELED);
    CHECK_EQUAL_INT(dropped, 0);
    fl_mailbox_release(mailbox);
}

static void post_another(fl_message *message, void *data)
{
    fl_owner *owner = data;
    fl_letter *letter = (fl_letter *)message;
    letter->message.deliver = deliver;
    if (fl_mailbox_post(owner->mailbox, message) < 0) free(letter);
}

TEST(a_message_may_be_posted_while_another_is_delivered)
{
    fl_owner owner;
    CHECK(owner_init(&owner) == 0);
    fl_letter *letter = malloc(sizeof(*letter));
    CHECK(letter != NULL);
    *letter = (fl_letter){.message = {.deliver = post_another, .drop = drop}};
    CHECK(fl_mailbox_post(owner.mailbox, &letter->message) == 0);
    for (unsigned turn = 0; turn < 10 && owner.delivered == 0; turn++)
        uv_run(&owner.loop, UV_RUN_ONCE);
    CHECK_EQUAL_INT(owner.delivered, 1);
    fl_mailbox_close(owner.mailbox);
    CHECK_EQUAL_INT(owner_close(&owner), 0);
}

typedef struct fl_poster {
    pthread_t thread;
    fl_mailbox *mailbox;
    unsigned number;
    unsigned posted, refused;
    _Atomic unsigned *dropped;
} fl_poster;

static void *post_many(void *data)
{
    fl_poster *poster = data;
    for (unsigned i = 0; i < POSTS; i++) {
        if (post(poster->mailbox, poster->number, i, poster->dropped) == 0)
            poster->posted++;
        else
            poster->refused++;
    }
    fl_mailbox_release(poster->mailbox);
    return NULL;
}

static bool start_posters(fl_poster *posters, fl_owner *owner, _Atomic unsigned *dropped)
{
    for (unsigned i = 0; i < POSTERS; i++) {
        fl_mailbox_hold(owner->mailbox);
        posters[i] = (fl_poster){.mailbox = owner->mailbox, .number = i, .dropped = dropped};
        if (pthread_create(&posters[i].thread, NULL, post_many, &posters[i]) != 0) return false;
    }
    return true;
}

static fl_poster join_posters(fl_poster *posters)
{
    fl_poster sum = {0};
    for (unsigned i = 0; i < POSTERS; i++) {
        pthread_join(posters[i].thread, NULL);
        sum.posted += posters[i].posted;
        sum.refused += posters[i].refused;
    }
    return sum;
}

TEST(several_threads_post_at_once_and_each_ones_order_is_kept)
{
    fl_owner owner;
    fl_poster posters[POSTERS];
    _Atomic unsigned dropped = 0;
    CHECK(owner_init(&owner) == 0);
    CHECK(start_posters(posters, &owner, &dropped));
    while (owner.delivered < POSTERS * POSTS) uv_run(&owner.loop, UV_RUN_ONCE);
    CHECK(owner.in_order);
    CHECK_EQUAL_INT(join_posters(posters).refused, 0);
    fl_mailbox_close(owner.mailbox);
    CHECK_EQUAL_INT(owner_close(&owner), 0);
    CHECK_EQUAL_INT(dropped, 0);
}

TEST(closing_while_threads_post_loses_no_message)
{
    for (unsigned round = 0; round < 20; round++) {
        fl_owner owner;
        fl_poster posters[POSTERS];
        _Atomic unsigned dropped = 0;
        CHECK(owner_init(&owner) == 0);
        CHECK(start_posters(posters, &owner, &dropped));
        while (owner.delivered < round * 100) uv_run(&owner.loop, UV_RUN_ONCE);
        fl_mailbox_close(owner.mailbox);
        CHECK_EQUAL_INT(owner_close(&owner), 0);
        fl_poster sum = join_posters(posters);
        CHECK_EQUAL_INT(sum.posted, owner.delivered + dropped);
        CHECK_EQUAL_INT(sum.posted + sum.refused, POSTERS * POSTS);
        CHECK(owner.in_order);
    }
}

static int open_a_mailbox(void)
{
    fl_owner owner;
    int status = owner_init(&owner);
    if (status == 0) fl_mailbox_close(owner.mailbox);
    scarcity_pause();
    return owner_close(&owner) == 0 ? status : 1;
}

TEST(without_memory_there_is_no_mailbox)
{
    CHECK_SCARCITY(open_a_mailbox);
}

TEST_MAIN
