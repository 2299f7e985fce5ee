#include "sqlite_run.h"

#include <uv.h>

#include "utf8.h"
#include "values.h"

/* arguments */

static int bind_text(sqlite3_stmt *statement, int number, fl_slice text)
{
    const char *data = text.size > 0 ? text.data : "";
    if (fl_utf8_valid(text))
        return sqlite3_bind_text64(statement, number, data, text.size, SQLITE_STATIC, SQLITE_UTF8);
    return sqlite3_bind_blob64(statement, number, data, text.size, SQLITE_STATIC);
}

static int bind_value(sqlite3_stmt *statement, int number, fl_value value)
{
    switch (value.tag) {
    case FL_VALUE_NULL: return sqlite3_bind_null(statement, number);
    case FL_VALUE_FALSE: return sqlite3_bind_int(statement, number, 0);
    case FL_VALUE_TRUE: return sqlite3_bind_int(statement, number, 1);
    case FL_VALUE_INTEGER: return sqlite3_bind_int64(statement, number, value.integer);
    case FL_VALUE_NUMBER: return sqlite3_bind_double(statement, number, value.number);
    case FL_VALUE_TEXT:
    case FL_VALUE_JSON: return bind_text(statement, number, value.text);
    case FL_VALUE_LIST: break;
    }
    return SQLITE_MISMATCH;
}

static int bind_all(fl_sqlite_job *job, const fl_sqlite_call *call, sqlite3_stmt *statement)
{
    const char *at = job->values + call->first;
    if ((uint32_t)sqlite3_bind_parameter_count(statement) != call->count) {
        fl_sqlite_error_set(&job->error, "argument", 0, "the statement takes %d values, not %u",
                            sqlite3_bind_parameter_count(statement), call->count);
        return SQLITE_RANGE;
    }
    for (uint32_t i = 0; i < call->count; i++) {
        int result = bind_value(statement, (int)i + 1, fl_values_read(&at));
        if (result != SQLITE_OK) return result;
    }
    return SQLITE_OK;
}

/* rows */

static bool is_json(fl_sqlite_connection *connection, fl_slice text)
{
    sqlite3_stmt *check = connection->json_valid;
    if (!check && sqlite3_prepare_v2(connection->db, "select json_valid(?)", -1, &check, NULL))
        return false;
    connection->json_valid = check;
    (void)bind_text(check, 1, text);
    bool valid = sqlite3_step(check) == SQLITE_ROW && sqlite3_column_int(check, 0) == 1;
    (void)sqlite3_reset(check);
    (void)sqlite3_clear_bindings(check);
    return valid;
}

static fl_slice text_of(sqlite3_stmt *statement, int column)
{
    const char *data = sqlite3_column_type(statement, column) == SQLITE_BLOB
                           ? sqlite3_column_blob(statement, column)
                           : (const char *)sqlite3_column_text(statement, column);
    return fl_slice_of(data, (size_t)sqlite3_column_bytes(statement, column));
}

static void write_integer(fl_buffer *out, int64_t value, fl_sqlite_column declared)
{
    if (declared == FL_SQLITE_BOOLEAN && (value == 0 || value == 1))
        fl_values_bool(out, value == 1);
    else
        fl_values_integer(out, value);
}

static void write_value(fl_sqlite_connection *connection, fl_buffer *out,
                        const fl_sqlite_prepared *prepared, int column)
{
    sqlite3_stmt *statement = prepared->statement;
    fl_sqlite_column declared = prepared->columns[column];
    int type = sqlite3_column_type(statement, column);
    if (type == SQLITE_NULL) {
        fl_values_null(out);
    } else if (type == SQLITE_INTEGER) {
        write_integer(out, sqlite3_column_int64(statement, column), declared);
    } else if (type == SQLITE_FLOAT) {
        fl_values_number(out, sqlite3_column_double(statement, column));
    } else {
        fl_slice text = text_of(statement, column);
        if (declared == FL_SQLITE_JSON && type == SQLITE_TEXT && is_json(connection, text))
            fl_values_json(out, text);
        else
            fl_values_text(out, text);
    }
}

static bool add_row(fl_sqlite_connection *connection, fl_sqlite_job *job,
                    const fl_sqlite_prepared *prepared, fl_rows *rows)
{
    for (int i = 0; i < prepared->width; i++) write_value(connection, &rows->values, prepared, i);
    rows->count++;
    if (rows->values.failed)
        fl_sqlite_error_set(&job->error, "memory", 503, "out of memory for the rows");
    else if (rows->values.size > job->most_bytes)
        fl_sqlite_error_set(
            &job->error, "too_large", 0,
            "more than %llu bytes of rows: db:each takes them piece by piece, and the option "
            "max_result sets the bound",
            (unsigned long long)job->most_bytes);
    return !fl_sqlite_job_failed(job);
}

static bool add_names(fl_sqlite_job *job, fl_sqlite_prepared *prepared, fl_rows *rows)
{
    if (!fl_sqlite_prepared_look(prepared)) {
        fl_sqlite_error_set(&job->error, "memory", 503, "out of memory for the columns");
        return false;
    }
    rows->width = (uint32_t)prepared->width;
    fl_buffer_append(&rows->names, prepared->names.data, prepared->names.size);
    return true;
}

/* A piece has its columns, even without rows. */
bool fl_sqlite_run_more(fl_sqlite_connection *connection, fl_sqlite_job *job,
                        fl_sqlite_prepared *prepared, fl_rows *rows, uint64_t most, bool *over)
{
    connection->job = job;
    *over = true;
    if (!prepared->statement) return true;
    int result = SQLITE_ROW;
    do {
        result = sqlite3_step(prepared->statement);
        if (rows->names.size == 0 && (result == SQLITE_ROW || result == SQLITE_DONE) &&
            !add_names(job, prepared, rows))
            return false;
        if (result == SQLITE_ROW && rows->count < most && !add_row(connection, job, prepared, rows))
            return false;
    } while (result == SQLITE_ROW && (rows->count < most || !prepared->reads));
    *over = result != SQLITE_ROW;
    if (result == SQLITE_ROW || result == SQLITE_DONE) return true;
    fl_sqlite_connection_fail(connection, job, result);
    return false;
}

/* running */

static bool take(fl_sqlite_connection *connection, fl_sqlite_job *job, const fl_sqlite_call *call,
                 fl_sqlite_prepared **out)
{
    connection->job = job;
    connection->wait_until = job->wait_until;
    connection->waited_out = false;
    int result = fl_sqlite_cache_take(&connection->cache, out, call->text);
    if (result != SQLITE_OK) {
        fl_sqlite_connection_fail(connection, job, result);
        return false;
    }
    job->is_misplaced = !connection->writes && (*out)->statement && !(*out)->reads;
    if (!job->is_misplaced) {
        result = (*out)->statement ? bind_all(job, call, (*out)->statement) : SQLITE_OK;
        if (result == SQLITE_OK) return true;
        fl_sqlite_connection_fail(connection, job, result);
    }
    fl_sqlite_cache_give(&connection->cache, *out);
    return false;
}

bool fl_sqlite_run_begin(fl_sqlite_connection *connection, fl_sqlite_job *job,
                         fl_sqlite_prepared **out)
{
    return take(connection, job, &job->calls[0], out);
}

/* What a statement did not change is left over from one before. */
static void count_changes(sqlite3 *db, fl_sqlite_call *call, sqlite3_int64 before)
{
    if (sqlite3_total_changes64(db) == before) return;
    call->affected = (uint64_t)sqlite3_changes64(db);
    if (call->text->inserts && call->affected > 0) call->last_id = sqlite3_last_insert_rowid(db);
}

bool fl_sqlite_run_call(fl_sqlite_connection *connection, fl_sqlite_job *job, fl_sqlite_call *call)
{
    fl_sqlite_prepared *prepared;
    uint64_t began = uv_hrtime();
    sqlite3_int64 changes = sqlite3_total_changes64(connection->db);
    if (!take(connection, job, call, &prepared)) return false;
    bool over;
    bool done = fl_sqlite_run_more(connection, job, prepared, &call->rows, job->keep, &over);
    if (done && !prepared->reads) count_changes(connection->db, call, changes);
    fl_sqlite_cache_give(&connection->cache, prepared);
    if (done) fl_sqlite_text_took(call->text, uv_hrtime() - began);
    return done;
}

bool fl_sqlite_run_calls(fl_sqlite_connection *connection, fl_sqlite_job *job)
{
    for (unsigned i = 0; i < job->call_count; i++)
        if (!fl_sqlite_run_call(connection, job, &job->calls[i])) return false;
    return true;
}
