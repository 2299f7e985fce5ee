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

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "deadline.h"
#include "slice.h"

typedef struct fl_state fl_state;
typedef struct fl_redis_link fl_redis_link;
typedef struct fl_redis_command fl_redis_command;

typedef struct fl_redis_target { /* texts are never NULL, but where it says so */
    char *host;                  /* empty: a Unix socket at `path` */
    char *path;
    char *label;    /* in messages: "localhost:6379" */
    char *user;     /* NULL: none */
    char *password; /* NULL: none */
    char *name;     /* of the connection, as CLIENT LIST shows it; NULL: none */
    char *tls_name;
    SSL_CTX *tls; /* NULL: without */
    uint16_t port;
    unsigned database;
    uint64_t connect_timeout; /* ms */
    size_t commands_most;     /* that wait or are under way */
    size_t bytes_most;        /* of them */
    size_t reply_most;        /* bytes */
} fl_redis_target;

/* Owner: whoever made it; the link between sending and `ended`. */
struct fl_redis_command {
    fl_redis_command *next, **link; /* in a queue; link NULL: in none */
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
void fl_redis_command_free(fl_redis_command *command);

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

/* Messages: `ended(data)` is called once there are some, or the connection is lost (problem). One
 * waits at a time. */
typedef struct fl_redis_messages {
    void (*ended)(struct fl_redis_messages *self);
    void *data;
    fl_buffer records;
    size_t count;
    bool lost;
    char problem[400];
} fl_redis_messages;

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
