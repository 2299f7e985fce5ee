#include "sqlite_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct named_result {
    int result;
    const char *name;
} named_result;

#define NAMED(result) result, #result

static const named_result names[] = {
    {NAMED(SQLITE_ERROR)},
    {NAMED(SQLITE_INTERNAL)},
    {NAMED(SQLITE_PERM)},
    {NAMED(SQLITE_ABORT)},
    {NAMED(SQLITE_BUSY)},
    {NAMED(SQLITE_LOCKED)},
    {NAMED(SQLITE_NOMEM)},
    {NAMED(SQLITE_READONLY)},
    {NAMED(SQLITE_INTERRUPT)},
    {NAMED(SQLITE_IOERR)},
    {NAMED(SQLITE_CORRUPT)},
    {NAMED(SQLITE_NOTFOUND)},
    {NAMED(SQLITE_FULL)},
    {NAMED(SQLITE_CANTOPEN)},
    {NAMED(SQLITE_PROTOCOL)},
    {NAMED(SQLITE_EMPTY)},
    {NAMED(SQLITE_SCHEMA)},
    {NAMED(SQLITE_TOOBIG)},
    {NAMED(SQLITE_CONSTRAINT)},
    {NAMED(SQLITE_MISMATCH)},
    {NAMED(SQLITE_MISUSE)},
    {NAMED(SQLITE_NOLFS)},
    {NAMED(SQLITE_AUTH)},
    {NAMED(SQLITE_FORMAT)},
    {NAMED(SQLITE_RANGE)},
    {NAMED(SQLITE_NOTADB)},
    {NAMED(SQLITE_ERROR_MISSING_COLLSEQ)},
    {NAMED(SQLITE_ERROR_RETRY)},
    {NAMED(SQLITE_ERROR_SNAPSHOT)},
    {NAMED(SQLITE_IOERR_READ)},
    {NAMED(SQLITE_IOERR_SHORT_READ)},
    {NAMED(SQLITE_IOERR_WRITE)},
    {NAMED(SQLITE_IOERR_FSYNC)},
    {NAMED(SQLITE_IOERR_DIR_FSYNC)},
    {NAMED(SQLITE_IOERR_TRUNCATE)},
    {NAMED(SQLITE_IOERR_FSTAT)},
    {NAMED(SQLITE_IOERR_UNLOCK)},
    {NAMED(SQLITE_IOERR_RDLOCK)},
    {NAMED(SQLITE_IOERR_DELETE)},
    {NAMED(SQLITE_IOERR_NOMEM)},
    {NAMED(SQLITE_IOERR_ACCESS)},
    {NAMED(SQLITE_IOERR_CHECKRESERVEDLOCK)},
    {NAMED(SQLITE_IOERR_LOCK)},
    {NAMED(SQLITE_IOERR_CLOSE)},
    {NAMED(SQLITE_IOERR_SHMOPEN)},
    {NAMED(SQLITE_IOERR_SHMSIZE)},
    {NAMED(SQLITE_IOERR_SHMLOCK)},
    {NAMED(SQLITE_IOERR_SHMMAP)},
    {NAMED(SQLITE_IOERR_SEEK)},
    {NAMED(SQLITE_IOERR_DELETE_NOENT)},
    {NAMED(SQLITE_IOERR_MMAP)},
    {NAMED(SQLITE_IOERR_GETTEMPPATH)},
    {NAMED(SQLITE_IOERR_CORRUPTFS)},
    {NAMED(SQLITE_LOCKED_SHAREDCACHE)},
    {NAMED(SQLITE_BUSY_RECOVERY)},
    {NAMED(SQLITE_BUSY_SNAPSHOT)},
    {NAMED(SQLITE_BUSY_TIMEOUT)},
    {NAMED(SQLITE_CANTOPEN_ISDIR)},
    {NAMED(SQLITE_CANTOPEN_FULLPATH)},
    {NAMED(SQLITE_CANTOPEN_SYMLINK)},
    {NAMED(SQLITE_CORRUPT_VTAB)},
    {NAMED(SQLITE_CORRUPT_SEQUENCE)},
    {NAMED(SQLITE_CORRUPT_INDEX)},
    {NAMED(SQLITE_READONLY_RECOVERY)},
    {NAMED(SQLITE_READONLY_CANTLOCK)},
    {NAMED(SQLITE_READONLY_ROLLBACK)},
    {NAMED(SQLITE_READONLY_DBMOVED)},
    {NAMED(SQLITE_READONLY_CANTINIT)},
    {NAMED(SQLITE_READONLY_DIRECTORY)},
    {NAMED(SQLITE_ABORT_ROLLBACK)},
    {NAMED(SQLITE_CONSTRAINT_CHECK)},
    {NAMED(SQLITE_CONSTRAINT_COMMITHOOK)},
    {NAMED(SQLITE_CONSTRAINT_FOREIGNKEY)},
    {NAMED(SQLITE_CONSTRAINT_FUNCTION)},
    {NAMED(SQLITE_CONSTRAINT_NOTNULL)},
    {NAMED(SQLITE_CONSTRAINT_PRIMARYKEY)},
    {NAMED(SQLITE_CONSTRAINT_TRIGGER)},
    {NAMED(SQLITE_CONSTRAINT_UNIQUE)},
    {NAMED(SQLITE_CONSTRAINT_VTAB)},
    {NAMED(SQLITE_CONSTRAINT_ROWID)},
    {NAMED(SQLITE_CONSTRAINT_PINNED)},
    {NAMED(SQLITE_CONSTRAINT_DATATYPE)},
    {NAMED(SQLITE_AUTH_USER)},
};

static const char *find_name(int result)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (names[i].result == result) return names[i].name;
    return NULL;
}

const char *fl_sqlite_error_name(int result)
{
    const char *name = find_name(result);
    return name ? name : find_name(result & 0xff);
}

static fl_slice behind(fl_slice text, fl_slice prefix)
{
    if (text.size < prefix.size || memcmp(text.data, prefix.data, prefix.size) != 0)
        return fl_slice_of(NULL, 0);
    return fl_slice_of(text.data + prefix.size, text.size - prefix.size);
}

/* "items.name" → its table and its column; a list of columns has a table alone. */
static void parse_column(fl_sqlite_error *error, fl_slice name)
{
    const char *dot = memchr(name.data, '.', name.size);
    if (!dot) return;
    size_t before = (size_t)(dot - name.data);
    error->table = fl_slice_of(name.data, before);
    if (!memchr(name.data, ',', name.size))
        error->column = fl_slice_of(dot + 1, name.size - before - 1);
}

void fl_sqlite_error_parse(fl_sqlite_error *error, fl_slice message)
{
    static const char *const about_columns[] = {"UNIQUE constraint failed: ",
                                                "NOT NULL constraint failed: "};
    for (size_t i = 0; i < sizeof(about_columns) / sizeof(*about_columns); i++) {
        fl_slice name = behind(message, fl_slice_from_string(about_columns[i]));
        if (!name.data) continue;
        error->constraint = name;
        parse_column(error, name);
    }
    fl_slice check = behind(message, FL_SLICE("CHECK constraint failed: "));
    if (check.data) error->constraint = check;
}

void fl_sqlite_error_set(fl_sqlite_error *error, const char *code, int status, const char *format,
                         ...)
{
    if (fl_sqlite_error_is_set(error)) return;
    (void)snprintf(error->code, sizeof(error->code), "%s", code);
    error->status = status;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&error->message, format, arguments) < 0) error->message = NULL;
    va_end(arguments);
}

static const char *code_of(int result)
{
    if ((result & 0xff) == SQLITE_NOMEM) return "memory";
    const char *name = fl_sqlite_error_name(result);
    return name ? name : "SQLITE_ERROR";
}

static bool is_about_file(int result)
{
    switch (result & 0xff) {
    case SQLITE_CANTOPEN:
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_READONLY:
    case SQLITE_PERM: return true;
    default: return false;
    }
}

void fl_sqlite_error_take(fl_sqlite_error *error, sqlite3 *db, int result, const char *path)
{
    if (fl_sqlite_error_is_set(error)) return;
    int extended = db ? sqlite3_extended_errcode(db) : result;
    if ((extended & 0xff) != (result & 0xff)) extended = result;
    const char *message = db && extended != result ? sqlite3_errmsg(db) : NULL;
    if (!message) message = db ? sqlite3_errmsg(db) : sqlite3_errstr(result);
    if (is_about_file(result))
        fl_sqlite_error_set(error, code_of(extended), 0, "%s: %s", path, message);
    else
        fl_sqlite_error_set(error, code_of(extended), 0, "%s", message);
    if ((result & 0xff) == SQLITE_CONSTRAINT && error->message)
        fl_sqlite_error_parse(error, fl_slice_from_string(error->message));
    int offset = db ? sqlite3_error_offset(db) : -1;
    if (offset >= 0 && asprintf(&error->detail, "at byte %d of the statement", offset + 1) < 0)
        error->detail = NULL;
}

void fl_sqlite_error_move(fl_sqlite_error *to, fl_sqlite_error *from)
{
    *to = *from;
    *from = (fl_sqlite_error){0};
}

void fl_sqlite_error_copy(fl_sqlite_error *to, const fl_sqlite_error *from)
{
    fl_sqlite_error_set(to, from->code, from->status, "%s",
                        from->message ? from->message : "out of memory");
}

void fl_sqlite_error_close(fl_sqlite_error *error)
{
    free(error->message);
    free(error->detail);
    *error = (fl_sqlite_error){0};
}
