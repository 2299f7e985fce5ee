/* transfer: one request and its answer, or one mail.
 *
 * Owner: references: the Lua handle, each op that waits for it, and the client while it is in
 * there. *loop* of the state's thread, but for what only the Lua handle's functions touch
 * (`taken`). Bodies go through bounded buffers: one that is full pauses curl, which then leaves the
 * socket alone. A whole body (`streams` false) may grow up to `max_body`. */
#ifndef FL_HTTP_TRANSFER_H
#define FL_HTTP_TRANSFER_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>

#include "buffer.h"
#include "client.h"
#include "deadline.h"
#include "op.h"

#define FL_HTTP_HEAD_MOST ((size_t)64 << 10) /* bytes of a head */
#define FL_HTTP_STREAM_HIGH                                                                        \
    ((size_t)256 << 10) /* bytes buffered of a streamed body, either way                           \
                         */
#define FL_HTTP_STREAM_LOW ((size_t)64 << 10)

typedef enum {
    FL_HTTP_HEAD, /* the answer's head is there */
    FL_HTTP_BODY, /* some of its body is */
    FL_HTTP_ROOM, /* more may be sent */
    FL_HTTP_END,  /* it is over */
    FL_HTTP_WAITS
} fl_http_what;

typedef enum { FL_HTTP_NEW, FL_HTTP_WAITING, FL_HTTP_RUNNING, FL_HTTP_ENDED } fl_http_phase;

/* Seconds since the start, until … */
typedef enum {
    FL_HTTP_RESOLVED,
    FL_HTTP_CONNECTED,
    FL_HTTP_TLS,
    FL_HTTP_FIRST_BYTE,
    FL_HTTP_TOTAL,
    FL_HTTP_TIMES
} fl_http_time;

typedef struct fl_http_limits {
    uint64_t timeout, connect_timeout, idle_timeout; /* ms; 0: none */
    uint64_t max_body;
} fl_http_limits;

struct fl_http_transfer {
    unsigned references;
    fl_http_client *client; /* while waiting and running */
    fl_http_transfer *next, **link;
    fl_http_phase phase;
    CURL *easy; /* NULL once it has ended */
    struct curl_slist *headers;
    fl_http_limits limits;
    fl_deadline deadline;                 /* the next time to look at the clock */
    uint64_t ends_at, begun_at, moved_at; /* ms of the loop; 0: none, not yet */
    uint64_t moved;                       /* bytes, both ways */
    bool is_connected;
    bool is_public;   /* only to public addresses */
    bool is_mail;     /* once connected, `body` and `upload` are what is said on the connection */
    curl_socket_t fd; /* of a mail's connection */
    bool streams, uploads; /* its body is read, or sent, in pieces */
    bool receive_paused, send_paused, upload_ended;
    bool has_head;
    bool was_refused; /* an address of the host, by the guard */
    unsigned status;
    fl_buffer head;      /* lines of the last answer's head */
    fl_buffer body;      /* not yet taken */
    fl_buffer taken;     /* being made into a Lua string */
    fl_buffer upload;    /* not yet sent */
    const char *failure; /* code, static text; NULL: none */
    char message[CURL_ERROR_SIZE], curls_message[CURL_ERROR_SIZE];
    double times[FL_HTTP_TIMES];
    long version, reply; /* CURL_HTTP_VERSION_…; the last status of HTTP or SMTP */
    fl_op *waits[FL_HTTP_WAITS];
};

/* With one reference and an easy handle that reports to it; NULL: no memory. */
fl_http_transfer *fl_http_transfer_new(void);
void fl_http_transfer_hold(fl_http_transfer *self);
void fl_http_transfer_release(fl_http_transfer *self);

/* *loop*. Starts the clock and enters the client: as fl_http_client_add. */
int fl_http_transfer_start(fl_http_transfer *self, fl_http_client *client);

/* Whether what is waited for has come, or never will. */
bool fl_http_transfer_has(const fl_http_transfer *self, fl_http_what what);
/* Ends the op when it has; one at a time for each `what`. */
void fl_http_transfer_wait(fl_http_transfer *self, fl_http_what what, fl_op *op);

/* *loop*. Moves what has come of the body to `taken` and lets more come. */
void fl_http_transfer_take(fl_http_transfer *self);
/* *loop*. true: there is room for more. Harmless once it has ended. */
bool fl_http_transfer_send(fl_http_transfer *self, const char *data, size_t size);
void fl_http_transfer_finish(fl_http_transfer *self); /* all has been sent */

/* *loop*. Brings `times`, `version` and `reply` up to date. */
void fl_http_transfer_look(fl_http_transfer *self);

/* *loop*, not from curl's callbacks: curl has done its part; a mail's connection is ready. */
void fl_http_transfer_done(fl_http_transfer *self, CURLcode code);
void fl_http_transfer_moved(fl_http_transfer *self);

/* *loop*, not from curl's callbacks. It is over, by itself or because somebody wants it so. */
void fl_http_transfer_end(fl_http_transfer *self, CURLcode code);
void fl_http_transfer_cancel(fl_http_transfer *self); /* harmless once it has ended */

#endif
