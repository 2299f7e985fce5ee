#include "log_line.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "utf8.h"

#define MESSAGE_LIMIT 8192 /* leaves room for fields */
#define FIELD_ROOM 64      /* punctuation and a number */
#define ACCESS_TARGET 2048 /* keeps an access line below PIPE_BUF */
#define ACCESS_TEXT 256

static void put(fl_line *line, const char *data, size_t size)
{
    if (line->size + size > FL_LINE_LIMIT) {
        line->cut = true;
        return;
    }
    memcpy(line->data + line->size, data, size);
    line->size += size;
}

static void put_text(fl_line *line, const char *text)
{
    put(line, text, strlen(text));
}

/* For what closes a value or the line: always fits, even after a cut. */
static void put_end(fl_line *line, const char *text)
{
    size_t size = strlen(text);
    assert(line->size + size <= sizeof(line->data));
    memcpy(line->data + line->size, text, size);
    line->size += size;
}

static void put_unsigned(fl_line *line, uint64_t number)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    put(line, digits + at, sizeof(digits) - at);
}

static void put_integer(fl_line *line, int64_t number)
{
    if (number < 0) put(line, "-", 1);
    put_unsigned(line, number < 0 ? 0 - (uint64_t)number : (uint64_t)number);
}

/* number / 10^digits */
static void put_fixed(fl_line *line, uint64_t number, unsigned digits)
{
    char text[24];
    size_t at = sizeof(text);
    for (unsigned i = 0; i < digits; i++, number /= 10) text[--at] = (char)('0' + number % 10);
    text[--at] = '.';
    put_unsigned(line, number);
    put(line, text + at, sizeof(text) - at);
}

static void put_number(fl_line *line, double number, bool json)
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

typedef enum {
    ESCAPE_JSON,
    ESCAPE_VALUE,   /* between quotes in a text line */
    ESCAPE_MESSAGE, /* no quotes around it, so quotes within are harmless */
    ESCAPE_BLOCK    /* as a message, with real line ends and an indentation no line begins with */
} escaping;

/* C1 controls start terminal sequences; separators and overrides make a viewer break or turn the
 * line. */
static bool is_deceptive(uint32_t code)
{
    return code < 0xA0 || (code >= 0x2028 && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
}

static void put_hex(fl_line *line, const unsigned char *bytes, size_t size)
{
    static const char digits[] = "0123456789ABCDEF";
    for (size_t i = 0; i < size; i++)
        put(line, (char[]){'\\', 'x', digits[bytes[i] >> 4], digits[bytes[i] & 15]}, 4);
}

static void put_json_escape(fl_line *line, uint32_t code)
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

static size_t put_multibyte(fl_line *line, const unsigned char *at, size_t size, escaping how)
{
    uint32_t code = 0;
    size_t length = fl_utf8_decode(at, at + size, &code);
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

static void put_special(fl_line *line, unsigned char byte, escaping how)
{
    if (how == ESCAPE_JSON)
        put_json_escape(line, byte);
    else if (how != ESCAPE_VALUE && byte == '"')
        put(line, "\"", 1);
    else if (how == ESCAPE_BLOCK && byte == '\n')
        put_text(line, "\n    ");
    else if (how == ESCAPE_BLOCK && byte == '\t')
        put_text(line, "  ");
    else if (how == ESCAPE_MESSAGE && byte == '\t')
        put(line, "\t", 1); /* between what `print` is given */
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
static void put_escaped(fl_line *line, fl_slice text, escaping how, size_t most)
{
    if (text.size == 0) return; /* its data may be NULL */
    const unsigned char *at = (const unsigned char *)text.data, *end = at + text.size;
    size_t stop = line->size > FL_LINE_LIMIT - most ? FL_LINE_LIMIT : line->size + most;
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

static void put_value(fl_line *line, fl_slice text, bool json, size_t most)
{
    if (!json && is_bare(text) && text.size <= most && line->size + text.size <= FL_LINE_LIMIT) {
        put(line, text.data, text.size);
        return;
    }
    put(line, "\"", 1);
    put_escaped(line, text, json ? ESCAPE_JSON : ESCAPE_VALUE, most);
    put_end(line, "\"");
}

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

static void line_begin(fl_line *line, fl_line_style style)
{
    line->size = 0;
    line->cut = false;
    if (style.format == FL_LOG_JSON) put_text(line, "{\"time\":\"");
    line->stamp = line->size;
    line->size += FL_LINE_STAMP_SIZE;
    put_text(line, style.format == FL_LOG_JSON ? "\"" : " ");
}

static void line_end(fl_line *line, fl_line_style style)
{
    put_end(line, style.format == FL_LOG_JSON ? "}\n" : "\n");
}

static void put_text_head(fl_line *line, fl_line_style style, fl_log_level level, fl_slice message)
{
    const char *name = level_name(level);
    if (style.colour) put_text(line, level_colour(level));
    put_text(line, name);
    if (style.colour) put_text(line, "\x1b[0m");
    put(line, "      ", 6 - strlen(name));
    put_escaped(line, message, ESCAPE_MESSAGE, MESSAGE_LIMIT);
}

static void put_json_head(fl_line *line, fl_log_level level, fl_slice message)
{
    put_text(line, ",\"level\":\"");
    put_text(line, level_name(level));
    put_text(line, "\",\"message\":");
    put_value(line, message, true, MESSAGE_LIMIT);
}

static void put_name(fl_line *line, const char *name, bool json)
{
    put_text(line, json ? ",\"" : " ");
    put_text(line, name);
    put_text(line, json ? "\":" : "=");
}

static void put_block(fl_line *line, fl_slice text)
{
    while (text.size > 0 && text.data[text.size - 1] == '\n') text.size--;
    put_text(line, "\n    ");
    put_escaped(line, text, ESCAPE_BLOCK, FL_LINE_LIMIT);
}

static bool is_name_byte(char byte)
{
    bool is_letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
    return is_letter || (byte >= '0' && byte <= '9') || byte == '_' || byte == '.' || byte == '-';
}

/* An app may take names from anywhere: what no name has becomes "_". */
static void put_field_name(fl_line *line, const char *name, bool taken, bool json)
{
    put_text(line, json ? ",\"" : " ");
    for (; *name; name++) put(line, is_name_byte(*name) ? name : "_", 1);
    if (taken) put_text(line, "_");
    put_text(line, json ? "\":" : "=");
}

static void put_field(fl_line *line, const fl_log_field *field, bool taken, bool json)
{
    if (line->size + strlen(field->name) + FIELD_ROOM > FL_LINE_LIMIT) {
        line->cut = true;
        return;
    }
    if (field->kind == FL_FIELD_BLOCK && !json) {
        put_block(line, field->text);
        return;
    }
    put_field_name(line, field->name, taken, json);
    switch (field->kind) {
    case FL_FIELD_TEXT:
    case FL_FIELD_BLOCK: put_value(line, field->text, json, FL_LINE_LIMIT); break;
    case FL_FIELD_INTEGER: put_integer(line, field->integer); break;
    case FL_FIELD_NUMBER: put_number(line, field->number, json); break;
    case FL_FIELD_BOOLEAN: put_text(line, field->integer ? "true" : "false"); break;
    }
}

/* Blocks come last in a text line: what followed one would seem to belong to it. */
/* The first of a name keeps it: the request's id is the server's word. */
static bool is_taken(const fl_log_field *fields, size_t index)
{
    static const char *const own[] = {"time", "level", "message"};
    const char *name = fields[index].name;
    for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
        if (strcmp(name, own[i]) == 0) return true;
    for (size_t i = 0; i < index; i++)
        if (strcmp(name, fields[i].name) == 0) return true;
    return false;
}

static void put_fields(fl_line *line, const fl_log_field *fields, size_t count, bool json)
{
    const char *gap = json ? "" : " "; /* a second space before the first */
    for (size_t i = 0; i < count && !line->cut; i++) {
        if (!json && fields[i].kind == FL_FIELD_BLOCK) continue;
        put_text(line, gap);
        put_field(line, &fields[i], is_taken(fields, i), json);
        gap = "";
    }
    for (size_t i = 0; i < count && !line->cut && !json; i++)
        if (fields[i].kind == FL_FIELD_BLOCK) put_field(line, &fields[i], false, json);
}

static void put_member(fl_line *line, const char *name, fl_slice text, bool json, size_t most)
{
    put_name(line, name, json);
    put_value(line, text, json, most);
}

static const char *status_colour(int status)
{
    return level_colour(status >= 500 ? FL_LOG_ERROR : status >= 400 ? FL_LOG_WARN : FL_LOG_INFO);
}

static void put_access_text(fl_line *line, fl_line_style style, const fl_access *access)
{
    put_text(line, "access ");
    put_value(line, access->client, false, ACCESS_TEXT);
    put_text(line, " \"");
    put_escaped(line, access->method, ESCAPE_VALUE, ACCESS_TEXT);
    put_text(line, " ");
    put_escaped(line, access->target, ESCAPE_VALUE, ACCESS_TARGET);
    put_text(line, "\" ");
    if (style.colour) put_text(line, status_colour(access->status));
    put_integer(line, access->status);
    put_text(line, style.colour ? "\x1b[0m " : " ");
    put_unsigned(line, access->bytes);
    put_text(line, "B ");
    put_fixed(line, (access->duration + 5000) / 10000, 2);
    put_text(line, "ms");
    put_member(line, "id", access->request_id, false, ACCESS_TEXT);
    put_member(line, "app", access->app, false, ACCESS_TEXT);
    put_name(line, "state", false);
    put_unsigned(line, access->state);
}

static void put_access_json(fl_line *line, const fl_access *access)
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

void fl_line_format(fl_line *line, fl_line_style style, fl_log_level level, fl_slice message,
                    const fl_log_field *fields, size_t count)
{
    bool json = style.format == FL_LOG_JSON;
    line_begin(line, style);
    if (json)
        put_json_head(line, level, message);
    else
        put_text_head(line, style, level, message);
    put_fields(line, fields, count, json);
    line_end(line, style);
}

void fl_line_format_access(fl_line *line, fl_line_style style, const fl_access *access)
{
    line_begin(line, style);
    if (style.format == FL_LOG_JSON)
        put_access_json(line, access);
    else
        put_access_text(line, style, access);
    line_end(line, style);
}
