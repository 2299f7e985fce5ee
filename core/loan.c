#include "loan.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

struct fl_loan {
    fl_lease lease;
    _Atomic unsigned references; /* the taker's; the lease's while it is lent */
    fl_address *address;         /* held; NULL: nobody's */
    fl_shared shared;
    fl_space space;
    double token;
    size_t key_size;
    char key[];
};

static void release(fl_loan *loan)
{
    if (atomic_fetch_sub_explicit(&loan->references, 1, memory_order_acq_rel) != 1) return;
    if (loan->address) fl_address_release(loan->address);
    free(loan);
}

static fl_slice key_of(const fl_loan *loan)
{
    return fl_slice_of(loan->key, loan->key_size);
}

/* The taker may be using its handle at this moment. */
static void released(fl_lease *lease)
{
    fl_loan *loan = (fl_loan *)((char *)lease - offsetof(fl_loan, lease));
    fl_shared shared = {.segment = loan->shared.segment, .head = loan->shared.head};
    (void)fl_shared_lease_give(&shared, loan->space, key_of(loan), loan->token);
    release(loan);
}

static fl_loan *loan_new(fl_address *address, const fl_shared *shared, fl_space space, fl_slice key)
{
    fl_loan *loan = calloc(1, sizeof(*loan) + key.size);
    if (!loan) return NULL;
    atomic_init(&loan->references, 1);
    loan->lease.released = released;
    loan->address = address;
    if (address) fl_address_hold(address);
    loan->shared = *shared;
    loan->space = space;
    loan->key_size = key.size;
    memcpy(loan->key, key.data, key.size);
    return loan;
}

/* Counted before: it may be released at once. */
static int lend(fl_loan *loan)
{
    if (!loan->address) return 0;
    atomic_fetch_add_explicit(&loan->references, 1, memory_order_relaxed);
    int error = fl_address_lend(loan->address, &loan->lease);
    if (!error) return 0;
    (void)fl_shared_lease_give(&loan->shared, loan->space, key_of(loan), loan->token);
    release(loan);
    return error;
}

int fl_loan_take(fl_loan **out, fl_address *address, fl_shared *shared, fl_space space,
                 fl_slice key, uint64_t ttl)
{
    double token;
    int error = fl_shared_lease_take(shared, space, key, ttl, &token);
    if (error) return error;
    fl_loan *loan = loan_new(address, shared, space, key);
    if (!loan) {
        (void)fl_shared_lease_give(shared, space, key, token);
        return UV_ENOMEM;
    }
    loan->token = token;
    error = lend(loan);
    if (error)
        release(loan);
    else
        *out = loan;
    return error;
}

double fl_loan_token(const fl_loan *loan)
{
    return loan->token;
}

fl_shared *fl_loan_dictionary(fl_loan *loan)
{
    return &loan->shared;
}

bool fl_loan_extend(fl_loan *loan, uint64_t ttl)
{
    return fl_shared_lease_extend(&loan->shared, loan->space, key_of(loan), loan->token, ttl) == 0;
}

bool fl_loan_is_held(fl_loan *loan)
{
    return fl_shared_lease_check(&loan->shared, loan->space, key_of(loan), loan->token) == 0;
}

/* true: it is the caller's alone from now on. */
static bool take_back(fl_loan *loan)
{
    if (!loan->address) return true;
    if (!fl_address_give_back(loan->address, &loan->lease)) return false;
    release(loan);
    return true;
}

bool fl_loan_give(fl_loan *loan)
{
    if (!take_back(loan)) return false;
    return fl_shared_lease_give(&loan->shared, loan->space, key_of(loan), loan->token) == 0;
}

void fl_loan_free(fl_loan *loan)
{
    (void)take_back(loan);
    release(loan);
}
