/* inbox: messages that came without being asked for one by one, until somebody listens.
 *
 * Owner: a link; *loop*, or an owning function. Who listens keeps the fl_redis_messages until
 * `ended`, or fl_redis_inbox_ignore. */
#ifndef FL_REDIS_INBOX_H
#define FL_REDIS_INBOX_H

#include <stdbool.h>
#include <stddef.h>

#include "buffer.h"

/* `ended(data)` is called once there are some, or the connection is lost (problem). */
typedef struct fl_redis_messages {
    void (*ended)(struct fl_redis_messages *self);
    void *data;
    fl_buffer records;
    size_t count;
    bool lost;
    char problem[400];
} fl_redis_messages;

typedef struct fl_redis_inbox {
    fl_buffer records; /* that nobody has asked for yet */
    size_t count;
    fl_redis_messages *listener; /* NULL: nobody */
    bool lost_unheard;           /* nobody listened when the connection was lost */
} fl_redis_inbox;

void fl_redis_inbox_init(fl_redis_inbox *self);
bool fl_redis_inbox_add(fl_redis_inbox *self, const fl_buffer *record); /* false: no memory */
bool fl_redis_inbox_is_full(const fl_redis_inbox *self); /* no more should be added */

/* One listens at a time; who comes is given what is there by hand_over. */
void fl_redis_inbox_listen(fl_redis_inbox *self, fl_redis_messages *listener);
void fl_redis_inbox_hand_over(fl_redis_inbox *self);
void fl_redis_inbox_lose(fl_redis_inbox *self, const char *label, const char *problem);
void fl_redis_inbox_close(fl_redis_inbox *self);

#endif
