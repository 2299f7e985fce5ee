#include "sqlite_cache.h"

#include <stdlib.h>
#include <string.h>

#include "values.h"

void fl_sqlite_cache_init(fl_sqlite_cache *cache, sqlite3 *db)
{
    *cache = (fl_sqlite_cache){.db = db};
}

static void prepared_free(fl_sqlite_prepared *prepared)
{
    (void)sqlite3_finalize(prepared->statement);
    fl_sqlite_text_release(prepared->text);
    fl_buffer_close(&prepared->names);
    free(prepared->columns);
    free(prepared);
}

void fl_sqlite_cache_close(fl_sqlite_cache *cache)
{
    for (fl_sqlite_prepared *prepared = cache->newest, *older; prepared; prepared = older) {
        older = prepared->older;
        prepared_free(prepared);
    }
    *cache = (fl_sqlite_cache){0};
}

/* columns */

static bool is_declared(const char *type, const char *name)
{
    return type && sqlite3_stricmp(type, name) == 0;
}

static fl_sqlite_column column_of(sqlite3_stmt *statement, int number)
{
    const char *type = sqlite3_column_decltype(statement, number);
    if (is_declared(type, "boolean") || is_declared(type, "bool")) return FL_SQLITE_BOOLEAN;
    return is_declared(type, "json") ? FL_SQLITE_JSON : FL_SQLITE_PLAIN;
}

static bool describe(fl_sqlite_prepared *prepared)
{
    int width = sqlite3_column_count(prepared->statement);
    free(prepared->columns);
    prepared->columns = calloc((size_t)width + 1, sizeof(*prepared->columns));
    fl_buffer_reset(&prepared->names, SIZE_MAX);
    prepared->width = width;
    for (int i = 0; i < width && prepared->columns; i++) {
        const char *name = sqlite3_column_name(prepared->statement, i);
        if (!name) return false;
        prepared->columns[i] = column_of(prepared->statement, i);
        fl_values_text(&prepared->names, fl_slice_from_string(name));
    }
    return prepared->columns && !prepared->names.failed;
}

bool fl_sqlite_prepared_look(fl_sqlite_prepared *prepared)
{
    int times = sqlite3_stmt_status(prepared->statement, SQLITE_STMTSTATUS_REPREPARE, 0);
    if (times == prepared->reprepared) return true;
    if (!describe(prepared)) return false;
    prepared->reprepared = times;
    return true;
}

/* the cache */

static bool is_same(const fl_sqlite_text *a, const fl_sqlite_text *b)
{
    return a == b ||
           (a->hash == b->hash && a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0);
}

static fl_sqlite_prepared **bucket_of(fl_sqlite_cache *cache, const fl_sqlite_text *text)
{
    return &cache->buckets[text->hash % FL_SQLITE_CACHE_BUCKETS];
}

static fl_sqlite_prepared *find(fl_sqlite_cache *cache, const fl_sqlite_text *text)
{
    fl_sqlite_prepared *prepared = *bucket_of(cache, text);
    while (prepared && !is_same(prepared->text, text)) prepared = prepared->next;
    return prepared;
}

static void take_out(fl_sqlite_cache *cache, fl_sqlite_prepared *prepared)
{
    *(prepared->newer ? &prepared->newer->older : &cache->newest) = prepared->older;
    *(prepared->older ? &prepared->older->newer : &cache->oldest) = prepared->newer;
}

static void put_first(fl_sqlite_cache *cache, fl_sqlite_prepared *prepared)
{
    prepared->newer = NULL;
    prepared->older = cache->newest;
    *(cache->newest ? &cache->newest->newer : &cache->oldest) = prepared;
    cache->newest = prepared;
}

static void forget(fl_sqlite_cache *cache, fl_sqlite_prepared *prepared)
{
    fl_sqlite_prepared **place = bucket_of(cache, prepared->text);
    while (*place != prepared) place = &(*place)->next;
    *place = prepared->next;
    take_out(cache, prepared);
    cache->count--;
    prepared_free(prepared);
}

static void forget_oldest(fl_sqlite_cache *cache)
{
    fl_sqlite_prepared *prepared = cache->oldest;
    while (prepared && prepared->is_out) prepared = prepared->newer;
    if (prepared) forget(cache, prepared);
}

static void keep(fl_sqlite_cache *cache, fl_sqlite_prepared *prepared)
{
    if (cache->count >= FL_SQLITE_CACHE_MOST) forget_oldest(cache);
    fl_sqlite_prepared **place = bucket_of(cache, prepared->text);
    prepared->next = *place;
    *place = prepared;
    put_first(cache, prepared);
    cache->count++;
}

static int prepare(fl_sqlite_cache *cache, fl_sqlite_prepared *prepared)
{
    fl_sqlite_text *text = prepared->text;
    int result = sqlite3_prepare_v3(cache->db, text->bytes, (int)text->size + 1,
                                    SQLITE_PREPARE_PERSISTENT, &prepared->statement, NULL);
    if (result != SQLITE_OK) return result;
    prepared->reads = sqlite3_stmt_readonly(prepared->statement) != 0;
    return describe(prepared) ? SQLITE_OK : SQLITE_NOMEM;
}

int fl_sqlite_cache_take(fl_sqlite_cache *cache, fl_sqlite_prepared **out, fl_sqlite_text *text)
{
    fl_sqlite_prepared *found = find(cache, text);
    *out = found;
    if (found && !found->is_out) {
        found->is_out = true;
        if (cache->newest == found) return SQLITE_OK;
        take_out(cache, found);
        put_first(cache, found);
        return SQLITE_OK;
    }
    fl_sqlite_prepared *prepared = *out = calloc(1, sizeof(*prepared));
    if (!prepared) return SQLITE_NOMEM;
    prepared->text = text;
    fl_sqlite_text_hold(text);
    prepared->is_out = true;
    prepared->is_private = found != NULL;
    int result = prepare(cache, prepared);
    if (result != SQLITE_OK)
        prepared_free(prepared);
    else if (!prepared->is_private)
        keep(cache, prepared);
    return result;
}

void fl_sqlite_cache_give(fl_sqlite_cache *cache, fl_sqlite_prepared *prepared)
{
    if (prepared->statement) {
        (void)sqlite3_reset(prepared->statement);
        (void)sqlite3_clear_bindings(prepared->statement);
    }
    prepared->is_out = false;
    if (prepared->is_private)
        prepared_free(prepared);
    else if (!prepared->statement)
        forget(cache, prepared);
}
