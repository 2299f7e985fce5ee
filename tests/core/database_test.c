#include "database.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "query_op.h"
#include "scarcity.h"
#include "test.h"
#include "thread.h"

/* A driver that keeps its queries until somebody ends them. */
typedef struct fake {
    fl_db db;
    fl_query *first; /* by `next`, the last first */
    unsigned cancels, releases;
} fake;

typedef struct place { /* as much of a server as a database needs */
    fl_thread thread;
    fl_thread_metrics metrics;
    fl_state state;
    fake *db;
} place;

static bool ends_at_close; /* the driver's manner: its queries fail then */
static bool ends_at_once;  /* in submit */
static unsigned forgotten; /* statements that nobody holds any more */

static void fake_submit(fl_query *query)
{
    fake *self = (fake *)query->db;
    query->next = self->first;
    self->first = query;
    if (!ends_at_once) return;
    self->first = query->next;
    fl_query_done(query);
}

static void fake_end(fake *self)
{
    while (self->first) {
        fl_query *query = self->first;
        self->first = query->next;
        fl_query_done(query);
    }
}

static void fake_close(fl_db *db)
{
    if (ends_at_close) fake_end((fake *)db);
}

static void fake_cancel(fl_query *query)
{
    ((fake *)query->db)->cancels++;
}

static void fake_release(fl_session *session)
{
    ((fake *)session->db)->releases++;
}

static void fake_close_idle(fl_db *db)
{
    (void)db;
}

static const fl_db_driver driver = {.name = "fake",
                                    .db_size = sizeof(fake),
                                    .session_size = sizeof(fl_session),
                                    .query_size = sizeof(fl_query),
                                    .close = fake_close,
                                    .submit = fake_submit,
                                    .cancel = fake_cancel,
                                    .release = fake_release,
                                    .close_idle = fake_close_idle};

static place *place_open(void)
{
    place *self = calloc(1, sizeof(*self));
    fake *db = calloc(1, sizeof(*db));
    if (!self || !db) abort();
    self->thread.metrics = &self->metrics;
    if (fl_thread_init(&self->thread, self) < 0) abort();
    fl_thread_begin(&self->thread);
    self->state.thread = &self->thread;
    self->state.is_pooled = true;
    db->db.driver = &driver;
    db->db.state = &self->state;
    db->db.pending_most = 10;
    db->db.idle_timeout = 1000;
    db->db.name = strdup("fake:");
    if (fl_statements_new(&db->db.statements, FL_SQL_SQLITE) < 0) abort();
    self->db = db;
    self->state.databases = &db->db;
    ends_at_close = ends_at_once = false;
    forgotten = 0;
    return self;
}

static void place_close(place *self)
{
    fl_db_close_all(&self->state);
    fl_thread_end_loop(&self->thread);
    fl_thread_close(&self->thread);
    free(self);
}

static unsigned deadlines_of(const place *self)
{
    unsigned count = 0;
    for (unsigned level = 0; level < FL_WHEEL_LEVELS; level++)
        for (unsigned slot = 0; slot < FL_WHEEL_SLOTS; slot++)
            count += self->thread.wheel.slots[level][slot] != NULL;
    return count;
}

static void forget(void *known)
{
    (void)known;
    forgotten++;
}

static fl_query *query_of(place *self)
{
    fl_query *query = fl_query_new(&self->db->db, FL_QUERY_RUN, 1);
    if (!query || fl_statement_new(&query->call.statement, self->db->db.statements,
                                   FL_SLICE("select 1"), FL_SQL_READ, "SELECT") < 0)
        abort();
    query->call.statement->forget = forget;
    return query;
}

TEST(a_query_that_is_done_is_used_again_without_what_it_was)
{
    place *it = place_open();
    fl_query *query = query_of(it);
    fl_values_integer(&query->values, 7);
    query->retry = true;
    fl_query_submit(query, 1000);
    fl_query_fail(query, "x", 503, "it failed");
    fl_query_explain(&query->error.detail, FL_SLICE("why"));
    fake_end(it->db);
    fl_query_release(query);
    fl_query *again = query_of(it);
    CHECK(again == query);
    CHECK(!again->error.message && !again->error.detail && again->error.status == 0);
    CHECK(!again->done && !again->retry && !again->session && !again->op && !again->link);
    CHECK_EQUAL_INT(again->values.size, 0);
    CHECK_EQUAL_INT(again->references, 1);
    CHECK(!fl_deadline_started(&again->deadline));
    CHECK_EQUAL_INT(it->db->db.pending, 0);
    CHECK_EQUAL_INT(it->db->db.errors, 1);
    fl_query_release(again);
    place_close(it);
}

TEST(a_query_may_be_done_within_submit)
{
    place *it = place_open();
    ends_at_once = true;
    fl_query *query = query_of(it);
    fl_query_submit(query, 1000);
    CHECK(query->done);
    fl_query_give_up(query, "cancelled");
    CHECK_EQUAL_INT(it->db->cancels, 0);
    fl_query_release(query);
    CHECK_EQUAL_INT(forgotten, 1);
    place_close(it);
}

TEST(more_queries_than_the_queue_takes_fail_at_once)
{
    place *it = place_open();
    it->db->db.pending_most = 1;
    fl_query *first = query_of(it), *second = query_of(it);
    fl_query_submit(first, 0);
    fl_query_submit(second, 0);
    CHECK(second->done && strcmp(second->error.code, "queue_full") == 0);
    CHECK_EQUAL_INT(it->db->db.pending, 1);
    fl_query_release(first);
    fl_query_release(second);
    place_close(it);
}

TEST(a_session_that_comes_when_nobody_waits_any_more_goes_back)
{
    place *it = place_open();
    fl_query *query = fl_query_new(&it->db->db, FL_QUERY_ACQUIRE, 0);
    if (!query) abort();
    query->session = fl_session_new(&it->db->db);
    fl_query_submit(query, 0);
    fl_query_give_up(query, "cancelled");
    fl_query_give_up(query, "timeout");
    CHECK(strcmp(query->cancelled, "cancelled") == 0);
    fl_query_release(query);
    CHECK_EQUAL_INT(it->db->releases, 0);
    fake_end(it->db);
    CHECK_EQUAL_INT(it->db->cancels, 1);
    CHECK_EQUAL_INT(it->db->releases, 1);
    place_close(it);
}

TEST(a_session_that_could_not_be_made_ready_goes_back)
{
    place *it = place_open();
    fl_query *query = fl_query_new(&it->db->db, FL_QUERY_ACQUIRE, 0);
    if (!query) abort();
    query->session = fl_session_new(&it->db->db);
    fl_query_submit(query, 0);
    fl_query_fail(query, "x", 0, "it is locked");
    fake_end(it->db);
    CHECK(!query->session->held);
    CHECK_EQUAL_INT(it->db->releases, 1);
    fl_query_release(query);
    place_close(it);
}

TEST(queries_that_a_driver_leaves_undone_go_with_their_database)
{
    place *it = place_open();
    fl_query *waited = query_of(it), *given_up = query_of(it);
    fl_query_submit(waited, 1000);
    fl_query_submit(given_up, 1000);
    fl_query_give_up(given_up, "cancelled");
    fl_query_release(given_up);
    fl_query_release(waited);
    fl_db_close_all(&it->state);
    CHECK_EQUAL_INT(forgotten, 2);
    CHECK_EQUAL_INT(deadlines_of(it), 0);
    place_close(it);
}

TEST(queries_that_a_driver_ends_at_its_close_start_nothing_anew)
{
    place *it = place_open();
    ends_at_close = true;
    fl_query *query = query_of(it);
    fl_query_submit(query, 1000);
    fl_query_release(query);
    fl_db_close_all(&it->state);
    CHECK_EQUAL_INT(forgotten, 1);
    CHECK_EQUAL_INT(deadlines_of(it), 0);
    place_close(it);
}

/* Lua's heap is closed first, and with it the op's memory goes. */
TEST(an_op_that_is_pending_when_its_database_closes_is_not_touched)
{
    place *it = place_open();
    ends_at_close = true;
    fl_query_op op = {.op = {.state = &it->state, .link = &it->state.ops}};
    it->state.L = luaL_newstate();
    it->state.ops = &op.op;
    fl_query *query = query_of(it);
    op.query = query;
    query->op = &op;
    fl_query_submit(query, 1000);
    fl_db_close_all(&it->state);
    CHECK(!op.op.done);
    CHECK_EQUAL_INT(forgotten, 1);
    lua_close(it->state.L);
    place_close(it);
}

/* Nothing has gone wrong unless there is a message. */
static int problem_of(const fl_query *query)
{
    return query->error.message ? UV_ENOMEM : 0;
}

static int query_scarcely(place *it, void (*work)(fl_query *query))
{
    fl_query *query = fl_query_new(&it->db->db, FL_QUERY_BATCH, 3);
    if (!query) return UV_ENOMEM;
    fl_query_submit(query, 1000);
    work(query);
    fake_end(it->db);
    int status = problem_of(query);
    fl_query_release(query);
    return status;
}

static int in_a_place(void (*work)(fl_query *query))
{
    scarcity_pause();
    place *it = place_open();
    scarcity_resume();
    int status = query_scarcely(it, work);
    scarcity_pause();
    place_close(it);
    return status;
}

static void take_columns(fl_query *query)
{
    for (unsigned i = 0; i < query->call_count; i++)
        fl_rows_column(&query->calls[i].rows, FL_SLICE("a column"));
}

static int take_no_rows(void)
{
    return in_a_place(take_columns);
}

static void take_long_rows(fl_query *query)
{
    fl_rows *rows = &query->calls[2].rows;
    query->db->most_bytes = 1 << 20;
    fl_rows_column(rows, FL_SLICE("a column"));
    for (int i = 0; i < 100 && fl_rows_begin(query, rows); i++) {
        fl_values_text(&rows->values, FL_SLICE("a text of some length"));
        if (!fl_rows_end(query, rows)) break;
    }
}

static int take_rows(void)
{
    return in_a_place(take_long_rows);
}

TEST(without_memory_rows_are_an_error_even_where_there_are_none)
{
    CHECK_SCARCITY(take_no_rows);
    CHECK_SCARCITY(take_rows);
}

static void go_wrong(fl_query *query)
{
    fl_query_fail(query, "23505", 0, "%s is there already", "it");
    fl_query_explain(&query->error.detail, FL_SLICE("the key is 1"));
    fl_query_explain(&query->error.table, FL_SLICE("items"));
}

static int fail_scarcely(void)
{
    int status = in_a_place(go_wrong);
    return status < 0 ? 0 : 1;
}

TEST(without_memory_what_failed_has_still_failed)
{
    CHECK_SCARCITY_COPES(fail_scarcely);
}

static int take_a_session(void)
{
    scarcity_pause();
    place *it = place_open();
    scarcity_resume();
    fl_query *query = fl_query_new(&it->db->db, FL_QUERY_ACQUIRE, 0);
    int status = query ? 0 : UV_ENOMEM;
    if (query) query->session = fl_session_new(&it->db->db);
    if (query && !query->session) status = UV_ENOMEM;
    if (query) fl_query_release(query);
    scarcity_pause();
    place_close(it);
    return status;
}

TEST(without_memory_there_is_no_session)
{
    CHECK_SCARCITY(take_a_session);
}

TEST_MAIN
