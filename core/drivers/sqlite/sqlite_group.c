#include "sqlite_group.h"

#include <uv.h>

#include "sqlite_perform.h"

#define MOST 64
#define LONGEST                                                                                    \
    5000000u /* ns of work, before what comes meanwhile has to wait for the next group */

typedef struct fl_sqlite_group {
    fl_sqlite_worker *worker;
    fl_sqlite_connection *connection;
    fl_sqlite_job *jobs[MOST];
    unsigned count;
    uint64_t began;
} fl_sqlite_group;

static bool is_plain(const fl_sqlite_text *text)
{
    return text->kind == FL_SQL_READ || text->kind == FL_SQL_WRITE;
}

bool fl_sqlite_group_fits(const fl_sqlite_job *job)
{
    if (job->kind != FL_QUERY_RUN && job->kind != FL_QUERY_BATCH) return false;
    for (unsigned i = 0; i < job->call_count; i++)
        if (!is_plain(job->calls[i].text)) return false;
    return true;
}

/* With the lock. */
static void collect(fl_sqlite_group *self)
{
    fl_sqlite_queue *writes = &self->worker->file->writes;
    while (self->count < MOST && writes->first && fl_sqlite_group_fits(writes->first))
        self->jobs[self->count++] = fl_sqlite_queue_take(writes);
}

static void collect_more(fl_sqlite_group *self)
{
    if (uv_hrtime() - self->began > LONGEST) return;
    pthread_mutex_lock(&self->worker->file->lock);
    collect(self);
    pthread_mutex_unlock(&self->worker->file->lock);
}

static bool enter(fl_sqlite_group *self, const fl_sqlite_job *first)
{
    fl_sqlite_connection *connection = self->connection;
    connection->job = NULL;
    connection->wait_until = first->wait_until;
    connection->waited_out = false;
    return fl_sqlite_gate_enter(&connection->gate, fl_sqlite_connection_is_patient, connection);
}

static void run_single(fl_sqlite_group *self, fl_sqlite_job *job)
{
    if (enter(self, job))
        fl_sqlite_perform(self->worker, job);
    else
        fl_sqlite_connection_fail(self->connection, job, SQLITE_BUSY);
    fl_sqlite_gate_leave(&self->connection->gate);
}

/* Statement by statement, since one of them has undone all or cannot be committed. */
static void run_singly(fl_sqlite_group *self)
{
    fl_sqlite_connection_roll_back(self->connection);
    fl_sqlite_gate_leave(&self->connection->gate);
    for (unsigned i = 0; i < self->count; i++) {
        if (fl_sqlite_job_failed(self->jobs[i])) continue;
        fl_sqlite_job_reset(self->jobs[i]);
        run_single(self, self->jobs[i]);
    }
}

static void fail_all(fl_sqlite_group *self, int result)
{
    for (unsigned i = 0; i < self->count; i++)
        fl_sqlite_connection_fail(self->connection, self->jobs[i], result);
}

/* Another process has kept the first one waiting for as long as it may; whether any may wait on. */
static bool fail_late(fl_sqlite_group *self)
{
    fl_sqlite_connection *connection = self->connection;
    bool any = false, ending = atomic_load(connection->ending);
    uint64_t now = uv_hrtime();
    for (unsigned i = 0; i < self->count; i++) {
        fl_sqlite_job *job = self->jobs[i];
        if (fl_sqlite_job_failed(job)) continue;
        if (ending || fl_sqlite_job_is_stopped(job) || now >= job->wait_until)
            fl_sqlite_connection_fail(connection, job, SQLITE_BUSY);
        else
            any = true;
    }
    return any;
}

static const fl_sqlite_job *first_of(const fl_sqlite_group *self)
{
    for (unsigned i = 0; i < self->count; i++)
        if (!fl_sqlite_job_failed(self->jobs[i])) return self->jobs[i];
    return self->jobs[0];
}

static bool begin(fl_sqlite_group *self)
{
    int result;
    do {
        result = enter(self, first_of(self)) ? fl_sqlite_connection_begin(self->connection)
                                             : SQLITE_BUSY;
        if (result == SQLITE_OK) return true;
        fl_sqlite_gate_leave(&self->connection->gate);
    } while ((result & 0xff) == SQLITE_BUSY && fail_late(self));
    if ((result & 0xff) != SQLITE_BUSY) fail_all(self, result);
    return false;
}

/* A statement that fails undoes what it has done itself: that needs no savepoint. */
static bool run_all(fl_sqlite_group *self)
{
    for (unsigned i = 0; i < self->count; i++) {
        if (!fl_sqlite_job_failed(self->jobs[i])) fl_sqlite_perform(self->worker, self->jobs[i]);
        if (!fl_sqlite_connection_in_transaction(self->connection)) return false;
        if (i + 1 == self->count) collect_more(self);
    }
    return true;
}

static void transact(fl_sqlite_group *self)
{
    if (!begin(self)) return;
    int result = run_all(self) ? fl_sqlite_connection_commit(self->connection) : SQLITE_ABORT;
    if ((result & 0xff) == SQLITE_CONSTRAINT || result == SQLITE_ABORT) {
        run_singly(self);
        return;
    }
    if (result != SQLITE_OK) fail_all(self, result);
    fl_sqlite_connection_roll_back(self->connection);
    fl_sqlite_gate_leave(&self->connection->gate);
}

/* With the lock. */
static void answer(fl_sqlite_group *self)
{
    for (unsigned i = 0; i < self->count; i++) {
        if (self->jobs[i]->seat) fl_sqlite_seat_next(self->jobs[i]->seat);
        fl_sqlite_job_answer(self->jobs[i]);
    }
}

void fl_sqlite_group_run(fl_sqlite_worker *worker, fl_sqlite_job *job)
{
    fl_sqlite_group group = {
        .worker = worker, .connection = &worker->connection, .jobs = {job}, .count = 1};
    group.began = uv_hrtime();
    collect(&group);
    pthread_mutex_unlock(&worker->file->lock);
    if (group.count == 1)
        run_single(&group, job);
    else
        transact(&group);
    pthread_mutex_lock(&worker->file->lock);
    answer(&group);
}
