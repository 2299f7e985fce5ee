/* greeting: what a connection begins with: the protocol, who we are, and the database.
 *
 * Owner: a link; *loop*. It remembers from one connection to the next that a server does not speak
 * RESP3. */
#ifndef FL_REDIS_GREETING_H
#define FL_REDIS_GREETING_H

#include <stdbool.h>

#include "buffer.h"
#include "target.h"

typedef enum {
    FL_GREETING_GOES_ON, /* more replies are to come */
    FL_GREETING_DONE,
    FL_GREETING_AGAIN,  /* the connection is of no use, another one may be */
    FL_GREETING_REFUSED /* it will be the next time, too */
} fl_redis_greeting_answer;

typedef struct fl_redis_greeting {
    unsigned pending; /* replies to come */
    bool plain_only;  /* this server does not speak RESP3 */
} fl_redis_greeting;

/* Appends the commands; it is done already when no reply is pending. */
void fl_redis_greeting_say(fl_redis_greeting *self, const fl_redis_target *target, fl_buffer *out);
/* A reply (reply.h) has come. */
fl_redis_greeting_answer fl_redis_greeting_take(fl_redis_greeting *self, const char *record);

#endif
