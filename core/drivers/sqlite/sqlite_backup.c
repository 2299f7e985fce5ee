#include "sqlite_backup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEP_PAGES 256

static bool is_to_stop(fl_sqlite_connection *connection, fl_sqlite_job *job)
{
    return fl_sqlite_job_is_stopped(job) || atomic_load(connection->ending);
}

static int copy_pages(fl_sqlite_connection *connection, fl_sqlite_job *job, sqlite3 *to)
{
    sqlite3_backup *backup = sqlite3_backup_init(to, "main", connection->db, "main");
    if (!backup) return sqlite3_errcode(to);
    int result = SQLITE_OK;
    while (result == SQLITE_OK && !is_to_stop(connection, job))
        result = sqlite3_backup_step(backup, STEP_PAGES);
    (void)sqlite3_backup_finish(backup);
    return result == SQLITE_OK ? SQLITE_INTERRUPT : result;
}

/* In a snapshot: what is written meanwhile does not make it begin again. */
static int copy_snapshot(fl_sqlite_connection *connection, fl_sqlite_job *job, sqlite3 *to)
{
    bool was_open = fl_sqlite_connection_in_transaction(connection);
    connection->job = NULL;
    int result = was_open ? SQLITE_OK : fl_sqlite_connection_do(connection, "begin");
    if (result == SQLITE_OK)
        result = fl_sqlite_connection_do(connection, "select 1 from sqlite_schema limit 1");
    if (result == SQLITE_OK) result = copy_pages(connection, job, to);
    if (!was_open) fl_sqlite_connection_roll_back(connection);
    connection->job = job;
    return result;
}

static void fail(fl_sqlite_connection *connection, fl_sqlite_job *job, sqlite3 *to, int result,
                 const char *path)
{
    int number = to ? sqlite3_system_errno(to) : 0;
    if (is_to_stop(connection, job))
        fl_sqlite_error_set(&job->error, "cancelled", 0, "the backup was cancelled");
    else if ((result & 0xff) == SQLITE_CANTOPEN && number != 0)
        fl_sqlite_error_set(&job->error, "SQLITE_CANTOPEN", 0, "cannot write the backup %s: %s",
                            path, strerror(number));
    else
        fl_sqlite_error_take(&job->error, to, result, path);
}

static void copy(fl_sqlite_connection *connection, fl_sqlite_job *job, const char *part)
{
    sqlite3 *to = NULL;
    (void)unlink(part);
    int result = sqlite3_open_v2(part, &to,
                                 SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
                                     SQLITE_OPEN_EXRESCODE,
                                 NULL);
    if (result == SQLITE_OK) result = copy_snapshot(connection, job, to);
    if (result != SQLITE_DONE) fail(connection, job, to, result, part);
    (void)sqlite3_close(to);
}

void fl_sqlite_backup_run(fl_sqlite_connection *connection, fl_sqlite_job *job)
{
    char *part;
    if (!job->path || asprintf(&part, "%s.part", job->path) < 0) {
        fl_sqlite_error_set(&job->error, "argument", 0, "a backup needs the path of its file");
        return;
    }
    copy(connection, job, part);
    if (!fl_sqlite_job_failed(job) && rename(part, job->path) < 0)
        fl_sqlite_error_set(&job->error, "SQLITE_CANTOPEN", 0, "cannot write the backup %s: %s",
                            job->path, strerror(errno));
    if (fl_sqlite_job_failed(job)) (void)unlink(part);
    free(part);
}
