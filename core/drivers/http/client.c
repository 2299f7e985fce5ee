#include "client.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "readiness.h"
#include "thread.h"
#include "transfer.h"

#define IDLE_CONNECTIONS 100 /* kept for later requests */
#define RUNNING_MOST 100
#define WAITING_MOST 1000
#define KEEP 60000 /* ms */

struct fl_http_socket {
    fl_http_socket *next, **link;
    fl_http_client *client;
    fl_readiness readiness;
    fl_http_transfer *talking; /* whose connection curl has handed over; NULL: curl's */
    bool is_lent;              /* curl opened it itself, and closes it */
    bool is_broken;
};

static void global_init(void)
{
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
}

static void init_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, global_init);
}

/* what has ended */

static fl_http_transfer *transfer_of(CURL *easy)
{
    void *transfer = NULL;
    (void)curl_easy_getinfo(easy, CURLINFO_PRIVATE, &transfer);
    return transfer;
}

static void look(fl_http_client *self)
{
    int left;
    for (CURLMsg *message; (message = curl_multi_info_read(self->multi, &left));)
        if (message->msg == CURLMSG_DONE)
            fl_http_transfer_done(transfer_of(message->easy_handle), message->data.result);
}

static void act(fl_http_client *self, curl_socket_t fd, int events)
{
    int running;
    (void)curl_multi_socket_action(self->multi, fd, events, &running);
    look(self);
}

/* time */

static fl_http_client *client_of_timer(fl_deadline *timer)
{
    return (fl_http_client *)((char *)timer - offsetof(fl_http_client, timer));
}

static fl_http_socket *find_broken(const fl_http_client *self)
{
    fl_http_socket *socket = self->sockets;
    while (socket && !socket->is_broken) socket = socket->next;
    return socket;
}

/* Sockets that could not be watched any more after their state had moved are told here. */
static void timer_rang(fl_deadline *timer)
{
    fl_http_client *self = client_of_timer(timer);
    for (fl_http_socket *broken; (broken = find_broken(self));) {
        broken->is_broken = false;
        if (broken->talking)
            fl_http_transfer_moved(broken->talking);
        else
            act(self, broken->readiness.fd, CURL_CSELECT_ERR);
    }
    act(self, CURL_SOCKET_TIMEOUT, 0);
}

static int set_timer(CURLM *multi, long milliseconds, void *data)
{
    (void)multi;
    fl_http_client *self = data;
    if (milliseconds < 0)
        fl_deadline_stop(&self->timer);
    else
        fl_thread_start_deadline(self->state->thread, &self->timer, (uint64_t)milliseconds,
                                 timer_rang);
    return 0;
}

/* sockets */

static fl_http_socket *socket_of(fl_readiness *readiness)
{
    return (fl_http_socket *)((char *)readiness - offsetof(fl_http_socket, readiness));
}

/* `socket` may be gone when curl has acted. A move is no time to act: others are being moved. */
static void ready(fl_readiness *readiness, int status, int events)
{
    fl_http_socket *socket = socket_of(readiness);
    fl_http_client *self = socket->client;
    int mask = (events & UV_READABLE ? CURL_CSELECT_IN : 0) |
               (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0);
    if (status < 0 && !readiness->handle) {
        socket->is_broken = true;
        (void)set_timer(self->multi, 0, self);
    } else if (socket->talking) {
        fl_http_transfer_moved(socket->talking);
    } else {
        act(self, readiness->fd, status < 0 ? CURL_CSELECT_ERR : mask);
    }
}

static fl_http_socket *add_socket(fl_http_client *self, int fd, bool is_lent)
{
    fl_http_socket *socket = calloc(1, sizeof(*socket));
    if (!socket) return NULL;
    if (fl_readiness_open(&socket->readiness, self->state, fd, ready) < 0) {
        free(socket);
        return NULL;
    }
    socket->client = self;
    socket->is_lent = is_lent;
    socket->next = self->sockets;
    socket->link = &self->sockets;
    if (socket->next) socket->next->link = &socket->next;
    self->sockets = socket;
    return socket;
}

static void remove_socket(fl_http_socket *socket)
{
    fl_readiness_close(&socket->readiness);
    *socket->link = socket->next;
    if (socket->next) socket->next->link = socket->link;
    free(socket);
}

static fl_http_socket *find_socket(const fl_http_client *self, int fd)
{
    fl_http_socket *socket = self->sockets;
    while (socket && socket->readiness.fd != fd) socket = socket->next;
    return socket;
}

static void want(fl_http_socket *socket, int what)
{
    if (!socket->readiness.handle) return;
    fl_readiness_want(&socket->readiness, (what & CURL_POLL_IN ? UV_READABLE : 0) |
                                              (what & CURL_POLL_OUT ? UV_WRITABLE : 0));
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *known)
{
    (void)easy;
    fl_http_client *self = data;
    fl_http_socket *socket = known ? known : find_socket(self, fd);
    if (what == CURL_POLL_REMOVE) {
        if (socket && socket->is_lent)
            remove_socket(socket);
        else if (socket)
            want(socket, 0);
        return 0;
    }
    if (!socket) socket = add_socket(self, fd, true);
    if (!socket) return -1;
    (void)curl_multi_assign(self->multi, fd, socket);
    want(socket, what);
    return 0;
}

void fl_http_client_watch(fl_http_client *self, curl_socket_t fd, fl_http_transfer *transfer,
                          int events)
{
    fl_http_socket *socket = find_socket(self, fd);
    if (!socket) return;
    socket->talking = transfer;
    if (socket->readiness.handle) fl_readiness_want(&socket->readiness, events);
}

curl_socket_t fl_http_client_open_socket(fl_http_client *self, const struct curl_sockaddr *address)
{
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    if (fd < 0) return CURL_SOCKET_BAD;
    if (add_socket(self, fd, false)) return fd;
    (void)close(fd);
    return CURL_SOCKET_BAD;
}

int fl_http_client_close_socket(void *client, curl_socket_t fd)
{
    fl_http_socket *socket = find_socket(client, fd);
    if (socket) remove_socket(socket);
    return close(fd);
}

/* opening and closing */

static CURLM *make_multi(fl_http_client *self)
{
    CURLM *multi = curl_multi_init();
    if (!multi) return NULL;
    (void)curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
    (void)curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, self);
    (void)curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer);
    (void)curl_multi_setopt(multi, CURLMOPT_TIMERDATA, self);
    (void)curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)IDLE_CONNECTIONS);
    return multi;
}

static void free_multi(fl_http_client *self)
{
    (void)curl_multi_cleanup(self->multi);
    self->multi = NULL;
    while (self->sockets) remove_socket(self->sockets);
    fl_deadline_stop(&self->timer);
}

int fl_http_client_open(fl_http_client *self, fl_state *state)
{
    init_once();
    *self = (fl_http_client){
        .state = state, .running_most = RUNNING_MOST, .waiting_most = WAITING_MOST, .keep = KEEP};
    self->timer.state = self->idle.state = state;
    self->multi = make_multi(self);
    return self->multi ? 0 : UV_ENOMEM;
}

void fl_http_client_limit(fl_http_client *self)
{
    (void)curl_multi_setopt(self->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)self->per_host);
    (void)curl_multi_setopt(self->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)self->total);
}

void fl_http_client_close(fl_http_client *self)
{
    if (!self->multi) return;
    self->running_most = 0;
    while (self->waiting) fl_http_transfer_cancel(self->waiting);
    while (self->running) fl_http_transfer_cancel(self->running);
    fl_deadline_stop(&self->idle);
    free_multi(self);
}

/* being idle */

static fl_http_client *client_of_idle(fl_deadline *idle)
{
    return (fl_http_client *)((char *)idle - offsetof(fl_http_client, idle));
}

/* curl lets idle connections go only when it makes others, even those that their servers have
 * closed: another one takes its place. */
static void let_go(fl_deadline *idle)
{
    fl_http_client *self = client_of_idle(idle);
    CURLM *fresh = make_multi(self);
    if (!fresh) return;
    free_multi(self);
    self->multi = fresh;
    fl_http_client_limit(self);
}

static void look_whether_idle(fl_http_client *self)
{
    if (self->running_count == 0 && self->waiting_count == 0)
        fl_thread_start_deadline(self->state->thread, &self->idle, self->keep, let_go);
}

/* transfers */

static int run(fl_http_client *self, fl_http_transfer *transfer)
{
    if (curl_multi_add_handle(self->multi, transfer->easy) != CURLM_OK) return UV_ENOMEM;
    transfer->next = self->running;
    if (transfer->next) transfer->next->link = &transfer->next;
    transfer->link = &self->running;
    self->running = transfer;
    self->running_count++;
    transfer->phase = FL_HTTP_RUNNING;
    return 0;
}

static void enqueue(fl_http_client *self, fl_http_transfer *transfer)
{
    transfer->next = NULL;
    transfer->link = self->last_waiting ? &self->last_waiting->next : &self->waiting;
    *transfer->link = transfer;
    self->last_waiting = transfer;
    self->waiting_count++;
    transfer->phase = FL_HTTP_WAITING;
}

static fl_http_transfer *holder_of(fl_http_transfer **link)
{
    return (fl_http_transfer *)((char *)link - offsetof(fl_http_transfer, next));
}

static void unlink_transfer(fl_http_client *self, fl_http_transfer *transfer)
{
    *transfer->link = transfer->next;
    if (transfer->next) transfer->next->link = transfer->link;
    if (self->last_waiting == transfer)
        self->last_waiting = transfer->link == &self->waiting ? NULL : holder_of(transfer->link);
    transfer->next = NULL;
    transfer->link = NULL;
}

static void leave_queue(fl_http_client *self, fl_http_transfer *transfer)
{
    unlink_transfer(self, transfer);
    self->waiting_count--;
}

static void run_waiting(fl_http_client *self)
{
    while (self->waiting && self->running_count < self->running_most) {
        fl_http_transfer *next = self->waiting;
        leave_queue(self, next);
        if (run(self, next) < 0) {
            enqueue(self, next); /* where its end expects it */
            fl_http_transfer_end(next, CURLE_OUT_OF_MEMORY);
        }
    }
}

int fl_http_client_add(fl_http_client *self, fl_http_transfer *transfer)
{
    fl_deadline_stop(&self->idle);
    if (self->running_count < self->running_most) return run(self, transfer);
    if (self->waiting_count >= self->waiting_most) return UV_EAGAIN;
    enqueue(self, transfer);
    return 0;
}

void fl_http_client_remove(fl_http_client *self, fl_http_transfer *transfer)
{
    if (transfer->phase == FL_HTTP_WAITING) {
        leave_queue(self, transfer);
    } else {
        unlink_transfer(self, transfer);
        self->running_count--;
        (void)curl_multi_remove_handle(self->multi, transfer->easy);
        run_waiting(self);
    }
    look_whether_idle(self);
}
