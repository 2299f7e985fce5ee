/* readiness: of a descriptor for something that belongs to a Lua state: a connection to a
 * database, a socket of an HTTP client.
 *
 * Owner: whoever embeds it, who keeps the descriptor open from fl_readiness_open to
 * fl_readiness_close. *loop* of the state's thread. When its state moves to another thread,
 * readiness moves with it: the handle is held by pointer, because the loop of a thread that is
 * given up keeps its own. When the state itself is given up, its descriptors are closed and nobody
 * is told: what must be let go elsewhere is a lease (lease.h), and those are released before. */
#ifndef FL_READINESS_H
#define FL_READINESS_H

#include <uv.h>

typedef struct fl_state fl_state;
typedef struct fl_readiness fl_readiness;

/* `events`: UV_READABLE, UV_WRITABLE; or a negative `status`: it cannot be waited for any more.
 * It may close it and free what embeds it. */
typedef void (*fl_readiness_ready)(fl_readiness *self, int status, int events);

struct fl_readiness {
    fl_readiness *next, **link; /* the state's; link NULL: not open */
    fl_state *state;
    uv_poll_t *handle;
    int fd;
    int events; /* wanted; 0: none */
    fl_readiness_ready ready;
};

/* 0 or a negative uv code; nothing is wanted yet. */
int fl_readiness_open(fl_readiness *self, fl_state *state, int fd, fl_readiness_ready ready);
void fl_readiness_want(fl_readiness *self, int events);
void fl_readiness_close(fl_readiness *self); /* harmless when not open */

/* Evacuation: those of a state that has a new thread; those of one that is given up. */
void fl_readiness_move_all(fl_state *state);
void fl_readiness_abandon_all(fl_state *state);

#endif
