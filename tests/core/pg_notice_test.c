#include "drivers/postgres/connection.h"
#include "drivers/postgres/streaming.h"

#include <stdlib.h>
#include <unistd.h>

#include "actor.h"
#include "scarcity.h"
#include "test.h"

/* A connection that listens, with no socket and nothing to do. */
typedef struct fixture {
    fl_actor actor;
    fl_thread thread;
    fl_state state;
    fl_pg pg;
    fl_pg_session session;
    fl_pg_connection connection;
    int log[2]; /* a pipe */
} fixture;

static void set_up(fixture *self)
{
    static char name[] = "postgres://here";
    memset(self, 0, sizeof(*self));
    CHECK_EQUAL_INT(pipe(self->log), 0);
    CHECK_EQUAL_INT(fl_log_open(&self->thread.log, self->log[1], FL_LOG_TEXT, FL_LOG_INFO, 65536),
                    0);
    CHECK_EQUAL_INT(actor_open(&self->actor), 0);
    self->state.thread = &self->thread;
    self->pg.db.state = &self->state;
    self->pg.db.name = name;
    self->pg.is_closing = true; /* it makes no other one */
    fl_pg_connection *connection = &self->connection;
    connection->pg = &self->pg;
    connection->link = &self->pg.connections;
    self->pg.connections = connection;
    connection->phase = FL_PG_READY;
    connection->held = 1;
    connection->last = &connection->first;
    connection->last_notice = &connection->notices;
    connection->copy_data.last = &connection->copy_data.first;
    connection->session = &self->session;
    self->session.connection = connection;
    connection->line = calloc(1, sizeof(*connection->line));
    connection->line->address = self->actor.address;
    fl_address_hold(self->actor.address);
    connection->line->references = 1;
    (void)pthread_mutex_init(&connection->line->lock, NULL);
}

static void read_log(fixture *self, char text[1024])
{
    fl_log_finish(self->thread.log, 1000000000);
    ssize_t size = read(self->log[0], text, 1023);
    text[size > 0 ? size : 0] = '\0';
}

static void tear_down(fixture *self)
{
    if (self->connection.phase != FL_PG_CLOSED) fl_pg_connection_close(&self->connection);
    fl_log_close(self->thread.log, 1000000000);
    CHECK_EQUAL_INT(actor_close(&self->actor), 0);
    close(self->log[0]);
    close(self->log[1]);
}

static void notify(fixture *self)
{
    fl_pg_streaming_notified(&self->connection, FL_SLICE("\0\0\0\7news\0it rains\0"));
}

TEST(a_notification_is_kept_until_somebody_wants_it)
{
    fixture self;
    set_up(&self);
    notify(&self);
    notify(&self);
    CHECK_EQUAL_INT(self.connection.notice_count, 2);
    CHECK_EQUAL_INT(self.connection.notices->sender, 7);
    tear_down(&self);
}

/* Who listens learns that it has missed something, and listens again. */
TEST(one_that_there_is_no_memory_for_ends_the_connection)
{
    char text[1024];
    fixture self;
    set_up(&self);
    notify(&self);
    scarcity_resume();
    notify(&self);
    scarcity_pause();
    CHECK_EQUAL_INT(self.connection.phase, FL_PG_CLOSED);
    CHECK(self.session.connection == NULL);
    read_log(&self, text);
    CHECK(strstr(text, "connection lost: not enough memory for what the server sends"));
    tear_down(&self);
}

TEST_MAIN
