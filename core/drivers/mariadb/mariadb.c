#include "mariadb.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "link.h"
#include "state.h"
#include "thread.h"

#define FIRST_PAUSE 50 /* ms until it is tried again to connect */
#define LONGEST_PAUSE 500
#define REFUSED_PAUSE 2000
#define NANOSECONDS 1000000u /* of a millisecond */

/* lines */

static fl_mariadb_line *line_of(fl_query *query)
{
    return ((fl_mariadb_query *)query)->line;
}

static void set_line(fl_query *query, fl_mariadb_line *line)
{
    ((fl_mariadb_query *)query)->line = line;
}

void fl_mariadb_line_append(fl_mariadb_line *line, fl_query *query)
{
    query->next = NULL;
    query->link = line->last ? &line->last->next : &line->first;
    *query->link = query;
    line->last = query;
    line->count++;
    set_line(query, line);
}

void fl_mariadb_line_prepend(fl_mariadb_line *line, fl_query *query)
{
    query->next = line->first;
    query->link = &line->first;
    if (query->next)
        query->next->link = &query->next;
    else
        line->last = query;
    line->first = query;
    line->count++;
    set_line(query, line);
}

static fl_query *query_of_link(fl_mariadb_line *line, fl_query **link)
{
    if (link == &line->first) return NULL;
    return (fl_query *)((char *)link - offsetof(fl_query, next));
}

void fl_mariadb_line_remove(fl_query *query)
{
    fl_mariadb_line *line = line_of(query);
    *query->link = query->next;
    if (query->next)
        query->next->link = query->link;
    else
        line->last = query_of_link(line, query->link);
    query->link = NULL;
    line->count--;
    set_line(query, NULL);
}

fl_query *fl_mariadb_line_take(fl_mariadb_line *line)
{
    fl_query *first = line->first;
    if (first) fl_mariadb_line_remove(first);
    return first;
}

/* links */

/* It serves nobody else while a session has it, or a query that takes long. */
static bool is_bound(const fl_mariadb_link *link, uint64_t now)
{
    return link->session || (link->query && now - link->query->began >= FL_QUOTA_TURN);
}

static void tell(fl_mariadb *self)
{
    unsigned bound = 0;
    uint64_t now = uv_hrtime();
    for (const fl_mariadb_link *each = self->links; each; each = each->next)
        bound += is_bound(each, now);
    fl_db_tell(&self->db, self->idle_count, self->count - bound, self->line.count);
}

void fl_mariadb_become_idle(fl_mariadb_link *self)
{
    fl_mariadb *db = self->db;
    self->idle_since = uv_hrtime();
    self->next_idle = db->idle;
    if (self->next_idle) self->next_idle->idle_link = &self->next_idle;
    self->idle_link = &db->idle;
    db->idle = self;
    db->idle_count++;
    tell(db);
}

void fl_mariadb_leave_idle(fl_mariadb_link *self)
{
    if (!self->idle_link) return;
    *self->idle_link = self->next_idle;
    if (self->next_idle) self->next_idle->idle_link = self->idle_link;
    self->idle_link = NULL;
    self->db->idle_count--;
}

void fl_mariadb_enlist(fl_mariadb_link *self)
{
    fl_mariadb *db = self->db;
    self->next = db->links;
    if (self->next) self->next->link = &self->next;
    self->link = &db->links;
    db->links = self;
    db->count++;
}

void fl_mariadb_delist(fl_mariadb_link *self)
{
    fl_mariadb_leave_idle(self);
    *self->link = self->next;
    if (self->next) self->next->link = self->link;
    self->db->count--;
    if (self->phase == FL_LINK_CONNECTING) self->db->connecting--;
}

/* how long queries wait */

static bool is_away(const fl_mariadb *self)
{
    return self->failures > 0 && self->count == self->connecting;
}

static uint64_t patience_of(const fl_mariadb *self)
{
    uint64_t patience = self->db.pool_timeout, other = self->db.connect_timeout;
    if (!is_away(self) || other == 0) return patience;
    return patience && patience < other ? patience : other;
}

static void fail_waiting(fl_mariadb *self, fl_query *query)
{
    fl_mariadb_line_remove(query);
    if (self->failures > 0)
        fl_query_fail(query, "connection", 503, "cannot connect to %s: %s", self->db.name,
                      self->fault.message);
    else
        fl_query_fail(query, "pool_timeout", 503, "waited %llu ms for one of %u connections to %s",
                      (unsigned long long)self->db.pool_timeout, self->db.pool, self->db.name);
    fl_query_done(query);
}

static void expire(fl_deadline *deadline);

/* The first in line has waited longest. */
static void watch_line(fl_mariadb *self)
{
    fl_deadline_stop(&self->expiry);
    uint64_t patience = patience_of(self) * NANOSECONDS;
    uint64_t now = uv_hrtime();
    fl_query *first;
    while ((first = self->line.first) != NULL && patience) {
        uint64_t waited = now > first->submitted ? now - first->submitted : 0;
        if (waited < patience) {
            fl_thread_start_deadline(self->db.state->thread, &self->expiry,
                                     (patience - waited) / NANOSECONDS + 1, expire);
            return;
        }
        fail_waiting(self, first);
    }
}

static void expire(fl_deadline *deadline)
{
    watch_line((fl_mariadb *)((char *)deadline - offsetof(fl_mariadb, expiry)));
}

/* connections */

static void try_again(fl_deadline *deadline)
{
    fl_mariadb_serve((fl_mariadb *)((char *)deadline - offsetof(fl_mariadb, again)));
}

static void pause_connecting(fl_mariadb *self, uint64_t milliseconds)
{
    if (fl_deadline_started(&self->again)) return;
    fl_thread_start_deadline(self->db.state->thread, &self->again, milliseconds, try_again);
}

static bool wants_another(const fl_mariadb *self)
{
    if (fl_db_is_in_line(&self->db)) return false;
    if (self->failures > 0 && self->connecting > 0) return false; /* one tries for all */
    return self->line.count > self->connecting && self->count < self->db.pool &&
           !fl_deadline_started(&self->again);
}

/* The server is there and does not want us: nobody need wait to learn it. */
static bool is_refused(const fl_mariadb *self)
{
    return self->failures > 0 && self->count == self->connecting &&
           fl_mariadb_fault_is_refusal(&self->fault) && fl_deadline_started(&self->again);
}

static void refuse_waiting(fl_mariadb *self)
{
    for (fl_query *query; (query = fl_mariadb_line_take(&self->line)) != NULL;) {
        fl_mariadb_fault_tell(&self->fault, query);
        query->error.status = 503;
        fl_query_done(query);
    }
}

static fl_mariadb_link *find_idle(const fl_mariadb *self)
{
    fl_mariadb_link *link = self->idle;
    while (link && fl_db_is_pressed(&self->db, link->since)) link = link->next_idle;
    return link;
}

void fl_mariadb_serve(fl_mariadb *self)
{
    fl_mariadb_link *idle;
    while (self->line.first && (idle = find_idle(self)) != NULL) fl_mariadb_link_kick(idle);
    if (is_refused(self)) refuse_waiting(self);
    while (wants_another(self)) {
        int status = fl_mariadb_link_open(self);
        if (status < 0 && status != UV_EAGAIN) pause_connecting(self, FIRST_PAUSE);
    }
    if (self->line.first && !fl_deadline_started(&self->expiry)) watch_line(self);
    tell(self);
}

static void tell_away(fl_mariadb *self)
{
    if (self->is_told || !is_away(self)) return;
    self->is_told = true;
    fl_log_printf(self->db.state->thread->log, FL_LOG_WARN, "%s: cannot connect: %s", self->db.name,
                  self->fault.message);
}

/* Several attempts that fail together count as one. */
void fl_mariadb_failed(fl_mariadb *self, const fl_mariadb_fault *fault)
{
    uint64_t pause = FIRST_PAUSE;
    for (unsigned i = 0; i < self->failures && pause < LONGEST_PAUSE; i++) pause *= 2;
    if (pause > LONGEST_PAUSE) pause = LONGEST_PAUSE;
    if (fl_mariadb_fault_is_refusal(fault)) pause = REFUSED_PAUSE;
    self->fault = *fault;
    if (!fl_deadline_started(&self->again)) self->failures++;
    tell_away(self);
    pause_connecting(self, pause);
    if (is_refused(self)) refuse_waiting(self);
    watch_line(self);
}

void fl_mariadb_connected(fl_mariadb *self)
{
    if (self->is_told)
        fl_log_printf(self->db.state->thread->log, FL_LOG_INFO, "%s: connected again",
                      self->db.name);
    self->is_told = false;
    self->failures = 0;
    fl_deadline_stop(&self->again);
    watch_line(self);
    fl_mariadb_serve(self);
}

/* the driver */

static int open_db(fl_db *db, char *why, size_t why_size)
{
    fl_mariadb *self = (fl_mariadb *)db;
    const char *port = fl_db_option_of(db, "port");
    char *rest = NULL;
    unsigned long number = port && *port ? strtoul(port, &rest, 10) : 1;
    if ((rest && *rest) || number == 0 || number > 65535) {
        (void)snprintf(why, why_size, "%s: \"%s\" is no port", db->name, port);
        return UV_EINVAL;
    }
    self->again.state = self->expiry.state = db->state;
    fl_mariadb_killer_init(&self->killer, db);
    return 0;
}

static void close_db(fl_db *db)
{
    fl_mariadb *self = (fl_mariadb *)db;
    fl_deadline_stop(&self->again);
    fl_deadline_stop(&self->expiry);
    while (self->links) fl_mariadb_link_close(self->links);
    fl_mariadb_killer_close(&self->killer);
}

static bool is_known(fl_query_kind kind)
{
    switch (kind) {
    case FL_QUERY_RUN:
    case FL_QUERY_BATCH:
    case FL_QUERY_ACQUIRE:
    case FL_QUERY_STREAM:
    case FL_QUERY_MORE: return true;
    case FL_QUERY_WAIT:
    case FL_QUERY_COPY:
    case FL_QUERY_COPY_DATA:
    case FL_QUERY_COPY_END:
    case FL_QUERY_COPY_FAIL:
    case FL_QUERY_BACKUP: return false;
    }
    return false;
}

static void refuse(fl_query *query, const char *code, int status, const char *why)
{
    fl_query_fail(query, code, status, "%s", why);
    fl_query_done(query);
}

static void submit_in_session(fl_query *query)
{
    fl_mariadb_session *session = (fl_mariadb_session *)query->session;
    if (!session->link) {
        refuse(query, "connection", 503, "the connection of this transaction was lost");
        return;
    }
    fl_mariadb_line_append(&session->line, query);
    if (session->link->phase == FL_LINK_FREE) fl_mariadb_link_kick(session->link);
}

static void submit(fl_query *query)
{
    fl_mariadb *self = (fl_mariadb *)query->db;
    bool streams = query->kind == FL_QUERY_STREAM || query->kind == FL_QUERY_MORE;
    if (!is_known(query->kind) || (streams && !query->session)) {
        refuse(query, "refused", 0, "mariadb has no COPY, no notifications and no backup");
    } else if (query->session && query->kind != FL_QUERY_ACQUIRE) {
        submit_in_session(query);
    } else {
        fl_mariadb_line_append(&self->line, query);
        fl_mariadb_serve(self);
    }
}

static void cancel(fl_query *query)
{
    fl_mariadb_query *self = (fl_mariadb_query *)query;
    if (self->line) {
        fl_mariadb_line_remove(query);
        refuse(query, "cancelled", 0, query->cancelled);
    } else if (self->link) {
        fl_mariadb_link_stop(self->link);
    }
}

static void release(fl_session *base)
{
    fl_mariadb_session *session = (fl_mariadb_session *)base;
    fl_mariadb_link *link = session->link;
    for (fl_query *query; (query = fl_mariadb_line_take(&session->line)) != NULL;)
        refuse(query, "cancelled", 0, "the transaction is over");
    if (!link) return;
    session->link = NULL;
    link->session = NULL;
    link->is_released = true;
    link->db->sessions--;
    if (link->query)
        fl_mariadb_link_stop(link);
    else if (link->phase == FL_LINK_FREE)
        fl_mariadb_link_kick(link);
}

static void stats(fl_db *db, fl_db_stats *stats)
{
    const fl_mariadb *self = (const fl_mariadb *)db;
    stats->connections += self->count - self->connecting;
    stats->idle += self->idle_count;
    stats->sessions += self->sessions;
    stats->waiting += self->line.count;
}

static void close_idle(fl_db *db)
{
    fl_mariadb *self = (fl_mariadb *)db;
    uint64_t now = uv_hrtime(), most = db->idle_timeout * NANOSECONDS;
    for (fl_mariadb_link *link = self->idle, *next; link; link = next) {
        next = link->next_idle;
        if (now - link->idle_since >= most) fl_mariadb_link_close(link);
    }
}

static void serve(fl_db *db)
{
    fl_mariadb_serve((fl_mariadb *)db);
}

/* The one that has been idle longest is ripe first, but for those that are pressed. */
static uint64_t yield(fl_db *db)
{
    fl_mariadb_link *best = NULL;
    uint64_t at = UINT64_MAX;
    for (fl_mariadb_link *link = ((fl_mariadb *)db)->idle; link; link = link->next_idle) {
        uint64_t ripe = fl_quota_ripe_at(db->member, link->since, link->idle_since);
        if (ripe > at) continue;
        at = ripe;
        best = link;
    }
    if (!best || at > uv_hrtime()) return at;
    fl_mariadb_wire_part(&best->wire);
    fl_mariadb_link_close(best);
    return 0;
}

const fl_db_driver fl_mariadb_driver = {
    .name = "mariadb",
    .dialect = FL_SQL_MARIADB,
    .db_size = sizeof(fl_mariadb),
    .session_size = sizeof(fl_mariadb_session),
    .query_size = sizeof(fl_mariadb_query),
    .open = open_db,
    .close = close_db,
    .submit = submit,
    .cancel = cancel,
    .release = release,
    .stats = stats,
    .close_idle = close_idle,
    .serve = serve,
    .yield = yield,
};
