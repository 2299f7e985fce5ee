#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "connection.h"
#include "exchange.h"
#include "pool.h"

#define SHARED_MOST 16

static fl_pg *pg_of(fl_db *db)
{
    return (fl_pg *)db;
}

/* options */

static const char *value_of(const fl_pg *pg, const char *name)
{
    const char *own = fl_db_option_of(&pg->db, name);
    if (own) return own;
    for (const PQconninfoOption *each = pg->options; each->keyword; each++)
        if (strcmp(each->keyword, name) == 0) return each->val;
    return NULL;
}

static bool is_given(const fl_pg *pg, const char *name)
{
    const char *value = value_of(pg, name);
    return value && value[0];
}

static void add_option(fl_pg *pg, const char *name, const char *value)
{
    pg->names[pg->option_count] = name;
    pg->values[pg->option_count++] = value;
}

/* Hosts are looked up by us, unless their addresses are given. */
static void add_given(fl_pg *pg)
{
    if (is_given(pg, "host") && !is_given(pg, "hostaddr")) {
        pg->host = value_of(pg, "host");
        pg->port = value_of(pg, "port");
    }
    for (const PQconninfoOption *each = pg->options; each->keyword; each++) {
        bool is_place = strcmp(each->keyword, "host") == 0 || strcmp(each->keyword, "port") == 0;
        if (is_given(pg, each->keyword) && !(pg->host && is_place))
            add_option(pg, each->keyword, value_of(pg, each->keyword));
    }
}

/* What the URL does not say. A ticket of Kerberos is not looked for. */
static void add_defaults(fl_pg *pg)
{
    static const char *const defaults[][2] = {{"fallback_application_name", "fasterlua"},
                                              {"client_encoding", "UTF8"},
                                              {"gssencmode", "disable"}};
    for (size_t i = 0; i < sizeof(defaults) / sizeof(*defaults); i++)
        if (!is_given(pg, defaults[i][0]) || i == 1) add_option(pg, defaults[i][0], defaults[i][1]);
}

static int read_url(fl_pg *pg, char *why, size_t why_size)
{
    char *message = NULL;
    pg->options = PQconninfoParse(pg->db.url, &message);
    if (!pg->options) (void)snprintf(why, why_size, "%s", message ? message : "not enough memory");
    PQfreemem(message);
    size_t size = strlen(why);
    while (size && why[size - 1] == '\n') why[--size] = '\0';
    return pg->options ? 0 : UV_EINVAL;
}

static int read_own(fl_pg *pg, char *why, size_t why_size)
{
    const char *shared = fl_db_option_of(&pg->db, "shared");
    const char *pgbouncer = fl_db_option_of(&pg->db, "pgbouncer");
    long count = shared ? strtol(shared, NULL, 10) : 1;
    if (count < 1 || count > SHARED_MOST) {
        (void)snprintf(why, why_size, "option \"shared\" must be 1 to %d, got %s", SHARED_MOST,
                       shared);
        return UV_EINVAL;
    }
    pg->shared_most = (unsigned)count;
    pg->is_pgbouncer = pgbouncer && (strcmp(pgbouncer, "true") == 0 || strcmp(pgbouncer, "1") == 0);
    return 0;
}

static void free_options(fl_pg *pg)
{
    PQconninfoFree(pg->options);
    free(pg->names);
    free(pg->values);
}

static int open_db(fl_db *db, char *why, size_t why_size)
{
    fl_pg *pg = pg_of(db);
    pg->fast.last = &pg->fast.first;
    pg->slow.last = &pg->slow.first;
    int status = read_own(pg, why, why_size);
    if (status == 0) status = read_url(pg, why, why_size);
    if (status < 0) return status;
    size_t count = 4;
    for (const PQconninfoOption *each = pg->options; each->keyword; each++) count++;
    pg->names = calloc(count, sizeof(*pg->names));
    pg->values = calloc(count, sizeof(*pg->values));
    if (!pg->names || !pg->values) {
        free_options(pg);
        return UV_ENOMEM;
    }
    add_given(pg);
    add_defaults(pg);
    return 0;
}

static void fail_closed(fl_pg *pg, fl_query *query)
{
    fl_pg_pool_forget(pg, query);
    fl_query_fail(query, "connection", 503, "the database is closed");
    fl_query_done(query);
}

static void close_db(fl_db *db)
{
    fl_pg *pg = pg_of(db);
    pg->is_closing = true;
    fl_deadline_stop(&pg->clock);
    while (pg->connections) fl_pg_connection_close(pg->connections);
    while (pg->fast.first) fail_closed(pg, pg->fast.first);
    while (pg->slow.first) fail_closed(pg, pg->slow.first);
    free_options(pg);
}

/* queries */

static void submit_in_session(fl_query *query)
{
    fl_pg_connection *connection = ((fl_pg_session *)query->session)->connection;
    if (connection) {
        fl_pg_exchange_add(connection, query);
        return;
    }
    fl_query_fail(query, "connection", 503, "the connection to %s was lost before",
                  query->db->name);
    fl_query_done(query);
}

static void submit(fl_query *query)
{
    if (query->kind == FL_QUERY_BACKUP) {
        fl_query_fail(query, "refused", 0, "backup: SQLite does that; PostgreSQL has pg_dump");
        fl_query_done(query);
    } else if (query->session && query->kind != FL_QUERY_ACQUIRE) {
        submit_in_session(query);
    } else {
        fl_pg_pool_submit(pg_of(query->db), query);
    }
}

static void cancel(fl_query *query)
{
    fl_pg *pg = pg_of(query->db);
    fl_pg_query *q = fl_pg_query_of(query);
    if (q->connection) {
        fl_pg_exchange_cancel(q->connection, query);
        return;
    }
    fl_pg_pool_forget(pg, query);
    fl_query_fail(query, "cancelled", 0, "%s", query->cancelled);
    fl_query_done(query);
}

static void release(fl_session *session)
{
    fl_pg_session *self = (fl_pg_session *)session;
    fl_pg_connection *connection = self->connection;
    if (!connection) return;
    self->connection = NULL;
    connection->session = NULL;
    fl_pg_exchange_reset(connection);
}

static void stats(fl_db *db, fl_db_stats *stats)
{
    const fl_pg *pg = pg_of(db);
    for (const fl_pg_connection *each = pg->connections; each; each = each->next) {
        if (each->phase != FL_PG_READY) continue;
        stats->connections++;
        stats->idle += !each->first && !each->session;
        stats->sessions += each->session != NULL;
    }
    stats->waiting = pg->waiting;
}

static void close_idle(fl_db *db)
{
    fl_pg *pg = pg_of(db);
    uint64_t now = uv_hrtime(), most = db->idle_timeout * FL_PG_MILLISECOND;
    for (fl_pg_connection *each = pg->connections, *next; each; each = next) {
        next = each->next;
        if (fl_pg_exchange_is_idle(each) && now - each->idle_since >= most)
            fl_pg_connection_close(each);
    }
}

static void serve(fl_db *db)
{
    fl_pg_pool_serve(pg_of(db));
}

static uint64_t yield(fl_db *db)
{
    fl_pg_connection *best = NULL;
    uint64_t at = UINT64_MAX;
    for (fl_pg_connection *each = pg_of(db)->connections; each; each = each->next) {
        if (!fl_pg_exchange_is_idle(each)) continue;
        uint64_t ripe = fl_quota_ripe_at(db->member, each->since, each->idle_since);
        if (ripe >= at) continue;
        at = ripe;
        best = each;
    }
    if (!best || at > uv_hrtime()) return at;
    fl_pg_line_part(best->line, db);
    fl_pg_connection_close(best);
    return 0;
}

const fl_db_driver fl_pg_driver = {.name = "postgres",
                                   .dialect = FL_SQL_POSTGRES,
                                   .db_size = sizeof(fl_pg),
                                   .session_size = sizeof(fl_pg_session),
                                   .query_size = sizeof(fl_pg_query),
                                   .open = open_db,
                                   .close = close_db,
                                   .submit = submit,
                                   .cancel = cancel,
                                   .release = release,
                                   .stats = stats,
                                   .close_idle = close_idle,
                                   .serve = serve,
                                   .yield = yield};
