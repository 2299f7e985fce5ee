/* command: one command, or several that go out as one, and its replies.
 *
 * Owner: whoever made it; the link between sending and `ended`. *loop* of its state's thread, or an
 * owning function; fl_redis_command_new and _free: any function called from Lua. */
#ifndef FL_REDIS_COMMAND_H
#define FL_REDIS_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "deadline.h"
#include "slice.h"

typedef struct fl_redis_link fl_redis_link;
typedef struct fl_redis_queue fl_redis_queue;
typedef struct fl_redis_command fl_redis_command;

struct fl_redis_command {
    fl_redis_command *next, **link; /* in a queue */
    fl_redis_queue *in;             /* NULL: none */
    fl_redis_link *on;
    void (*ended)(fl_redis_command *self); /* NULL: nobody waits, the link frees it */
    void *data;
    const char *code;         /* it failed: "TIMEOUT", …; "": by what a server said in the text */
    char problem[400];        /* the text */
    fl_buffer reply;          /* so many records */
    size_t replies, received; /* how many are to come; 0: it ends when it is written */
    fl_deadline deadline;
    uint64_t timeout; /* ms; 0: none */
    uint64_t began, sent_at;
    bool may_repeat, repeated, sent;
    fl_slice kinds; /* in `text`: an fl_redis_kind for each reply */
    fl_slice bytes; /* in `text` */
    char text[];
};

fl_redis_command *fl_redis_command_new(size_t size, size_t replies); /* NULL: no memory */
/* For the link: it leaves its queue, and who waits is told. */
void fl_redis_command_end(fl_redis_command *command);
void fl_redis_command_fail(fl_redis_command *command, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void fl_redis_command_free(fl_redis_command *command);

#endif
