#include "transfer.h"

#include <assert.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "guard.h"
#include "thread.h"

static uint64_t now_of(const fl_http_transfer *self)
{
    return uv_now(&self->client->state->thread->loop);
}

/* who waits */

static void tell(fl_http_transfer *self, fl_http_what what)
{
    fl_op *op = self->waits[what];
    if (!op || !fl_http_transfer_has(self, what)) return;
    self->waits[what] = NULL;
    fl_op_done(op);
}

bool fl_http_transfer_has(const fl_http_transfer *self, fl_http_what what)
{
    if (self->phase == FL_HTTP_ENDED) return true;
    switch (what) {
    case FL_HTTP_HEAD: return self->has_head;
    case FL_HTTP_BODY: return self->body.size > 0;
    case FL_HTTP_ROOM: return self->upload.size < FL_HTTP_STREAM_LOW;
    case FL_HTTP_END:
    case FL_HTTP_WAITS: return false;
    }
    return false;
}

void fl_http_transfer_wait(fl_http_transfer *self, fl_http_what what, fl_op *op)
{
    assert(!self->waits[what]);
    self->waits[what] = op;
    tell(self, what);
}

/* failing: the first reason counts */

__attribute__((format(printf, 3, 4))) static void fail(fl_http_transfer *self, const char *code,
                                                       const char *format, ...)
{
    if (self->failure) return;
    self->failure = code;
    va_list values;
    va_start(values, format);
    (void)vsnprintf(self->message, sizeof(self->message), format, values);
    va_end(values);
}

static const char *code_of(CURLcode code)
{
    switch ((int)code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY: return "resolve";
    case CURLE_COULDNT_CONNECT:
    case CURLE_PROXY: return "connect";
    case CURLE_OPERATION_TIMEDOUT: return "timeout";
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_ENGINE_NOTFOUND:
    case CURLE_SSL_ENGINE_SETFAILED:
    case CURLE_SSL_ENGINE_INITFAILED:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_CLIENTCERT:
    case CURLE_SSL_SHUTDOWN_FAILED:
    case CURLE_USE_SSL_FAILED:
    case CURLE_PEER_FAILED_VERIFICATION: return "tls";
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_SEND_FAIL_REWIND: return "closed";
    case CURLE_OUT_OF_MEMORY: return "memory";
    case CURLE_URL_MALFORMAT: return "url";
    case CURLE_LOGIN_DENIED: return "login";
    case 100: return "too_large"; /* CURLE_TOO_LARGE, which curl 7 does not know */
    default: return "protocol";
    }
}

#define NO_CONNECTION "no connection after %g s"

static const char NOT_PUBLIC[] = "the host has an address that is not public";

/* An end that we wished has its reason already. */
static void keep_result(fl_http_transfer *self, CURLcode code)
{
    if (code == CURLE_OK) return;
    const char *message = self->curls_message;
    if (self->was_refused && code == CURLE_COULDNT_CONNECT)
        fail(self, "guard", "%s", NOT_PUBLIC);
    else if (code == CURLE_OPERATION_TIMEDOUT) /* of those times curl knows only one */
        fail(self, "timeout", NO_CONNECTION, (double)self->limits.connect_timeout / 1000);
    else
        fail(self, code_of(code), "%s", message[0] ? message : curl_easy_strerror(code));
}

/* time */

static fl_http_transfer *transfer_of(fl_deadline *deadline)
{
    return (fl_http_transfer *)((char *)deadline - offsetof(fl_http_transfer, deadline));
}

static void look_at_clock(fl_deadline *deadline);

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static uint64_t connects_by(const fl_http_transfer *self)
{
    bool connects = self->begun_at && !self->is_connected && self->limits.connect_timeout;
    return connects ? self->begun_at + self->limits.connect_timeout : 0;
}

/* While it waits for us it is not the peer that is idle. */
static uint64_t moves_by(const fl_http_transfer *self, uint64_t now)
{
    if (!self->limits.idle_timeout || !self->is_connected) return 0;
    bool waits = self->receive_paused || self->send_paused;
    return (waits ? now : self->moved_at) + self->limits.idle_timeout;
}

static void arm(fl_http_transfer *self)
{
    uint64_t now = now_of(self);
    uint64_t at = sooner(self->ends_at, sooner(connects_by(self), moves_by(self, now)));
    if (at)
        fl_thread_start_deadline(self->client->state->thread, &self->deadline,
                                 at > now ? at - now : 0, look_at_clock);
    else
        fl_deadline_stop(&self->deadline);
}

static bool is_past(uint64_t at, uint64_t now)
{
    return at && at <= now;
}

static void look_at_clock(fl_deadline *deadline)
{
    fl_http_transfer *self = transfer_of(deadline);
    uint64_t now = now_of(self);
    if (is_past(self->ends_at, now))
        fail(self, "timeout", "no end after %g s", (double)self->limits.timeout / 1000);
    else if (is_past(connects_by(self), now))
        fail(self, "timeout", NO_CONNECTION, (double)self->limits.connect_timeout / 1000);
    else if (is_past(moves_by(self, now), now))
        fail(self, "timeout", "no byte for %g s", (double)self->limits.idle_timeout / 1000);
    if (self->failure)
        fl_http_transfer_end(self, CURLE_OPERATION_TIMEDOUT);
    else
        arm(self);
}

static void begin(fl_http_transfer *self)
{
    if (self->begun_at || !self->client) return;
    self->begun_at = now_of(self);
    arm(self);
}

/* curl's callbacks: connecting */

static int resolver_starts(void *state, void *reserved, void *data)
{
    (void)state;
    (void)reserved;
    begin(data);
    return 0;
}

/* What it returns for a refused address makes curl try the next one of the host. */
static curl_socket_t open_socket(void *data, curlsocktype purpose, struct curl_sockaddr *address)
{
    (void)purpose;
    fl_http_transfer *self = data;
    begin(self);
    if (self->is_public && !fl_guard_is_public(&address->addr)) {
        self->was_refused = true;
        return CURL_SOCKET_BAD;
    }
    return fl_http_client_open_socket(self->client, address);
}

/* An idle connection may have been made for somebody without a guard. */
static int is_ready(void *data, char *address, char *own_address, int port, int own_port)
{
    (void)own_address;
    (void)port;
    (void)own_port;
    fl_http_transfer *self = data;
    if (self->is_public && !fl_guard_is_public_text(address)) {
        fail(self, "guard", "%s", NOT_PUBLIC);
        return CURL_PREREQFUNC_ABORT;
    }
    self->is_connected = true;
    self->moved_at = now_of(self);
    arm(self);
    return CURL_PREREQFUNC_OK;
}

/* curl's callbacks: the answer */

static bool is_status_line(const char *line, size_t size)
{
    return size > 5 && memcmp(line, "HTTP/", 5) == 0;
}

/* "HTTP/1.1 200 OK" */
static unsigned status_of(const char *line, size_t size)
{
    const char *space = memchr(line, ' ', size);
    unsigned status = 0;
    if (!space || line + size - space < 4) return 0;
    for (int i = 1; i <= 3; i++) {
        if (space[i] < '0' || space[i] > '9') return 0;
        status = status * 10 + (unsigned)(space[i] - '0');
    }
    return status;
}

/* What comes before the final answer, such as "100 Continue", is dropped, and so are trailers. */
static size_t head_came(char *line, size_t one, size_t size, void *data)
{
    fl_http_transfer *self = data;
    self->moved_at = now_of(self);
    if (self->is_mail || self->has_head) return one * size;
    if (is_status_line(line, size)) {
        fl_buffer_reset(&self->head, FL_HTTP_HEAD_MOST);
        self->status = status_of(line, size);
        return size;
    }
    if (self->head.size + size > FL_HTTP_HEAD_MOST) {
        fail(self, "too_large", "the answer's head is larger than %zu bytes", FL_HTTP_HEAD_MOST);
        return 0;
    }
    bool is_end = size > 0 && (line[0] == '\r' || line[0] == '\n');
    if (!is_end) fl_buffer_append(&self->head, line, size);
    self->has_head = is_end && self->status >= 200;
    tell(self, FL_HTTP_HEAD);
    return size;
}

static size_t body_came(char *data, size_t one, size_t size, void *owner)
{
    (void)one; /* 1, always */
    fl_http_transfer *self = owner;
    self->moved_at = now_of(self);
    if (self->streams && self->body.size >= FL_HTTP_STREAM_HIGH) {
        self->receive_paused = true;
        return CURL_WRITEFUNC_PAUSE;
    }
    if (!self->streams && self->body.size + size > self->limits.max_body) {
        fail(self, "too_large", "the answer's body is larger than %llu bytes",
             (unsigned long long)self->limits.max_body);
        return CURL_WRITEFUNC_ERROR;
    }
    fl_buffer_append(&self->body, data, size);
    if (self->body.failed) {
        fail(self, "memory", "no memory for the answer's body");
        return CURL_WRITEFUNC_ERROR;
    }
    tell(self, FL_HTTP_BODY);
    return size;
}

static int progressed(void *data, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                      curl_off_t up)
{
    (void)down_total;
    (void)up_total;
    fl_http_transfer *self = data;
    uint64_t moved = (uint64_t)down + (uint64_t)up;
    if (moved != self->moved && self->client) self->moved_at = now_of(self);
    self->moved = moved;
    return 0;
}

/* curl's callback: the request's body */

static size_t more_to_send(char *room, size_t one, size_t count, void *data)
{
    fl_http_transfer *self = data;
    size_t size = one * count;
    if (self->failure) return CURL_READFUNC_ABORT;
    if (size > self->upload.size) size = self->upload.size;
    if (size == 0 && !self->upload_ended) {
        self->send_paused = true;
        return CURL_READFUNC_PAUSE;
    }
    if (size == 0) return 0;
    memcpy(room, self->upload.data, size);
    fl_buffer_consume(&self->upload, size);
    tell(self, FL_HTTP_ROOM);
    return size;
}

/* making one */

static void report(fl_http_transfer *self)
{
    CURL *easy = self->easy;
    (void)curl_easy_setopt(easy, CURLOPT_PRIVATE, self);
    (void)curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, self->curls_message);
    (void)curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, head_came);
    (void)curl_easy_setopt(easy, CURLOPT_HEADERDATA, self);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, body_came);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEDATA, self);
    (void)curl_easy_setopt(easy, CURLOPT_READFUNCTION, more_to_send);
    (void)curl_easy_setopt(easy, CURLOPT_READDATA, self);
    (void)curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
    (void)curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, progressed);
    (void)curl_easy_setopt(easy, CURLOPT_XFERINFODATA, self);
    (void)curl_easy_setopt(easy, CURLOPT_RESOLVER_START_FUNCTION, resolver_starts);
    (void)curl_easy_setopt(easy, CURLOPT_RESOLVER_START_DATA, self);
    (void)curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    (void)curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, self);
    (void)curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, is_ready);
    (void)curl_easy_setopt(easy, CURLOPT_PREREQDATA, self);
}

/* QUICK_EXIT: a name that is still being looked up is not waited for when the transfer ends. */
static void behave(CURL *easy)
{
    (void)curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    (void)curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* no variable of the environment's */
}

fl_http_transfer *fl_http_transfer_new(void)
{
    fl_http_transfer *self = calloc(1, sizeof(*self));
    if (!self) return NULL;
    self->references = 1;
    self->easy = curl_easy_init();
    if (!self->easy) {
        free(self);
        return NULL;
    }
    report(self);
    behave(self->easy);
    return self;
}

void fl_http_transfer_hold(fl_http_transfer *self)
{
    self->references++;
}

static void free_order(fl_http_transfer *self)
{
    if (self->easy) curl_easy_cleanup(self->easy);
    curl_slist_free_all(self->headers);
    self->easy = NULL;
    self->headers = NULL;
    fl_buffer_close(&self->upload);
}

void fl_http_transfer_release(fl_http_transfer *self)
{
    if (--self->references > 0) return;
    free_order(self);
    fl_buffer_close(&self->head);
    fl_buffer_close(&self->body);
    fl_buffer_close(&self->taken);
    free(self);
}

int fl_http_transfer_start(fl_http_transfer *self, fl_http_client *client)
{
    CURL *easy = self->easy;
    (void)curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, fl_http_client_close_socket);
    (void)curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, client);
    /* Waiting for a connection of another's counts as connecting with curl, not with us. */
    bool waits = client->per_host || client->total;
    long patience = waits ? 0 : (long)self->limits.connect_timeout;
    (void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, patience);
    self->client = client;
    self->deadline.state = client->state;
    int status = fl_http_client_add(client, self);
    if (status < 0) {
        self->client = NULL;
        return status;
    }
    fl_http_transfer_hold(self);
    if (self->limits.timeout) self->ends_at = now_of(self) + self->limits.timeout;
    arm(self);
    return 0;
}

/* talking on a mail's connection */

static CURLcode hear(fl_http_transfer *self)
{
    char bytes[4096];
    size_t size = 0;
    CURLcode code;
    while ((code = curl_easy_recv(self->easy, bytes, sizeof(bytes), &size)) == CURLE_OK) {
        if (size == 0) return CURLE_GOT_NOTHING;
        fl_buffer_append(&self->body, bytes, size);
        if (self->body.failed) return CURLE_OUT_OF_MEMORY;
        if (self->body.size > FL_HTTP_STREAM_HIGH) return CURLE_WEIRD_SERVER_REPLY;
        self->moved_at = now_of(self);
    }
    return code == CURLE_AGAIN ? CURLE_OK : code;
}

static CURLcode say(fl_http_transfer *self)
{
    CURLcode code = CURLE_OK;
    while (self->upload.size && code == CURLE_OK) {
        size_t size = 0;
        code = curl_easy_send(self->easy, self->upload.data, self->upload.size, &size);
        fl_buffer_consume(&self->upload, size);
        if (size) self->moved_at = now_of(self);
    }
    int events = UV_READABLE | (self->upload.size ? UV_WRITABLE : 0);
    fl_http_client_watch(self->client, self->fd, self, events);
    return code == CURLE_AGAIN ? CURLE_OK : code;
}

/* What was said last is heard even when the other side has gone since. */
void fl_http_transfer_moved(fl_http_transfer *self)
{
    CURLcode code = say(self);
    if (code == CURLE_OK || code == CURLE_SEND_ERROR) {
        CURLcode heard = hear(self);
        if (code == CURLE_OK) code = heard;
    }
    if (code == CURLE_OK) {
        tell(self, FL_HTTP_BODY);
        tell(self, FL_HTTP_ROOM);
    } else {
        fl_http_transfer_end(self, code);
    }
}

void fl_http_transfer_done(fl_http_transfer *self, CURLcode code)
{
    self->fd = CURL_SOCKET_BAD;
    if (self->is_mail && code == CURLE_OK)
        code = curl_easy_getinfo(self->easy, CURLINFO_ACTIVESOCKET, &self->fd);
    if (!self->is_mail || code != CURLE_OK || self->fd == CURL_SOCKET_BAD) {
        fl_http_transfer_end(self, code);
        return;
    }
    self->is_connected = self->has_head = true;
    self->moved_at = now_of(self);
    arm(self);
    tell(self, FL_HTTP_HEAD);
    fl_http_transfer_moved(self);
}

/* while it runs */

static void go_on(fl_http_transfer *self)
{
    int paused =
        (self->receive_paused ? CURLPAUSE_RECV : 0) | (self->send_paused ? CURLPAUSE_SEND : 0);
    (void)curl_easy_pause(self->easy, paused);
}

void fl_http_transfer_take(fl_http_transfer *self)
{
    fl_buffer empty = self->taken;
    fl_buffer_reset(&empty, FL_HTTP_STREAM_HIGH * 2);
    self->taken = self->body;
    self->body = empty;
    if (!self->receive_paused || self->phase != FL_HTTP_RUNNING) return;
    self->receive_paused = false;
    self->moved_at = now_of(self);
    go_on(self);
}

static void may_send(fl_http_transfer *self)
{
    if (!self->send_paused || self->phase != FL_HTTP_RUNNING) return;
    self->send_paused = false;
    self->moved_at = now_of(self);
    go_on(self);
}

bool fl_http_transfer_send(fl_http_transfer *self, const char *data, size_t size)
{
    if (self->phase == FL_HTTP_ENDED) return true;
    fl_buffer_append(&self->upload, data, size);
    if (self->upload.failed) fail(self, "memory", "no memory for the request's body");
    if (self->is_mail && self->has_head)
        (void)say(self); /* what fails is heard of when the socket is ready */
    else
        may_send(self);
    return self->upload.size < FL_HTTP_STREAM_HIGH;
}

void fl_http_transfer_finish(fl_http_transfer *self)
{
    self->upload_ended = true;
    may_send(self);
}

/* the end */

static double seconds(CURL *easy, CURLINFO info)
{
    curl_off_t microseconds = 0;
    (void)curl_easy_getinfo(easy, info, &microseconds);
    return (double)microseconds / 1e6;
}

void fl_http_transfer_look(fl_http_transfer *self)
{
    CURL *easy = self->easy;
    if (!easy) return;
    (void)curl_easy_getinfo(easy, CURLINFO_HTTP_VERSION, &self->version);
    (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &self->reply);
    self->times[FL_HTTP_RESOLVED] = seconds(easy, CURLINFO_NAMELOOKUP_TIME_T);
    self->times[FL_HTTP_CONNECTED] = seconds(easy, CURLINFO_CONNECT_TIME_T);
    self->times[FL_HTTP_TLS] = seconds(easy, CURLINFO_APPCONNECT_TIME_T);
    self->times[FL_HTTP_FIRST_BYTE] = seconds(easy, CURLINFO_STARTTRANSFER_TIME_T);
    self->times[FL_HTTP_TOTAL] = seconds(easy, CURLINFO_TOTAL_TIME_T);
}

void fl_http_transfer_end(fl_http_transfer *self, CURLcode code)
{
    keep_result(self, code);
    fl_deadline_stop(&self->deadline);
    fl_http_client *client = self->client;
    fl_http_transfer_look(self);
    fl_http_client_remove(client, self);
    self->client = NULL;
    self->phase = FL_HTTP_ENDED;
    free_order(self);
    for (int what = 0; what < FL_HTTP_WAITS; what++) tell(self, (fl_http_what)what);
    fl_http_transfer_release(self);
}

void fl_http_transfer_cancel(fl_http_transfer *self)
{
    if (!self->client) return;
    fail(self, "cancelled", "cancelled");
    fl_http_transfer_end(self, CURLE_ABORTED_BY_CALLBACK);
}
