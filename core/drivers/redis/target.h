/* target: which server is meant, and how a link (link.h) is to treat it.
 *
 * Owner: Lua's collector (bind_target.h); it never changes. It outlives its links. */
#ifndef FL_REDIS_TARGET_H
#define FL_REDIS_TARGET_H

#include <openssl/ssl.h>
#include <stddef.h>
#include <stdint.h>

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

#endif
