/* mailbox: how one thread hands something to another. Nothing else crosses threads.
 *
 * A message is a struct that embeds fl_message; posting passes its ownership to the mailbox, which
 * calls `deliver` on the owner's loop thread, in order of posting, or `drop` on the closing thread
 * when the mailbox closed first. Reference-counted: posters hold it, so that posting to a thread
 * that has gone is refused instead of unsafe. fl_mailbox_post may be called from *any* thread. */
#ifndef FL_MAILBOX_H
#define FL_MAILBOX_H

#include <uv.h>

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

/* *loop* of the owner: refuses what comes later and drops what waits; releases the owner's
 * reference. Run the loop once more afterwards, for the async handle's close callback. */
void fl_mailbox_close(fl_mailbox *mailbox);

#endif
