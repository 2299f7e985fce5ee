/* link: one connection to a server, which is made when a command needs it and again after it was
 * lost; and the commands that wait for it or for their replies.
 *
 * Owner: a Lua state, whose thread's *loop* it belongs to; functions called from Lua hold the claim
 * (claim.h). It moves with its state when that is evacuated. The target outlives it.
 *
 * Commands of all tasks go out in the order of sending, once per turn of the loop, and their
 * replies come back in that order. A command whose connection was lost after it was sent fails,
 * unless it may be repeated. A *pinned* link is for who needs one connection: once it is lost,
 * every command fails until it is unpinned. The link of a *subscriber* takes all that comes as
 * messages. */
#ifndef FL_REDIS_LINK_H
#define FL_REDIS_LINK_H

#include <stdbool.h>
#include <stddef.h>

#include "command.h"
#include "inbox.h"
#include "target.h"

typedef struct fl_state fl_state;

fl_redis_link *fl_redis_link_new(fl_state *state, const fl_redis_target *target,
                                 bool is_subscriber); /* NULL: no memory */
void fl_redis_link_free(fl_redis_link *link);         /* nobody is told */

/* It ends by `ended`, maybe at once. */
void fl_redis_link_send(fl_redis_link *link, fl_redis_command *command);
/* Before `ended`, which is not called any more. true: it is the caller's again; false: it was sent,
 * and the link frees it. */
bool fl_redis_link_cancel(fl_redis_command *command);

void fl_redis_link_pin(fl_redis_link *link, bool pinned);
void fl_redis_link_close(fl_redis_link *link, const char *why); /* it may be used again */

/* One waits for messages at a time. */
void fl_redis_link_listen(fl_redis_link *link, fl_redis_messages *messages);
void fl_redis_link_ignore(fl_redis_link *link);         /* before `ended` */
bool fl_redis_link_is_heard(const fl_redis_link *link); /* somebody listens */

typedef struct fl_redis_link_status {
    bool connected;
    size_t waiting, sent, bytes;
    unsigned long connects; /* how often it has been connected */
} fl_redis_link_status;

fl_redis_link_status fl_redis_link_look(const fl_redis_link *link);

#endif
