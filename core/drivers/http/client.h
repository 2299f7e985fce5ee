/* client: the transfers of one Lua state, by libcurl's multi interface on the loop of the thread
 * that runs the state.
 *
 * Owner: the state; *loop* of its thread. So many transfers run at once, the others wait in order
 * of arrival. Sockets are watched through readiness (readiness.h) and time through a deadline of
 * the state's, so both move with it; all sockets, idle connections' too, are known to readiness
 * and closed by it should the state be given up, after which nothing here is touched again.
 * libcurl calls back only from within functions of this file and of transfer.c; what it calls
 * copies bytes, marks and ends ops: it never enters Lua. */
#ifndef FL_HTTP_CLIENT_H
#define FL_HTTP_CLIENT_H

#include <curl/curl.h>
#include <stdbool.h>

#include "deadline.h"
#include "state.h"

typedef struct fl_http_socket fl_http_socket;
typedef struct fl_http_transfer fl_http_transfer;

typedef struct fl_http_client {
    fl_state *state;
    CURLM *multi; /* NULL: closed */
    fl_deadline timer;
    fl_http_socket *sockets;
    fl_http_transfer *running;                /* in no order */
    fl_http_transfer *waiting, *last_waiting; /* in order of arrival */
    unsigned running_count, waiting_count;
    unsigned running_most, waiting_most;
    unsigned per_host, total; /* connections at once; 0: as many as there are transfers */
    uint64_t keep;            /* ms that connections are kept when nothing runs */
    fl_deadline idle;
} fl_http_client;

/* 0 or UV_ENOMEM. */
int fl_http_client_open(fl_http_client *self, fl_state *state);
void fl_http_client_close(fl_http_client *self); /* cancels what runs; harmless when closed */

/* Brings curl up to what `per_host` and `total` say. */
void fl_http_client_limit(fl_http_client *self);

/* Starts a transfer or lets it wait: 0, or UV_EAGAIN: too many wait already; UV_ENOMEM. */
int fl_http_client_add(fl_http_client *self, fl_http_transfer *transfer);
/* Takes a transfer out, which must be in it, and lets the next one start. Not from curl's
 * callbacks. */
void fl_http_client_remove(fl_http_client *self, fl_http_transfer *transfer);

/* Calls fl_http_transfer_moved instead of curl when the socket is ready for these of UV_READABLE
 * and UV_WRITABLE. */
void fl_http_client_watch(fl_http_client *self, curl_socket_t fd, fl_http_transfer *transfer,
                          int events);

/* How curl opens and closes sockets for the client that is their data. */
curl_socket_t fl_http_client_open_socket(fl_http_client *self, const struct curl_sockaddr *address);
int fl_http_client_close_socket(void *client, curl_socket_t fd);

#endif
