#include "link.h"

#include <errmsg.h>
#include <mysqld_error.h>
#include <stdlib.h>
#include <uv.h>

#include "call.h"
#include "state.h"
#include "step.h"
#include "thread.h"

#define DOOM 10000      /* ms that a stopped statement may go on */
#define FIRST_PAUSE 100 /* ms */
#define LONGEST_PAUSE 1000

/* queries */

static bool begin_query(fl_mariadb_link *self, fl_query *query)
{
    self->query = (fl_mariadb_query *)query;
    self->query->link = self;
    self->query->at = 0;
    self->query->began = uv_hrtime();
    self->sent = self->was_interrupted = false;
    if (query->kind == FL_QUERY_ACQUIRE) {
        self->session = (fl_mariadb_session *)query->session;
        self->session->link = self;
        self->db->sessions++;
    }
    switch ((int)query->kind) {
    case FL_QUERY_BATCH:
        return fl_mariadb_ask(self, FL_LINK_BEGINNING,
                              self->session ? "savepoint " FL_MARIADB_BATCH_POINT
                                            : "start transaction");
    case FL_QUERY_MORE: return fl_mariadb_call_more(self);
    default: return query->call_count ? fl_mariadb_call_begin(self) : fl_mariadb_finish(self);
    }
}

/* between queries */

static bool is_stale_stream(const fl_mariadb_link *self)
{
    if (!self->stream) return false;
    if (self->stream_ended || self->is_released || !self->session) return true;
    const fl_query *next = self->session->line.first;
    return self->was_killed || (next && next->kind != FL_QUERY_MORE);
}

static bool in_transaction(const fl_mariadb_link *self)
{
    return (self->wire.mysql->server_status & SERVER_STATUS_IN_TRANS) != 0;
}

static bool commits_by_itself(const fl_mariadb_link *self)
{
    return (self->wire.mysql->server_status & SERVER_STATUS_AUTOCOMMIT) != 0;
}

/* What the session has left goes. */
static bool clean(fl_mariadb_link *self)
{
    if (self->is_dirty) return fl_mariadb_go(self, FL_LINK_RESETTING, FL_WIRE_RESET);
    if (in_transaction(self)) return fl_mariadb_ask(self, FL_LINK_ROLLING_BACK, "rollback");
    self->is_released = false;
    return true;
}

static bool serve_session(fl_mariadb_link *self)
{
    fl_query *query = fl_mariadb_line_take(&self->session->line);
    if (query) return begin_query(self, query);
    fl_mariadb_wire_listen(&self->wire, !self->stream);
    return false;
}

static bool serve_pool(fl_mariadb_link *self)
{
    if (in_transaction(self) || !commits_by_itself(self)) {
        fl_mariadb *db = self->db;
        fl_mariadb_link_close(self);
        fl_mariadb_serve(db);
        return false;
    }
    bool is_pressed = fl_db_is_pressed(&self->db->db, self->since);
    fl_query *query = is_pressed ? NULL : fl_mariadb_line_take(&self->db->line);
    if (query) return begin_query(self, query);
    fl_mariadb_become_idle(self);
    fl_mariadb_wire_listen(&self->wire, true);
    if (!self->db->line.first || fl_db_is_pressed(&self->db->db, self->since)) return false;
    fl_mariadb_leave_idle(self);
    return true;
}

/* The server stops sending; what is under way is read to its end. */
static bool close_stream(fl_mariadb_link *self)
{
    MYSQL_STMT *stream = self->stream;
    if (!self->stream_ended && !self->was_killed) {
        fl_mariadb_link_stop(self);
        return !self->victim.asked;
    }
    self->stream = NULL;
    self->handle = stream;
    self->is_fresh = true; /* it goes with the link, should that be lost meanwhile */
    return fl_mariadb_free(self, FL_LINK_CLOSING, stream);
}

static bool find_work(fl_mariadb_link *self)
{
    if (self->victim.asked) return false; /* a statement would be hit in place of the other */
    fl_deadline_stop(&self->again);
    fl_deadline_stop(&self->doom);
    if (self->is_cut) return fl_mariadb_give_up(self);
    if (is_stale_stream(self)) return close_stream(self);
    if (self->leaving) {
        self->handle = self->leaving;
        self->leaving = NULL;
        self->is_fresh = true;
        return fl_mariadb_free(self, FL_LINK_CLOSING, self->handle);
    }
    if (self->was_killed) {
        self->was_killed = false;
        if (!self->was_interrupted || self->was_asked_again)
            return fl_mariadb_ask(self, FL_LINK_ABSORBING, "do 0");
    }
    if (self->is_released) return clean(self);
    return self->session ? serve_session(self) : serve_pool(self);
}

static bool has_absorbed(fl_mariadb_link *self)
{
    if (self->wire.status != 0 && mysql_errno(self->wire.mysql) != ER_QUERY_INTERRUPTED)
        return fl_mariadb_give_up(self);
    self->phase = FL_LINK_FREE;
    return true;
}

static bool has_closed(fl_mariadb_link *self)
{
    self->handle = NULL;
    self->is_fresh = false;
    if (fl_mariadb_is_over(self)) return fl_mariadb_give_up(self);
    self->phase = FL_LINK_FREE;
    return true;
}

static bool has_cleaned(fl_mariadb_link *self)
{
    if (self->wire.status != 0) return fl_mariadb_give_up(self);
    self->phase = FL_LINK_FREE;
    return true;
}

/* The server has forgotten what was prepared. */
static bool has_reset(fl_mariadb_link *self)
{
    if (self->wire.status != 0) return fl_mariadb_give_up(self);
    fl_mariadb_prepared_close(&self->prepared);
    self->is_dirty = false;
    return fl_mariadb_ask(self, FL_LINK_SETTING_UP, fl_mariadb_setup);
}

static bool has_undone(fl_mariadb_link *self)
{
    if (self->wire.status != 0 && fl_mariadb_is_over(self)) return fl_mariadb_give_up(self);
    return fl_mariadb_finish(self); /* a deadlock has taken the savepoint along with everything */
}

static bool could_not_connect(fl_mariadb_link *self)
{
    fl_mariadb *db = self->db;
    fl_mariadb_fault fault;
    fl_mariadb_fault_of(&fault, self->wire.mysql, NULL);
    if (self->wire.failure) fl_mariadb_fault_set(&fault, CR_CONN_HOST_ERROR, self->wire.failure);
    fl_mariadb_link_close(self);
    fl_mariadb_failed(db, &fault);
    return false;
}

static bool has_connected(fl_mariadb_link *self)
{
    if (self->wire.status != 0) return could_not_connect(self);
    self->db->connecting--;
    self->phase = FL_LINK_FREE;
    self->since = uv_hrtime();
    self->victim.id = mysql_thread_id(self->wire.mysql);
    fl_mariadb_connected(self->db);
    return true;
}

static bool step(fl_mariadb_link *self)
{
    bool failed = self->wire.status != 0;
    switch (self->phase) {
    case FL_LINK_CONNECTING: return has_connected(self);
    case FL_LINK_FREE: return find_work(self);
    case FL_LINK_BEGINNING:
        return failed ? fl_mariadb_trouble(self, NULL) : fl_mariadb_call_begin(self);
    case FL_LINK_EVICTING:
    case FL_LINK_PREPARING:
    case FL_LINK_EXECUTING:
    case FL_LINK_FETCHING:
    case FL_LINK_BREATHING:
    case FL_LINK_FINDING_MORE:
    case FL_LINK_ASKING:
    case FL_LINK_READING:
    case FL_LINK_ASKING_MORE: return fl_mariadb_call_step(self);
    case FL_LINK_COMMITTING:
        return failed ? fl_mariadb_trouble(self, NULL) : fl_mariadb_finish(self);
    case FL_LINK_UNDOING: return has_undone(self);
    case FL_LINK_CLOSING: return has_closed(self);
    case FL_LINK_ABSORBING: return has_absorbed(self);
    case FL_LINK_ROLLING_BACK: return has_cleaned(self);
    case FL_LINK_RESETTING: return has_reset(self);
    case FL_LINK_SETTING_UP: return has_cleaned(self);
    case FL_LINK_CLOSED: return false;
    }
    return false;
}

static void run(fl_mariadb_link *self)
{
    self->is_stepping = true;
    self->turn_began = 0;
    while (!self->is_dead && step(self)) continue;
    self->is_stepping = false;
    if (self->is_dead) free(self);
}

/* what comes from outside */

static fl_mariadb_link *link_of_wire(fl_mariadb_wire *wire)
{
    return (fl_mariadb_link *)((char *)wire - offsetof(fl_mariadb_link, wire));
}

static void ended(fl_mariadb_wire *wire)
{
    run(link_of_wire(wire));
}

static void heard(fl_mariadb_wire *wire)
{
    fl_mariadb_link *self = link_of_wire(wire);
    fl_mariadb_fault fault;
    fl_mariadb_fault_set(&fault, CR_SERVER_LOST, "the server has closed it");
    (void)fl_mariadb_lose(self, &fault);
}

static void cut(fl_mariadb_link *self)
{
    self->is_cut = true;
    fl_mariadb_wire_cut(&self->wire);
}

/* The server stops nothing when it has not begun the statement yet. */
static void ask_again(fl_deadline *deadline)
{
    fl_mariadb_link *self =
        (fl_mariadb_link *)((char *)deadline - offsetof(fl_mariadb_link, again));
    self->was_asked_again = true;
    fl_mariadb_killer_add(&self->db->killer, &self->victim);
}

static void look_again(fl_mariadb_link *self)
{
    fl_thread_start_deadline(self->db->db.state->thread, &self->again, self->pause, ask_again);
    self->pause = self->pause < LONGEST_PAUSE / 2 ? 2 * self->pause : LONGEST_PAUSE;
}

static void told(fl_mariadb_victim *victim, bool done)
{
    fl_mariadb_link *self = (fl_mariadb_link *)((char *)victim - offsetof(fl_mariadb_link, victim));
    if (done) {
        self->was_killed = true;
        look_again(self); /* until what runs has ended */
    } else {
        cut(self);
    }
    fl_mariadb_link_kick(self);
}

static void doomed(fl_deadline *deadline)
{
    cut((fl_mariadb_link *)((char *)deadline - offsetof(fl_mariadb_link, doom)));
}

int fl_mariadb_link_open(fl_mariadb *db)
{
    fl_mariadb_link *self = calloc(1, sizeof(*self));
    if (!self) return UV_ENOMEM;
    int status = fl_mariadb_wire_open(&self->wire, &db->db, true);
    if (status < 0) {
        free(self);
        return status;
    }
    self->db = db;
    self->wire.ended = ended;
    self->wire.heard = heard;
    self->victim.told = told;
    self->breath.state = self->again.state = self->doom.state = db->db.state;
    fl_mariadb_enlist(self);
    db->connecting++;
    self->phase = FL_LINK_CONNECTING;
    if (fl_mariadb_wire_start(&self->wire, FL_WIRE_CONNECT, db->db.connect_timeout)) run(self);
    return 0;
}

void fl_mariadb_link_kick(fl_mariadb_link *self)
{
    if (self->is_stepping || self->wire.call != FL_WIRE_NOTHING) return;
    if (fl_deadline_started(&self->breath)) return;
    fl_mariadb_leave_idle(self);
    run(self);
}

void fl_mariadb_link_stop(fl_mariadb_link *self)
{
    if (self->victim.asked || self->was_killed) return;
    self->pause = FIRST_PAUSE;
    self->was_asked_again = false;
    fl_thread_start_deadline(self->db->db.state->thread, &self->doom, DOOM, doomed);
    fl_mariadb_killer_add(&self->db->killer, &self->victim);
}
