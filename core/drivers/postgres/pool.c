#include "pool.h"

#include <stdio.h>
#include <string.h>
#include <uv.h>

#include "cancelling.h"
#include "connection.h"
#include "exchange.h"
#include "log.h"

#define FAST (5 * FL_PG_MILLISECOND)       /* statements that others may wait behind */
#define STALLED (20 * FL_PG_MILLISECOND)   /* a shared connection whose first item takes longer */
#define SETTLED (1000 * FL_PG_MILLISECOND) /* a connection that lived so long was a good one */
#define CROWDED 16                         /* items on a shared connection: another is wanted */
#define FIRST_PAUSE 50                     /* ms */
#define LONGEST_PAUSE 500
#define HOPELESS_PAUSE 2000
#define FULL_PAUSE 100
#define LONG FL_QUOTA_TURN

/* lines of queries */

void fl_pg_queries_append(fl_pg_queries *self, fl_query *query)
{
    query->next = NULL;
    query->link = self->last;
    *self->last = query;
    self->last = &query->next;
}

static void prepend(fl_pg_queries *self, fl_query *query)
{
    query->next = self->first;
    query->link = &self->first;
    *(query->next ? &query->next->link : &self->last) = &query->next;
    self->first = query;
}

void fl_pg_queries_remove(fl_pg_queries *self, fl_query *query)
{
    *query->link = query->next;
    *(query->next ? &query->next->link : &self->last) = query->link;
    query->link = NULL;
}

static fl_pg_queries *line_of(fl_pg *pg, const fl_query *query)
{
    return ((const fl_pg_query *)query)->is_fast ? &pg->fast : &pg->slow;
}

void fl_pg_pool_forget(fl_pg *pg, fl_query *query)
{
    fl_pg_queries_remove(line_of(pg, query), query);
    pg->waiting--;
}

/* When the loop had waited last, by its clock of milliseconds: what has come since has come before
 * anybody looked. */
static uint64_t seen_at(const fl_pg *pg)
{
    return uv_now(&pg->db.state->thread->loop) * FL_PG_MILLISECOND;
}

/* more connections than there are slots for: see core/quota.h */

static bool is_in_line(const fl_pg *pg)
{
    return fl_db_is_in_line(&pg->db);
}

static bool is_pressed(const fl_pg_connection *connection)
{
    return fl_db_is_pressed(&connection->pg->db, connection->since);
}

/* It serves nobody else while a session has it, or a statement that takes long. */
static bool is_bound(const fl_pg_connection *connection, uint64_t now)
{
    return connection->session || (connection->first && now >= connection->head_since + LONG);
}

static void tell(fl_pg *pg)
{
    unsigned idle = 0, serving = 0;
    uint64_t now = seen_at(pg);
    for (const fl_pg_connection *each = pg->connections; each; each = each->next) {
        idle += fl_pg_exchange_is_idle(each);
        serving += !is_bound(each, now);
    }
    fl_db_tell(&pg->db, idle, serving, pg->waiting);
}

static uint64_t waits_since(const fl_pg_queries *line)
{
    return line->first ? fl_pg_query_of(line->first)->waiting_since : UINT64_MAX;
}

/* What waits for a connection of its own has waited longest. */
static bool slow_is_first(const fl_pg *pg)
{
    return pg->slow.first && waits_since(&pg->slow) <= waits_since(&pg->fast);
}

static bool has_any(const fl_pg *pg, bool is_shared)
{
    for (const fl_pg_connection *each = pg->connections; each; each = each->next)
        if (each->is_shared == is_shared) return true;
    return false;
}

/* Connections of that kind take nothing, so that one becomes the other kind that is missing. */
static bool gives_way(const fl_pg *pg, bool is_shared)
{
    if (!is_in_line(pg) || has_any(pg, !is_shared)) return false;
    return is_shared ? slow_is_first(pg) : pg->fast.first && !slow_is_first(pg);
}

/* Makes an idle connection one of the other kind. */
static bool convert(fl_pg *pg)
{
    bool to_own = slow_is_first(pg);
    if (!is_in_line(pg) || !pg->waiting || (!to_own && has_any(pg, true))) return false;
    for (fl_pg_connection *each = pg->connections; each; each = each->next) {
        if (each->is_shared != to_own || !fl_pg_exchange_is_idle(each)) continue;
        if (is_pressed(each)) continue;
        each->is_shared = !to_own;
        return true;
    }
    return false;
}

/* which connection */

static bool is_fast(const fl_query *query)
{
    uint64_t all = 0;
    if (query->session || (query->kind != FL_QUERY_RUN && query->kind != FL_QUERY_BATCH))
        return false;
    for (unsigned i = 0; i < query->call_count; i++) {
        uint64_t p95 = query->calls[i].statement->p95;
        all += p95;
        if (p95 == 0 || all >= FAST) return false;
    }
    return true;
}

static bool is_usable(const fl_pg_connection *connection, uint64_t now)
{
    if (!connection->is_shared || connection->phase != FL_PG_READY) return false;
    if (fl_pg_cancelling_is_on(connection) || is_pressed(connection)) return false;
    return !connection->first || now < connection->head_since + STALLED;
}

static fl_pg_connection *find_shared(fl_pg *pg)
{
    fl_pg_connection *best = NULL;
    uint64_t now = seen_at(pg);
    if (gives_way(pg, true)) return NULL;
    for (fl_pg_connection *each = pg->connections; each; each = each->next)
        if (is_usable(each, now) && (!best || each->items < best->items)) best = each;
    return best;
}

static fl_pg_connection *find_idle(fl_pg *pg)
{
    if (gives_way(pg, false)) return NULL;
    for (fl_pg_connection *each = pg->connections; each; each = each->next)
        if (!each->is_shared && fl_pg_exchange_is_idle(each) && !is_pressed(each)) return each;
    return NULL;
}

typedef struct connection_count {
    unsigned all, ready, connecting;
} connection_count;

static void count_one(connection_count *count, const fl_pg_connection *connection)
{
    bool is_ready = connection->phase == FL_PG_READY;
    count->all++;
    count->ready += is_ready;
    count->connecting += !is_ready;
}

static connection_count count_connections(const fl_pg *pg, bool is_shared)
{
    connection_count count = {0};
    for (const fl_pg_connection *each = pg->connections; each; each = each->next)
        if (each->is_shared == is_shared) count_one(&count, each);
    return count;
}

static bool has_ready(const fl_pg *pg)
{
    for (const fl_pg_connection *each = pg->connections; each; each = each->next)
        if (each->phase == FL_PG_READY) return true;
    return false;
}

static void assign(fl_pg_connection *connection, fl_query *query)
{
    fl_pg_query_of(query)->connection = connection;
    if (!connection->first) connection->head_since = seen_at(connection->pg);
    if (query->kind == FL_QUERY_ACQUIRE) {
        fl_pg_session *session = (fl_pg_session *)query->session;
        session->connection = connection;
        connection->session = session;
        if (query->call_count == 0) {
            fl_query_done(query);
            return;
        }
    }
    fl_pg_connection_hold(connection);
    fl_pg_exchange_add(connection, query);
    if (!connection->is_shared) fl_pg_connection_flush(connection); /* nothing will join it */
    fl_pg_connection_release(connection);
}

static void assign_waiting(fl_pg_connection *connection, fl_query *query)
{
    fl_pg_pool_forget(connection->pg, query);
    assign(connection, query);
}

/* connecting */

static bool may_connect(const fl_pg *pg)
{
    if (is_in_line(pg) || uv_hrtime() < pg->attempt_at) return false;
    if (!pg->failing_since) return true;
    connection_count shared = count_connections(pg, true), own = count_connections(pg, false);
    return shared.connecting + own.connecting == 0; /* one tries for all */
}

static void say_why(fl_pg *pg, const char *why)
{
    (void)snprintf(pg->why, sizeof(pg->why), "%s", why);
}

static void pause_until(fl_pg *pg, uint64_t milliseconds)
{
    pg->attempt_at = uv_hrtime() + milliseconds * FL_PG_MILLISECOND;
}

static void try_to_connect(fl_pg *pg, bool is_shared)
{
    int status = fl_pg_connection_new(pg, is_shared);
    if (status == 0) return;
    say_why(pg, status == UV_EAGAIN
                    ? "the server process has as many connections as db_connections "
                      "allows"
                    : uv_strerror(status));
    if (status != UV_EAGAIN) pause_until(pg, FULL_PAUSE);
}

static bool could_share(const fl_query *query)
{
    return query && (query->kind == FL_QUERY_RUN || query->kind == FL_QUERY_BATCH);
}

/* The first shared one is there before it is known whose statements are fast. */
static bool wants_first_shared(const fl_pg *pg)
{
    return count_connections(pg, true).all == 0 && may_connect(pg);
}

static bool wants_shared(const fl_pg *pg)
{
    connection_count count = count_connections(pg, true);
    return count.all < pg->shared_most && count.connecting == 0 && may_connect(pg);
}

static void connect_more(fl_pg *pg)
{
    connection_count own = count_connections(pg, false);
    if ((pg->fast.first || (could_share(pg->slow.first) && wants_first_shared(pg))) &&
        wants_shared(pg))
        try_to_connect(pg, true);
    unsigned wanted = 0;
    for (const fl_query *each = pg->slow.first; each && wanted < pg->db.pool; each = each->next)
        wanted++;
    for (; own.connecting < wanted && own.all < pg->db.pool && may_connect(pg); own.all++) {
        try_to_connect(pg, false);
        own.connecting++;
    }
}

/* giving up */

static void fail_waiting(fl_pg *pg, fl_query *query, bool is_connected)
{
    fl_pg_pool_forget(pg, query);
    if (is_connected)
        fl_query_fail(query, "pool_timeout", 503,
                      "none of the %u connections of %s became free within %llu ms%s%s",
                      pg->db.pool, pg->db.name, (unsigned long long)pg->db.pool_timeout,
                      pg->why[0] ? "; no more could be had: " : "", pg->why);
    else
        fl_query_fail(query, "connection", 503, "cannot connect to %s: %s", pg->db.name,
                      pg->why[0] ? pg->why : "it does not answer");
    fl_query_done(query);
}

static uint64_t patience_of(const fl_pg *pg, bool is_connected)
{
    uint64_t limit = is_connected ? pg->db.pool_timeout : pg->db.connect_timeout;
    return limit * FL_PG_MILLISECOND;
}

static void fail_late(fl_pg *pg, fl_pg_queries *line, uint64_t now)
{
    bool is_connected = has_ready(pg) || is_in_line(pg);
    uint64_t patience = patience_of(pg, is_connected);
    while (line->first && fl_pg_query_of(line->first)->waiting_since + patience <= now)
        fail_waiting(pg, line->first, is_connected);
}

static void fail_all(fl_pg *pg)
{
    while (pg->fast.first) fail_waiting(pg, pg->fast.first, false);
    while (pg->slow.first) fail_waiting(pg, pg->slow.first, false);
}

/* It has been away for so long that nobody need wait to learn it. */
static bool is_gone(const fl_pg *pg)
{
    if (!pg->failing_since || has_ready(pg)) return false;
    uint64_t away = uv_hrtime() - pg->failing_since;
    return pg->is_hopeless || away >= patience_of(pg, false);
}

/* the clock: for who has waited too long, and for the next attempt */

static uint64_t earliest(const fl_pg *pg)
{
    uint64_t at = UINT64_MAX, patience = patience_of(pg, has_ready(pg) || is_in_line(pg));
    const fl_query *heads[] = {pg->fast.first, pg->slow.first};
    for (int i = 0; i < 2; i++) {
        if (!heads[i]) continue;
        uint64_t end = ((const fl_pg_query *)heads[i])->waiting_since + patience;
        if (end < at) at = end;
        if (pg->attempt_at > uv_hrtime() && pg->attempt_at < at) at = pg->attempt_at;
    }
    return at;
}

static void ring(fl_deadline *clock)
{
    fl_pg *pg = (fl_pg *)((char *)clock - offsetof(fl_pg, clock));
    uint64_t now = uv_hrtime();
    fail_late(pg, &pg->fast, now);
    fail_late(pg, &pg->slow, now);
    fl_pg_pool_serve(pg);
}

static void set_clock(fl_pg *pg)
{
    uint64_t now = uv_hrtime(), at = earliest(pg);
    fl_deadline_stop(&pg->clock);
    if (at == UINT64_MAX) return;
    uint64_t rest = at > now ? (at - now) / FL_PG_MILLISECOND + 1 : 1;
    pg->clock.state = pg->db.state;
    fl_thread_start_deadline(pg->db.state->thread, &pg->clock, rest, ring);
}

static void assign_all(fl_pg *pg)
{
    fl_pg_connection *connection;
    do {
        while (pg->fast.first && (connection = find_shared(pg)))
            assign_waiting(connection, pg->fast.first);
        while (pg->slow.first && (connection = find_idle(pg)))
            assign_waiting(connection, pg->slow.first);
    } while (convert(pg));
}

static void serve_waiting(fl_pg *pg)
{
    pg->is_serving = true;
    assign_all(pg);
    if (pg->waiting) connect_more(pg);
    if (is_in_line(pg)) assign_all(pg);
    set_clock(pg);
    pg->is_serving = false;
}

void fl_pg_pool_serve(fl_pg *pg)
{
    if (pg->is_serving || pg->is_closing) return;
    if (pg->waiting || fl_deadline_started(&pg->clock)) serve_waiting(pg);
    tell(pg);
}

/* queries */

static void wait(fl_pg *pg, fl_query *query)
{
    fl_pg_query_of(query)->waiting_since = uv_hrtime();
    pg->waiting++;
}

/* One that is fast goes to a shared connection, or, while those are held up, to any that is idle.
 */
static fl_pg_connection *choose(fl_pg *pg, bool fast)
{
    fl_pg_connection *connection = NULL;
    if (fast && !pg->fast.first) connection = find_shared(pg);
    if (connection && connection->items >= CROWDED && wants_shared(pg)) try_to_connect(pg, true);
    if (connection || pg->slow.first) return connection;
    return fast && count_connections(pg, true).ready == 0 ? NULL : find_idle(pg);
}

void fl_pg_pool_submit(fl_pg *pg, fl_query *query)
{
    bool fast = is_fast(query);
    fl_pg_connection *connection = choose(pg, fast);
    fl_pg_query_of(query)->is_fast = fast;
    if (connection) {
        if (could_share(query) && wants_first_shared(pg)) try_to_connect(pg, true);
        assign(connection, query);
        tell(pg);
        return;
    }
    wait(pg, query);
    fl_pg_queries_append(line_of(pg, query), query);
    if (is_gone(pg) && !may_connect(pg))
        fail_waiting(pg, query, false);
    else
        fl_pg_pool_serve(pg);
}

/* Served by who has lost the connection. */
void fl_pg_pool_again(fl_pg *pg, fl_query *query)
{
    wait(pg, query);
    fl_pg_query_of(query)->is_fast = is_fast(query);
    prepend(line_of(pg, query), query);
}

void fl_pg_pool_learned(fl_pg *pg, const fl_statement *statement)
{
    bool any = false;
    for (fl_query *query = pg->slow.first, *next; query; query = next) {
        next = query->next;
        if (query->kind != FL_QUERY_RUN || query->calls[0].statement != statement) continue;
        if (!is_fast(query)) return;
        fl_pg_queries_remove(&pg->slow, query);
        fl_pg_query_of(query)->is_fast = any = true;
        fl_pg_queries_append(&pg->fast, query);
    }
    if (any) fl_pg_pool_serve(pg);
}

/* connections */

void fl_pg_pool_connected(fl_pg_connection *connection)
{
    fl_pg *pg = connection->pg;
    if (pg->was_lost) pg->db.reconnects++;
    if (pg->failing_since)
        fl_log_printf(pg->db.state->thread->log, FL_LOG_INFO, "%s: connected again", pg->db.name);
    pg->was_lost = pg->is_hopeless = false;
    pg->failing_since = pg->pause = pg->attempt_at = 0;
    pg->why[0] = '\0';
    fl_pg_pool_serve(pg);
}

/* Those that are lost together lengthen it once. */
static void lengthen_pause(fl_pg *pg)
{
    if (uv_hrtime() < pg->attempt_at) return;
    pg->pause = pg->pause ? pg->pause * 2 : FIRST_PAUSE;
    if (pg->pause > LONGEST_PAUSE) pg->pause = LONGEST_PAUSE;
    if (pg->is_hopeless) pg->pause = HOPELESS_PAUSE;
    pause_until(pg, pg->pause);
}

/* The SQLSTATE in a message of libpq's: "FATAL:  28P01: …", in whatever language. */
static bool has_code(const char *why, const char *start)
{
    for (const char *at = why; (at = strstr(at, ":  ")); at += 3)
        if (strncmp(at + 3, start, strlen(start)) == 0 && strlen(at) > 8 && at[8] == ':')
            return true;
    return false;
}

static bool is_for_good(const char *why)
{
    return has_code(why, "28") || has_code(why, "3D") || strstr(why, "certificate") ||
           strstr(why, "does not support SSL") || strstr(why, "standard_conforming_strings");
}

void fl_pg_pool_refused(fl_pg *pg, const char *why, bool needs_password)
{
    uint64_t now = uv_hrtime();
    say_why(pg, why);
    pg->is_hopeless = needs_password || is_for_good(why);
    if (!pg->failing_since && !has_ready(pg)) {
        pg->failing_since = now;
        fl_log_printf(pg->db.state->thread->log, FL_LOG_WARN, "%s: cannot connect: %s", pg->db.name,
                      why);
    }
    lengthen_pause(pg);
    if (is_gone(pg)) fail_all(pg);
    fl_pg_pool_serve(pg);
}

/* A server that takes connections and closes them at once is not to be stormed. */
void fl_pg_pool_lost(fl_pg *pg, const fl_pg_connection *connection, const char *why)
{
    pg->was_lost = true;
    fl_log_printf(pg->db.state->thread->log, FL_LOG_INFO, "%s: connection lost: %s", pg->db.name,
                  why);
    if (uv_hrtime() - connection->since < SETTLED) lengthen_pause(pg);
}

void fl_pg_pool_idle(fl_pg_connection *connection)
{
    fl_pg_pool_serve(connection->pg);
}
