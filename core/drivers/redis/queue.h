/* queue: commands (command.h) in the order of sending, and how much they are.
 *
 * Owner: a link; *loop*, or an owning function. It owns no command. */
#ifndef FL_REDIS_QUEUE_H
#define FL_REDIS_QUEUE_H

#include <stddef.h>

#include "command.h"

struct fl_redis_queue {
    fl_redis_command *first, **last;
    size_t count, bytes;
};

void fl_redis_queue_init(fl_redis_queue *self);
void fl_redis_queue_add(fl_redis_queue *self, fl_redis_command *command);
void fl_redis_queue_leave(fl_redis_command *command); /* harmless when it is in none */
/* Puts one that is in no queue in the place of one that is. */
void fl_redis_queue_replace(fl_redis_command *old, fl_redis_command *by);
/* All of `from` come before those of `self`. */
void fl_redis_queue_put_in_front(fl_redis_queue *self, fl_redis_queue *from);

#endif
