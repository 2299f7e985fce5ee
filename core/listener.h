/* listener: accepts connections from one listening socket on one loop.
 *
 * Owner: the web thread that polls it; *loop*. The descriptor is the process's copy of a socket
 * that the supervisor holds: closing it here resets nothing. Several listeners may poll the same
 * socket: that of another thread which is busy in Lua (`helping`), or a shared one (--uds, --fd).
 * An accepted connection goes to the thread with the fewest, when this one has two more. */
#ifndef FL_LISTENER_H
#define FL_LISTENER_H

#include <stdbool.h>
#include <uv.h>

typedef struct fl_web fl_web;
typedef struct fl_listener fl_listener;

struct fl_listener {
    fl_listener *next;
    fl_web *web;
    uv_poll_t poll;
    int fd;       /* its own, to close */
    int helps_fd; /* helping: the number of the busy thread's, by which it is found again */
    bool helping;
    bool paused; /* as many connections as allowed */
};

int fl_listener_open(fl_web *web, int fd, bool helping);
void fl_listener_drain(fl_listener *listener); /* accepts what waits, until there is nothing */
void fl_listener_close(fl_listener *listener); /* frees it; closes the descriptor unless helping */
void fl_listener_pause(fl_listener *listener, bool paused);

#endif
