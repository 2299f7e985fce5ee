#include "parcel.h"

#include <stdlib.h>
#include <uv.h>

#include "pack.h"

#define KEEP 4096      /* bytes of an empty parcel's buffer */
#define KEEP_ITEMS 256 /* of its lists */
#define VERSION 1      /* of a written parcel */

void fl_parcel_init(fl_parcel *parcel)
{
    *parcel = (fl_parcel){0};
}

static void drop_contents(fl_parcel *parcel)
{
    static const fl_parcel empty;
    fl_parcel_cut(parcel, &empty);
}

static void free_lists(fl_parcel *parcel)
{
    free(parcel->blobs);
    free(parcel->functions);
    free(parcel->cells);
    parcel->blobs = NULL;
    parcel->functions = NULL;
    parcel->cells = NULL;
    parcel->blob_capacity = parcel->function_capacity = parcel->cell_capacity = 0;
}

void fl_parcel_reset(fl_parcel *parcel)
{
    drop_contents(parcel);
    fl_buffer_reset(&parcel->bytes, KEEP);
    if (parcel->blob_capacity > KEEP_ITEMS || parcel->function_capacity > KEEP_ITEMS ||
        parcel->cell_capacity > KEEP_ITEMS)
        free_lists(parcel);
}

void fl_parcel_close(fl_parcel *parcel)
{
    drop_contents(parcel);
    free_lists(parcel);
    fl_buffer_close(&parcel->bytes);
    fl_parcel_init(parcel);
}

/* For another process: version, values, linked; the functions' number and, of each, digest, size,
 * bytecode; the blobs' number and, of each, size, bytes; the values. */

static void write_sized(fl_buffer *out, const char *data, size_t size)
{
    fl_pack_size(out, size);
    fl_buffer_append(out, data, size);
}

int fl_parcel_write(const fl_parcel *parcel, fl_buffer *out)
{
    size_t before = out->size;
    fl_buffer_byte(out, VERSION);
    fl_pack_size(out, parcel->values);
    fl_buffer_byte(out, parcel->linked);
    fl_pack_size(out, parcel->function_count);
    for (size_t i = 0; i < parcel->function_count; i++) {
        const fl_code *code = parcel->functions[i].code;
        fl_buffer_append(out, (const char *)code->digest, sizeof(code->digest));
        write_sized(out, code->bytes, code->size);
    }
    fl_pack_size(out, parcel->blob_count);
    for (size_t i = 0; i < parcel->blob_count; i++)
        write_sized(out, parcel->blobs[i].data, parcel->blobs[i].size);
    write_sized(out, parcel->bytes.data, parcel->bytes.size);
    if (!out->failed) return 0;
    out->size = before;
    return UV_ENOMEM;
}

static bool read_sized(fl_unpacker *u, fl_slice *bytes)
{
    uint64_t size;
    return fl_unpacker_size(u, &size) && fl_unpacker_bytes(u, size, bytes);
}

static bool no_memory(fl_unpacker *u)
{
    u->error = UV_ENOMEM;
    return false;
}

static bool read_function(fl_unpacker *u, fl_parcel *parcel)
{
    fl_slice digest, bytes;
    fl_code *code;
    if (!fl_unpacker_bytes(u, sizeof(code->digest), &digest) || !read_sized(u, &bytes))
        return false;
    if (fl_code_new(bytes, &code) < 0) return no_memory(u);
    bool whole = memcmp(code->digest, digest.data, digest.size) == 0;
    bool added = whole && fl_parcel_add_function(parcel, code, NULL) == 0;
    fl_code_release(code);
    if (!whole) return fl_unpacker_malformed(u);
    return added || no_memory(u);
}

static bool read_functions(fl_unpacker *u, fl_parcel *parcel)
{
    uint64_t count;
    if (!fl_unpacker_size(u, &count)) return false;
    if (count > FL_PARCEL_FUNCTIONS_MOST) return fl_unpacker_malformed(u);
    for (uint64_t i = 0; i < count; i++)
        if (!read_function(u, parcel)) return false;
    return true;
}

static bool read_blobs(fl_unpacker *u, fl_parcel *parcel)
{
    uint64_t count;
    fl_slice bytes;
    if (!fl_unpacker_size(u, &count)) return false;
    for (uint64_t i = 0; i < count; i++) {
        if (!read_sized(u, &bytes)) return false;
        if (bytes.size <= FL_PARCEL_LARGE) return fl_unpacker_malformed(u);
        if (fl_parcel_add_blob(parcel, bytes) < 0) return no_memory(u);
    }
    return true;
}

static bool read_parcel(fl_unpacker *u, fl_parcel *parcel)
{
    uint8_t version, linked;
    uint64_t values;
    fl_slice bytes;
    if (!fl_unpacker_byte(u, &version) || !fl_unpacker_size(u, &values) ||
        !fl_unpacker_byte(u, &linked))
        return false;
    if (version != VERSION || linked > 1) return fl_unpacker_malformed(u);
    if (!read_functions(u, parcel) || !read_blobs(u, parcel) || !read_sized(u, &bytes))
        return false;
    if (values > bytes.size || values > UINT32_MAX || u->at != u->end)
        return fl_unpacker_malformed(u);
    parcel->values = (uint32_t)values;
    parcel->linked = linked;
    fl_buffer_slice(&parcel->bytes, bytes);
    return !parcel->bytes.failed || no_memory(u);
}

int fl_parcel_read(fl_parcel *parcel, fl_slice bytes)
{
    fl_unpacker u;
    fl_unpacker_init(&u, NULL, bytes);
    if (read_parcel(&u, parcel)) return 0;
    fl_parcel_reset(parcel);
    return u.error;
}

/* The lists. */

static bool grow(void *items, size_t *capacity, size_t count, size_t size)
{
    void **list = items;
    if (count < *capacity) return true;
    size_t wanted = *capacity ? 2 * *capacity : 4;
    void *grown = realloc(*list, wanted * size);
    if (!grown) return false;
    *list = grown;
    *capacity = wanted;
    return true;
}

int fl_parcel_add_blob(fl_parcel *parcel, fl_slice text)
{
    if (!grow(&parcel->blobs, &parcel->blob_capacity, parcel->blob_count, sizeof(*parcel->blobs)))
        return UV_ENOMEM;
    char *data = malloc(text.size ? text.size : 1);
    if (!data) return UV_ENOMEM;
    memcpy(data, text.data, text.size);
    parcel->blobs[parcel->blob_count++] = (fl_parcel_blob){data, text.size};
    return 0;
}

int fl_parcel_add_function(fl_parcel *parcel, fl_code *code, const void *id)
{
    if (!grow(&parcel->functions, &parcel->function_capacity, parcel->function_count,
              sizeof(*parcel->functions)))
        return UV_ENOMEM;
    fl_code_hold(code);
    parcel->functions[parcel->function_count++] = (fl_parcel_function){code, id};
    return 0;
}

int fl_parcel_add_cell(fl_parcel *parcel, const void *id, uint32_t function, int upvalue)
{
    if (!grow(&parcel->cells, &parcel->cell_capacity, parcel->cell_count, sizeof(*parcel->cells)))
        return UV_ENOMEM;
    parcel->cells[parcel->cell_count++] = (fl_parcel_cell){id, function, (uint32_t)upvalue};
    return 0;
}

void fl_parcel_cut(fl_parcel *parcel, const fl_parcel *to)
{
    while (parcel->blob_count > to->blob_count) free(parcel->blobs[--parcel->blob_count].data);
    while (parcel->function_count > to->function_count)
        fl_code_release(parcel->functions[--parcel->function_count].code);
    parcel->cell_count = to->cell_count;
    parcel->values = to->values;
    parcel->linked = to->linked;
    parcel->bytes.size = to->bytes.size;
}
