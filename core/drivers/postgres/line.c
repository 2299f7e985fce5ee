#include "line.h"

#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <uv.h>

#include "farewell.h"
#include "state.h"

#define CANCEL_STACK ((size_t)512 << 10)
#define GIVEN_UP_ASKS 4
#define GIVEN_UP_PAUSE 50 /* ms after the first; after each later one four times as many */

typedef struct cancelling {
    fl_letter letter;
    fl_pg_line *line;
    fl_address *reply; /* NULL: nobody is told */
    void (*ended)(fl_db *db, fl_pg_connection *connection);
} cancelling;

static void release(fl_pg_line *line)
{
    if (atomic_fetch_sub(&line->references, 1) != 1) return;
    PQfreeCancel(line->cancel);
    fl_address_release(line->address);
    (void)pthread_mutex_destroy(&line->lock);
    free(line);
}

/* cancelling */

static void free_cancelling(cancelling *self)
{
    if (self->reply) fl_address_release(self->reply);
    release(self->line);
    free(self);
}

static void drop_letter(fl_letter *letter)
{
    free_cancelling((cancelling *)letter);
}

static void deliver_letter(fl_letter *letter, fl_state *state)
{
    (void)state;
    cancelling *self = (cancelling *)letter;
    self->ended(self->line->db, self->line->connection);
    free_cancelling(self);
}

/* It returns when the server has closed the connection over which it was asked: then it has told
 * the one that is to be cancelled. */
static void ask_once(const fl_pg_line *line)
{
    char why[256];
    (void)PQcancel(line->cancel, why, sizeof(why));
}

/* Nobody learns whether it was heard, and the server does not heed it before it comes to the
 * statement; as nothing follows that could be hit, it is asked more than once. */
static void ask_repeatedly(const fl_pg_line *line)
{
    unsigned pause = GIVEN_UP_PAUSE;
    ask_once(line);
    for (int i = 1; i < GIVEN_UP_ASKS; i++, pause *= 4) {
        uv_sleep(pause);
        ask_once(line);
    }
}

static void *run_cancelling(void *data)
{
    cancelling *self = data;
    if (self->reply)
        ask_once(self->line);
    else
        ask_repeatedly(self->line);
    self->letter = (fl_letter){.deliver = deliver_letter, .drop = drop_letter};
    if (!self->reply || fl_address_post(self->reply, &self->letter) < 0) free_cancelling(self);
    return NULL;
}

static int start_thread(cancelling *self)
{
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes) != 0) return UV_ENOMEM;
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attributes, CANCEL_STACK);
    int status = pthread_create(&thread, &attributes, run_cancelling, self);
    (void)pthread_attr_destroy(&attributes);
    return status ? UV_EAGAIN : 0;
}

static int start_cancelling(fl_pg_line *line, fl_address *reply,
                            void (*ended)(fl_db *db, fl_pg_connection *connection))
{
    cancelling *self = calloc(1, sizeof(*self));
    if (!self) return UV_ENOMEM;
    *self = (cancelling){.line = line, .reply = reply, .ended = ended};
    atomic_fetch_add(&line->references, 1);
    if (reply) fl_address_hold(reply);
    int status = start_thread(self);
    if (status < 0) free_cancelling(self);
    return status;
}

/* the loan */

static void shut_down(fl_pg_line *line)
{
    (void)pthread_mutex_lock(&line->lock);
    if (line->fd >= 0) (void)shutdown(line->fd, SHUT_RDWR);
    bool is_open = line->fd >= 0;
    (void)pthread_mutex_unlock(&line->lock);
    if (is_open && atomic_load(&line->is_busy)) (void)start_cancelling(line, NULL, NULL);
}

/* The server notices that nobody is there when it reads next; what runs is cancelled. */
static void released(fl_lease *lease)
{
    fl_pg_line *line = (fl_pg_line *)((char *)lease - offsetof(fl_pg_line, lease));
    shut_down(line);
    fl_quota_give(line->slot);
    release(line);
}

static int lend(fl_pg_line *line, fl_db *db)
{
    line->lease.released = released;
    int status = fl_db_take_slot(db, &line->slot);
    if (status < 0) return status;
    atomic_store(&line->references, 2);
    status = fl_address_lend(line->address, &line->lease);
    if (status < 0) {
        atomic_store(&line->references, 1);
        fl_quota_give(line->slot);
    }
    return status;
}

int fl_pg_line_new(fl_pg_line **out, fl_db *db, fl_pg_connection *connection)
{
    fl_pg_line *line = calloc(1, sizeof(*line));
    if (!line) return UV_ENOMEM;
    line->db = db;
    line->connection = connection;
    line->address = db->state->address;
    fl_address_hold(line->address);
    line->fd = -1;
    atomic_init(&line->references, 1);
    atomic_init(&line->is_busy, false);
    (void)pthread_mutex_init(&line->lock, NULL);
    int status = lend(line, db);
    if (status < 0)
        release(line);
    else
        *out = line;
    return status;
}

int fl_pg_line_open(fl_pg_line *line, PGconn *conn)
{
    line->cancel = PQgetCancel(conn);
    if (!line->cancel) return UV_ENOMEM;
    (void)pthread_mutex_lock(&line->lock);
    line->fd = PQsocket(conn);
    (void)pthread_mutex_unlock(&line->lock);
    return 0;
}

int fl_pg_line_cancel(fl_pg_line *line, void (*ended)(fl_db *db, fl_pg_connection *connection))
{
    return start_cancelling(line, line->address, ended);
}

void fl_pg_line_give_up(fl_pg_line *line)
{
    (void)start_cancelling(line, NULL, NULL);
}

void fl_pg_line_part(fl_pg_line *line, fl_db *db)
{
    if (fl_address_give_back(line->address, &line->lease)) {
        fl_farewell_begin(db, line->fd, line->slot);
        release(line);
    }
}

void fl_pg_line_close(fl_pg_line *line)
{
    line->connection = NULL;
    (void)pthread_mutex_lock(&line->lock);
    line->fd = -1;
    (void)pthread_mutex_unlock(&line->lock);
    if (fl_address_give_back(line->address, &line->lease)) {
        fl_quota_give(line->slot);
        release(line);
    }
    release(line);
}
