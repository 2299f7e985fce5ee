#include "sqlite_connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

#define PROGRESS_STEPS 1000
#define CHECKPOINT_PAGES 1000 /* 4 MB */
#define LARGE_LOG_PAGES 16000
#define CLOSING_PATIENCE 200000000u /* ns, for other processes when all is over */
#define SLEEP_SLICE 2               /* ms */

/* how it is interrupted */

static bool is_to_stop(fl_sqlite_connection *connection)
{
    return atomic_load_explicit(connection->ending, memory_order_relaxed) ||
           (connection->job && fl_sqlite_job_is_stopped(connection->job));
}

static int progress(void *data)
{
    fl_sqlite_connection *connection = data;
    if (connection->busy) connection->busy(connection->busy_data);
    return is_to_stop(connection);
}

bool fl_sqlite_connection_is_patient(void *data)
{
    fl_sqlite_connection *connection = data;
    if (is_to_stop(connection)) return false;
    connection->waited_out = uv_hrtime() >= connection->wait_until;
    return !connection->waited_out;
}

static void nap(uint64_t nanoseconds)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = (long)nanoseconds}, NULL);
}

/* Another process writes, or recovers the log of one that was killed. */
static int wait_for_others(void *data, int times)
{
    if (!fl_sqlite_connection_is_patient(data)) return 0;
    nap(times < 5 ? 100000u << times : 4000000u);
    return 1;
}

/* what only tests ask for */

static void sleep_function(sqlite3_context *context, int count, sqlite3_value **values)
{
    (void)count;
    fl_sqlite_connection *connection = sqlite3_user_data(context);
    int64_t wanted = sqlite3_value_int64(values[0]);
    uint64_t until = uv_hrtime() + (wanted > 0 ? (uint64_t)wanted * 1000000u : 0);
    while (uv_hrtime() < until && !progress(connection)) nap(SLEEP_SLICE * 1000000u);
    sqlite3_result_int64(context, wanted);
}

/* what is not for statements */

static bool is_ours(const char *pragma)
{
    static const char *const ours[] = {"journal_mode", "locking_mode", "query_only",
                                       "wal_autocheckpoint"};
    for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++)
        if (sqlite3_stricmp(pragma, ours[i]) == 0) return true;
    return false;
}

/* There is one writer and its connection is everybody's: how it writes is not for one of them to
 * say, and a database that one of them attached would be there for all, but not for readers. */
static int authorize(void *data, int action, const char *first, const char *second,
                     const char *database, const char *trigger)
{
    (void)database;
    (void)trigger;
    fl_sqlite_connection *connection = data;
    const fl_sqlite_job *job = connection->job;
    if (!job) return SQLITE_OK;
    if (action == SQLITE_PRAGMA) {
        if (first && sqlite3_stricmp(first, "wal_checkpoint") == 0) return SQLITE_DENY;
        return first && second && is_ours(first) ? SQLITE_DENY : SQLITE_OK;
    }
    if (action != SQLITE_ATTACH && action != SQLITE_DETACH) return SQLITE_OK;
    return job->call_count == 1 && job->calls[0].text->vacuums ? SQLITE_OK : SQLITE_DENY;
}

/* opening */

static int committed(void *data, sqlite3 *db, const char *name, int pages)
{
    (void)db;
    (void)name;
    ((fl_sqlite_connection *)data)->wal_pages = pages;
    return SQLITE_OK;
}

static int flags_of(const fl_sqlite_connection *connection)
{
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    if (connection->options->is_memory)
        return flags | SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MEMORY;
    if (!connection->writes || connection->options->read_only) return flags | SQLITE_OPEN_READONLY;
    return flags | SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
}

int fl_sqlite_connection_do(fl_sqlite_connection *connection, const char *text)
{
    return sqlite3_exec(connection->db, text, NULL, NULL, NULL);
}

/* For this SQLite calls no busy handler. */
static int set_to_log(fl_sqlite_connection *connection)
{
    int result;
    while ((result = fl_sqlite_connection_do(connection, "pragma journal_mode = wal")) ==
               SQLITE_BUSY &&
           fl_sqlite_connection_is_patient(connection))
        nap(1000000);
    return result;
}

static int set_up_writer(fl_sqlite_connection *connection)
{
    const fl_sqlite_options *options = connection->options;
    if (options->read_only || options->is_memory) return SQLITE_OK;
    if (fl_sqlite_gate_open(&connection->gate, connection->path) < 0) return SQLITE_CANTOPEN;
    int result = set_to_log(connection);
    if (result != SQLITE_OK) return result;
    (void)sqlite3_wal_hook(connection->db, committed, connection);
    connection->checkpoint_at = CHECKPOINT_PAGES;
    return fl_sqlite_connection_do(connection, options->full ? "pragma synchronous = full"
                                                             : "pragma synchronous = normal");
}

static int set_up_reader(fl_sqlite_connection *connection)
{
    return fl_sqlite_connection_do(connection, "pragma query_only = on");
}

/* Is it a database? And what snapshot is there now? */
static int look(fl_sqlite_connection *connection)
{
    return fl_sqlite_connection_do(connection, "select 1 from sqlite_schema limit 1");
}

static int set_up(fl_sqlite_connection *connection)
{
    sqlite3 *db = connection->db;
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    (void)sqlite3_busy_handler(db, wait_for_others, connection);
    sqlite3_progress_handler(db, PROGRESS_STEPS, progress, connection);
    (void)sqlite3_wal_autocheckpoint(db, 0);
    if (connection->options->sleeps)
        (void)sqlite3_create_function(db, "fasterlua_sleep", 1, SQLITE_UTF8, connection,
                                      sleep_function, NULL, NULL);
    int result = look(connection);
    if (result == SQLITE_OK)
        result = fl_sqlite_connection_do(connection, "pragma foreign_keys = on;"
                                                     "pragma temp_store = memory");
    if (result == SQLITE_OK)
        result = connection->writes ? set_up_writer(connection) : set_up_reader(connection);
    if (result == SQLITE_OK) result = look(connection); /* all its files are open now */
    (void)sqlite3_set_authorizer(db, authorize, connection);
    return result;
}

/* SQLite says "unable to open database file" whatever it is. */
static void explain(fl_sqlite_connection *connection, fl_sqlite_error *error, int result)
{
    int number = connection->db ? sqlite3_system_errno(connection->db) : 0;
    if (connection->gate.descriptor < 0 && number == 0) number = errno;
    if ((result & 0xff) == SQLITE_CANTOPEN && number != 0)
        fl_sqlite_error_set(error, "SQLITE_CANTOPEN", 0, "cannot open the database %s: %s",
                            connection->path, strerror(number));
    else
        fl_sqlite_error_take(error, connection->db, result, connection->path);
}

bool fl_sqlite_connection_open(fl_sqlite_connection *connection, fl_sqlite_error *error)
{
    const char *name = connection->options->is_memory ? ":memory:" : connection->path;
    connection->gate.descriptor = -1;
    errno = 0;
    int result = sqlite3_open_v2(name, &connection->db, flags_of(connection), NULL);
    if (result == SQLITE_OK) result = set_up(connection);
    if (result == SQLITE_OK) {
        fl_sqlite_cache_init(&connection->cache, connection->db);
        return true;
    }
    if (connection->waited_out)
        fl_sqlite_error_set(error, "pool_timeout", 503, "%s is locked by another process",
                            connection->path);
    explain(connection, error, result);
    (void)sqlite3_close(connection->db);
    connection->db = NULL;
    fl_sqlite_gate_close(&connection->gate);
    return false;
}

/* checkpoints */

static void move_log(fl_sqlite_connection *connection, int mode)
{
    if (!fl_sqlite_gate_shut(&connection->gate, fl_sqlite_connection_is_patient, connection))
        return;
    (void)sqlite3_busy_handler(connection->db, NULL, NULL); /* readers are not waited for */
    (void)sqlite3_wal_checkpoint_v2(connection->db, NULL, mode, NULL, NULL);
    (void)sqlite3_busy_handler(connection->db, wait_for_others, connection);
    fl_sqlite_gate_reopen(&connection->gate);
}

/* When readers keep the log from being used again from its beginning, the next attempt waits until
 * as much has been added. */
void fl_sqlite_connection_checkpoint(fl_sqlite_connection *connection)
{
    int pages = connection->wal_pages;
    if (pages + CHECKPOINT_PAGES < connection->checkpoint_at)
        connection->checkpoint_at = CHECKPOINT_PAGES;
    if (pages < connection->checkpoint_at) return;
    connection->job = NULL;
    connection->wait_until = uv_hrtime() + CLOSING_PATIENCE;
    bool is_large = pages >= LARGE_LOG_PAGES;
    move_log(connection, is_large ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE);
    connection->checkpoint_at = pages + CHECKPOINT_PAGES;
}

/* Although the file is ending, this is to be done. */
static void move_last(fl_sqlite_connection *connection)
{
    static _Atomic bool not_ending;
    connection->ending = &not_ending;
    connection->job = NULL;
    connection->wait_until = uv_hrtime() + CLOSING_PATIENCE;
    move_log(connection, SQLITE_CHECKPOINT_TRUNCATE);
}

void fl_sqlite_connection_close(fl_sqlite_connection *connection)
{
    if (!connection->db) return;
    fl_sqlite_connection_roll_back(connection);
    if (connection->gate.descriptor >= 0) move_last(connection);
    (void)sqlite3_finalize(connection->json_valid);
    (void)sqlite3_finalize(connection->begin);
    (void)sqlite3_finalize(connection->commit);
    fl_sqlite_cache_close(&connection->cache);
    (void)sqlite3_close(connection->db);
    fl_sqlite_gate_close(&connection->gate);
    connection->json_valid = connection->begin = connection->commit = NULL;
    connection->db = NULL;
}

/* transactions */

static int do_prepared(fl_sqlite_connection *connection, sqlite3_stmt **statement, const char *text)
{
    connection->job = NULL;
    if (!*statement) {
        int result = sqlite3_prepare_v3(connection->db, text, -1, SQLITE_PREPARE_PERSISTENT,
                                        statement, NULL);
        if (result != SQLITE_OK) return result;
    }
    int result = sqlite3_step(*statement);
    (void)sqlite3_reset(*statement);
    return result == SQLITE_DONE ? SQLITE_OK : result;
}

int fl_sqlite_connection_begin(fl_sqlite_connection *connection)
{
    return do_prepared(connection, &connection->begin, "begin immediate");
}

int fl_sqlite_connection_commit(fl_sqlite_connection *connection)
{
    return do_prepared(connection, &connection->commit, "commit");
}

bool fl_sqlite_connection_in_transaction(const fl_sqlite_connection *connection)
{
    return sqlite3_get_autocommit(connection->db) == 0;
}

void fl_sqlite_connection_roll_back(fl_sqlite_connection *connection)
{
    if (!fl_sqlite_connection_in_transaction(connection)) return;
    connection->job = NULL;
    sqlite3_progress_handler(connection->db, 0, NULL, NULL);
    (void)fl_sqlite_connection_do(connection, "rollback");
    sqlite3_progress_handler(connection->db, PROGRESS_STEPS, progress, connection);
}

static void fail_busy(fl_sqlite_connection *connection, fl_sqlite_job *job)
{
    uint64_t waited = (uv_hrtime() - job->queued) / 1000000;
    fl_sqlite_error_set(&job->error, "pool_timeout", 503,
                        "another process kept %s locked for %llu ms", connection->path,
                        (unsigned long long)waited);
}

void fl_sqlite_connection_fail(fl_sqlite_connection *connection, fl_sqlite_job *job, int result)
{
    bool is_stopped = fl_sqlite_job_is_stopped(job) || atomic_load(connection->ending);
    int kind = result & 0xff;
    if (is_stopped && (kind == SQLITE_INTERRUPT || kind == SQLITE_BUSY || kind == SQLITE_ABORT))
        fl_sqlite_error_set(&job->error, "cancelled", 0, "the query was cancelled");
    else if (kind == SQLITE_BUSY && connection->waited_out)
        fail_busy(connection, job);
    else if (kind == SQLITE_AUTH)
        fl_sqlite_error_set(&job->error, "refused", 0,
                            "sqlite: all share one connection that writes: statements do not "
                            "attach databases or set how it writes and checkpoints");
    else
        fl_sqlite_error_take(&job->error, connection->db, result, connection->path);
}
