#include "loan.h"

#include <unistd.h>

#include "actor.h"
#include "test.h"

#define MINUTE 60000000000ull
#define MILLISECOND 1000000u

typedef struct world { /* a dictionary, and a state that takes leases of it */
    fl_segment *segment;
    fl_shared shared;
    fl_actor actor;
} world;

static const fl_slice key = {"job", 3};

static bool open_world(world *self)
{
    int fd;
    char why[256];
    *self = (world){0};
    if (fl_segment_create(&fd, 1 << 20) != 0) return false;
    int error = fl_segment_map(&self->segment, fd, why, sizeof(why));
    (void)close(fd);
    if (!error)
        error =
            fl_shared_open(&self->shared, self->segment, FL_SLICE("test"), 65536, why, sizeof(why));
    return !error && actor_open(&self->actor) == 0;
}

static bool close_world(world *self)
{
    bool clean = actor_close(&self->actor) == 0;
    fl_segment_close(self->segment);
    return clean;
}

static int take_for(world *self, fl_loan **loan, uint64_t ttl)
{
    return fl_loan_take(loan, self->actor.address, &self->shared, FL_SPACE_LOCKS, key, ttl);
}

static int take(world *self, fl_loan **loan)
{
    return take_for(self, loan, MINUTE);
}

static int take_elsewhere(world *self, double *token)
{
    return fl_shared_lease_take(&self->shared, FL_SPACE_LOCKS, key, MINUTE, token);
}

TEST(it_is_given_once)
{
    world w;
    fl_loan *loan, *second;
    CHECK(open_world(&w));
    CHECK_EQUAL_INT(take(&w, &loan), 0);
    CHECK_EQUAL_INT(take(&w, &second), UV_EEXIST);
    CHECK(fl_loan_is_held(loan) && fl_loan_extend(loan, MINUTE));
    CHECK(fl_loan_give(loan));
    CHECK(!fl_loan_give(loan) && !fl_loan_is_held(loan) && !fl_loan_extend(loan, MINUTE));
    CHECK_EQUAL_INT(take(&w, &second), 0);
    CHECK(fl_loan_token(second) > fl_loan_token(loan));
    CHECK(!fl_loan_give(loan) && fl_loan_is_held(second));
    CHECK(fl_loan_give(second));
    fl_loan_free(loan);
    fl_loan_free(second);
    CHECK(close_world(&w));
}

TEST(it_ends_with_its_state)
{
    world w;
    fl_loan *loan, *late;
    double token;
    CHECK(open_world(&w));
    CHECK_EQUAL_INT(take(&w, &loan), 0);
    CHECK_EQUAL_INT(take_elsewhere(&w, &token), UV_EEXIST);
    actor_give_up(&w.actor);
    CHECK(!fl_loan_is_held(loan));
    CHECK_EQUAL_INT(take(&w, &late), UV_ECANCELED);
    CHECK_EQUAL_INT(take_elsewhere(&w, &token), 0); /* the late one has left nothing */
    CHECK(!fl_loan_give(loan));
    fl_loan_free(loan);
    CHECK_EQUAL_INT(fl_shared_lease_check(&w.shared, FL_SPACE_LOCKS, key, token), 0);
    CHECK(close_world(&w));
}

TEST(that_of_another_one_since_its_ttl_stays)
{
    world w;
    fl_loan *loan;
    double token;
    CHECK(open_world(&w));
    CHECK_EQUAL_INT(take_for(&w, &loan, MILLISECOND), 0);
    (void)usleep(5000);
    CHECK_EQUAL_INT(take_elsewhere(&w, &token), 0);
    actor_give_up(&w.actor);
    CHECK_EQUAL_INT(fl_shared_lease_check(&w.shared, FL_SPACE_LOCKS, key, token), 0);
    fl_loan_free(loan);
    CHECK(close_world(&w));
}

TEST(one_that_is_freed_lasts_its_ttl)
{
    world w;
    fl_loan *loan;
    double token;
    CHECK(open_world(&w));
    CHECK_EQUAL_INT(take(&w, &loan), 0);
    fl_loan_free(loan);
    CHECK_EQUAL_INT(take_elsewhere(&w, &token), UV_EEXIST);
    CHECK(close_world(&w));
}

TEST(nobodys_is_given_like_others)
{
    world w;
    fl_loan *loan;
    CHECK(open_world(&w));
    CHECK_EQUAL_INT(fl_loan_take(&loan, NULL, &w.shared, FL_SPACE_FLIGHTS, key, MINUTE), 0);
    CHECK(fl_loan_give(loan) && !fl_loan_give(loan));
    fl_loan_free(loan);
    CHECK(close_world(&w));
}

TEST_MAIN
