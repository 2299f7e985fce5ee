#include "lease.h"

#include <uv.h>

#include "test.h"

typedef struct fl_loan {
    fl_lease lease;
    unsigned released;
} fl_loan;

static void released(fl_lease *lease)
{
    ((fl_loan *)lease)->released++;
}

static int lend(fl_leases *leases, fl_loan *loan, const void *holder, _Atomic bool *gone)
{
    *loan = (fl_loan){.lease = {.released = released}};
    return fl_lease_lend(leases, &loan->lease, holder, gone);
}

TEST(a_lease_is_given_back_once)
{
    fl_leases leases;
    fl_loan loan;
    _Atomic bool gone = false;
    fl_leases_init(&leases);
    CHECK_EQUAL_INT(lend(&leases, &loan, &leases, &gone), 0);
    CHECK(fl_lease_give_back(&leases, &loan.lease));
    CHECK(!fl_lease_give_back(&leases, &loan.lease));
    fl_leases_release(&leases, NULL);
    CHECK_EQUAL_INT(loan.released, 0);
    fl_leases_close(&leases);
}

TEST(one_holders_leases_are_released_and_no_others)
{
    fl_leases leases;
    fl_loan first, second, other;
    int a, b;
    _Atomic bool gone = false;
    fl_leases_init(&leases);
    CHECK(lend(&leases, &first, &a, &gone) == 0 && lend(&leases, &other, &b, &gone) == 0 &&
          lend(&leases, &second, &a, &gone) == 0);
    fl_leases_release(&leases, &a);
    CHECK(first.released == 1 && second.released == 1 && other.released == 0);
    CHECK(!fl_lease_give_back(&leases, &first.lease));
    CHECK(fl_lease_give_back(&leases, &other.lease));
    fl_leases_close(&leases);
}

TEST(who_is_gone_gets_none)
{
    fl_leases leases;
    fl_loan loan;
    _Atomic bool gone = true;
    fl_leases_init(&leases);
    CHECK_EQUAL_INT(lend(&leases, &loan, &leases, &gone), UV_ECANCELED);
    CHECK(!fl_lease_give_back(&leases, &loan.lease));
    fl_leases_close(&leases);
}

TEST(after_all_were_released_nothing_is_lent)
{
    fl_leases leases;
    fl_loan loan, late;
    _Atomic bool gone = false;
    fl_leases_init(&leases);
    CHECK_EQUAL_INT(lend(&leases, &loan, &leases, &gone), 0);
    fl_leases_release(&leases, NULL);
    CHECK_EQUAL_INT(loan.released, 1);
    CHECK_EQUAL_INT(lend(&leases, &late, &leases, &gone), UV_ECANCELED);
    fl_leases_close(&leases);
}

TEST_MAIN
