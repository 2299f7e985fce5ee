#include "log.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "scarcity.h"
#include "test.h"

#define SECOND 1000000000u
#define SMALL 1 /* rounded up to the longest line */

/* A log into a pipe, and what came out of it. */
typedef struct sink {
    fl_log *log;
    int reader, writer;
    char text[1 << 20];
    size_t size;
} sink;

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static sink *sink_open(fl_log_format format, fl_log_level level, size_t capacity)
{
    sink *self = calloc(1, sizeof(*self));
    int ends[2];
    if (!self || pipe2(ends, O_CLOEXEC) < 0) abort();
    self->reader = ends[0];
    self->writer = ends[1];
    if (fl_log_open(&self->log, self->writer, format, level, capacity) < 0) abort();
    return self;
}

static void sink_read_for(sink *self, int milliseconds)
{
    struct pollfd readable = {.fd = self->reader, .events = POLLIN};
    while (self->size < sizeof(self->text) - 1 && poll(&readable, 1, milliseconds) > 0) {
        ssize_t count =
            read(self->reader, self->text + self->size, sizeof(self->text) - 1 - self->size);
        if (count <= 0) return;
        self->size += (size_t)count;
    }
}

/* Closes the log and returns its text without the first line's timestamp. */
static const char *sink_finish(sink *self, size_t stamp)
{
    fl_log_close(self->log, 2 * (uint64_t)SECOND);
    close(self->writer);
    sink_read_for(self, 1000);
    close(self->reader);
    return self->size > stamp ? self->text + stamp : self->text;
}

static size_t count_of(const char *text, const char *what)
{
    size_t count = 0;
    for (const char *at = text; (at = strstr(at, what)); at += strlen(what)) count++;
    return count;
}

static fl_slice text_of(const char *string)
{
    return fl_slice_from_string(string);
}

static const fl_access shop = {.client = {"127.0.0.1", 9},
                               .method = {"GET", 3},
                               .target = {"/x", 2},
                               .request_id = {"9f03-1-2a", 9},
                               .app = {"shop", 4},
                               .status = 200,
                               .bytes = 13,
                               .duration = 420000,
                               .state = 1};

TEST(a_text_line_has_a_level_a_message_and_fields)
{
    sink *self = sink_open(FL_LOG_TEXT, FL_LOG_INFO, SMALL);
    const fl_log_field fields[] = {fl_field_text("one", text_of("word")),
                                   fl_field_text("two", text_of("two words")),
                                   fl_field_integer("count", -3), fl_field_number("ratio", 0.1),
                                   fl_field_boolean("is_new", true)};
    fl_log_line(self->log, FL_LOG_WARN, text_of("some \"message\""), fields, 5);
    const char *text = sink_finish(self, 25);
    CHECK_EQUAL_TEXT(text_of(text), "warn  some \"message\"  one=word two=\"two words\" count=-3 "
                                    "ratio=0.1 is_new=true\n");
    free(self);
}

TEST(a_json_line_is_an_object)
{
    sink *self = sink_open(FL_LOG_JSON, FL_LOG_INFO, SMALL);
    const fl_log_field fields[] = {
        fl_field_text("key", text_of("value")), fl_field_integer("count", INT64_MIN),
        fl_field_number("ratio", 1e300 * 1e300), fl_field_boolean("is_new", false)};
    fl_log_line(self->log, FL_LOG_ERROR, text_of("message"), fields, 4);
    const char *text = sink_finish(self, 33);
    CHECK_EQUAL_TEXT(text_of(text),
                     "\",\"level\":\"error\",\"message\":\"message\",\"key\":\"value\","
                     "\"count\":-9223372036854775808,\"ratio\":null,"
                     "\"is_new\":false}\n");
    free(self);
}

TEST(a_line_begins_with_the_time_in_milliseconds)
{
    sink *self = sink_open(FL_LOG_TEXT, FL_LOG_INFO, SMALL);
    time_t before = time(NULL);
    fl_log_printf(self->log, FL_LOG_INFO, "message %d", 1);
    const char *text = sink_finish(self, 0);
    struct tm calendar = {0};
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &calendar);
    CHECK(rest != NULL);
    CHECK(timegm(&calendar) - before >= 0 && timegm(&calendar) - before <= 1);
    CHECK(rest[0] == '.' && rest[4] == 'Z');
    CHECK_EQUAL_TEXT(text_of(rest + 5), " info  message 1\n");
    free(self);
}

TEST(an_access_line_in_text_reads_as_documented)
{
    sink *self = sink_open(FL_LOG_TEXT, FL_LOG_ERROR, SMALL);
    fl_log_access(self->log, &shop);
    const char *text = sink_finish(self, 25);
    CHECK_EQUAL_TEXT(text_of(text), "access 127.0.0.1 \"GET /x\" 200 13B 0.42ms id=9f03-1-2a "
                                    "app=shop state=1\n");
    free(self);
}

TEST(an_access_line_in_json_has_the_same_data)
{
    sink *self = sink_open(FL_LOG_JSON, FL_LOG_INFO, SMALL);
    fl_log_access(self->log, &shop);
    const char *text = sink_finish(self, 33);
    CHECK_EQUAL_TEXT(text_of(text),
                     "\",\"level\":\"info\",\"message\":\"request\",\"method\":\"GET\",\"target\":"
                     "\"/x\",\"status\":200,\"bytes\":13,\"duration_ms\":0.420,\"request_id\":"
                     "\"9f03-1-2a\",\"client\":\"127.0.0.1\",\"app\":\"shop\",\"state\":1}\n");
    free(self);
}

TEST(lines_below_the_level_are_not_written)
{
    sink *self = sink_open(FL_LOG_TEXT, FL_LOG_WARN, SMALL);
    CHECK(!fl_log_enabled(self->log, FL_LOG_INFO) && fl_log_enabled(self->log, FL_LOG_WARN));
    fl_log_printf(self->log, FL_LOG_INFO, "hidden");
    sink_finish(self, 0);
    CHECK_EQUAL_INT(self->size, 0);
    free(self);
}

TEST(a_request_cannot_forge_a_text_line_or_a_terminal_sequence)
{
    sink *self = sink_open(FL_LOG_TEXT, FL_LOG_INFO, SMALL);
    fl_access access = shop;
    access.target = text_of("/\r\n\x1b[31m\" 200\\\x7f\xff\xc2\x9b\xc3\xa9");
    access.request_id = text_of("a b");
    fl_log_access(self->log, &access);
    const char *text = sink_finish(self, 25);
    CHECK_EQUAL_TEXT(text_of(text),
                     "access 127.0.0.1 \"GET /\\x0D\\x0A\\x1B[31m\\x22 200\\x5C\\x7F\\xFF\\xC2\\x9B"
                     "\xc3\xa9\" 200 13B 0.42ms id=\"a b\" app=shop state=1\n");
    free(self);
}

TEST(json_strings_are_valid_whatever_the_bytes)
{
    sink *self = sink_open(FL_LOG_JSON, FL_LOG_INFO, SMALL);
    const char bytes[] = "\"\\\n\t\x01\x7f\xc3\xa9\xf0\x9f\x98\x80 \xed\xa0\x80 \xc0\xaf \xf5 \xe2"
                         "\x80\xa8 \xe2\x82";
    fl_log_line(self->log, FL_LOG_INFO, fl_slice_of(bytes, sizeof(bytes)), NULL, 0);
    const char *text = sink_finish(self, 33);
    CHECK_EQUAL_TEXT(text_of(text),
                     "\",\"level\":\"info\",\"message\":\"\\\"\\\\\\n\\t\\u0001\\u007f"
                     "\xc3\xa9\xf0\x9f\x98\x80 \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd "
                     "\xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd \\u2028 "
                     "\xef\xbf\xbd\xef\xbf\xbd\\u0000\"}\n");
    free(self);
}

TEST(names_of_fields_neither_break_a_line_nor_repeat)
{
    const fl_log_field fields[] = {
        fl_field_text("id", text_of("ours")), fl_field_integer("a\"b\n c", 1),
        fl_field_text("id", text_of("theirs")), fl_field_integer("level", 2)};
    sink *self = sink_open(FL_LOG_JSON, FL_LOG_INFO, SMALL);
    fl_log_line(self->log, FL_LOG_INFO, text_of("m"), fields, 4);
    const char *text = sink_finish(self, 33);
    CHECK_EQUAL_TEXT(text_of(text),
                     "\",\"level\":\"info\",\"message\":\"m\",\"id\":\"ours\",\"a_b__c\":1,"
                     "\"id_\":\"theirs\",\"level_\":2}\n");
    free(self);
    self = sink_open(FL_LOG_TEXT, FL_LOG_INFO, SMALL);
    fl_log_line(self->log, FL_LOG_INFO, text_of("m\tn"), fields, 4);
    text = sink_finish(self, 25);
    CHECK_EQUAL_TEXT(text_of(text), "info  m\tn  id=ours a_b__c=1 id_=theirs level_=2\n");
    free(self);
}

TEST(a_block_is_indented_below_its_line)
{
    sink *self = sink_open(FL_LOG_TEXT, FL_LOG_INFO, SMALL);
    const fl_log_field fields[] = {fl_field_block("traceback", text_of("first\n\tsecond\x1b\n")),
                                   fl_field_integer("count", 1)};
    fl_log_line(self->log, FL_LOG_ERROR, text_of("message"), fields, 2);
    fl_log_line(self->log, FL_LOG_ERROR, text_of("message"), fields, 1);
    const char *text = sink_finish(self, 25);
    CHECK(strstr(text, "error message  count=1\n    first\n      second\\x1B\n") == text);
    CHECK(strstr(text, "error message\n    first\n") != NULL);
    free(self);
}

static bool ends_with(const char *text, const char *end)
{
    return strlen(text) >= strlen(end) && strcmp(text + strlen(text) - strlen(end), end) == 0;
}

static sink *log_long_line(fl_log_format format, char byte, size_t size)
{
    sink *self = sink_open(format, FL_LOG_INFO, SMALL);
    char *bytes = malloc(size);
    if (!bytes) abort();
    memset(bytes, byte, size);
    const fl_log_field fields[] = {fl_field_text("key", fl_slice_of(bytes, size)),
                                   fl_field_text("more", text_of("x"))};
    fl_log_line(self->log, FL_LOG_INFO, fl_slice_of(bytes, size), fields, 2);
    sink_finish(self, 0);
    free(bytes);
    return self;
}

TEST(a_line_that_is_too_long_is_cut_and_stays_well_formed)
{
    for (size_t size = 8000; size < 20000; size += 7) {
        sink *self = log_long_line(FL_LOG_JSON, 'x', size);
        CHECK_EQUAL_INT(count_of(self->text, "\n"), 1);
        CHECK(ends_with(self->text, "…\"}\n") || ends_with(self->text, "\"more\":\"x\"}\n") ||
              ends_with(self->text, "x\"}\n"));
        CHECK(self->size <= 16400);
        free(self);
    }
    sink *self = log_long_line(FL_LOG_TEXT, '\n', 20000);
    CHECK(ends_with(self->text, "\\x0A…\"\n"));
    free(self);
}

TEST(a_long_target_leaves_the_access_line_whole)
{
    sink *self = sink_open(FL_LOG_JSON, FL_LOG_INFO, SMALL);
    char target[9000];
    memset(target, '"', sizeof(target));
    fl_access access = shop;
    access.target = fl_slice_of(target, sizeof(target));
    fl_log_access(self->log, &access);
    const char *text = sink_finish(self, 0);
    CHECK(strstr(text, "\\\"…\",\"status\":200,") != NULL);
    CHECK(self->size < 4096);
    free(self);
}

TEST(an_error_is_written_at_once_and_other_lines_soon)
{
    sink *self = sink_open(FL_LOG_TEXT, FL_LOG_INFO, SMALL);
    fl_log_printf(self->log, FL_LOG_INFO, "first");
    sink_read_for(self, 500);
    CHECK_EQUAL_INT(count_of(self->text, "first"), 1);
    fl_log_printf(self->log, FL_LOG_ERROR, "second");
    sink_read_for(self, 500);
    CHECK_EQUAL_INT(count_of(self->text, "second"), 1);
    sink_finish(self, 0);
    free(self);
}

static void log_requests(fl_log *log, unsigned lines)
{
    for (unsigned i = 0; i < lines; i++) fl_log_access(log, &shop);
}

static uint64_t reported_lines(const char *text)
{
    uint64_t sum = 0;
    while ((text = strstr(text, "warn  dropped "))) sum += strtoull(text += 14, NULL, 10);
    return sum;
}

TEST(a_full_pipe_drops_lines_says_so_and_never_blocks)
{
    sink *self = sink_open(FL_LOG_TEXT, FL_LOG_INFO, 65536);
    uint64_t begun = now_ns();
    for (int round = 0; round < 10; round++) {
        log_requests(self->log, 1000);
        usleep(12000);
    }
    CHECK(now_ns() - begun < 2 * (uint64_t)SECOND);
    uint64_t dropped = fl_log_dropped(self->log);
    CHECK(dropped > 5000 && dropped < 10000);
    sink_read_for(self, 200);
    fl_log_printf(self->log, FL_LOG_INFO, "last");
    const char *text = sink_finish(self, 0);
    const char *report = strstr(text, "warn  dropped ");
    CHECK(report != NULL && strstr(report, "info  last\n") != NULL);
    CHECK_EQUAL_INT(reported_lines(text), dropped);
    CHECK_EQUAL_INT(count_of(text, "access 127"), 10000 - dropped);
    CHECK_EQUAL_INT(count_of(text, "state=1\n"), 10000 - dropped);
    free(self);
}

TEST(closing_a_blocked_log_ends_in_time)
{
    sink *self = sink_open(FL_LOG_TEXT, FL_LOG_INFO, 65536);
    log_requests(self->log, 300);
    usleep(50000);
    log_requests(self->log, 1000);
    usleep(50000);
    uint64_t begun = now_ns();
    fl_log_close(self->log, SECOND / 10);
    uint64_t taken = now_ns() - begun;
    CHECK(taken >= SECOND / 10 && taken < SECOND);
    CHECK_EQUAL_INT(fcntl(self->writer, F_GETFL) & O_NONBLOCK, 0);
    close(self->writer);
    close(self->reader);
    free(self);
}

TEST(closing_writes_what_is_buffered)
{
    sink *self = sink_open(FL_LOG_TEXT, FL_LOG_INFO, 1 << 16);
    log_requests(self->log, 100);
    CHECK_EQUAL_INT(count_of(sink_finish(self, 0), "\n"), 100);
    free(self);
}

TEST(a_non_blocking_stdout_is_waited_for)
{
    sink *self = sink_open(FL_LOG_TEXT, FL_LOG_INFO, 1 << 20);
    (void)fcntl(self->writer, F_SETFL, O_NONBLOCK);
    log_requests(self->log, 2000);
    usleep(50000);
    sink_read_for(self, 300);
    CHECK_EQUAL_INT(count_of(sink_finish(self, 0), "state=1\n"), 2000);
    free(self);
}

TEST(a_log_without_a_reader_counts_and_goes_on)
{
    sink *self = sink_open(FL_LOG_TEXT, FL_LOG_INFO, SMALL);
    close(self->reader);
    for (int i = 0; i < 3; i++) {
        log_requests(self->log, 10);
        usleep(30000);
    }
    CHECK_EQUAL_INT(fl_log_dropped(self->log), 30);
    fl_log_close(self->log, SECOND);
    close(self->writer);
    free(self);
}

static void *produce(void *argument)
{
    log_requests(argument, 1000);
    return NULL;
}

TEST(threads_log_whole_lines_together)
{
    sink *self = sink_open(FL_LOG_JSON, FL_LOG_INFO, 1 << 20);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, produce, self->log);
    sink_read_for(self, 300);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    CHECK(fl_log_dropped(self->log) < 4000);
    uint64_t written = 4000 - fl_log_dropped(self->log);
    const char *text = sink_finish(self, 0);
    CHECK_EQUAL_INT(count_of(text, "\"message\":\"request\""), written);
    CHECK_EQUAL_INT(count_of(text, "{\"time\":\"2"), count_of(text, "}\n"));
    free(self);
}

TEST(a_file_gets_every_line)
{
    char path[] = "/tmp/fl_log_test_XXXXXX";
    int fd = mkstemp(path);
    fl_log *log;
    CHECK_EQUAL_INT(fl_log_open(&log, fd, FL_LOG_TEXT, FL_LOG_INFO, 1 << 20), 0);
    log_requests(log, 5000);
    fl_log_close(log, SECOND);
    CHECK_EQUAL_INT(lseek(fd, 0, SEEK_CUR) % 5000, 0);
    CHECK(lseek(fd, 0, SEEK_CUR) > 0);
    close(fd);
    unlink(path);
}

static int open_terminal(int *master)
{
    *master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (*master < 0 || grantpt(*master) < 0 || unlockpt(*master) < 0) return -1;
    return open(ptsname(*master), O_RDWR | O_NOCTTY | O_CLOEXEC);
}

TEST(a_terminal_gets_colours_unless_NO_COLOR_is_set)
{
    int master, terminal = open_terminal(&master);
    CHECK(terminal >= 0);
    char text[512] = "";
    fl_log *log;
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    CHECK_EQUAL_INT(fl_log_open(&log, terminal, FL_LOG_TEXT, FL_LOG_INFO, SMALL), 0);
    fl_log_printf(log, FL_LOG_ERROR, "first");
    fl_log_close(log, SECOND);
    setenv("NO_COLOR", "1", 1);
    CHECK_EQUAL_INT(fl_log_open(&log, terminal, FL_LOG_TEXT, FL_LOG_INFO, SMALL), 0);
    fl_log_printf(log, FL_LOG_ERROR, "second");
    fl_log_close(log, SECOND);
    for (size_t size = 0; !strstr(text, "second");) {
        ssize_t count = read(master, text + size, sizeof(text) - 1 - size);
        CHECK(count > 0);
        size += (size_t)count;
    }
    CHECK(strstr(text, "\x1b[31merror\x1b[0m first") != NULL);
    CHECK(strstr(text, " error second") != NULL);
    close(terminal);
    close(master);
}

TEST(closing_ends_in_time_before_a_frozen_terminal)
{
    int master, terminal = open_terminal(&master);
    CHECK(terminal >= 0);
    fl_log *log;
    CHECK_EQUAL_INT(fl_log_open(&log, terminal, FL_LOG_TEXT, FL_LOG_INFO, 1 << 20), 0);
    log_requests(log, 2000);
    uint64_t begun = now_ns();
    fl_log_close(log, SECOND / 10);
    CHECK(now_ns() - begun < SECOND);
    close(master); /* the writer left behind wakes and ends; `terminal` is still its */
    usleep(20000);
}

static int open_a_log(void)
{
    fl_log *log = NULL;
    int status = fl_log_open(&log, STDERR_FILENO, FL_LOG_TEXT, FL_LOG_ERROR, 100000);
    if (status == 0) fl_log_close(log, SECOND);
    return status;
}

TEST(without_memory_there_is_no_log)
{
    CHECK_SCARCITY(open_a_log);
}

TEST_MAIN
