#include "shared.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "scarcity.h"
#include "test.h"

#define SECOND 1000000000u
#define MILLISECOND 1000000u

static char why[512];

static fl_segment *open_segment(size_t bytes)
{
    int fd;
    fl_segment *segment = NULL;
    if (fl_segment_create(&fd, bytes) != 0) return NULL;
    (void)fl_segment_map(&segment, fd, why, sizeof(why));
    close(fd);
    return segment;
}

typedef struct world { /* one dictionary in a segment of its own */
    fl_segment *segment;
    fl_shared shared;
    fl_buffer buffer;
} world;

static bool open_world(world *self, size_t bytes)
{
    *self = (world){.segment = open_segment(bytes)};
    fl_buffer_init(&self->buffer);
    return fl_shared_open(&self->shared, self->segment, FL_SLICE("test"), bytes, why,
                          sizeof(why)) == 0;
}

static void close_world(world *self)
{
    fl_buffer_close(&self->buffer);
    fl_segment_close(self->segment);
}

static int set_for(world *self, const char *key, const char *text, uint64_t ttl)
{
    fl_shared_value value = {.kind = FL_SHARED_STRING, .bytes = fl_slice_from_string(text)};
    return fl_shared_store(&self->shared, fl_slice_from_string(key), &value, ttl, FL_SHARED_SET);
}

static int set(world *self, const char *key, const char *text)
{
    return set_for(self, key, text, FL_SHARD_FOREVER);
}

static int set_size(world *self, const char *key, size_t size)
{
    char *text = calloc(1, size + 1);
    fl_shared_value value = {.kind = FL_SHARED_STRING, .bytes = fl_slice_of(text, size)};
    int error = fl_shared_store(&self->shared, fl_slice_from_string(key), &value, FL_SHARD_FOREVER,
                                FL_SHARED_SET);
    free(text);
    return error;
}

static int set_number(world *self, const char *key, double number)
{
    fl_shared_value value = {.kind = FL_SHARED_NUMBER, .number = number};
    return fl_shared_store(&self->shared, fl_slice_from_string(key), &value, FL_SHARD_FOREVER,
                           FL_SHARED_SET);
}

static bool has(world *self, const char *key)
{
    fl_shared_value value;
    return fl_shared_get(&self->shared, fl_slice_from_string(key), true, &value, &self->buffer) ==
           0;
}

static bool is(world *self, const char *key, const char *text)
{
    fl_shared_value value;
    return fl_shared_get(&self->shared, fl_slice_from_string(key), false, &value, &self->buffer) ==
               0 &&
           value.kind == FL_SHARED_STRING &&
           fl_slice_equal(value.bytes, fl_slice_from_string(text));
}

static double number(world *self, const char *key)
{
    fl_shared_value value;
    int error =
        fl_shared_get(&self->shared, fl_slice_from_string(key), false, &value, &self->buffer);
    return error || value.kind != FL_SHARED_NUMBER ? -1 : value.number;
}

static fl_shared_stats stats(world *self)
{
    fl_shared_stats result;
    fl_shared_get_stats(&self->shared, &result);
    return result;
}

static void nap(unsigned milliseconds)
{
    struct timespec time = {0, (long)milliseconds * 1000000};
    nanosleep(&time, NULL);
}

/* values */

TEST(a_value_is_what_was_set_last)
{
    world w;
    CHECK(open_world(&w, 65536));
    CHECK(!has(&w, "a"));
    CHECK_EQUAL_INT(set(&w, "a", "one"), 0);
    CHECK(is(&w, "a", "one"));
    CHECK_EQUAL_INT(set(&w, "a", "a longer one"), 0);
    CHECK(is(&w, "a", "a longer one"));
    CHECK_EQUAL_INT(set_number(&w, "a", 2.5), 0);
    CHECK(number(&w, "a") == 2.5);
    CHECK_EQUAL_INT(set(&w, "a", ""), 0);
    CHECK(is(&w, "a", ""));
    CHECK_EQUAL_INT(stats(&w).entries, 1);
    close_world(&w);
}

TEST(values_of_any_size_come_back_whole)
{
    world w;
    char text[4096];
    CHECK(open_world(&w, 1 << 20));
    for (size_t size = 0; size < 1500; size++) {
        for (size_t i = 0; i < size; i++) text[i] = (char)('a' + (i * 7 + size) % 26);
        text[size] = '\0';
        CHECK_EQUAL_INT(set(&w, "a", text), 0);
        CHECK(is(&w, "a", text));
    }
    close_world(&w);
}

TEST(keys_of_every_size_are_told_apart)
{
    world w;
    char key[FL_SHARED_KEY_MOST + 1] = "";
    CHECK(open_world(&w, 1 << 20));
    for (int size = 0; size <= FL_SHARED_KEY_MOST; size++) {
        key[size] = '\0';
        CHECK_EQUAL_INT(set_number(&w, key, size), 0);
        key[size < FL_SHARED_KEY_MOST ? size : 0] = 'k';
    }
    memset(key, 'k', sizeof(key));
    for (int size = FL_SHARED_KEY_MOST; size >= 0; size--) {
        key[size] = '\0';
        CHECK_EQUAL_INT(number(&w, key), size);
    }
    close_world(&w);
}

TEST(add_keeps_what_is_there_and_replace_wants_it)
{
    world w;
    fl_shared_value one = {.kind = FL_SHARED_NUMBER, .number = 1};
    fl_shared_value two = {.kind = FL_SHARED_NUMBER, .number = 2};
    fl_slice key = FL_SLICE("a");
    CHECK(open_world(&w, 65536));
    CHECK_EQUAL_INT(fl_shared_store(&w.shared, key, &two, FL_SHARD_FOREVER, FL_SHARED_REPLACE),
                    UV_ENOENT);
    CHECK_EQUAL_INT(fl_shared_store(&w.shared, key, &one, FL_SHARD_FOREVER, FL_SHARED_ADD), 0);
    CHECK_EQUAL_INT(fl_shared_store(&w.shared, key, &two, FL_SHARD_FOREVER, FL_SHARED_ADD),
                    UV_EEXIST);
    CHECK(number(&w, "a") == 1);
    CHECK_EQUAL_INT(fl_shared_store(&w.shared, key, &two, FL_SHARD_FOREVER, FL_SHARED_REPLACE), 0);
    CHECK(number(&w, "a") == 2);
    CHECK_EQUAL_INT(fl_shared_delete(&w.shared, key), 0);
    CHECK_EQUAL_INT(fl_shared_delete(&w.shared, key), UV_ENOENT);
    close_world(&w);
}

TEST(numbers_are_added_exactly_or_not_at_all)
{
    world w;
    double sum;
    fl_slice key = FL_SLICE("n");
    CHECK(open_world(&w, 65536));
    CHECK_EQUAL_INT(fl_shared_increment(&w.shared, key, 2, 40, FL_SHARD_FOREVER, &sum), 0);
    CHECK(sum == 42);
    CHECK_EQUAL_INT(fl_shared_increment(&w.shared, key, -0.5, 40, FL_SHARD_FOREVER, &sum), 0);
    CHECK(sum == 41.5);
    CHECK_EQUAL_INT(set_number(&w, "n", 9007199254740991.0), 0);
    CHECK_EQUAL_INT(fl_shared_increment(&w.shared, key, 1, 0, FL_SHARD_FOREVER, &sum), 0);
    CHECK(sum == 9007199254740992.0);
    CHECK_EQUAL_INT(fl_shared_increment(&w.shared, key, 1, 0, FL_SHARD_FOREVER, &sum), UV_ERANGE);
    CHECK(number(&w, "n") == 9007199254740992.0);
    CHECK_EQUAL_INT(set(&w, "n", "text"), 0);
    CHECK_EQUAL_INT(fl_shared_increment(&w.shared, key, 1, 0, FL_SHARD_FOREVER, &sum), UV_EINVAL);
    CHECK(is(&w, "n", "text"));
    close_world(&w);
}

TEST(a_number_is_raised_once)
{
    world w;
    CHECK(open_world(&w, 65536));
    CHECK_EQUAL_INT(fl_shared_raise(&w.shared, FL_SLICE("tick"), 7), 0);
    CHECK_EQUAL_INT(fl_shared_raise(&w.shared, FL_SLICE("tick"), 7), UV_EEXIST);
    CHECK_EQUAL_INT(fl_shared_raise(&w.shared, FL_SLICE("tick"), 6), UV_EEXIST);
    CHECK_EQUAL_INT(fl_shared_raise(&w.shared, FL_SLICE("tick"), 8), 0);
    close_world(&w);
}

/* time */

TEST(a_value_ends_with_its_ttl)
{
    world w;
    uint64_t ttl;
    CHECK(open_world(&w, 65536));
    CHECK_EQUAL_INT(set_for(&w, "short", "x", 20 * MILLISECOND), 0);
    CHECK_EQUAL_INT(set_for(&w, "long", "x", 60ull * SECOND), 0);
    CHECK_EQUAL_INT(set(&w, "ever", "x"), 0);
    CHECK_EQUAL_INT(fl_shared_ttl(&w.shared, FL_SLICE("long"), &ttl), 0);
    CHECK(ttl > 50ull * SECOND && ttl <= 60ull * SECOND);
    CHECK_EQUAL_INT(fl_shared_ttl(&w.shared, FL_SLICE("ever"), &ttl), 0);
    CHECK(ttl == FL_SHARD_FOREVER);
    CHECK_EQUAL_INT(fl_shared_ttl(&w.shared, FL_SLICE("none"), &ttl), UV_ENOENT);
    nap(30);
    CHECK(!has(&w, "short"));
    CHECK(has(&w, "long"));
    CHECK_EQUAL_INT(fl_shared_expire(&w.shared, FL_SLICE("short"), SECOND), UV_ENOENT);
    CHECK_EQUAL_INT(fl_shared_expire(&w.shared, FL_SLICE("long"), MILLISECOND), 0);
    nap(5);
    CHECK(!has(&w, "long"));
    CHECK(has(&w, "ever"));
    close_world(&w);
}

TEST(a_counter_keeps_the_ttl_it_began_with)
{
    world w;
    double sum;
    CHECK(open_world(&w, 65536));
    for (int i = 0; i < 3; i++)
        CHECK_EQUAL_INT(fl_shared_increment(&w.shared, FL_SLICE("n"), 1, 0, 50 * MILLISECOND, &sum),
                        0);
    CHECK(sum == 3);
    nap(60);
    CHECK_EQUAL_INT(fl_shared_increment(&w.shared, FL_SLICE("n"), 1, 0, SECOND, &sum), 0);
    CHECK(sum == 1);
    close_world(&w);
}

TEST(what_has_expired_goes_though_nobody_asks_for_it)
{
    world w;
    char key[32];
    CHECK(open_world(&w, 1 << 20));
    for (int i = 0; i < 1000; i++) {
        (void)snprintf(key, sizeof(key), "short %d", i);
        CHECK_EQUAL_INT(set_for(&w, key, "x", MILLISECOND), 0);
    }
    nap(5);
    for (int i = 0; i < 8192; i++) {
        CHECK_EQUAL_INT(set_number(&w, "other", i), 0);
        CHECK_EQUAL_INT(fl_shared_delete(&w.shared, FL_SLICE("other")), 0);
    }
    CHECK_EQUAL_INT(stats(&w).entries, 0);
    CHECK_EQUAL_INT(stats(&w).expired, 1000);
    close_world(&w);
}

/* room */

TEST(the_entries_used_longest_ago_go_when_it_is_full)
{
    world w;
    char key[32];
    int count = 0;
    CHECK(open_world(&w, 65536));
    CHECK_EQUAL_INT(set(&w, "first", "x"), 0);
    CHECK_EQUAL_INT(set(&w, "second", "x"), 0);
    while (stats(&w).evicted == 0) {
        CHECK(is(&w, "first", "x"));
        (void)snprintf(key, sizeof(key), "key %d", count++);
        CHECK_EQUAL_INT(set(&w, key, "x"), 0);
    }
    CHECK(count > 300);
    CHECK(has(&w, "first"));
    CHECK(!has(&w, "second"));
    CHECK(has(&w, key));
    (void)set(&w, "one more", "x");
    CHECK(!has(&w, "key 0"));
    CHECK_EQUAL_INT(stats(&w).evicted, 2);
    close_world(&w);
}

TEST(it_never_takes_more_than_its_bytes)
{
    world w;
    char key[32];
    CHECK(open_world(&w, 1 << 20));
    for (unsigned i = 0; i < 20000; i++) {
        (void)snprintf(key, sizeof(key), "key %u", i);
        CHECK_EQUAL_INT(set_size(&w, key, (i * 7919) % 3000), 0);
        if (i % 100 == 0) CHECK(stats(&w).bytes_used <= stats(&w).bytes);
    }
    fl_shared_stats full = stats(&w);
    CHECK(full.bytes_used > full.bytes * 9 / 10);
    CHECK_EQUAL_INT(full.entries + full.evicted, 20000);
    close_world(&w);
}

TEST(a_value_of_half_a_shard_fits_at_any_time_and_a_larger_one_never)
{
    world w;
    char key[32];
    CHECK(open_world(&w, 1 << 20));
    size_t most = fl_shared_value_most(&w.shared, 5);
    CHECK(most > 450000);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 10000; i++) {
            (void)snprintf(key, sizeof(key), "key %d", i);
            CHECK_EQUAL_INT(set(&w, key, "some text"), 0);
        }
        CHECK_EQUAL_INT(set_size(&w, "large", most), 0);
        CHECK(has(&w, "large"));
        CHECK_EQUAL_INT(set_size(&w, "large", most + 1), UV_E2BIG);
        CHECK(has(&w, "large"));
    }
    close_world(&w);
}

TEST(hits_and_misses_are_counted)
{
    world w;
    CHECK(open_world(&w, 65536));
    CHECK_EQUAL_INT(set(&w, "a", "x"), 0);
    CHECK(is(&w, "a", "x"));
    CHECK(!is(&w, "b", "x"));
    CHECK(!is(&w, "c", "x"));
    CHECK(has(&w, "a")); /* peeks */
    CHECK(!has(&w, "b"));
    CHECK_EQUAL_INT(stats(&w).hits, 1);
    CHECK_EQUAL_INT(stats(&w).misses, 2);
    close_world(&w);
}

static size_t count_keys(world *self, const char *prefix, size_t limit)
{
    size_t count = 0;
    self->buffer.size = 0;
    if (fl_shared_keys(&self->shared, fl_slice_from_string(prefix), limit, &self->buffer) != 0)
        return SIZE_MAX;
    for (size_t at = 0; at < self->buffer.size; at += 1 + (unsigned char)self->buffer.data[at])
        count++;
    return count;
}

TEST(keys_are_listed_by_prefix_up_to_a_limit)
{
    world w;
    char key[32];
    double token;
    CHECK(open_world(&w, 4 << 20));
    for (int i = 0; i < 100; i++) {
        (void)snprintf(key, sizeof(key), "%s %d", i % 2 ? "odd" : "even", i);
        CHECK_EQUAL_INT(set(&w, key, "x"), 0);
    }
    CHECK_EQUAL_INT(set_for(&w, "odd, and gone", "x", 1), 0);
    CHECK_EQUAL_INT(
        fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, FL_SLICE("odd lock"), SECOND, &token), 0);
    CHECK_EQUAL_INT(count_keys(&w, "", 1000), 100);
    CHECK_EQUAL_INT(count_keys(&w, "odd", 1000), 50);
    CHECK_EQUAL_INT(count_keys(&w, "odd 1", 1000), 6); /* 1, 11, 13 … 19 */
    CHECK_EQUAL_INT(count_keys(&w, "even", 7), 7);
    CHECK_EQUAL_INT(count_keys(&w, "none", 7), 0);
    CHECK_EQUAL_INT(set(&w, "one", "x"), 0);
    CHECK_EQUAL_INT(count_keys(&w, "one", 7), 1);
    CHECK_EQUAL_BYTES(w.buffer.data + 1, w.buffer.size - 1, "one");
    close_world(&w);
}

TEST(long_keys_are_listed_whole)
{
    world w;
    char key[FL_SHARED_KEY_MOST + 1];
    CHECK(open_world(&w, 1 << 20));
    memset(key, 'k', sizeof(key));
    key[FL_SHARED_KEY_MOST] = '\0';
    for (int i = 0; i < 2000; i++) {
        (void)snprintf(key, 8, "%07d", i);
        key[7] = 'k';
        CHECK_EQUAL_INT(set_number(&w, key, i), 0);
    }
    CHECK_EQUAL_INT(stats(&w).evicted, 0);
    CHECK_EQUAL_INT(count_keys(&w, "", 5000), 2000);
    CHECK_EQUAL_INT(w.buffer.size, 2000 * (FL_SHARED_KEY_MOST + 1));
    close_world(&w);
}

TEST(clearing_removes_the_values_and_leaves_the_leases)
{
    world w;
    char key[32];
    double token;
    CHECK(open_world(&w, 4 << 20));
    CHECK_EQUAL_INT(
        fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, FL_SLICE("a"), 60ull * SECOND, &token), 0);
    for (int i = 0; i < 1000; i++) {
        (void)snprintf(key, sizeof(key), "key %d", i);
        CHECK_EQUAL_INT(set(&w, key, "x"), 0);
    }
    fl_shared_clear(&w.shared);
    CHECK_EQUAL_INT(stats(&w).entries, 0);
    CHECK_EQUAL_INT(stats(&w).evicted, 0);
    CHECK_EQUAL_INT(fl_shared_lease_check(&w.shared, FL_SPACE_LOCKS, FL_SLICE("a"), token), 0);
    close_world(&w);
}

/* leases */

TEST(a_lease_is_had_by_one_until_it_is_given_back)
{
    world w;
    fl_slice key = FL_SLICE("job");
    double first, second;
    CHECK(open_world(&w, 65536));
    CHECK_EQUAL_INT(fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, key, SECOND, &first), 0);
    CHECK_EQUAL_INT(fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, key, SECOND, &second),
                    UV_EEXIST);
    CHECK_EQUAL_INT(fl_shared_lease_take(&w.shared, FL_SPACE_FLIGHTS, key, SECOND, &second), 0);
    CHECK(!has(&w, "job"));
    CHECK_EQUAL_INT(fl_shared_lease_give(&w.shared, FL_SPACE_LOCKS, key, first + 1), UV_ENOENT);
    CHECK_EQUAL_INT(fl_shared_lease_give(&w.shared, FL_SPACE_LOCKS, key, first), 0);
    CHECK_EQUAL_INT(fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, key, SECOND, &second), 0);
    CHECK(second > first);
    close_world(&w);
}

TEST(a_lease_ends_with_its_ttl_and_then_belongs_to_the_next)
{
    world w;
    fl_slice key = FL_SLICE("job");
    double first, second;
    CHECK(open_world(&w, 65536));
    CHECK_EQUAL_INT(fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, key, 100 * MILLISECOND, &first),
                    0);
    CHECK_EQUAL_INT(fl_shared_lease_extend(&w.shared, FL_SPACE_LOCKS, key, first, 10 * MILLISECOND),
                    0);
    nap(20);
    CHECK_EQUAL_INT(fl_shared_lease_check(&w.shared, FL_SPACE_LOCKS, key, first), UV_ENOENT);
    CHECK_EQUAL_INT(fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, key, SECOND, &second), 0);
    CHECK(second > first);
    CHECK_EQUAL_INT(fl_shared_lease_extend(&w.shared, FL_SPACE_LOCKS, key, first, SECOND),
                    UV_ENOENT);
    CHECK_EQUAL_INT(fl_shared_lease_give(&w.shared, FL_SPACE_LOCKS, key, first), UV_ENOENT);
    CHECK_EQUAL_INT(fl_shared_lease_check(&w.shared, FL_SPACE_LOCKS, key, second), 0);
    close_world(&w);
}

TEST(a_lease_ends_with_its_process)
{
    world w;
    double token = 0;
    fl_slice key = FL_SLICE("job");
    CHECK(open_world(&w, 1 << 20));
    pid_t child = fork();
    if (child == 0)
        _exit(fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, key, 60ull * SECOND, &token) ? 1 : 0);
    int status = 1;
    siginfo_t info;
    CHECK_EQUAL_INT(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    CHECK_EQUAL_INT(fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, key, SECOND, &token),
                    UV_EEXIST); /* not yet */
    CHECK_EQUAL_INT(waitpid(child, &status, 0), child);
    CHECK_EQUAL_INT(status, 0);
    CHECK_EQUAL_INT(fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, key, SECOND, &token), 0);
    CHECK(token == 2);
    CHECK_EQUAL_INT((int)stats(&w).leases, 1);
    close_world(&w);
}

TEST(leases_are_never_evicted_and_leave_room_for_values)
{
    world w;
    char key[32];
    double token, first = 0;
    int taken = 0;
    CHECK(open_world(&w, 65536));
    for (int error = 0; error == 0; taken++) {
        (void)snprintf(key, sizeof(key), "%d", taken);
        error = fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, fl_slice_from_string(key),
                                     60ull * SECOND, &token);
        if (taken == 0) first = token;
        if (error) CHECK_EQUAL_INT(error, UV_ENOSPC);
    }
    CHECK(taken > 200);
    for (int i = 0; i < 2000; i++) {
        (void)snprintf(key, sizeof(key), "key %d", i);
        CHECK_EQUAL_INT(set(&w, key, "x"), 0);
    }
    CHECK_EQUAL_INT(set_size(&w, "large", fl_shared_value_most(&w.shared, 5)), 0);
    CHECK_EQUAL_INT(fl_shared_lease_check(&w.shared, FL_SPACE_LOCKS, FL_SLICE("0"), first), 0);
    CHECK_EQUAL_INT(stats(&w).leases, taken - 1);
    close_world(&w);
}

/* opening */

TEST(a_name_has_one_size)
{
    fl_segment *segment = open_segment(8 << 20);
    fl_shared shared;
    CHECK_EQUAL_INT(fl_shared_open(&shared, segment, FL_SLICE("a"), 2 << 20, why, sizeof(why)), 0);
    CHECK_EQUAL_INT(fl_shared_open(&shared, segment, FL_SLICE("a"), 1 << 20, why, sizeof(why)),
                    UV_EEXIST);
    CHECK(strstr(why, "shared \"a\" has 2097152 bytes, not 1048576"));
    CHECK_EQUAL_INT(fl_shared_open(&shared, segment, FL_SLICE("a"), 0, why, sizeof(why)), 0);
    CHECK_EQUAL_INT(fl_shared_bytes(&shared), 2 << 20);
    CHECK_EQUAL_INT(fl_shared_open(&shared, segment, FL_SLICE("b"), 0, why, sizeof(why)), 0);
    CHECK_EQUAL_INT(fl_shared_bytes(&shared), FL_SHARED_DEFAULT);
    fl_segment_close(segment);
}

TEST(what_cannot_be_opened_says_why)
{
    fl_segment *segment = open_segment(1 << 20);
    fl_shared shared;
    char name[80];
    memset(name, 'n', sizeof(name));
    CHECK_EQUAL_INT(fl_shared_open(&shared, segment, FL_SLICE("a"), 2 << 20, why, sizeof(why)),
                    UV_ENOSPC);
    CHECK(strstr(why, "no room for 2097152 bytes: of the setting shared_memory, "
                      "1048576 are left"));
    CHECK_EQUAL_INT(fl_shared_open(&shared, segment, FL_SLICE("a"), 65535, why, sizeof(why)),
                    UV_EINVAL);
    CHECK(strstr(why, "from 65536 to"));
    CHECK_EQUAL_INT(fl_shared_open(&shared, segment, fl_slice_of(name, 65), 0, why, sizeof(why)),
                    UV_EINVAL);
    CHECK_EQUAL_INT(fl_shared_open(&shared, segment, FL_SLICE(""), 0, why, sizeof(why)), UV_EINVAL);
    CHECK(strstr(why, "a name of 1 to 64 bytes"));
    CHECK_EQUAL_INT(fl_shared_open(&shared, segment, fl_slice_of(name, 64), 0, why, sizeof(why)),
                    0);
    fl_segment_close(segment);
}

/* against a model */

#define MODEL_KEYS 200

typedef struct model {
    size_t size; /* SIZE_MAX: not there, or maybe evicted */
    char first;
} model;

static bool model_agrees(world *w, const model *expected, const char *key)
{
    fl_shared_value value;
    int error = fl_shared_get(&w->shared, fl_slice_from_string(key), true, &value, &w->buffer);
    if (error) return true; /* evicted: compare what is there */
    if (expected->size == SIZE_MAX || value.bytes.size != expected->size) return false;
    for (size_t i = 0; i < value.bytes.size; i++)
        if (value.bytes.data[i] != (char)(expected->first + (char)(i % 50))) return false;
    return true;
}

static int store_model(world *w, model *expected, const char *key, size_t size, char first)
{
    static char text[8192];
    for (size_t i = 0; i < size; i++) text[i] = (char)(first + (char)(i % 50));
    fl_shared_value value = {.kind = FL_SHARED_STRING, .bytes = fl_slice_of(text, size)};
    *expected = (model){size, first};
    return fl_shared_store(&w->shared, fl_slice_from_string(key), &value, FL_SHARD_FOREVER,
                           FL_SHARED_SET);
}

TEST(two_hundred_thousand_random_operations_agree_with_a_model)
{
    static model models[MODEL_KEYS];
    world w;
    unsigned random = 12345;
    CHECK(open_world(&w, 96 << 10));
    for (int i = 0; i < MODEL_KEYS; i++) models[i].size = SIZE_MAX;
    for (int i = 0; i < 200000; i++) {
        char key[16];
        random = random * 1103515245u + 12345u;
        unsigned which = (random >> 8) % MODEL_KEYS, action = (random >> 20) % 8;
        size_t size = (random >> 4) % ((random >> 24) % 16 ? 700 : 8000);
        (void)snprintf(key, sizeof(key), "key %u", which);
        if (action < 4) {
            CHECK_EQUAL_INT(store_model(&w, &models[which], key, size, (char)(random >> 16 & 63)),
                            0);
            CHECK(has(&w, key));
        } else if (action == 4) {
            (void)fl_shared_delete(&w.shared, fl_slice_from_string(key));
            models[which].size = SIZE_MAX;
            CHECK(!has(&w, key));
        }
        CHECK(model_agrees(&w, &models[which], key));
    }
    CHECK(stats(&w).evicted > 0);
    size_t entries = stats(&w).entries;
    CHECK_EQUAL_INT(count_keys(&w, "", 1000), entries);
    fl_shared_clear(&w.shared);
    CHECK_EQUAL_INT(stats(&w).bytes_used, 0);
    close_world(&w);
}

/* threads and processes */

#define THREADS 4
#define PROCESSES 2

typedef struct counting {
    fl_segment *segment;
    int times;
} counting;

static void *count_up(void *data)
{
    const counting *self = data;
    fl_shared shared;
    double sum;
    char text[256];
    if (fl_shared_open(&shared, self->segment, FL_SLICE("test"), 0, text, sizeof(text)) != 0)
        return NULL;
    for (int i = 0; i < self->times; i++) {
        if (fl_shared_increment(&shared, FL_SLICE("n"), 1, 0, FL_SHARD_FOREVER, &sum)) return NULL;
        if (i % 16 == 0) { /* and others that move blocks about */
            (void)snprintf(text, sizeof(text), "key %d", i % 999);
            fl_shared_value value = {.kind = FL_SHARED_STRING,
                                     .bytes = fl_slice_of(text, (size_t)(i % 200))};
            (void)fl_shared_store(&shared, fl_slice_from_string(text), &value, FL_SHARD_FOREVER,
                                  FL_SHARED_SET);
        }
    }
    return data;
}

static bool count_in_threads(counting *self)
{
    pthread_t threads[THREADS];
    bool counted = true;
    void *result;
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, count_up, self);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], &result);
        counted &= result != NULL;
    }
    return counted;
}

TEST(a_million_increments_of_four_threads_in_each_of_two_processes_are_exact)
{
    world w;
    CHECK(open_world(&w, 1 << 20));
    counting self = {w.segment, 1000000 / (PROCESSES * THREADS)};
    pid_t pids[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        (void)fflush(stdout);
        pids[i] = fork();
        if (pids[i] == 0) _exit(count_in_threads(&self) ? 0 : 1);
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status;
        CHECK_EQUAL_INT(waitpid(pids[i], &status, 0), pids[i]);
        CHECK_EQUAL_INT(status, 0);
    }
    CHECK_EQUAL_INT(number(&w, "n"), 1000000);
    CHECK_EQUAL_INT(stats(&w).emptied, 0);
    close_world(&w);
}

TEST(threads_of_one_process_agree)
{
    world w;
    CHECK(open_world(&w, 1 << 20));
    counting self = {w.segment, 20000};
    CHECK(count_in_threads(&self));
    CHECK_EQUAL_INT(number(&w, "n"), 20000 * THREADS);
    close_world(&w);
}

typedef struct race {
    fl_segment *segment;
    _Atomic int inside, worst, taken;
} race;

static void *race_for_lease(void *data)
{
    race *self = data;
    fl_shared shared;
    char text[256];
    if (fl_shared_open(&shared, self->segment, FL_SLICE("test"), 0, text, sizeof(text)) != 0)
        return NULL;
    for (int i = 0; i < 20000; i++) {
        double token;
        if (fl_shared_lease_take(&shared, FL_SPACE_LOCKS, FL_SLICE("one"), 60ull * SECOND, &token))
            continue;
        int inside = atomic_fetch_add(&self->inside, 1) + 1;
        if (inside > 1) atomic_store(&self->worst, inside);
        atomic_fetch_add(&self->taken, 1);
        atomic_fetch_sub(&self->inside, 1);
        (void)fl_shared_lease_give(&shared, FL_SPACE_LOCKS, FL_SLICE("one"), token);
    }
    return NULL;
}

TEST(threads_never_have_a_lease_at_once)
{
    world w;
    pthread_t threads[THREADS];
    CHECK(open_world(&w, 1 << 20));
    race self = {.segment = w.segment};
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, race_for_lease, &self);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    CHECK_EQUAL_INT(self.worst, 0);
    CHECK(self.taken > 0);
    close_world(&w);
}

/* death */

static fl_shard *only_shard(world *w)
{
    return (fl_shard *)(void *)((char *)w->shared.head + 64);
}

static bool dies(void (*run)(world *w), world *w)
{
    (void)fflush(stdout);
    pid_t pid = fork();
    int status;
    if (pid == 0) {
        run(w);
        (void)raise(SIGKILL);
    }
    return waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void die_looking(world *w)
{
    (void)fl_shard_lock(only_shard(w));
}

TEST(a_process_that_dies_with_a_lock_but_in_no_change_loses_nothing)
{
    world w;
    CHECK(open_world(&w, 65536));
    CHECK_EQUAL_INT(set(&w, "a", "x"), 0);
    CHECK(dies(die_looking, &w));
    CHECK(is(&w, "a", "x"));
    CHECK_EQUAL_INT(stats(&w).emptied, 0);
    CHECK_EQUAL_INT(w.shared.emptied, 0);
    close_world(&w);
}

static void die_changing(world *w)
{
    fl_shard *shard = only_shard(w);
    (void)fl_shard_lock(shard);
    fl_shard_change(shard);
    shard->newest = shard->free = 1234567; /* as any half of a change may look */
    shard->buckets[0] = 7;
}

TEST(a_process_that_dies_in_a_change_empties_the_shard_and_others_go_on)
{
    world w;
    double token, later;
    CHECK(open_world(&w, 65536));
    CHECK_EQUAL_INT(set(&w, "a", "x"), 0);
    CHECK_EQUAL_INT(
        fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, FL_SLICE("l"), 60ull * SECOND, &token), 0);
    for (unsigned round = 1; round <= 3; round++) {
        CHECK(dies(die_changing, &w));
        CHECK(!has(&w, "a"));
        CHECK_EQUAL_INT(w.shared.emptied, round);
        CHECK_EQUAL_INT(stats(&w).emptied, round);
        CHECK_EQUAL_INT(stats(&w).bytes_used, 0);
        CHECK_EQUAL_INT(set(&w, "a", "x"), 0);
        CHECK(is(&w, "a", "x"));
    }
    CHECK_EQUAL_INT(
        fl_shared_lease_take(&w.shared, FL_SPACE_LOCKS, FL_SLICE("l"), 60ull * SECOND, &later), 0);
    CHECK(later > token);
    close_world(&w);
}

static void count_for_ever(world *w)
{
    counting self = {w->segment, 100000000};
    (void)count_up(&self);
}

TEST(processes_killed_anywhere_harm_nobody)
{
    world w;
    CHECK(open_world(&w, 65536));
    for (int i = 0; i < 60; i++) {
        (void)fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            count_for_ever(&w);
            _exit(0);
        }
        nap((unsigned)i % 4 + 1);
        (void)kill(pid, SIGKILL);
        CHECK_EQUAL_INT(set(&w, "ours", "x"), 0);
        CHECK(is(&w, "ours", "x"));
        CHECK_EQUAL_INT(waitpid(pid, NULL, 0), pid);
        CHECK_EQUAL_INT(set(&w, "ours", "y"), 0);
        CHECK(is(&w, "ours", "y"));
        CHECK_EQUAL_INT(count_keys(&w, "", SIZE_MAX), stats(&w).entries);
    }
    close_world(&w);
}

static world *scarce;

static int read_scarcely(void)
{
    fl_buffer buffer;
    fl_shared_value value;
    fl_buffer_init(&buffer);
    int status = fl_shared_get(&scarce->shared, FL_SLICE("long"), false, &value, &buffer);
    if (status == 0 && value.bytes.size != 5000) status = 1;
    fl_buffer_reset(&buffer, 0);
    if (status == 0) status = fl_shared_keys(&scarce->shared, FL_SLICE("key"), 1000, &buffer);
    fl_buffer_close(&buffer);
    return status;
}

TEST(without_memory_values_and_keys_are_not_read)
{
    world it;
    CHECK(open_world(&it, FL_SHARED_DEFAULT));
    for (int i = 0; i < 100; i++) {
        char key[100];
        (void)snprintf(key, sizeof(key), "key %060d", i);
        CHECK_EQUAL_INT(set(&it, key, "value"), 0);
    }
    CHECK_EQUAL_INT(set_size(&it, "long", 5000), 0);
    scarce = &it;
    CHECK_SCARCITY(read_scarcely);
    close_world(&it);
}

TEST_MAIN
