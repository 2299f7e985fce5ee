/* transport: the socket of a link, with or without TLS.
 *
 * Owner: a link; *loop*. It never waits: what must be waited for is left in `want`, UV_READABLE and
 * UV_WRITABLE. */
#ifndef FL_REDIS_TRANSPORT_H
#define FL_REDIS_TRANSPORT_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

typedef struct fl_transport {
    int fd; /* -1: not open */
    SSL *tls;
    bool connected; /* the socket is; TLS may not be yet */
    int want;
    char problem[256]; /* of the last call that failed */
} fl_transport;

/* Begins to connect; with a context, `name` is who must be there. 0 or a negative uv code. */
int fl_transport_open(fl_transport *self, const struct sockaddr *address, socklen_t size,
                      SSL_CTX *context, const char *name);
/* Goes on with that: 1 done, 0 not yet, or a negative uv code. */
int fl_transport_connect(fl_transport *self);
/* Bytes, 0: not now; or a negative uv code, UV_EOF. */
ssize_t fl_transport_read(fl_transport *self, void *to, size_t size);
ssize_t fl_transport_write(fl_transport *self, const void *data, size_t size);
void fl_transport_close(fl_transport *self); /* harmless when not open */

/* A context that checks certificates by the file `ca`, or the system's (NULL). NULL, and why in
 * `problem`. *any* */
SSL_CTX *fl_transport_context(const char *ca, char *problem, size_t size);

#endif
