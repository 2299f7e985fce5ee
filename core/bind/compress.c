#include "bind/compress.h"

#include <brotli/decode.h>
#include <brotli/encode.h>
#include <lauxlib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#define ZLIB_CONST
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "buffer.h"
#include "lua_buffer.h"
#include "slice.h"

#define KB 1024
#define MB 1048576
#define GB 1073741824
#define USUAL_LIMIT ((size_t)64 * MB)
#define MOST_LIMIT ((size_t)GB)
#define FIRST_ROOM ((size_t)16 * KB)
#define WINDOW_BITS 15
#define GZIP_BITS (WINDOW_BITS + 16)
#define ZLIB_MEMORY 8 /* its default */

typedef enum { STEP_MORE, STEP_ENDED, STEP_CORRUPT, STEP_NO_MEMORY } progress;
typedef enum { DONE, TRUNCATED, TRAILING, TOO_LARGE, CORRUPT, NO_MEMORY } verdict;

typedef struct passage { /* what a step reads, and where it writes `room` bytes at most */
    fl_slice in;
    fl_buffer *out;
    size_t room;
    const char *detail; /* when corrupt: the library's word for it; static */
} passage;

typedef struct codec {
    const char *name; /* as in Content-Encoding */
    int least, most, usual;
    bool (*compress)(fl_slice in, int level, fl_buffer *out); /* false: no memory */
    void *(*open)(void);                                      /* a decoder, or NULL: no memory */
    progress (*decode)(void *decoder, passage *flow);
    void (*close)(void *decoder);
    bool (*continues)(fl_slice rest); /* another member begins here; NULL: there is only one */
} codec;

/* The libraries count down and up; this is how far they came. */
static void advance(passage *flow, size_t in_left, size_t written)
{
    size_t used = flow->in.size - in_left;
    flow->in = fl_slice_of(flow->in.data + used, in_left);
    flow->out->size += written;
    flow->room -= written;
}

/* gzip (RFC 1952) and deflate, which is zlib's format (RFC 1950, RFC 9110 section 8.4.1.2) */

static bool deflate_all(fl_slice in, int level, int bits, fl_buffer *out)
{
    z_stream stream = {.next_in = (const Bytef *)in.data, .avail_in = (uInt)in.size};
    if (deflateInit2(&stream, level, Z_DEFLATED, bits, ZLIB_MEMORY, Z_DEFAULT_STRATEGY) != Z_OK)
        return false;
    size_t bound = deflateBound(&stream, (uLong)in.size);
    bool done = fl_buffer_room(out, bound);
    if (done) {
        stream.next_out = (Bytef *)out->data;
        stream.avail_out = (uInt)bound;
        done = deflate(&stream, Z_FINISH) == Z_STREAM_END;
        out->size = stream.total_out;
    }
    (void)deflateEnd(&stream);
    return done;
}

static bool compress_gzip(fl_slice in, int level, fl_buffer *out)
{
    return deflate_all(in, level, GZIP_BITS, out);
}

static bool compress_deflate(fl_slice in, int level, fl_buffer *out)
{
    return deflate_all(in, level, WINDOW_BITS, out);
}

static void *open_inflate(int bits)
{
    z_stream *stream = calloc(1, sizeof(*stream));
    if (stream && inflateInit2(stream, bits) == Z_OK) return stream;
    free(stream);
    return NULL;
}

static void *open_gzip(void)
{
    return open_inflate(GZIP_BITS);
}

static void *open_deflate(void)
{
    return open_inflate(WINDOW_BITS);
}

static void close_inflate(void *decoder)
{
    (void)inflateEnd(decoder);
    free(decoder);
}

static progress decode_inflate(void *decoder, passage *flow)
{
    z_stream *stream = decoder;
    stream->next_in = (const Bytef *)flow->in.data;
    stream->avail_in = (uInt)flow->in.size;
    stream->next_out = (Bytef *)flow->out->data + flow->out->size;
    stream->avail_out = (uInt)flow->room;
    int status = inflate(stream, Z_NO_FLUSH);
    advance(flow, stream->avail_in, flow->room - stream->avail_out);
    flow->detail = status == Z_NEED_DICT ? "it needs a dictionary" : stream->msg;
    if (status == Z_OK || status == Z_BUF_ERROR) return STEP_MORE;
    if (status == Z_MEM_ERROR) return STEP_NO_MEMORY;
    if (status != Z_STREAM_END) return STEP_CORRUPT;
    (void)inflateReset(stream); /* another member may follow */
    return STEP_ENDED;
}

static bool gzip_continues(fl_slice rest)
{
    return rest.size >= 2 && memcmp(rest.data, "\x1f\x8b", 2) == 0;
}

/* br (RFC 7932) */

static bool compress_brotli(fl_slice in, int level, fl_buffer *out)
{
    size_t size = BrotliEncoderMaxCompressedSize(in.size);
    if (!fl_buffer_room(out, size)) return false;
    BROTLI_BOOL done =
        BrotliEncoderCompress(level, BROTLI_DEFAULT_WINDOW, BROTLI_MODE_GENERIC, in.size,
                              (const uint8_t *)in.data, &size, (uint8_t *)out->data);
    out->size = done ? size : 0;
    return done;
}

static void *open_brotli(void)
{
    return BrotliDecoderCreateInstance(NULL, NULL, NULL);
}

static void close_brotli(void *decoder)
{
    BrotliDecoderDestroyInstance(decoder);
}

static progress brotli_failed(const BrotliDecoderState *decoder, passage *flow)
{
    BrotliDecoderErrorCode code = BrotliDecoderGetErrorCode(decoder);
    flow->detail = BrotliDecoderErrorString(code);
    bool is_memory = code <= BROTLI_DECODER_ERROR_ALLOC_CONTEXT_MODES &&
                     code >= BROTLI_DECODER_ERROR_ALLOC_BLOCK_TYPE_TREES;
    return is_memory ? STEP_NO_MEMORY : STEP_CORRUPT;
}

static progress decode_brotli(void *decoder, passage *flow)
{
    size_t in_left = flow->in.size, room = flow->room;
    const uint8_t *in = (const uint8_t *)flow->in.data;
    uint8_t *out = (uint8_t *)flow->out->data + flow->out->size;
    BrotliDecoderResult result =
        BrotliDecoderDecompressStream(decoder, &in_left, &in, &room, &out, NULL);
    advance(flow, in_left, flow->room - room);
    switch (result) {
    case BROTLI_DECODER_RESULT_SUCCESS: return STEP_ENDED;
    case BROTLI_DECODER_RESULT_NEEDS_MORE_INPUT:
    case BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT: return STEP_MORE;
    case BROTLI_DECODER_RESULT_ERROR: break;
    }
    return brotli_failed(decoder, flow);
}

/* zstd (RFC 8878), with the checksum that its command writes too */

static bool compress_zstd(fl_slice in, int level, fl_buffer *out)
{
    ZSTD_CCtx *context = ZSTD_createCCtx();
    size_t bound = ZSTD_compressBound(in.size);
    bool done = context && fl_buffer_room(out, bound);
    if (done) {
        (void)ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level);
        (void)ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
        size_t size = ZSTD_compress2(context, out->data, bound, in.data, in.size);
        done = !ZSTD_isError(size);
        out->size = done ? size : 0;
    }
    (void)ZSTD_freeCCtx(context);
    return done;
}

static void *open_zstd(void)
{
    return ZSTD_createDCtx(); /* refuses windows above 128 MB, its default */
}

static void close_zstd(void *decoder)
{
    (void)ZSTD_freeDCtx(decoder);
}

static progress decode_zstd(void *decoder, passage *flow)
{
    ZSTD_inBuffer in = {flow->in.data, flow->in.size, 0};
    ZSTD_outBuffer out = {flow->out->data + flow->out->size, flow->room, 0};
    size_t status = ZSTD_decompressStream(decoder, &out, &in);
    advance(flow, in.size - in.pos, out.pos);
    if (!ZSTD_isError(status)) return status == 0 ? STEP_ENDED : STEP_MORE;
    flow->detail = ZSTD_getErrorName(status);
    bool is_memory = ZSTD_getErrorCode(status) == ZSTD_error_memory_allocation;
    return is_memory ? STEP_NO_MEMORY : STEP_CORRUPT;
}

/* A frame's magic number, or one of the sixteen of skippable frames. */
static bool zstd_continues(fl_slice rest)
{
    if (rest.size < 4) return false;
    bool is_skippable =
        (rest.data[0] & 0xf0) == 0x50 && memcmp(rest.data + 1, "\x2a\x4d\x18", 3) == 0;
    return is_skippable || memcmp(rest.data, "\x28\xb5\x2f\xfd", 4) == 0;
}

/* Brotli's usual level is for answers made on the fly: its own, 11, is some hundred times slower.
 * zstd's levels above 19 take hundreds of megabytes. */
static const codec formats[] = {
    {"gzip", 0, 9, 6, compress_gzip, open_gzip, decode_inflate, close_inflate, gzip_continues},
    {"deflate", 0, 9, 6, compress_deflate, open_deflate, decode_inflate, close_inflate, NULL},
    {"br", 0, 11, 5, compress_brotli, open_brotli, decode_brotli, close_brotli, NULL},
    {"zstd", 1, 19, 3, compress_zstd, open_zstd, decode_zstd, close_zstd, zstd_continues},
};

#define FORMATS (sizeof(formats) / sizeof(formats[0]))

/* Room for the next step: as much again, but only one byte more than the limit in all, which tells
 * an output that is too large. */
static bool make_room(passage *flow, size_t limit)
{
    size_t size = flow->out->size, left = limit + 1 - size;
    flow->room = size > FIRST_ROOM ? size : FIRST_ROOM;
    if (flow->room > left) flow->room = left;
    return fl_buffer_room(flow->out, flow->room);
}

static verdict decode_all(const codec *format, void *decoder, passage *flow, size_t limit)
{
    for (;;) {
        if (!make_room(flow, limit)) return NO_MEMORY;
        progress step = format->decode(decoder, flow);
        if (step == STEP_NO_MEMORY) return NO_MEMORY;
        if (step == STEP_CORRUPT) return CORRUPT;
        if (flow->out->size > limit) return TOO_LARGE;
        if (step == STEP_MORE) {
            if (flow->in.size == 0 && flow->room > 0) return TRUNCATED;
        } else if (flow->in.size == 0) {
            return DONE;
        } else if (!format->continues || !format->continues(flow->in)) {
            return TRAILING;
        }
    }
}

static verdict decompress(const codec *format, passage *flow, size_t limit)
{
    void *decoder = format->open();
    if (!decoder) return NO_MEMORY;
    verdict outcome = decode_all(format, decoder, flow, limit);
    format->close(decoder);
    return outcome;
}

/* arguments */

static int raise_unknown_format(lua_State *L, const char *name)
{
    lua_pushfstring(L, "unknown format \"%s\", known are", name);
    for (size_t i = 0; i < FORMATS; i++) {
        lua_pushfstring(L, "%s%s", i ? ", " : " ", formats[i].name);
        lua_concat(L, 2);
    }
    return luaL_argerror(L, 1, lua_tostring(L, -1));
}

static const codec *check_format(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    for (size_t i = 0; i < FORMATS; i++)
        if (strcmp(formats[i].name, name) == 0) return &formats[i];
    (void)raise_unknown_format(L, name);
    return NULL;
}

static fl_slice check_text(lua_State *L, int index)
{
    fl_slice text;
    text.data = luaL_checklstring(L, index, &text.size);
    return text;
}

static const char *describe(lua_State *L, int index)
{
    const char *type = luaL_typename(L, index);
    lua_pushvalue(L, index); /* converting a number in place would confuse lua_next */
    const char *text = lua_tostring(L, -1);
    return text ? text : type;
}

/* Pushes the only option there is, or nil.   [-0, +1, e] */
static void push_option(lua_State *L, const char *known)
{
    if (lua_isnoneornil(L, 3)) {
        lua_pushnil(L);
        return;
    }
    luaL_checktype(L, 3, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) {
        if (lua_type(L, -2) == LUA_TSTRING && strcmp(lua_tostring(L, -2), known) == 0) continue;
        const char *name = describe(L, -2);
        luaL_argerror(L, 3, lua_pushfstring(L, "unknown option \"%s\", known is %s", name, known));
    }
    lua_getfield(L, 3, known);
}

static int check_level(lua_State *L, const codec *format)
{
    push_option(L, "level");
    if (lua_isnil(L, -1)) return format->usual;
    lua_Number level = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
    if (level >= format->least && level <= format->most && level == (lua_Number)(int)level)
        return (int)level;
    const char *given = describe(L, -1);
    lua_pushfstring(L, "level of %s: expected a whole number from %d to %d, got %s", format->name,
                    format->least, format->most, given);
    return luaL_argerror(L, 3, lua_tostring(L, -1));
}

static double unit_named(const char *name)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1},    {"B", 1},    {"K", KB}, {"KB", KB}, {"KiB", KB}, {"M", MB},
                 {"MB", MB}, {"MiB", MB}, {"G", GB}, {"GB", GB}, {"GiB", GB}};
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (strcasecmp(units[i].name, name) == 0) return units[i].bytes;
    return 0;
}

/* "10MB", as in conf files; 0 when it is no size. */
static double size_from_text(fl_slice slice)
{
    char *end;
    const char *text = slice.data;
    if (strlen(text) != slice.size) return 0;
    size_t digits = strspn(text, "0123456789.");
    double number = strtod(text, &end);
    if (end != text + digits) return 0; /* a sign, an exponent, hexadecimal */
    return number * unit_named(end + strspn(end, " "));
}

static size_t check_limit(lua_State *L)
{
    push_option(L, "limit");
    if (lua_isnil(L, -1)) return USUAL_LIMIT;
    double limit = 0;
    if (lua_type(L, -1) == LUA_TNUMBER) limit = lua_tonumber(L, -1);
    if (lua_type(L, -1) == LUA_TSTRING) limit = size_from_text(check_text(L, -1));
    if (limit >= 1 && limit <= (double)MOST_LIMIT && limit == (double)(size_t)limit)
        return (size_t)limit;
    const char *given = describe(L, -1);
    lua_pushfstring(L, "limit: expected a size in bytes, or as in \"10MB\", from 1 to 1GB, got %s",
                    given);
    return (size_t)luaL_argerror(L, 3, lua_tostring(L, -1));
}

static int raise_outcome(lua_State *L, verdict outcome, const char *name, const passage *flow,
                         size_t limit)
{
    switch (outcome) {
    case DONE: break;
    case TRUNCATED: return luaL_error(L, "the %s data ends too early", name);
    case TRAILING:
        return luaL_error(L, "%d bytes follow the end of the %s data", (int)flow->in.size, name);
    case TOO_LARGE:
        return luaL_error(L, "the %s data holds more than the limit of %d bytes", name, (int)limit);
    case CORRUPT:
        return luaL_error(L, "not %s data, or corrupt: %s", name,
                          flow->detail ? flow->detail : "no reason given");
    case NO_MEMORY: break;
    }
    return luaL_error(L, "not enough memory");
}

/* compress(format, data, { level = n } or nothing) -> string   [-0, +1, e] */
static int module_compress(lua_State *L)
{
    const codec *format = check_format(L);
    fl_slice data = check_text(L, 2);
    int level = check_level(L, format);
    fl_buffer *out = fl_lua_buffer_take(L);
    if (format->compress(data, level, out)) return fl_lua_buffer_push(L, out);
    fl_buffer_close(out);
    return luaL_error(L, "not enough memory");
}

/* decompress(format, data, { limit = bytes } or nothing) -> string   [-0, +1, e] */
static int module_decompress(lua_State *L)
{
    const codec *format = check_format(L);
    passage flow = {.in = check_text(L, 2)};
    size_t limit = check_limit(L);
    flow.out = fl_lua_buffer_take(L);
    verdict outcome = decompress(format, &flow, limit);
    if (outcome == DONE) return fl_lua_buffer_push(L, flow.out);
    fl_buffer_close(flow.out);
    return raise_outcome(L, outcome, format->name, &flow, limit);
}

int fl_compress_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"compress", module_compress}, {"decompress", module_decompress}, {NULL, NULL}};
    lua_createtable(L, 0, 2);
    fl_lua_buffer_new(L);
    luaL_setfuncs(L, functions, 1);
    return 1;
}
