#include "sqlite_job.h"

#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "sqlite_driver.h"
#include "sqlite_seat.h"

/* texts */

static uint32_t hash_of(fl_slice text)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < text.size; i++) hash = (hash ^ (unsigned char)text.data[i]) * 16777619u;
    return hash;
}

static bool is_one_of(const char *verb, const char *first, const char *second)
{
    return strcasecmp(verb, first) == 0 || strcasecmp(verb, second) == 0;
}

/* A text of the framework's own says what it is by its first word alone. */
static bool begins_with(const fl_sqlite_text *text, const char *word)
{
    size_t size = strlen(word);
    return strncasecmp(text->bytes, word, size) == 0 &&
           (text->bytes[size] == ' ' || text->bytes[size] == '\0');
}

static void look_at(fl_sqlite_text *text, const char *verb)
{
    text->inserts = is_one_of(verb, "INSERT", "REPLACE");
    text->vacuums = strcasecmp(verb, "VACUUM") == 0;
    text->begins = begins_with(text, "begin");
    text->begins_reading = text->begins && strcasestr(text->bytes, "read only");
    text->rolls_back = begins_with(text, "rollback") && !strcasestr(text->bytes, " to ");
}

fl_sqlite_text *fl_sqlite_text_new(fl_slice text, fl_sql_kind kind, const char *verb)
{
    fl_sqlite_text *made = calloc(1, sizeof(*made) + text.size + 1);
    if (!made) return NULL;
    atomic_init(&made->references, 1);
    made->hash = hash_of(text);
    made->kind = kind;
    made->size = text.size;
    memcpy(made->bytes, text.data, text.size);
    look_at(made, verb);
    return made;
}

void fl_sqlite_text_hold(fl_sqlite_text *text)
{
    atomic_fetch_add_explicit(&text->references, 1, memory_order_relaxed);
}

void fl_sqlite_text_release(fl_sqlite_text *text)
{
    if (atomic_fetch_sub_explicit(&text->references, 1, memory_order_acq_rel) == 1) free(text);
}

static void forget(void *known)
{
    fl_sqlite_text_release(known);
}

fl_sqlite_text *fl_sqlite_text_of(fl_statement *statement)
{
    if (statement->known) return statement->known;
    fl_slice text = fl_slice_of(statement->text, statement->size);
    statement->known = fl_sqlite_text_new(text, statement->kind, statement->verb);
    if (statement->known) statement->forget = forget;
    return statement->known;
}

/* What four of five runs stay below, nearly: one that was kept from running counts no more than any
 * other. Threads may write over each other: it is an estimate. */
void fl_sqlite_text_took(fl_sqlite_text *text, uint64_t nanoseconds)
{
    uint64_t now = nanoseconds < UINT32_MAX ? nanoseconds + 1 : UINT32_MAX;
    uint32_t before = atomic_load_explicit(&text->took, memory_order_relaxed);
    uint32_t step = before / 16;
    uint32_t after = before == 0                          ? (uint32_t)now
                     : now < before                       ? before - step
                     : before < UINT32_MAX - 4 * step - 1 ? before + 4 * step + 1
                                                          : before;
    atomic_store_explicit(&text->took, after, memory_order_relaxed);
}

/* jobs */

static bool copy_call(fl_sqlite_call *to, const fl_call *from)
{
    to->text = fl_sqlite_text_of(from->statement);
    if (!to->text) return false;
    fl_sqlite_text_hold(to->text);
    to->first = from->first;
    to->count = from->count;
    return true;
}

static bool copy_calls(fl_sqlite_job *job, const fl_query *query)
{
    job->calls = &job->call;
    if (query->call_count > 1) job->calls = calloc(query->call_count, sizeof(*job->calls));
    if (!job->calls) return false;
    if (query->call_count > 0 && !query->calls[0].statement) return true;
    for (unsigned i = 0; i < query->call_count; i++, job->call_count++)
        if (!copy_call(&job->calls[i], &query->calls[i])) return false;
    return true;
}

fl_sqlite_job *fl_sqlite_job_new(fl_sqlite_query *asked, fl_address *address)
{
    const fl_query *query = &asked->query;
    const fl_db *db = query->db;
    fl_sqlite_job *job = malloc(sizeof(*job) + query->values.size);
    if (!job) return NULL;
    *job = (fl_sqlite_job){.address = address, .query = asked, .kind = query->kind};
    atomic_init(&job->references, 1);
    fl_address_hold(address);
    job->keep = query->keep;
    job->piece = query->piece;
    job->most_bytes = db->most_bytes ? db->most_bytes : UINT64_MAX;
    job->queued = uv_hrtime();
    job->wait_until = db->pool_timeout ? job->queued + db->pool_timeout * 1000000 : UINT64_MAX;
    job->value_size = query->values.size;
    if (job->value_size > 0) memcpy(job->values, query->values.data, job->value_size);
    if (copy_calls(job, query)) return job;
    fl_sqlite_job_release(job);
    return NULL;
}

void fl_sqlite_job_hold(fl_sqlite_job *job)
{
    atomic_fetch_add_explicit(&job->references, 1, memory_order_relaxed);
}

static void drop_rows(fl_sqlite_call *call)
{
    fl_buffer_close(&call->rows.names);
    fl_buffer_close(&call->rows.values);
    call->rows = (fl_rows){0};
}

void fl_sqlite_job_release(fl_sqlite_job *job)
{
    if (atomic_fetch_sub_explicit(&job->references, 1, memory_order_acq_rel) != 1) return;
    for (unsigned i = 0; i < job->call_count; i++) {
        drop_rows(&job->calls[i]);
        if (job->calls[i].text) fl_sqlite_text_release(job->calls[i].text);
    }
    if (job->calls == &job->call)
        drop_rows(&job->call);
    else
        free(job->calls);
    if (job->seat) fl_sqlite_seat_release(job->seat);
    fl_sqlite_error_close(&job->error);
    free(job->path);
    fl_address_release(job->address);
    free(job);
}

void fl_sqlite_job_reset(fl_sqlite_job *job)
{
    for (unsigned i = 0; i < job->call_count; i++) {
        drop_rows(&job->calls[i]);
        job->calls[i].affected = 0;
        job->calls[i].last_id = 0;
    }
    fl_sqlite_error_close(&job->error);
    job->is_misplaced = false;
}

/* stopping */

enum { WAITS, RUNS, IS_INTERRUPTED, WAS_INTERRUPTED };

void fl_sqlite_job_stop(fl_sqlite_job *job)
{
    int expected = RUNS;
    atomic_store(&job->stopped, true);
    if (!atomic_compare_exchange_strong(&job->phase, &expected, IS_INTERRUPTED)) return;
    sqlite3_interrupt(job->running_on);
    atomic_store(&job->phase, WAS_INTERRUPTED);
}

void fl_sqlite_job_began(fl_sqlite_job *job, sqlite3 *db)
{
    job->running_on = db;
    atomic_store(&job->phase, RUNS); /* before `stopped` is looked at, as above after it is set */
}

void fl_sqlite_job_ended(fl_sqlite_job *job)
{
    int expected = RUNS;
    if (atomic_compare_exchange_strong(&job->phase, &expected, WAITS)) return;
    while (atomic_load(&job->phase) == IS_INTERRUPTED) (void)sched_yield();
    atomic_store(&job->phase, WAITS);
}

/* letters */

static fl_sqlite_job *job_of(fl_letter *letter)
{
    return (fl_sqlite_job *)((char *)letter - offsetof(fl_sqlite_job, letter));
}

static void deliver(fl_letter *letter, fl_state *state)
{
    (void)state;
    fl_sqlite_job *job = job_of(letter);
    if (job->query) fl_sqlite_query_answered(job->query);
    fl_sqlite_job_release(job);
}

static void drop(fl_letter *letter)
{
    fl_sqlite_job_release(job_of(letter));
}

void fl_sqlite_job_answer(fl_sqlite_job *job)
{
    job->letter = (fl_letter){.deliver = deliver, .drop = drop};
    if (fl_address_post(job->address, &job->letter) < 0) fl_sqlite_job_release(job);
}
