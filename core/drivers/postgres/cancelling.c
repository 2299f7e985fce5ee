#include "cancelling.h"

#include "connection.h"
#include "exchange.h"
#include "line.h"
#include "pool.h"

#define CANCEL_PATIENCE 5000 /* ms until a connection that does not cancel is closed */

static void cancel_delivered(fl_pg_connection *self)
{
    self->is_cancelling = false;
    fl_pg_connection_hold(self);
    fl_pg_exchange_pump(self);
    if (fl_pg_exchange_is_idle(self)) fl_pg_pool_idle(self);
    fl_pg_connection_release(self);
}

static void no_answer(fl_deadline *deadline)
{
    fl_pg_connection *self =
        (fl_pg_connection *)((char *)deadline - offsetof(fl_pg_connection, deadline));
    fl_pg_connection_lost(self, "it did not cancel what it was asked to", false);
}

/* What the first item does. A cancel may come late: nothing more is written until it has been. */
void fl_pg_cancelling_begin(fl_pg_connection *self)
{
    if (self->is_cancelling) return;
    int status = fl_pg_line_cancel(self->line, cancel_delivered);
    if (status < 0) {
        fl_pg_connection_lost(self, "what runs cannot be cancelled", false);
        return;
    }
    self->is_cancelling = self->may_be_hit = true;
    fl_deadline_stop(&self->deadline);
    fl_thread_start_deadline(self->pg->db.state->thread, &self->deadline, CANCEL_PATIENCE,
                             no_answer);
}
