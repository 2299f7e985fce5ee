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

#include <errno.h>
#include <limits.h>
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

#include "log_line.h"

#define GATHER_NS 10000000u
#define STOP_NS 100000000u /* for the writer to leave poll() */
#define SECOND_NS 1000000000u

typedef struct batch {
    char *data;
    size_t size;
} batch;

struct fl_log {
    int fd;
    fl_line_style style;
    fl_log_level level;
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
    char stamp[FL_LINE_STAMP_SIZE + 1]; /* the text of `second` */
    bool urgent, closing, ended;
    bool orphaned; /* fl_log_close gave up waiting: the writer frees the log */

    batch back;  /* the writer's own, as what follows */
    bool broken; /* the last write failed: a report would be lost too */
    bool torn;   /* it failed within a line */
    bool stopped;
};

/* Appending: the lock is held */

static void refresh_stamp(fl_log *log, time_t second)
{
    struct tm calendar;
    log->second = second;
    gmtime_r(&second, &calendar);
    (void)strftime(log->stamp, sizeof(log->stamp), "%Y-%m-%dT%H:%M:%S.000Z", &calendar);
}

static void stamp_line(fl_log *log, fl_line *line)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec != log->second) refresh_stamp(log, now.tv_sec);
    char *to = line->data + line->stamp;
    unsigned milliseconds = (unsigned)(now.tv_nsec / 1000000);
    memcpy(to, log->stamp, FL_LINE_STAMP_SIZE);
    to[20] = (char)('0' + milliseconds / 100);
    to[21] = (char)('0' + milliseconds / 10 % 10);
    to[22] = (char)('0' + milliseconds % 10);
}

static void count_dropped(fl_log *log, uint64_t lines)
{
    log->unreported += lines;
    atomic_fetch_add_explicit(&log->dropped, lines, memory_order_relaxed);
}

static void append(fl_log *log, fl_line *line)
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
static void submit(fl_log *log, fl_line *line, bool urgent)
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
    fl_line line;
    char text[64];
    int size = snprintf(text, sizeof(text), "dropped %llu line%s",
                        (unsigned long long)log->unreported, log->unreported == 1 ? "" : "s");
    fl_line_format(&line, log->style, FL_LOG_WARN, fl_slice_of(text, (size_t)size), NULL, 0);
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
    log->level = level;
    log->style = (fl_line_style){.format = format, .colour = wants_colour(fd, format)};
    log->capacity = capacity > sizeof(fl_line) ? capacity : sizeof(fl_line);
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

void fl_log_finish(fl_log *log, uint64_t timeout)
{
    pthread_mutex_lock(&log->mutex);
    log->closing = true;
    pthread_cond_signal(&log->wake);
    (void)wait_ended(log, timeout);
    pthread_mutex_unlock(&log->mutex);
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
    fl_line line;
    fl_line_format(&line, log->style, level, message, fields, count);
    submit(log, &line, level == FL_LOG_ERROR);
}

void fl_log_printf(fl_log *log, fl_log_level level, const char *format, ...)
{
    if (!fl_log_enabled(log, level)) return;
    char text[FL_LINE_LIMIT / 2];
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
    fl_line line;
    fl_line_format_access(&line, log->style, access);
    submit(log, &line, false);
}

uint64_t fl_log_dropped(const fl_log *log)
{
    return atomic_load_explicit(&log->dropped, memory_order_relaxed);
}
