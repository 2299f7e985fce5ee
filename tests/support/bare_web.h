/* bare_web: as much of a web thread as the HTTP parser needs: settings, a pool of requests and one
 * connection, without a loop, sockets or Lua. No app is mounted: every target is refused with 404.
 *
 * Owner: the test; open ⇒ close. One thread. The settings may be changed until the first read. */
#ifndef FL_BARE_WEB_H
#define FL_BARE_WEB_H

#include <arpa/inet.h>
#include <stdlib.h>

#include "connection.h"
#include "http1.h"
#include "request.h"
#include "web.h"

typedef struct fl_bare_web {
    fl_settings settings;
    fl_web web;
    fl_connection connection;
} fl_bare_web;

/* The defaults of conf/default.lua, as far as requests are read by them. */
static inline fl_settings bare_web_settings(void)
{
    static char trusted[] = "127.0.0.1,::1";
    return (fl_settings){.forwarded_allow_ips = trusted,
                         .request_line = 8192,
                         .header_block = 16384,
                         .header_fields = 100,
                         .chunk_extensions = 1024,
                         .trailer_block = 4096,
                         .trailer_fields = 20,
                         .max_body = 1048576,
                         .form_fields = 1000,
                         .cookie_fields = 50,
                         .cookie_bytes = 8192,
                         .read_ahead = 65536};
}

static inline void bare_web_open(fl_bare_web *bare)
{
    *bare = (fl_bare_web){.settings = bare_web_settings()};
    bare->web.thread.settings = &bare->settings;
    bare->connection.web = &bare->web;
    fl_http1_init(&bare->connection.http, &bare->connection);
}

/* The answered request goes, as the connection lets it go. */
static inline void bare_web_let_go(fl_bare_web *bare)
{
    fl_request *request = bare->connection.request;
    bare->connection.request = NULL;
    request->connection = NULL;
    fl_request_release(request);
}

/* How many requests were still alive. */
static inline unsigned bare_web_close(fl_bare_web *bare)
{
    fl_thread *thread = &bare->web.thread;
    if (bare->connection.request) bare_web_let_go(bare);
    fl_request_free_pooled(thread);
    fl_buffer_close(&thread->scratch);
    return thread->requests_alive;
}

/* Reads one message, or what there is of it; what was read is then in the request's own memory, as
 * when a batch ends. */
static inline int bare_web_read(fl_bare_web *bare, fl_slice data, size_t *used)
{
    int status = fl_http1_read(&bare->connection.http, data, used);
    fl_request *request = bare->connection.request;
    if (!status && request && !fl_request_keep(request)) return 503;
    return status;
}

#endif
