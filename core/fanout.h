/* fanout: brings messages to all subscribers of a topic in this server process.
 *
 * Owner: the topic, which embeds it and which stations and subscribers hold by its callbacks. Any
 * thread may publish; the rest is for the thread of the state that subscribes, unless it says
 * otherwise. Nothing here calls Lua, but for the `ended` of who waits.
 *
 * A message is an immutable parcel with a count of references; every subscriber unpacks its own
 * copy. A state's subscribers share a *station*: publishing puts the message into the inbox of each
 * station and posts a letter to its state unless one is under way. From there messages are spread
 * into the subscribers' buffers, in order; a full buffer does what its policy says. A station is
 * lent to its state (lease.h): it ends when the state is given up. */
#ifndef FL_FANOUT_H
#define FL_FANOUT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "address.h"
#include "log.h"
#include "parcel.h"

typedef struct fl_fanout fl_fanout;
typedef struct fl_station fl_station;
typedef struct fl_subscriber fl_subscriber;
typedef struct fl_fanout_wait fl_fanout_wait;

typedef enum { FL_FANOUT_DROP_OLDEST, FL_FANOUT_DROP_NEWEST, FL_FANOUT_CLOSE } fl_fanout_policy;

struct fl_fanout {
    const char *name;                /* for the log: 'topic "x" of app "y"' */
    fl_log *log;                     /* NULL: none */
    size_t bytes;                    /* that a subscriber's buffer may have, beyond one message */
    void (*hold)(fl_fanout *fanout); /* any thread */
    void (*release)(fl_fanout *fanout);
    pthread_mutex_t lock;
    fl_station *stations;
    _Atomic size_t subscribers;
    _Atomic uint64_t unlogged, logged_at; /* dropped messages */
};

typedef struct fl_fanout_message {
    _Atomic unsigned references;
    size_t bytes;
    fl_parcel parcel;
} fl_fanout_message;

struct fl_fanout_wait { /* in the waiter's memory, until it has ended or is cancelled */
    fl_fanout_wait *next;
    fl_fanout_message *message; /* that it got, with its reference; NULL: there will be none */
    void (*ended)(fl_fanout_wait *wait);
};

/* The fields up to the lock are the caller's to set before. */
void fl_fanout_init(fl_fanout *fanout);
void fl_fanout_close(fl_fanout *fanout); /* when nobody holds it any more */

/* NULL: no memory. One reference. */
fl_fanout_message *fl_fanout_message_new(void);
void fl_fanout_message_weigh(fl_fanout_message *message); /* once it is packed: sets `bytes` */
void fl_fanout_message_release(fl_fanout_message *message);

/* Returns how many subscribers it was for. The message stays the caller's too. */
size_t fl_fanout_publish(fl_fanout *fanout, fl_fanout_message *message);

/* 0 or a negative uv code: UV_ECANCELED when the state is given up. One reference. */
int fl_fanout_subscribe(fl_subscriber **out, fl_fanout *fanout, fl_address *address, size_t buffer,
                        fl_fanout_policy policy);

/* 0: wait->message is the next one. UV_EAGAIN: none is there yet; if `waits`, `ended` will be
 * called. UV_EOF: closed. */
int fl_subscriber_next(fl_subscriber *subscriber, fl_fanout_wait *wait, bool waits);
void fl_subscriber_cancel(fl_subscriber *subscriber, fl_fanout_wait *wait); /* one that waits */
/* A message that reached nobody becomes the next one again. */
void fl_subscriber_put_back(fl_subscriber *subscriber, fl_fanout_message *message);

/* Ends it: who waits gets no message. Harmless when it has ended. */
void fl_subscriber_close(fl_subscriber *subscriber);
void fl_subscriber_hold(fl_subscriber *subscriber);    /* any thread */
void fl_subscriber_release(fl_subscriber *subscriber); /* any thread */

uint64_t fl_subscriber_dropped(fl_subscriber *subscriber);
bool fl_subscriber_overflowed(fl_subscriber *subscriber); /* FL_FANOUT_CLOSE has closed it */

#endif
