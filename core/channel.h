/* channel: a bounded queue between all Lua states of one app in a server process, first in, first
 * out.
 *
 * Owner: fl_channels, the server's, from its start to its end. A channel is found by app and name;
 * one that nobody has open and that is empty goes when there are too many. Its own lock guards it:
 * what is here may be called from *any* thread, unless it says otherwise, and calls no Lua.
 *
 * A take or a put is an fl_channel_wait, shared by the state that waits and the channel. It is
 * served in order of arrival over all states. What a taker gets is lent to its state (lease.h)
 * until fl_channel_received: when the taker is cancelled or the state is given up before that, the
 * item goes back to the place it was taken from, and the next taker gets it. An item that is lent
 * takes no room: the channel may hold more than its size after some came back. */
#ifndef FL_CHANNEL_H
#define FL_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "address.h"
#include "parcel.h"
#include "slice.h"

#define FL_CHANNEL_SIZE 100 /* items, by default */
#define FL_CHANNEL_SIZE_MOST 10000000
#define FL_CHANNEL_NAME_MOST 200

typedef struct fl_channels fl_channels;
typedef struct fl_channel fl_channel;
typedef struct fl_channel_wait fl_channel_wait;

typedef struct fl_channel_item {
    struct fl_channel_item *next;
    _Atomic unsigned references;
    uint64_t number; /* in the order in which they were put */
    size_t bytes;
    fl_parcel parcel;
} fl_channel_item;

struct fl_channel_wait {
    _Atomic unsigned references;
    fl_channel *channel;
    fl_address *address; /* held */
    /* its state's thread; NULL: nobody waits any more */
    void (*ended)(fl_channel_wait *wait);
    void *waiter;
    /* the channel's lock */
    fl_channel_wait *next, **link; /* link NULL: not in line */
    fl_channel_item *item;         /* that is put, or was taken */
    bool is_closed;                /* it ended because the channel is closed */
    bool is_taker;
    fl_letter letter;
    fl_lease lease;
};

/* *boot* and *end* of the server: at most `most` channels, of `bytes` each. */
int fl_channels_new(fl_channels **out, size_t most, size_t bytes);
void fl_channels_free(fl_channels *channels);

/* Finds the channel or makes it: `size` items, 0: as many as it has, or else FL_CHANNEL_SIZE. 0, or
 * a negative uv code with a sentence in `why`. Each open has its close. */
int fl_channel_open(fl_channel **out, fl_channels *channels, unsigned app, fl_slice name,
                    size_t size, char *why, size_t why_size);
void fl_channel_close_handle(fl_channel *channel);

const char *fl_channel_name(const fl_channel *channel);
size_t fl_channel_size(const fl_channel *channel);
size_t fl_channel_bytes_most(const fl_channel *channel); /* of all items in it */
size_t fl_channel_length(fl_channel *channel);

/* NULL: no memory. */
fl_channel_item *fl_channel_item_new(void);
void fl_channel_item_release(fl_channel_item *item);

/* Of an open channel. NULL: no memory. One reference. */
fl_channel_wait *fl_channel_wait_new(fl_channel *channel, fl_address *address);
void fl_channel_wait_release(fl_channel_wait *wait);

/* Puts wait->item, which is then the channel's. 0: it is in. UV_EAGAIN: there is no room; if
 * `waits`, `ended` will be called. UV_EOF: closed; UV_E2BIG: more than all bytes of a channel; the
 * item is still the caller's. */
int fl_channel_put(fl_channel_wait *wait, bool waits);

/* 0: wait->item is lent. UV_EAGAIN as above. UV_EOF: closed and empty. UV_ECANCELED: the state is
 * given up. */
int fl_channel_take(fl_channel_wait *wait, bool waits);

/* *loop* of its state: nobody waits any more; `ended` is not called. */
void fl_channel_cancel(fl_channel_wait *wait);

/* The item of a take that has ended, with a reference; NULL: it was taken back. */
fl_channel_item *fl_channel_look(fl_channel_wait *wait);
/* It has reached whom it was for. false: it was taken back before. */
bool fl_channel_received(fl_channel_wait *wait);
void fl_channel_give_back(fl_channel_wait *wait); /* to the next one; harmless when it is over */

/* Who waits to put gets UV_EOF, who takes gets what is left first. */
void fl_channel_end(fl_channel *channel);

#endif
