#include "step.h"

#include <errmsg.h>
#include <mysqld_error.h>
#include <stdlib.h>

#include "state.h"
#include "thread.h"

#define TRIES 3                 /* of a query whose connection was lost before it was sent */
#define LARGE ((size_t)1 << 20) /* bytes of arguments that not every server takes */

/* the end of a link */

void fl_mariadb_link_close(fl_mariadb_link *self)
{
    fl_mariadb_delist(self);
    self->phase = FL_LINK_CLOSED;
    fl_deadline_stop(&self->breath);
    fl_deadline_stop(&self->again);
    fl_deadline_stop(&self->doom);
    fl_mariadb_killer_forget(&self->db->killer, &self->victim);
    MYSQL_STMT *going = self->wire.call == FL_WIRE_FREE ? self->wire.statement : NULL;
    fl_mariadb_wire_close(&self->wire);
    if (self->wire.result) {
        self->wire.result->handle = NULL; /* there is nothing to be read to its end */
        mysql_free_result(self->wire.result);
    }
    fl_mariadb_prepared_close(&self->prepared);
    if (self->handle && self->is_fresh && self->handle != going)
        (void)mysql_stmt_close(self->handle);
    if (self->stream) (void)mysql_stmt_close(self->stream);
    if (self->leaving) (void)mysql_stmt_close(self->leaving);
    fl_mariadb_arguments_close(&self->arguments);
    free(self->columns);
    self->is_dead = true;
    if (!self->is_stepping) free(self);
}

static bool may_run_again(const fl_mariadb_link *self, const fl_mariadb_query *query)
{
    const fl_query *base = &query->query;
    if (base->cancelled || base->error.message || query->tries >= TRIES) return false;
    if (base->session && base->kind != FL_QUERY_ACQUIRE) return false;
    return base->retry || !self->sent;
}

static void send_again(fl_mariadb *db, fl_mariadb_query *query)
{
    for (unsigned i = 0; i < query->query.call_count; i++)
        fl_rows_reset(&query->query.calls[i].rows);
    query->tries++;
    query->at = 0;
    fl_mariadb_line_prepend(&db->line, &query->query);
}

static const char *hint_of(const fl_query *query, bool sent)
{
    if (!sent) return "";
    return query->values.size < LARGE ? "; the statement may have run"
                                      : "; the statement may have run, or it is larger than the "
                                        "server's max_allowed_packet";
}

static void tell_loss(fl_query *query, const fl_mariadb_fault *fault, bool sent)
{
    if (query->cancelled)
        fl_query_fail(query, "cancelled", 0, "%s", query->cancelled);
    else
        fl_query_fail(query, "connection", 503, "the connection to %s was lost: %s%s",
                      query->db->name, fault->message, hint_of(query, sent));
}

static void fail_line(fl_mariadb_line *line, const fl_mariadb_fault *fault)
{
    for (fl_query *query; (query = fl_mariadb_line_take(line)) != NULL;) {
        tell_loss(query, fault, false);
        fl_query_done(query);
    }
}

/* Nothing is left of it; its query is run elsewhere or fails. */
bool fl_mariadb_lose(fl_mariadb_link *self, const fl_mariadb_fault *fault)
{
    fl_mariadb *db = self->db;
    fl_mariadb_query *query = self->query;
    fl_mariadb_session *session = self->session;
    bool again = query && may_run_again(self, query), sent = self->sent;
    self->query = NULL;
    if (session) {
        session->link = NULL;
        db->sessions--;
    }
    if (query) query->link = NULL;
    db->db.reconnects++;
    fl_log_printf(db->db.state->thread->log, FL_LOG_INFO, "%s: connection lost: %s", db->db.name,
                  fault->message);
    fl_mariadb_link_close(self);
    if (again) {
        send_again(db, query);
    } else if (query) {
        tell_loss(&query->query, fault, sent);
        fl_query_done(&query->query);
    }
    if (session) fail_line(&session->line, fault);
    fl_mariadb_serve(db);
    return false;
}

/* steps: each returns whether the next one is due at once */

bool fl_mariadb_go(fl_mariadb_link *self, fl_link_phase phase, fl_wire_call call)
{
    self->phase = phase;
    return fl_mariadb_wire_start(&self->wire, call, 0);
}

bool fl_mariadb_ask(fl_mariadb_link *self, fl_link_phase phase, const char *text)
{
    self->wire.text = fl_slice_from_string(text);
    return fl_mariadb_go(self, phase, FL_WIRE_QUERY);
}

bool fl_mariadb_free(fl_mariadb_link *self, fl_link_phase phase, MYSQL_STMT *handle)
{
    self->wire.statement = handle;
    return fl_mariadb_go(self, phase, FL_WIRE_FREE);
}

fl_call *fl_mariadb_call_of(const fl_mariadb_link *self)
{
    return &self->query->query.calls[self->query->at];
}

static void leave_session(fl_mariadb_link *self)
{
    if (!self->session) return;
    self->session->link = NULL;
    self->session = NULL;
    self->is_released = true;
    self->db->sessions--;
}

bool fl_mariadb_finish(fl_mariadb_link *self)
{
    fl_query *query = &self->query->query;
    self->query->link = NULL;
    self->query = NULL;
    self->handle = NULL;
    self->phase = FL_LINK_FREE;
    if (query->kind == FL_QUERY_ACQUIRE && query->error.message) leave_session(self);
    fl_query_done(query);
    return true;
}

bool fl_mariadb_undo(fl_mariadb_link *self)
{
    if (self->query->query.kind != FL_QUERY_BATCH) return fl_mariadb_finish(self);
    bool in_session = self->session != NULL;
    return fl_mariadb_ask(self, FL_LINK_UNDOING,
                          in_session ? "rollback to savepoint " FL_MARIADB_BATCH_POINT
                                     : "rollback");
}

bool fl_mariadb_fail(fl_mariadb_link *self, const fl_mariadb_fault *fault)
{
    if (fault->number == ER_QUERY_INTERRUPTED) self->was_interrupted = true;
    if (self->handle && self->handle == self->stream) self->stream_ended = true;
    fl_mariadb_fault_tell(fault, &self->query->query);
    return fl_mariadb_undo(self);
}

bool fl_mariadb_fail_for_memory(fl_mariadb_link *self)
{
    fl_query_fail(&self->query->query, "memory", 503, "not enough memory");
    return fl_mariadb_undo(self);
}

bool fl_mariadb_is_over(const fl_mariadb_link *self)
{
    return !self->wire.mysql->net.pvio || self->wire.failure || self->is_cut;
}

void fl_mariadb_look_at_fault(fl_mariadb_link *self, fl_mariadb_fault *fault, MYSQL_STMT *statement)
{
    fl_mariadb_fault_of(fault, self->wire.mysql, statement);
    if (self->wire.failure) fl_mariadb_fault_set(fault, CR_SERVER_LOST, self->wire.failure);
    if (self->is_cut) fl_mariadb_fault_set(fault, CR_SERVER_LOST, "its statement did not stop");
}

/* The call has failed for good. */
bool fl_mariadb_trouble(fl_mariadb_link *self, MYSQL_STMT *statement)
{
    fl_mariadb_fault fault;
    fl_mariadb_look_at_fault(self, &fault, statement);
    if (fl_mariadb_is_over(self) || fl_mariadb_fault_is_loss(&fault))
        return fl_mariadb_lose(self, &fault);
    return fl_mariadb_fail(self, &fault);
}

/* What ought not to fail has. */
bool fl_mariadb_give_up(fl_mariadb_link *self)
{
    fl_mariadb_fault fault;
    fl_mariadb_look_at_fault(self, &fault, NULL);
    return fl_mariadb_lose(self, &fault);
}
