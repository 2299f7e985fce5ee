/* pool_child: what a child process of a pool with isolation = "process" consists of beside what
 * every server process has: the socket to the process that has started it (pool_process.h), and a
 * pool with one thread, which runs the jobs that come through it.
 *
 * Owner: the server that is such a process; its housekeeping loop. */
#ifndef FL_POOL_CHILD_H
#define FL_POOL_CHILD_H

#include <stddef.h>

typedef struct fl_server fl_server;
typedef struct fl_pool_child fl_pool_child;

/* Reads FASTERLUA_POOL, takes jobs from now on, and limits what memory the process may get. The
 * server's loop stops when the other end has gone. 0 or a negative uv code, with why. */
int fl_pool_child_open(fl_pool_child **out, fl_server *server, char *why, size_t why_size);
/* After the pools have stopped, while the loop still runs. */
void fl_pool_child_close(fl_pool_child *child);

/* *boot*, before anything else: it ends when its parent does, whatever it does then. */
void fl_pool_child_begin(void);
/* It cannot start. */
void fl_pool_child_fail(const char *why);

#endif
