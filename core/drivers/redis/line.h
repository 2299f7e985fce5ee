/* line: the connection beneath a link: its socket, and the way to it. The addresses of the host are
 * tried one after the other, each for the target's connect_timeout; attempts that fail are made
 * again after a pause that grows.
 *
 * Owner: a link, at *loop*, or an owning function. What travels up goes by its events, never from
 * fl_redis_line_open_later; each of them may close the line. */
#ifndef FL_REDIS_LINE_H
#define FL_REDIS_LINE_H

#include <stdint.h>

#include "deadline.h"
#include "readiness.h"
#include "resolve.h"
#include "target.h"
#include "transport.h"

typedef struct fl_redis_line fl_redis_line;

typedef enum {
    FL_LINE_DOWN,
    FL_LINE_PAUSED,
    FL_LINE_RESOLVING,
    FL_LINE_CONNECTING,
    FL_LINE_UP
} fl_redis_line_phase;

typedef struct fl_redis_line_events {
    void (*rested)(fl_redis_line *line);    /* the pause is over, and the line down */
    void (*connected)(fl_redis_line *line); /* it is up */
    void (*ready)(fl_redis_line *line);     /* up, and there may be something to read or write */
    void (*failed)(fl_redis_line *line, const char *problem); /* it is to be closed */
} fl_redis_line_events;

struct fl_redis_line {
    fl_state *state;
    const fl_redis_target *target;
    const fl_redis_line_events *events;
    fl_redis_line_phase phase;
    fl_transport transport; /* when it is up, for who reads and writes */
    fl_readiness readiness;
    fl_deadline timer; /* of a pause, or of an attempt */
    fl_resolve *resolve;
    fl_resolved found;
    unsigned next_address;
    unsigned failures;   /* since it was last of use */
    uint64_t not_before; /* ms: the next attempt */
    char problem[300];   /* why there is no connection */
};

void fl_redis_line_init(fl_redis_line *line, fl_state *state, const fl_redis_target *target,
                        const fl_redis_line_events *events);
/* When it is down. */
void fl_redis_line_open(fl_redis_line *line);
void fl_redis_line_open_later(fl_redis_line *line); /* `rested` comes before */
void fl_redis_line_settle(fl_redis_line *line);     /* the attempt is over: the timer stops */
/* What `transport.want` says, and if it is up, readability. */
void fl_redis_line_want(fl_redis_line *line, bool reads);
void fl_redis_line_note(fl_redis_line *line, const char *problem);
void fl_redis_line_back_off(fl_redis_line *line); /* the next pause is longer */
void fl_redis_line_close(fl_redis_line *line);    /* it may be opened again */

#endif
