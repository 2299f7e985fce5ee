/* loan: a lease of a shared dictionary (shared.h) that a Lua state has: a lock, the making of a
 * value, the run of a job by the clock. When the state is given up or closed, others may have the
 * lease at once; when it has ended by itself and is another one's, that one keeps it.
 *
 * Owner: who took it, who frees it. Its functions may be called on *any* thread, one at a time;
 * that it is released by another one meanwhile harms nobody. The segment stays mapped until all are
 * freed. */
#ifndef FL_LOAN_H
#define FL_LOAN_H

#include <stdbool.h>
#include <stdint.h>

#include "address.h"
#include "shared.h"

typedef struct fl_loan fl_loan;

/* `address` NULL: it is nobody's, and ends when given or by its ttl. 0, or what
 * fl_shared_lease_take returns; UV_ENOMEM; UV_ECANCELED when the state has been given up. */
int fl_loan_take(fl_loan **out, fl_address *address, fl_shared *shared, fl_space space,
                 fl_slice key, uint64_t ttl);
double fl_loan_token(const fl_loan *loan);
fl_shared *fl_loan_dictionary(fl_loan *loan);

/* false: it has ended, and maybe is another one's. */
bool fl_loan_extend(fl_loan *loan, uint64_t ttl);
bool fl_loan_is_held(fl_loan *loan);
bool fl_loan_give(fl_loan *loan);

/* What was not given ends by its ttl alone. */
void fl_loan_free(fl_loan *loan);

#endif
