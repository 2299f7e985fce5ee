/* admin: the small HTTP/1.1 listener for operators: /health, /ready, /metrics, and POST /profile.
 *
 * Owner: who called fl_admin_start; everything here runs on that uv loop's thread (*loop*), without
 * Lua, so that it answers while handlers are stuck. fl_admin_stop closes all handles; the memory
 * goes in the last close callback, so the loop has to run on until then. */
#ifndef FL_ADMIN_H
#define FL_ADMIN_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "buffer.h"

typedef struct fl_admin fl_admin;

typedef struct fl_admin_callbacks {
    bool (*ready)(void *data);                    /* false: starting or draining, 503 */
    void (*metrics)(void *data, fl_buffer *body); /* appends Prometheus' text format 0.0.4 */
    /* POST /profile?query. 0: fl_admin_reply comes later; else a status and why. */
    int (*profile)(void *data, fl_slice query, uint64_t ticket, char *why, size_t size);
    void (*cancel)(void *data, uint64_t ticket); /* the client of that profile has left */
    void *data;
} fl_admin_callbacks;

/* `address` is HOST:PORT ([::1]:9000 for IPv6, port 0 for a free one) or a socket path, which has a
 * slash. A host name is looked up before this returns. A socket file that nobody listens on is
 * replaced. UV_EADDRINUSE when another process holds the address; UV_EINVAL when it is none. */
int fl_admin_start(fl_admin **out, uv_loop_t *loop, const char *address,
                   const fl_admin_callbacks *callbacks);
/* Splits HOST:PORT in place, taking the brackets off: 0, or UV_EINVAL. Pure. */
int fl_admin_split_address(char *address, char **host, char **port);
int fl_admin_port(const fl_admin *admin); /* 0 for a socket path */
/* The answer of a profile, whose client may have gone. */
void fl_admin_reply(fl_admin *admin, uint64_t ticket, int status, fl_slice text);
void fl_admin_stop(fl_admin *admin);

#endif
