#include "definitions.h"

#include <stdio.h>
#include <stdlib.h>

#define FILE_MOST (1u << 20)

static bool is_word(char byte)
{
    return (fl_lower(byte) >= 'a' && fl_lower(byte) <= 'z') || (byte >= '0' && byte <= '9') ||
           byte == '_';
}

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

/* Where the next word `function` begins; line.size: nowhere. */
static size_t find_keyword(fl_slice line, size_t from)
{
    const fl_slice keyword = FL_SLICE("function");
    for (size_t at = from; at + keyword.size <= line.size; at++) {
        if (memcmp(line.data + at, keyword.data, keyword.size) != 0) continue;
        size_t end = at + keyword.size;
        bool begins = at == 0 || !is_word(line.data[at - 1]);
        if (begins && (end == line.size || !is_word(line.data[end]))) return at;
    }
    return line.size;
}

/* `function a.b:c(…` */
static fl_slice name_after(fl_slice line, size_t at)
{
    while (at < line.size && is_blank(line.data[at])) at++;
    size_t end = at;
    while (end < line.size &&
           (is_word(line.data[end]) || line.data[end] == '.' || line.data[end] == ':'))
        end++;
    return fl_slice_of(line.data + at, end - at);
}

/* `a.b = function` */
static fl_slice name_before(fl_slice line, size_t at)
{
    while (at > 0 && is_blank(line.data[at - 1])) at--;
    if (at == 0 || line.data[at - 1] != '=') return fl_slice_of(line.data, 0);
    at--;
    while (at > 0 && is_blank(line.data[at - 1])) at--;
    size_t end = at;
    while (at > 0 && (is_word(line.data[at - 1]) || line.data[at - 1] == '.')) at--;
    return fl_slice_of(line.data + at, end - at);
}

bool fl_definitions_parse(fl_slice line, fl_slice *name)
{
    const size_t keyword_size = 8;
    size_t at = find_keyword(line, 0);
    if (at == line.size) return false;
    if (find_keyword(line, at + keyword_size) != line.size) return false;
    *name = name_after(line, at + keyword_size);
    if (name->size == 0) *name = name_before(line, at);
    return true;
}

/* What cannot be read is an empty file. */
static void read_file(fl_buffer *text, const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file) return;
    size_t size = 1;
    while (size > 0 && text->size < FILE_MOST && fl_buffer_room(text, 65536)) {
        size = fread(text->data + text->size, 1, 65536, file);
        text->size += size;
    }
    (void)fclose(file);
}

/* NULL: too many files, or no memory. */
static const fl_buffer *text_of(fl_definitions *definitions, const char *path)
{
    for (size_t i = 0; i < definitions->count; i++)
        if (strcmp(definitions->files[i].path, path) == 0) return &definitions->files[i].text;
    if (definitions->count == FL_DEFINITIONS_FILES) return NULL;
    char *copy = strdup(path);
    if (!copy) return NULL;
    fl_buffer *text = &definitions->files[definitions->count].text;
    definitions->files[definitions->count++].path = copy;
    fl_buffer_init(text);
    read_file(text, path);
    return text;
}

static fl_slice line_of(const fl_buffer *text, unsigned line)
{
    size_t at = 0;
    for (unsigned i = 1; i < line && at < text->size; i++) {
        const char *end = memchr(text->data + at, '\n', text->size - at);
        at = end ? (size_t)(end - text->data) + 1 : text->size;
    }
    if (at >= text->size) return fl_slice_of("", 0);
    const char *end = memchr(text->data + at, '\n', text->size - at);
    return fl_slice_of(text->data + at, end ? (size_t)(end - text->data) - at : text->size - at);
}

void fl_definitions_init(fl_definitions *definitions)
{
    definitions->count = 0;
}

void fl_definitions_close(fl_definitions *definitions)
{
    while (definitions->count > 0) {
        definitions->count--;
        free(definitions->files[definitions->count].path);
        fl_buffer_close(&definitions->files[definitions->count].text);
    }
}

bool fl_definitions_find(fl_definitions *definitions, const char *path, unsigned line,
                         fl_slice *name)
{
    const fl_buffer *text = text_of(definitions, path);
    return text && fl_definitions_parse(line_of(text, line), name);
}
