/* sockets: the listening sockets, made once and kept until the supervisor ends.
 *
 * Owner: the supervisor; *boot* to open, its loop to close. Where they come from, first that is
 * set: `uds` (one Unix socket, made here), `fd` (one inherited), LISTEN_FDS of the service manager
 * (all of those), or `host` and `port`. Only the last gives a socket to each web thread
 * (SO_REUSEPORT); the others are `shared`: every loop accepts on all of them. All are listening,
 * non-blocking and close-on-exec.
 *
 * A host name is listened on at the first of its addresses that this machine has. With port 0 the
 * kernel chooses one, the same for all. */
#ifndef FL_SOCKETS_H
#define FL_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "settings.h"

typedef struct fl_sockets {
    int *fds;
    size_t count;
    bool shared;
    char path[108]; /* of the Unix socket made here, removed at the end; "" = none */
    dev_t device;   /* what was made at `path`: another's is left alone */
    ino_t inode;
} fl_sockets;

/* `count`: how many web threads there are in all. 0, or a negative uv code with a sentence that
 * names the address in `error` ("cannot listen on 127.0.0.1:8000: port 8000 is already in use");
 * then nothing is open. Blocks while a host name is looked up. */
int fl_sockets_open(fl_sockets *sockets, const fl_settings *settings, size_t count, char *error,
                    size_t error_size);
void fl_sockets_close(fl_sockets *sockets); /* also twice, also when zeroed and never opened */

#endif
