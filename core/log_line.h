/* log_line: the bytes of one line of the log, in text or JSON, escaped and cut to size. Private to
 * the log.
 *
 * The struct is the caller's, 16 KB on its stack. Pure functions, *any* thread. The timestamp's
 * place stays empty: whoever appends the line fills it in, so that lines are in order of time. */
#ifndef FL_LOG_LINE_H
#define FL_LOG_LINE_H

#include <stdbool.h>
#include <stddef.h>

#include "log.h"
#include "slice.h"

#define FL_LINE_LIMIT 16384
#define FL_LINE_END 16        /* kept for what closes a line that was cut: …"}\n */
#define FL_LINE_STAMP_SIZE 24 /* 2026-01-31T12:00:00.123Z */

typedef struct fl_line {
    size_t size;
    size_t stamp; /* where the timestamp goes */
    bool cut;
    char data[FL_LINE_LIMIT + FL_LINE_END];
} fl_line;

typedef struct fl_line_style {
    fl_log_format format;
    bool colour;
} fl_line_style;

void fl_line_format(fl_line *line, fl_line_style style, fl_log_level level, fl_slice message,
                    const fl_log_field *fields, size_t count);
void fl_line_format_access(fl_line *line, fl_line_style style, const fl_access *access);

#endif
