/* Two buffers: producers append to the front one under the lock, the writer swaps it with the back
 * one and writes that without the lock. The writer is woken by the first line and then gathers for
 * a while, so that at a high rate a line costs its producer no system call.
 *
 * Only the writer waits for stdout, in poll(), where fl_log_close can end it: O_NONBLOCK would
 * change stdout for every process that shares it. Lines go out in pieces of at most PIPE_BUF bytes
 * that end with a line: a pipe that is writable takes one whole, so write() does not block, and
 * processes that share the pipe do not tear each other's lines. Where write() blocks all the same
 * (a frozen terminal), fl_log_close leaves the writer behind, which frees the log when it ends.
 *
 * Left out: rotation and files (stdout belongs to whoever started us). */
#include "log.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#define GATHER_NS 10000000u
#define STOP_NS 100000000u /* for the writer to leave poll() */
#define SECOND_NS 1000000000u
#define STAMP_SIZE 24 /* 2026-01-31T12:00:00.123Z */
#define LINE_LIMIT 16384
#define MESSAGE_LIMIT 8192 /* leaves room for fields */
#define LINE_END 16        /* kept for what closes a line that was cut: …"}\n */
#define FIELD_ROOM 64      /* punctuation and a number */
#define ACCESS_TARGET 2048 /* keeps an access line below PIPE_BUF */
#define ACCESS_TEXT 256

typedef struct log_line {
    size_t size;
    size_t stamp; /* where the timestamp goes, filled in under the lock */
    bool cut;
    char data[LINE_LIMIT + LINE_END];
} log_line;

typedef struct batch {
    char *data;
    size_t size;
} batch;

struct fl_log {
    int fd;
    fl_log_format format;
    fl_log_level level;
    bool colour;
    size_t capacity;
    _Atomic uint64_t dropped;
    pthread_t writer;
    int stop; /* an eventfd: the writer shall give up waiting */

    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t wake;   /* the writer waits for lines */
    pthread_cond_t done;   /* fl_log_close waits for the writer */
    batch front;
    uint64_t unreported; /* lines dropped since the last line that told */
    time_t second;
    char stamp[STAMP_SIZE + 1]; /* the text of `second` */
    bool urgent, closing, ended;
    bool orphaned; /* fl_log_close gave up waiting: the writer frees the log */

    batch back;  /* the writer's own, as what follows */
    bool broken; /* the last write failed: a report would be lost too */
    bool torn;   /* it failed within a line */
    bool stopped;
};

/* Bytes of a line */

static void put(log_line *line, const char *data, size_t size)
{
    if (line->size + size > LINE_LIMIT) {
        line->cut = true;
        return;
    }
    memcpy(line->data + line->size, data, size);
    line->size += size;
}

static void put_text(log_line *line, const char *text)
{
    put(line, text, strlen(text));
}

/* For what closes a value or the line: always fits, even after a cut. */
static void put_end(log_line *line, const char *text)
{
    size_t size = strlen(text);
    assert(line->size + size <= sizeof(line->data));
    memcpy(line->data + line->size, text, size);
    line->size += size;
}

static void put_unsigned(log_line *line, uint64_t number)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    put(line, digits + at, sizeof(digits) - at);
}

static void put_integer(log_line *line, int64_t number)
{
    if (number < 0) put(line, "-", 1);
    put_unsigned(line, number < 0 ? 0 - (uint64_t)number : (uint64_t)number);
}

/* number / 10^digits */
static void put_fixed(log_line *line, uint64_t number, unsigned digits)
{
    char text[24];
    size_t at = sizeof(text);
    for (unsigned i = 0; i < digits; i++, number /= 10) text[--at] = (char)('0' + number % 10);
    text[--at] = '.';
    put_unsigned(line, number);
    put(line, text + at, sizeof(text) - at);
}

static void put_number(log_line *line, double number, bool json)
{
    char text[32];
    if (json && !isfinite(number)) { /* RFC 8259 section 6 has no such numbers */
        put_text(line, "null");
        return;
    }
    int size = snprintf(text, sizeof(text), "%.15g", number);
    if (strtod(text, NULL) != number) size = snprintf(text, sizeof(text), "%.17g", number);
    put(line, text, (size_t)size);
}

/* Escaping */

typedef enum {
    ESCAPE_JSON,
    ESCAPE_VALUE,   /* between quotes in a text line */
    ESCAPE_MESSAGE, /* no quotes around it, so quotes within are harmless */
    ESCAPE_BLOCK    /* as a message, with real line ends and an indentation no line begins with */
} escaping;

static bool is_continuation(unsigned char byte)
{
    return (byte & 0xC0) == 0x80;
}

/* Bytes of the UTF-8 sequence at `at` (RFC 3629 section 4) and its code point; 0 when malformed. */
static size_t utf8_sequence(const unsigned char *at, size_t size, uint32_t *code)
{
    size_t length = at[0] < 0xC2 ? 0 : at[0] < 0xE0 ? 2 : at[0] < 0xF0 ? 3 : at[0] < 0xF5 ? 4 : 0;
    if (length == 0 || length > size) return 0;
    *code = at[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (!is_continuation(at[i])) return 0;
        *code = *code << 6 | (at[i] & 0x3Fu);
    }
    bool is_overlong = (length == 3 && *code < 0x800) || (length == 4 && *code < 0x10000);
    bool is_surrogate = *code >= 0xD800 && *code <= 0xDFFF;
    return is_overlong || is_surrogate || *code > 0x10FFFF ? 0 : length;
}

/* C1 controls start terminal sequences; separators and overrides make a viewer break or turn the
 * line. */
static bool is_deceptive(uint32_t code)
{
    return code < 0xA0 || (code >= 0x2028 && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
}

static void put_hex(log_line *line, const unsigned char *bytes, size_t size)
{
    static const char digits[] = "0123456789ABCDEF";
    for (size_t i = 0; i < size; i++)
        put(line, (char[]){'\\', 'x', digits[bytes[i] >> 4], digits[bytes[i] & 15]}, 4);
}

static void put_json_escape(log_line *line, uint32_t code)
{
    char text[16];
    switch (code) {
    case '"': put_text(line, "\\\""); return;
    case '\\': put_text(line, "\\\\"); return;
    case '\n': put_text(line, "\\n"); return;
    case '\r': put_text(line, "\\r"); return;
    case '\t': put_text(line, "\\t"); return;
    default: put(line, text, (size_t)snprintf(text, sizeof(text), "\\u%04x", code)); return;
    }
}

static size_t put_multibyte(log_line *line, const unsigned char *at, size_t size, escaping how)
{
    uint32_t code = 0;
    size_t length = utf8_sequence(at, size, &code);
    if (length > 0 && !is_deceptive(code))
        put(line, (const char *)at, length);
    else if (how != ESCAPE_JSON)
        put_hex(line, at, length ? length : 1);
    else if (length > 0)
        put_json_escape(line, code);
    else
        put_text(line, "\xEF\xBF\xBD");
    return length ? length : 1;
}

static void put_special(log_line *line, unsigned char byte, escaping how)
{
    if (how == ESCAPE_JSON)
        put_json_escape(line, byte);
    else if (how != ESCAPE_VALUE && byte == '"')
        put(line, "\"", 1);
    else if (how == ESCAPE_BLOCK && byte == '\n')
        put_text(line, "\n    ");
    else if (how == ESCAPE_BLOCK && byte == '\t')
        put_text(line, "  ");
    else
        put_hex(line, &byte, 1);
}

static size_t plain_run(const unsigned char *at, size_t size)
{
    size_t run = 0;
    while (run < size && at[run] >= 0x20 && at[run] < 0x7F && at[run] != '"' && at[run] != '\\')
        run++;
    return run;
}

/* Appends at most about `most` bytes, then an ellipsis. */
static void put_escaped(log_line *line, fl_slice text, escaping how, size_t most)
{
    const unsigned char *at = (const unsigned char *)text.data, *end = at + text.size;
    size_t stop = line->size > LINE_LIMIT - most ? LINE_LIMIT : line->size + most;
    while (at < end && line->size < stop) {
        size_t run = plain_run(at, (size_t)(end - at));
        if (run > stop - line->size) run = stop - line->size;
        put(line, (const char *)at, run);
        at += run;
        if (at == end || line->size >= stop) break;
        if (*at < 0x80)
            put_special(line, *at++, how);
        else
            at += put_multibyte(line, at, (size_t)(end - at), how);
        if (line->cut) break;
    }
    if (at < end || line->cut) put_end(line, "…");
}

static bool is_bare(fl_slice text)
{
    for (size_t i = 0; i < text.size; i++) {
        unsigned char byte = (unsigned char)text.data[i];
        if (byte <= 0x20 || byte >= 0x7F || strchr("\"\\=", byte)) return false;
    }
    return text.size > 0;
}

static void put_value(log_line *line, fl_slice text, bool json, size_t most)
{
    if (!json && is_bare(text) && text.size <= most && line->size + text.size <= LINE_LIMIT) {
        put(line, text.data, text.size);
        return;
    }
    put(line, "\"", 1);
    put_escaped(line, text, json ? ESCAPE_JSON : ESCAPE_VALUE, most);
    put_end(line, "\"");
}

/* Lines */

static const char *level_name(fl_log_level level)
{
    switch (level) {
    case FL_LOG_DEBUG: return "debug";
    case FL_LOG_INFO: return "info";
    case FL_LOG_WARN: return "warn";
    case FL_LOG_ERROR: return "error";
    }
    return "info";
}

static const char *level_colour(fl_log_level level)
{
    switch (level) {
    case FL_LOG_DEBUG: return "\x1b[2m";
    case FL_LOG_INFO: return "\x1b[32m";
    case FL_LOG_WARN: return "\x1b[33m";
    case FL_LOG_ERROR: return "\x1b[31m";
    }
    return "";
}

static void line_begin(log_line *line, const fl_log *log)
{
    line->size = 0;
    line->cut = false;
    if (log->format == FL_LOG_JSON) put_text(line, "{\"time\":\"");
    line->stamp = line->size;
    line->size += STAMP_SIZE;
    put_text(line, log->format == FL_LOG_JSON ? "\"" : " ");
}

static void line_end(log_line *line, const fl_log *log)
{
    put_end(line, log->format == FL_LOG_JSON ? "}\n" : "\n");
}

static void put_text_head(log_line *line, const fl_log *log, fl_log_level level, fl_slice message)
{
    const char *name = level_name(level);
    if (log->colour) put_text(line, level_colour(level));
    put_text(line, name);
    if (log->colour) put_text(line, "\x1b[0m");
    put(line, "      ", 6 - strlen(name));
    put_escaped(line, message, ESCAPE_MESSAGE, MESSAGE_LIMIT);
}

static void put_json_head(log_line *line, fl_log_level level, fl_slice message)
{
    put_text(line, ",\"level\":\"");
    put_text(line, level_name(level));
    put_text(line, "\",\"message\":");
    put_value(line, message, true, MESSAGE_LIMIT);
}

static void put_name(log_line *line, const char *name, bool json)
{
    put_text(line, json ? ",\"" : " ");
    put_text(line, name);
    put_text(line, json ? "\":" : "=");
}

static void put_block(log_line *line, fl_slice text)
{
    while (text.size > 0 && text.data[text.size - 1] == '\n') text.size--;
    put_text(line, "\n    ");
    put_escaped(line, text, ESCAPE_BLOCK, LINE_LIMIT);
}

static void put_field(log_line *line, const fl_log_field *field, bool json)
{
    if (line->size + strlen(field->name) + FIELD_ROOM > LINE_LIMIT) {
        line->cut = true;
        return;
    }
    if (field->kind == FL_FIELD_BLOCK && !json) {
        put_block(line, field->text);
        return;
    }
    put_name(line, field->name, json);
    switch (field->kind) {
    case FL_FIELD_TEXT:
    case FL_FIELD_BLOCK: put_value(line, field->text, json, LINE_LIMIT); break;
    case FL_FIELD_INTEGER: put_integer(line, field->integer); break;
    case FL_FIELD_NUMBER: put_number(line, field->number, json); break;
    case FL_FIELD_BOOLEAN: put_text(line, field->integer ? "true" : "false"); break;
    }
}

/* Blocks come last in a text line: what followed one would seem to belong to it. */
static void put_fields(log_line *line, const fl_log_field *fields, size_t count, bool json)
{
    const char *gap = json ? "" : " "; /* a second space before the first */
    for (size_t i = 0; i < count && !line->cut; i++) {
        if (!json && fields[i].kind == FL_FIELD_BLOCK) continue;
        put_text(line, gap);
        put_field(line, &fields[i], json);
        gap = "";
    }
    for (size_t i = 0; i < count && !line->cut && !json; i++)
        if (fields[i].kind == FL_FIELD_BLOCK) put_field(line, &fields[i], json);
}

static void line_format(log_line *line, const fl_log *log, fl_log_level level, fl_slice message,
                        const fl_log_field *fields, size_t count)
{
    bool json = log->format == FL_LOG_JSON;
    line_begin(line, log);
    if (json)
        put_json_head(line, level, message);
    else
        put_text_head(line, log, level, message);
    put_fields(line, fields, count, json);
    line_end(line, log);
}

static void put_member(log_line *line, const char *name, fl_slice text, bool json, size_t most)
{
    put_name(line, name, json);
    put_value(line, text, json, most);
}

static const char *status_colour(int status)
{
    return level_colour(status >= 500 ? FL_LOG_ERROR : status >= 400 ? FL_LOG_WARN : FL_LOG_INFO);
}

static void put_access_text(log_line *line, const fl_log *log, const fl_access *access)
{
    put_text(line, "access ");
    put_value(line, access->client, false, ACCESS_TEXT);
    put_text(line, " \"");
    put_escaped(line, access->method, ESCAPE_VALUE, ACCESS_TEXT);
    put_text(line, " ");
    put_escaped(line, access->target, ESCAPE_VALUE, ACCESS_TARGET);
    put_text(line, "\" ");
    if (log->colour) put_text(line, status_colour(access->status));
    put_integer(line, access->status);
    put_text(line, log->colour ? "\x1b[0m " : " ");
    put_unsigned(line, access->bytes);
    put_text(line, "B ");
    put_fixed(line, (access->duration + 5000) / 10000, 2);
    put_text(line, "ms");
    put_member(line, "id", access->request_id, false, ACCESS_TEXT);
    put_member(line, "app", access->app, false, ACCESS_TEXT);
    put_name(line, "state", false);
    put_unsigned(line, access->state);
}

static void put_access_json(log_line *line, const fl_access *access)
{
    put_json_head(line, FL_LOG_INFO, FL_SLICE("request"));
    put_member(line, "method", access->method, true, ACCESS_TEXT);
    put_member(line, "target", access->target, true, ACCESS_TARGET);
    put_name(line, "status", true);
    put_integer(line, access->status);
    put_name(line, "bytes", true);
    put_unsigned(line, access->bytes);
    put_name(line, "duration_ms", true);
    put_fixed(line, (access->duration + 500) / 1000, 3);
    put_member(line, "request_id", access->request_id, true, ACCESS_TEXT);
    put_member(line, "client", access->client, true, ACCESS_TEXT);
    put_member(line, "app", access->app, true, ACCESS_TEXT);
    put_name(line, "state", true);
    put_unsigned(line, access->state);
}

/* Appending: the lock is held */

static void refresh_stamp(fl_log *log, time_t second)
{
    struct tm calendar;
    log->second = second;
    gmtime_r(&second, &calendar);
    (void)strftime(log->stamp, sizeof(log->stamp), "%Y-%m-%dT%H:%M:%S.000Z", &calendar);
}

static void stamp_line(fl_log *log, log_line *line)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec != log->second) refresh_stamp(log, now.tv_sec);
    char *to = line->data + line->stamp;
    unsigned milliseconds = (unsigned)(now.tv_nsec / 1000000);
    memcpy(to, log->stamp, STAMP_SIZE);
    to[20] = (char)('0' + milliseconds / 100);
    to[21] = (char)('0' + milliseconds / 10 % 10);
    to[22] = (char)('0' + milliseconds % 10);
}

static void count_dropped(fl_log *log, uint64_t lines)
{
    log->unreported += lines;
    atomic_fetch_add_explicit(&log->dropped, lines, memory_order_relaxed);
}

static void append(fl_log *log, log_line *line)
{
    if (log->capacity - log->front.size < line->size) {
        count_dropped(log, 1);
        return;
    }
    stamp_line(log, line);
    memcpy(log->front.data + log->front.size, line->data, line->size);
    log->front.size += line->size;
}

/* Any thread, without the lock. */
static void submit(fl_log *log, log_line *line, bool urgent)
{
    pthread_mutex_lock(&log->mutex);
    bool wake = log->front.size == 0;
    append(log, line);
    if (!log->urgent && (urgent || log->front.size > log->capacity / 2)) {
        log->urgent = true;
        wake = true;
    }
    pthread_mutex_unlock(&log->mutex);
    if (wake) pthread_cond_signal(&log->wake);
}

static void report_dropped(fl_log *log)
{
    if (log->unreported == 0 || log->broken) return;
    log_line line;
    char text[64];
    int size = snprintf(text, sizeof(text), "dropped %llu line%s",
                        (unsigned long long)log->unreported, log->unreported == 1 ? "" : "s");
    line_format(&line, log, FL_LOG_WARN, fl_slice_of(text, (size_t)size), NULL, 0);
    log->unreported = 0;
    append(log, &line);
}

/* The writer */

static struct timespec time_after(uint64_t ns)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    uint64_t sum = (uint64_t)time.tv_nsec + ns % SECOND_NS;
    time.tv_sec += (time_t)(ns / SECOND_NS + sum / SECOND_NS);
    time.tv_nsec = (long)(sum % SECOND_NS);
    return time;
}

static void gather(fl_log *log)
{
    struct timespec until = time_after(GATHER_NS);
    while (!log->urgent && !log->closing)
        if (pthread_cond_timedwait(&log->wake, &log->mutex, &until) == ETIMEDOUT) return;
}

/* Returns the bytes written, perhaps 0, or a negative uv code: UV_ECANCELED when told to stop. */
static ssize_t write_when_ready(const fl_log *log, const char *data, size_t size)
{
    struct pollfd ready[] = {{.fd = log->fd, .events = POLLOUT},
                             {.fd = log->stop, .events = POLLIN}};
    if (poll(ready, 2, -1) < 0) return 0;
    if (ready[1].revents) return UV_ECANCELED;
    ssize_t written = write(log->fd, data, size);
    if (written >= 0) return written;
    return errno == EAGAIN || errno == EINTR ? 0 : uv_translate_sys_error(errno);
}

/* The longest prefix that ends with a line and that a pipe takes whole. */
static size_t next_piece(const char *data, size_t size)
{
    if (size <= PIPE_BUF) return size;
    const char *end = memrchr(data, '\n', PIPE_BUF);
    return end ? (size_t)(end - data) + 1 : PIPE_BUF;
}

/* Lines of a block begin with a space and belong to the line above. */
static uint64_t count_lines(const char *data, size_t size)
{
    uint64_t lines = 0;
    for (size_t i = 0; i < size; i++)
        if (data[i] == '\n' && (i + 1 == size || data[i + 1] != ' ')) lines++;
    return lines;
}

/* Returns how many bytes of the back buffer went out before an error. */
static size_t write_back(fl_log *log)
{
    size_t at = 0;
    ssize_t written = 0;
    if (log->torn && write_when_ready(log, "\n", 1) == 1) log->torn = false;
    while (at < log->back.size && written >= 0) {
        const char *data = log->back.data + at;
        written = write_when_ready(log, data, next_piece(data, log->back.size - at));
        if (written > 0) at += (size_t)written;
    }
    log->broken = at < log->back.size;
    log->stopped = written == UV_ECANCELED;
    if (at > 0) log->torn = log->back.data[at - 1] != '\n';
    return at;
}

/* Waits for lines and takes them into the back buffer. False: closing, and nothing is left. */
static bool take_front(fl_log *log)
{
    if (log->front.size == 0) report_dropped(log);
    while (log->front.size == 0 && !log->closing) pthread_cond_wait(&log->wake, &log->mutex);
    if (log->front.size == 0) return false;
    gather(log);
    batch full = log->front;
    log->front = (batch){.data = log->back.data};
    log->back = full;
    log->urgent = false;
    report_dropped(log); /* what was dropped came after the full buffer */
    return true;
}

static void free_memory(fl_log *log)
{
    if (log->stop >= 0) close(log->stop);
    free(log->front.data);
    free(log->back.data);
    free(log);
}

static void free_log(fl_log *log)
{
    pthread_cond_destroy(&log->done);
    pthread_cond_destroy(&log->wake);
    pthread_mutex_destroy(&log->mutex);
    free_memory(log);
}

static void *writer_run(void *argument)
{
    fl_log *log = argument;
    pthread_mutex_lock(&log->mutex);
    while (!log->stopped && take_front(log)) {
        pthread_mutex_unlock(&log->mutex);
        size_t written = write_back(log);
        pthread_mutex_lock(&log->mutex);
        count_dropped(log, count_lines(log->back.data + written, log->back.size - written));
    }
    log->ended = true;
    bool orphaned = log->orphaned;
    pthread_cond_signal(&log->done);
    pthread_mutex_unlock(&log->mutex);
    if (orphaned) free_log(log);
    return NULL;
}

/* Signals go to other threads; a SIGPIPE of the writer stays pending in it for good. */
static int writer_start(fl_log *log)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&log->writer, NULL, writer_run, log);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) return uv_translate_sys_error(error);
    (void)pthread_setname_np(log->writer, "log");
    return 0;
}

static bool wants_colour(int fd, fl_log_format format)
{
    const char *no_colour = getenv("NO_COLOR"), *terminal = getenv("TERM");
    return format == FL_LOG_TEXT && isatty(fd) && !(no_colour && *no_colour) &&
           !(terminal && strcmp(terminal, "dumb") == 0);
}

static int init_locks(fl_log *log)
{
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes)) return UV_ENOMEM;
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int error = pthread_mutex_init(&log->mutex, NULL);
    if (!error) error = pthread_cond_init(&log->wake, &attributes);
    if (!error) error = pthread_cond_init(&log->done, &attributes);
    pthread_condattr_destroy(&attributes);
    return error ? uv_translate_sys_error(error) : 0;
}

static bool wait_ended(fl_log *log, uint64_t timeout)
{
    struct timespec until = time_after(timeout);
    int waited = 0;
    while (!log->ended && waited == 0)
        waited = pthread_cond_timedwait(&log->done, &log->mutex, &until);
    return log->ended;
}

int fl_log_open(fl_log **out, int fd, fl_log_format format, fl_log_level level, size_t capacity)
{
    fl_log *log = calloc(1, sizeof(*log));
    if (!log) return UV_ENOMEM;
    log->fd = fd;
    log->format = format;
    log->level = level;
    log->colour = wants_colour(fd, format);
    log->capacity = capacity > sizeof(log_line) ? capacity : sizeof(log_line);
    log->front.data = malloc(log->capacity);
    log->back.data = malloc(log->capacity);
    log->stop = eventfd(0, EFD_CLOEXEC);
    refresh_stamp(log, 0);
    int status = log->front.data && log->back.data ? init_locks(log) : UV_ENOMEM;
    if (log->stop < 0) status = uv_translate_sys_error(errno);
    if (status == 0) status = writer_start(log);
    if (status < 0) {
        free_memory(log);
        return status;
    }
    *out = log;
    return 0;
}

void fl_log_close(fl_log *log, uint64_t timeout)
{
    pthread_t writer = log->writer;
    pthread_mutex_lock(&log->mutex);
    log->closing = true;
    pthread_cond_signal(&log->wake);
    bool ended = wait_ended(log, timeout);
    if (!ended) {
        (void)eventfd_write(log->stop, 1);
        ended = wait_ended(log, STOP_NS);
    }
    log->orphaned = !ended;
    pthread_mutex_unlock(&log->mutex);
    if (!ended) {
        pthread_detach(writer);
        return;
    }
    pthread_join(writer, NULL);
    free_log(log);
}

bool fl_log_enabled(const fl_log *log, fl_log_level level)
{
    return level >= log->level;
}

static fl_log_level level_of(const char *name)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (strcmp(name, names[i]) == 0) return (fl_log_level)i;
    return FL_LOG_INFO;
}

int fl_log_open_stdout(fl_log **out, const char *format, const char *level, size_t capacity)
{
    bool is_auto = strcmp(format, "auto") == 0;
    bool is_json = is_auto ? !isatty(STDOUT_FILENO) : strcmp(format, "json") == 0;
    return fl_log_open(out, STDOUT_FILENO, is_json ? FL_LOG_JSON : FL_LOG_TEXT, level_of(level),
                       capacity);
}

void fl_log_line(fl_log *log, fl_log_level level, fl_slice message, const fl_log_field *fields,
                 size_t count)
{
    if (!fl_log_enabled(log, level)) return;
    log_line line;
    line_format(&line, log, level, message, fields, count);
    submit(log, &line, level == FL_LOG_ERROR);
}

void fl_log_printf(fl_log *log, fl_log_level level, const char *format, ...)
{
    if (!fl_log_enabled(log, level)) return;
    char text[LINE_LIMIT / 2];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (size < 0) return;
    size_t kept = (size_t)size < sizeof(text) ? (size_t)size : sizeof(text) - 1;
    fl_log_line(log, level, fl_slice_of(text, kept), NULL, 0);
}

void fl_log_access(fl_log *log, const fl_access *access)
{
    log_line line;
    line_begin(&line, log);
    if (log->format == FL_LOG_JSON)
        put_access_json(&line, access);
    else
        put_access_text(&line, log, access);
    line_end(&line, log);
    submit(log, &line, false);
}

uint64_t fl_log_dropped(const fl_log *log)
{
    return atomic_load_explicit(&log->dropped, memory_order_relaxed);
}
