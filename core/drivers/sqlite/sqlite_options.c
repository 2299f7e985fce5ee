#include "sqlite_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "cpus.h"
#include "state.h"

#define LEAST_READERS 2
#define MOST_READERS 8

static int read_path(fl_sqlite_options *options, const fl_db *db, char *why, size_t why_size)
{
    const char *path = fl_db_option_of(db, "path");
    size_t size = path ? strlen(path) : 0;
    const char *folder = db->state->app ? db->state->app->folder : ".";
    options->is_memory = size == strlen(":memory:") && memcmp(path, ":memory:", size) == 0;
    int status;
    if (size == 0) {
        (void)snprintf(why, why_size, "%s names no file: sqlite:shop.db", db->name);
        return UV_EINVAL;
    }
    if (*path == '/')
        status = asprintf(&options->path, "%.*s", (int)size, path);
    else
        status = asprintf(&options->path, options->is_memory ? "%2$.*1$s %3$s" : "%3$s/%2$.*1$s",
                          (int)size, path, folder);
    if (status >= 0) return 0;
    options->path = NULL;
    (void)snprintf(why, why_size, "out of memory");
    return UV_ENOMEM;
}

/* One of two words, the first of which is the default. */
static int read_word(const fl_db *db, const char *name, const char *usual, const char *other,
                     bool *is_other, char *why, size_t why_size)
{
    const char *value = fl_db_option_of(db, name);
    *is_other = value && strcmp(value, other) == 0;
    if (!value || *is_other || strcmp(value, usual) == 0) return 0;
    (void)snprintf(why, why_size, "%s: option %s is \"%s\" or \"%s\", not \"%s\"", db->name, name,
                   usual, other, value);
    return UV_EINVAL;
}

static unsigned usual_readers(void)
{
    unsigned cpus = fl_cpus_usable();
    if (cpus < LEAST_READERS) return LEAST_READERS;
    return cpus > MOST_READERS ? MOST_READERS : cpus;
}

static int read_readers(fl_sqlite_options *options, const fl_db *db, char *why, size_t why_size)
{
    const char *value = fl_db_option_of(db, "readers");
    options->readers = usual_readers();
    if (!value) return 0;
    char *end;
    long number = strtol(value, &end, 10);
    if (*end == '\0' && number >= LEAST_READERS && number <= MOST_READERS) {
        options->readers = (unsigned)number;
        return 0;
    }
    (void)snprintf(why, why_size, "%s: option readers is from %d to %d, not \"%s\"", db->name,
                   LEAST_READERS, MOST_READERS, value);
    return UV_EINVAL;
}

static int read_all(fl_sqlite_options *options, const fl_db *db, char *why, size_t why_size)
{
    int status = read_path(options, db, why, why_size);
    if (status == 0)
        status = read_word(db, "mode", "rwc", "ro", &options->read_only, why, why_size);
    if (status == 0)
        status = read_word(db, "synchronous", "normal", "full", &options->full, why, why_size);
    if (status == 0)
        status = read_word(db, "functions", "none", "sleep", &options->sleeps, why, why_size);
    if (status == 0) status = read_readers(options, db, why, why_size);
    if (options->is_memory) options->readers = 0;
    return status;
}

int fl_sqlite_options_read(fl_sqlite_options *options, const fl_db *db, char *why, size_t why_size)
{
    *options = (fl_sqlite_options){0};
    int status = read_all(options, db, why, why_size);
    if (status < 0) fl_sqlite_options_close(options);
    return status;
}

void fl_sqlite_options_close(fl_sqlite_options *options)
{
    free(options->path);
    options->path = NULL;
}
