#include "settling.h"

#include "pool.h"
#include "run.h"

static bool may_be_asked_again(const fl_query *query, bool is_sent, bool not_run)
{
    const fl_pg_query *q = (const fl_pg_query *)query;
    if (query->cancelled || query->error.message || q->runs > FL_PG_RUNS_MOST) return false;
    if (query->kind == FL_QUERY_ACQUIRE) return true;
    return !query->session && (!is_sent || not_run || query->retry);
}

static void settle(fl_pg_connection *self, fl_query *query, const char *why, bool is_sent,
                   bool not_run)
{
    fl_pg_query *q = fl_pg_query_of(query);
    fl_pg *pg = self->pg;
    q->connection = NULL;
    if (query->kind == FL_QUERY_ACQUIRE) ((fl_pg_session *)query->session)->connection = NULL;
    if (!pg->is_closing && may_be_asked_again(query, is_sent, not_run)) {
        fl_pg_run_reset_rows(query);
        fl_pg_pool_again(pg, query);
        return;
    }
    if (query->cancelled)
        fl_query_fail(query, "cancelled", 0, "%s", query->cancelled);
    else
        fl_query_fail(
            query, "connection", 503, "the connection to %s was lost%s: %s", pg->db.name,
            is_sent && !not_run ? " while the statement ran; it may have taken effect" : "", why);
    fl_query_done(query);
}

/* The last first: each that is asked again goes before those that wait. */
void fl_pg_settle(fl_pg_connection *self, fl_pg_item *item, const char *why, bool not_run)
{
    fl_pg_item *reversed = NULL;
    for (fl_pg_item *next; item; item = next) {
        next = item->next;
        item->next = reversed;
        item->link = NULL;
        reversed = item;
    }
    for (fl_pg_item *next; reversed; reversed = next) {
        next = reversed->next;
        fl_pg_query *q = reversed->query;
        if (!q) continue;
        fl_pg_run_end(self, q);
        bool is_sent = reversed->is_written && self->sent > reversed->began_at;
        settle(self, &q->query, why, is_sent, not_run);
    }
}
