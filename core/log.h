/* log: lines to stdout, written by a thread of its own, never by the caller.
 *
 * Owner: the process that called fl_log_open; freed by fl_log_close. fl_log_* may be called from
 * *any* thread: a line is formatted on the stack and copied under a short lock, the writer thread
 * writes whole buffers. When stdout blocks and the buffer is full, lines are dropped and counted,
 * and once there is room again a line says how many. When stdout has gone, lines are counted only.
 * Control characters, and what is not UTF-8, are escaped in both formats: a request cannot forge a
 * line. A line is at most 16 KB; what is longer ends in "…".
 *
 * text:  2026-01-31T12:00:00.123Z info  message  key=value key="two words"
 * json:  {"time":"…","level":"info","message":"…","key":"value","count":3}
 *
 * text:  2026-01-31T12:00:00.123Z access 127.0.0.1 "GET /x" 200 13B 0.42ms id=1-2a app=shop state=1
 * json:  {"time":"…","level":"info","message":"request","method":"GET","target":"/x","status":200,
 *        "bytes":13,"duration_ms":0.420,"request_id":"1-2a","client":"127.0.0.1","app":"shop",
 *        "state":1} */
#ifndef FL_LOG_H
#define FL_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "slice.h"

typedef enum { FL_LOG_DEBUG, FL_LOG_INFO, FL_LOG_WARN, FL_LOG_ERROR } fl_log_level;
typedef enum { FL_LOG_TEXT, FL_LOG_JSON } fl_log_format;

typedef struct fl_log fl_log;

typedef enum {
    FL_FIELD_TEXT,
    FL_FIELD_INTEGER,
    FL_FIELD_NUMBER,
    FL_FIELD_BOOLEAN,
    FL_FIELD_BLOCK /* a traceback: indented lines below the line in text, a string in json */
} fl_field_kind;

typedef struct fl_log_field {
    const char *name; /* other than letters, digits and _ . - are written as _ */
    fl_field_kind kind;
    fl_slice text;
    int64_t integer; /* also the boolean */
    double number;
} fl_log_field;

typedef struct fl_access { /* one finished request */
    fl_slice client, method, target, request_id, app;
    int status;
    uint64_t bytes;    /* of the response body */
    uint64_t duration; /* ns, first byte of the head parsed to last byte handed to the kernel */
    unsigned state;    /* the web thread's number */
} fl_access;

/* `capacity` bytes (at least a line) are kept while fd blocks, beside as many that are being
 * written. The fd stays the caller's. Text has colours when fd is a terminal and NO_COLOR is not
 * set. */
int fl_log_open(fl_log **out, int fd, fl_log_format format, fl_log_level level, size_t capacity);
/* On stdout; format "text", "json" or "auto" (text on a terminal), level by its name. */
int fl_log_open_stdout(fl_log **out, const char *format, const char *level, size_t capacity);
/* Writes what is buffered, for at most `timeout` ns; what is logged later is not written. For who
 * is about to _exit: other threads may still be logging, and nothing is freed. */
void fl_log_finish(fl_log *log, uint64_t timeout);
/* Writes what is buffered, for at most `timeout` ns, and ends the writer thread. No other thread
 * may be logging. */
void fl_log_close(fl_log *log, uint64_t timeout);

bool fl_log_enabled(const fl_log *log, fl_log_level level);
void fl_log_line(fl_log *log, fl_log_level level, fl_slice message, const fl_log_field *fields,
                 size_t count);
void fl_log_printf(fl_log *log, fl_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Written at any level: whether to is the caller's access_log setting. */
void fl_log_access(fl_log *log, const fl_access *access);
uint64_t fl_log_dropped(const fl_log *log);

static inline fl_log_field fl_field_text(const char *name, fl_slice text)
{
    return (fl_log_field){.name = name, .kind = FL_FIELD_TEXT, .text = text};
}

static inline fl_log_field fl_field_integer(const char *name, int64_t integer)
{
    return (fl_log_field){.name = name, .kind = FL_FIELD_INTEGER, .integer = integer};
}

static inline fl_log_field fl_field_number(const char *name, double number)
{
    return (fl_log_field){.name = name, .kind = FL_FIELD_NUMBER, .number = number};
}

static inline fl_log_field fl_field_boolean(const char *name, bool boolean)
{
    return (fl_log_field){.name = name, .kind = FL_FIELD_BOOLEAN, .integer = boolean};
}

static inline fl_log_field fl_field_block(const char *name, fl_slice text)
{
    return (fl_log_field){.name = name, .kind = FL_FIELD_BLOCK, .text = text};
}

#endif
