/* mailbox: how one thread hands something to another. Nothing else crosses threads.
 *
 * A message is a struct that embeds fl_message; posting passes its ownership to the mailbox, which
 * calls `deliver` on the owner's loop thread, in order of posting, or `drop` on the closing thread
 * when the mailbox closed first. Reference-counted: posters hold it, so that posting to a thread
 * that has gone is refused instead of unsafe. fl_mailbox_post may be called from *any* thread.
 *
 * While its owner's loop is awake nothing wakes it: the owner looks once per turn, before it polls
 * (fl_mailbox_doze) and after (fl_mailbox_rise). An owner that does neither is woken by the first
 * message after each delivery. */
#ifndef FL_MAILBOX_H
#define FL_MAILBOX_H

#include <stdbool.h>
#include <uv.h>

#include "lease.h"

typedef struct fl_message fl_message;
struct fl_message {
    fl_message *next;
    void (*deliver)(fl_message *message, void *owner);
    void (*drop)(fl_message *message);
};

typedef struct fl_mailbox fl_mailbox;

/* *boot* of the owner: the mailbox hangs one uv_async_t in `loop`. */
int fl_mailbox_new(fl_mailbox **out, uv_loop_t *loop, void *owner);
void fl_mailbox_hold(fl_mailbox *mailbox);
void fl_mailbox_release(fl_mailbox *mailbox);

/* Returns 0, or UV_ECANCELED when the owner has closed: the message is then still the caller's. */
int fl_mailbox_post(fl_mailbox *mailbox, fl_message *message);
fl_leases *fl_mailbox_leases(fl_mailbox *mailbox); /* what is lent to the states it leads to */
void fl_mailbox_wake(fl_mailbox *mailbox);         /* any thread: the owner's loop turns once */

/* *loop* of the owner. Delivers what waits; then, unless something has come meanwhile (false), the
 * loop may sleep and is woken by the next message. */
bool fl_mailbox_doze(fl_mailbox *mailbox);
void fl_mailbox_rise(fl_mailbox *mailbox); /* the loop is awake; delivers what waits */

/* *loop* of a new owner, whose loop takes the place of one that will never run again. */
int fl_mailbox_move(fl_mailbox *mailbox, uv_loop_t *loop, void *owner);

/* *loop* of the owner: refuses what comes later and drops what waits; releases the owner's
 * reference. Run the loop once more afterwards, for the async handle's close callback. */
void fl_mailbox_close(fl_mailbox *mailbox);

#endif
