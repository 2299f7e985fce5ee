#include "cancelling.h"

#include "connection.h"
#include "exchange.h"
#include "pool.h"

#define PATIENCE (5000 * FL_PG_MILLISECOND) /* then the connection is closed */
#define FIRST_PAUSE 100                     /* ms */
#define LONGEST_PAUSE 1000
#define ASKING_MOST 4       /* threads of a connection: one whose request is lost may never end */
#define ASKING_MOST_ALL 256 /* of a database */

static fl_pg_connection *connection_of(fl_deadline *deadline)
{
    return (fl_pg_connection *)((char *)deadline - offsetof(fl_pg_connection, cancelling.deadline));
}

static bool is_due(const fl_pg_connection *self)
{
    return self->first && self->first->is_written && self->first->is_unwanted;
}

static void ring(fl_deadline *deadline);

static void wait(fl_pg_connection *self)
{
    fl_pg_cancelling *own = &self->cancelling;
    fl_deadline_stop(&own->deadline);
    own->deadline.state = self->pg->db.state;
    fl_thread_start_deadline(self->pg->db.state->thread, &own->deadline, own->pause, ring);
    own->pause = own->pause * 2 < LONGEST_PAUSE ? own->pause * 2 : LONGEST_PAUSE;
}

/* The server has closed the connection over which it was asked, or there was none. */
static void asked(fl_db *db, fl_pg_connection *self)
{
    ((fl_pg *)db)->asking--;
    if (!self || --self->cancelling.asking > 0 || is_due(self)) return;
    fl_deadline_stop(&self->cancelling.deadline);
    fl_pg_connection_hold(self);
    fl_pg_exchange_pump(self);
    if (self->is_shared || fl_pg_exchange_is_idle(self)) fl_pg_pool_idle(self);
    fl_pg_connection_release(self);
}

/* Should there be no thread for it now, there may be one later. */
static void ask(fl_pg_connection *self)
{
    fl_pg *pg = self->pg;
    fl_pg_cancelling *own = &self->cancelling;
    if (own->asking >= ASKING_MOST || pg->asking >= ASKING_MOST_ALL) return;
    if (fl_pg_line_cancel(self->line, asked) < 0) return;
    own->asking++;
    pg->asking++;
    own->reach = self->sent + fl_pg_connection_unwritten(self);
}

static void ring(fl_deadline *deadline)
{
    fl_pg_connection *self = connection_of(deadline);
    if (uv_hrtime() - self->cancelling.since >= PATIENCE) {
        fl_pg_connection_lost(self, "it did not cancel what it was asked to", false);
        return;
    }
    if (is_due(self)) ask(self);
    wait(self);
}

/* One that is still under way for the item before may hit this one, too. */
static void begin(fl_pg_connection *self)
{
    self->cancelling.since = uv_hrtime();
    self->cancelling.pause = FIRST_PAUSE;
    if (self->cancelling.asking == 0) ask(self);
    wait(self);
}

void fl_pg_cancelling_want(fl_pg_connection *self, fl_pg_item *item)
{
    if (item->is_unwanted) return;
    item->is_unwanted = true;
    fl_pg_connection_hold(self);
    fl_pg_connection_flush(self);
    if (self->phase == FL_PG_READY && self->first == item && item->is_written) begin(self);
    fl_pg_connection_release(self);
}

void fl_pg_cancelling_turn(fl_pg_connection *self)
{
    if (is_due(self))
        begin(self);
    else if (self->cancelling.asking == 0)
        fl_deadline_stop(&self->cancelling.deadline);
}

/* The server would not notice before it has something to say. */
void fl_pg_cancelling_close(fl_pg_connection *self)
{
    fl_deadline_stop(&self->cancelling.deadline);
    if (is_due(self)) fl_pg_line_give_up(self->line);
}
