/* address: where one Lua state is reached from other threads, whatever thread runs it and even when
 * it is gone.
 *
 * Owner: the state; everybody who wants to write to it later holds it. A letter is delivered on the
 * loop of the thread that runs the state then; when the state has been given up or closed, the
 * letter is refused or dropped, and what is lent to it is released. */
#ifndef FL_ADDRESS_H
#define FL_ADDRESS_H

#include "mailbox.h"

typedef struct fl_state fl_state;
typedef struct fl_address fl_address;
typedef struct fl_letter fl_letter;

struct fl_letter {
    fl_message message;
    fl_address *to; /* held while it is under way */
    void (*deliver)(fl_letter *letter, fl_state *state);
    void (*drop)(fl_letter *letter); /* the state's thread, or the one that closes its mailbox */
};

int fl_address_new(fl_address **out, fl_mailbox *mailbox, fl_state *state); /* *boot* */
void fl_address_hold(fl_address *address);
void fl_address_release(fl_address *address);

/* Any thread. 0, or UV_ECANCELED: the letter is still the caller's. */
int fl_address_post(fl_address *address, fl_letter *letter);

/* Any thread. 0, or UV_ECANCELED: nothing was lent. What was ends by fl_address_give_back, which
 * says true, or by the lease being released when the state is given up or closed. */
int fl_address_lend(fl_address *address, fl_lease *lease);
bool fl_address_give_back(fl_address *address, fl_lease *lease);

bool fl_address_is_closed(const fl_address *address); /* any thread */

/* *loop* of its thread: from now on letters are refused, and what is under way is dropped; leases
 * are released. */
void fl_address_close(fl_address *address);

#endif
