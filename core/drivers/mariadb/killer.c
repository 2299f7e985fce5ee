#include "killer.h"

#include <mysqld_error.h>
#include <stdio.h>

#define PATIENCE 5000 /* ms, for the connection and for each answer */

static fl_mariadb_killer *killer_of(fl_mariadb_wire *wire)
{
    return (fl_mariadb_killer *)((char *)wire - offsetof(fl_mariadb_killer, wire));
}

static fl_mariadb_victim *take(fl_mariadb_killer *self)
{
    fl_mariadb_victim *victim = self->first;
    if (!victim) return NULL;
    fl_mariadb_killer_forget(self, victim);
    victim->asked = true;
    return victim;
}

static void tell(fl_mariadb_victim *victim, bool done)
{
    if (!victim) return;
    victim->asked = false;
    victim->told(victim, done);
}

static void fail_all(fl_mariadb_killer *self)
{
    fl_mariadb_victim *victim = self->present;
    self->present = NULL;
    fl_mariadb_wire_close(&self->wire);
    tell(victim, false);
    while ((victim = take(self)) != NULL) tell(victim, false);
}

/* Says whether that has ended already. */
static bool kill_next(fl_mariadb_killer *self)
{
    int size = snprintf(self->text, sizeof(self->text), "kill query %lu", self->present->id);
    self->wire.text = fl_slice_of(self->text, (size_t)size);
    return fl_mariadb_wire_start(&self->wire, FL_WIRE_QUERY, PATIENCE);
}

/* Who is not there any more has been stopped, too. */
static bool was_answered(fl_mariadb_killer *self)
{
    return self->wire.status == 0 || mysql_errno(self->wire.mysql) == ER_NO_SUCH_THREAD;
}

/* The connection stands and nothing runs. */
static void work(fl_mariadb_killer *self)
{
    while ((self->present = take(self)) != NULL) {
        if (!kill_next(self)) return;
        if (!was_answered(self)) {
            fail_all(self);
            return;
        }
        fl_mariadb_victim *victim = self->present;
        self->present = NULL;
        tell(victim, true);
    }
    fl_mariadb_wire_close(&self->wire);
}

static void ended(fl_mariadb_wire *wire)
{
    fl_mariadb_killer *self = killer_of(wire);
    if (!was_answered(self)) {
        fail_all(self);
        return;
    }
    fl_mariadb_victim *victim = self->present;
    self->present = NULL;
    tell(victim, true);
    work(self);
}

static void heard(fl_mariadb_wire *wire)
{
    (void)wire; /* nothing is left running without a call */
}

static void begin(fl_mariadb_killer *self)
{
    if (fl_mariadb_wire_open(&self->wire, self->wire.db, false) < 0) {
        fail_all(self);
        return;
    }
    self->wire.ended = ended;
    self->wire.heard = heard;
    if (!fl_mariadb_wire_start(&self->wire, FL_WIRE_CONNECT, PATIENCE)) return;
    if (self->wire.status == 0)
        work(self);
    else
        fail_all(self);
}

void fl_mariadb_killer_init(fl_mariadb_killer *self, fl_db *db)
{
    self->wire.db = db;
    self->last = &self->first;
}

void fl_mariadb_killer_add(fl_mariadb_killer *self, fl_mariadb_victim *victim)
{
    victim->asked = true;
    victim->next = NULL;
    victim->link = self->last;
    *self->last = victim;
    self->last = &victim->next;
    if (!self->wire.mysql) begin(self);
}

void fl_mariadb_killer_forget(fl_mariadb_killer *self, fl_mariadb_victim *victim)
{
    if (self->present == victim) self->present = NULL;
    if (victim->link) {
        *victim->link = victim->next;
        if (victim->next)
            victim->next->link = victim->link;
        else
            self->last = victim->link;
    }
    victim->link = NULL;
    victim->asked = false;
}

void fl_mariadb_killer_close(fl_mariadb_killer *self)
{
    fl_mariadb_wire_close(&self->wire);
}
