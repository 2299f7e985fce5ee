/* bell: what one thread tells another that must not get lost for want of memory. Its *strokes*,
 * bits, gather until the other thread hears them, all at once: how often each was rung is not told.
 * What belongs to them is written before it is rung, and read when it is heard.
 *
 * Owner: whoever embeds it, at least until all strokes have been heard or the mailbox is closed.
 * *Any* thread rings it, always in the same mailbox; `heard` runs on the loop of its owner. */
#ifndef FL_BELL_H
#define FL_BELL_H

#include <stdatomic.h>

#include "mailbox.h"

typedef struct fl_bell fl_bell;
struct fl_bell {
    fl_message message;
    _Atomic unsigned strokes; /* not heard yet; not 0: it is under way */
    void (*heard)(fl_bell *bell, unsigned strokes, void *owner);
};

static inline void fl_bell_deliver(fl_message *message, void *owner)
{
    fl_bell *bell = (fl_bell *)message;
    bell->heard(bell, atomic_exchange(&bell->strokes, 0), owner);
}

static inline void fl_bell_drop(fl_message *message)
{
    (void)message; /* nobody hears anything any more */
}

static inline void fl_bell_init(fl_bell *bell,
                                void (*heard)(fl_bell *bell, unsigned strokes, void *owner))
{
    *bell =
        (fl_bell){.message = {.deliver = fl_bell_deliver, .drop = fl_bell_drop}, .heard = heard};
}

static inline void fl_bell_ring(fl_bell *bell, fl_mailbox *mailbox, unsigned strokes)
{
    if (atomic_fetch_or(&bell->strokes, strokes) == 0)
        (void)fl_mailbox_post(mailbox, &bell->message);
}

#endif
