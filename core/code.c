/* The format of bytecode is that of LuaJIT's lj_bcdump.h, version 2: a header, then each prototype
 * behind its length, children before their parents, then a 0. A factory is the function's dump with
 * one more prototype at the end, taken from a chunk compiled here, whose child the function
 * becomes. The function's upvalues, which refer to its former parent, are made to refer to the
 * first locals of that chunk, so that each closure gets new ones. */
#include "code.h"

#include <lauxlib.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <uv.h>

#include "pack.h"

#define VERSION 2
#define STRIPPED 2u
#define UPVALUE_LOCAL 0x8000u
#define UPVALUE_IMMUTABLE 0x4000u
#define MOST_UPVALUES 60 /* LuaJIT's limit */
#define MOST_TEMPLATE 256

int fl_code_new(fl_slice bytes, fl_code **code)
{
    fl_code *made = malloc(sizeof(*made) + bytes.size);
    if (!made) return UV_ENOMEM;
    atomic_init(&made->holders, 1);
    made->size = bytes.size;
    if (bytes.size) memcpy(made->bytes, bytes.data, bytes.size);
    fl_code_digest(bytes, made->digest);
    *code = made;
    return 0;
}

void fl_code_hold(fl_code *code)
{
    atomic_fetch_add_explicit(&code->holders, 1, memory_order_relaxed);
}

void fl_code_release(fl_code *code)
{
    if (atomic_fetch_sub_explicit(&code->holders, 1, memory_order_acq_rel) == 1) free(code);
}

bool fl_code_equal(const fl_code *a, const fl_code *b)
{
    if (a == b) return true;
    return a->digest[0] == b->digest[0] && a->digest[1] == b->digest[1] && a->size == b->size &&
           memcmp(a->bytes, b->bytes, a->size) == 0;
}

static uint64_t rotate(uint64_t number, unsigned by)
{
    return number << by | number >> (64 - by);
}

static uint64_t scatter(uint64_t number)
{
    number = (number ^ number >> 33) * 0xff51afd7ed558ccd;
    number = (number ^ number >> 33) * 0xc4ceb9fe1a85ec53;
    return number ^ number >> 33;
}

static void mix(uint64_t digest[2], uint64_t a, uint64_t b)
{
    const uint64_t first = 0x87c37b91114253d5, second = 0x4cf5ad432745937f;
    digest[0] ^= rotate(a * first, 31) * second;
    digest[0] = (rotate(digest[0], 27) + digest[1]) * 5 + 0x52dce729;
    digest[1] ^= rotate(b * second, 33) * first;
    digest[1] = (rotate(digest[1], 31) + digest[0]) * 5 + 0x38495ab5;
}

/* MurmurHash3 (x64, 128 bits), which is in the public domain. It tells functions of the app's own
 * apart; whoever relies on it compares the bytes too. */
void fl_code_digest(fl_slice bytes, uint64_t digest[2])
{
    uint64_t block[2] = {0, 0};
    digest[0] = digest[1] = 0;
    size_t at = 0;
    for (; bytes.size - at >= sizeof(block); at += sizeof(block)) {
        memcpy(block, bytes.data + at, sizeof(block));
        mix(digest, block[0], block[1]);
    }
    block[0] = block[1] = 0;
    if (bytes.size > at) memcpy(block, bytes.data + at, bytes.size - at);
    mix(digest, block[0], block[1]);
    digest[0] = scatter(digest[0] ^ bytes.size);
    digest[1] = scatter(digest[1] ^ bytes.size) + digest[0];
    digest[0] += digest[1];
}

/* Bytecode. */

typedef struct reader {
    char *at, *end;
    bool failed;
} reader;

static uint32_t read_byte(reader *r)
{
    if (r->at >= r->end) r->failed = true;
    return r->failed ? 0 : (uint8_t)*r->at++;
}

static uint32_t read_number(reader *r)
{
    uint32_t number = 0, byte, shift = 0;
    do {
        byte = read_byte(r);
        if (shift < 32) number |= (byte & 0x7f) << shift;
        shift += 7;
    } while (byte & 0x80);
    return number;
}

static char *skip(reader *r, size_t size)
{
    char *from = r->at;
    if (size > (size_t)(r->end - r->at)) r->failed = true;
    if (!r->failed) r->at += size;
    return from;
}

/* Up to the first prototype. Returns the flags. */
static uint32_t read_header(reader *r)
{
    static const char magic[] = {'\033', 'L', 'J', VERSION};
    const char *found = skip(r, sizeof(magic));
    if (r->failed || memcmp(found, magic, sizeof(magic)) != 0) {
        r->failed = true;
        return 0;
    }
    uint32_t flags = read_number(r);
    if (!(flags & STRIPPED)) (void)skip(r, read_number(r)); /* the chunk's name */
    return flags;
}

/* The last prototype, from its length on; the 0 that follows is where `r` stands. */
static reader last_prototype(reader *r)
{
    reader last = *r;
    last.failed = true;
    while (!r->failed && r->at < r->end && *r->at) {
        last = *r;
        size_t size = read_number(r);
        (void)skip(r, size);
        last.end = r->at;
    }
    if (r->failed || r->end - r->at != 1) last.failed = true;
    return last;
}

/* Leaves `r` at the descriptors of its upvalues and returns how many they are. */
static uint32_t find_upvalues(reader *r, bool stripped)
{
    (void)read_number(r); /* the size */
    (void)skip(r, 3);     /* flags, parameters, frame size */
    uint32_t upvalues = read_byte(r);
    (void)read_number(r); /* constants */
    (void)read_number(r);
    size_t instructions = read_number(r);
    if (!stripped && read_number(r) > 0) { /* debug information: first line, lines */
        (void)read_number(r);
        (void)read_number(r);
    }
    (void)skip(r, instructions * 4);
    return upvalues;
}

static void redirect_upvalues(reader *r, uint32_t count)
{
    for (uint32_t i = 0; i < count && !r->failed; i++) {
        uint16_t descriptor;
        char *from = skip(r, sizeof(descriptor));
        if (r->failed) return;
        memcpy(&descriptor, from, sizeof(descriptor));
        descriptor = (uint16_t)(UPVALUE_LOCAL | (descriptor & UPVALUE_IMMUTABLE) | i);
        memcpy(from, &descriptor, sizeof(descriptor));
    }
}

static int append(lua_State *L, const void *data, size_t size, void *buffer)
{
    (void)L;
    fl_buffer_append(buffer, data, size);
    return ((fl_buffer *)buffer)->failed;
}

/* The bytecode of the function on top, as a reader over what was appended. */
static int dump(lua_State *L, fl_buffer *out, reader *r)
{
    size_t size = out->size;
    int status = lua_dump(L, append, out);
    if (out->failed || status == LUA_ERRMEM) return UV_ENOMEM;
    if (status) return UV_EINVAL;
    *r = (reader){out->data + size, out->data + out->size, false};
    return 0;
}

/* Writes the prototype without its debug information, which nobody will see. Returns its size, 0
 * when it is not understood. */
static size_t strip(reader *r, char plain[MOST_TEMPLATE])
{
    (void)read_number(r); /* the size */
    const char *start = skip(r, 4);
    for (int i = 0; i < 3; i++) (void)read_number(r); /* constants, constants, instructions */
    size_t head = (size_t)(r->at - start), debug = read_number(r);
    if (debug > 0) { /* first line, lines */
        (void)read_number(r);
        (void)read_number(r);
    }
    size_t rest = (size_t)(r->end - r->at);
    if (r->failed || debug > rest || head + 1 + rest - debug > MOST_TEMPLATE) return 0;
    memcpy(plain, start, head);
    plain[head] = 0;
    memcpy(plain + head + 1, r->at, rest - debug);
    return head + 1 + rest - debug;
}

int fl_code_template(lua_State *L, fl_buffer *out)
{
    char source[512] = "local u0";
    size_t length = strlen(source);
    for (int i = 1; i < MOST_UPVALUES; i++)
        length += (size_t)snprintf(source + length, sizeof(source) - length, ",u%d", i);
    length += (size_t)snprintf(source + length, sizeof(source) - length,
                               " return function() return u0 end");
    if (luaL_loadbuffer(L, source, length, "=fasterlua") != 0) return lua_error(L);
    reader r;
    size_t before = out->size;
    int error = dump(L, out, &r);
    lua_pop(L, 1);
    if (error) return error;
    uint32_t flags = read_header(&r);
    reader last = last_prototype(&r);
    char plain[MOST_TEMPLATE];
    size_t size = last.failed || (flags & STRIPPED) ? 0 : strip(&last, plain);
    out->size = before;
    if (size == 0) return UV_EINVAL;
    fl_pack_size(out, size);
    fl_buffer_append(out, plain, size);
    fl_buffer_byte(out, 0);
    return out->failed ? UV_ENOMEM : 0;
}

int fl_code_dump(lua_State *L, fl_slice template, fl_buffer *out)
{
    reader r;
    if (template.size == 0) return UV_EINVAL;
    int error = dump(L, out, &r);
    if (error) return error;
    uint32_t flags = read_header(&r);
    reader last = last_prototype(&r);
    if (last.failed || (flags & STRIPPED)) return UV_EINVAL;
    uint32_t upvalues = find_upvalues(&last, false);
    redirect_upvalues(&last, upvalues);
    if (last.failed || upvalues > MOST_UPVALUES) return UV_EINVAL;
    out->size--; /* the 0, which the template has too */
    fl_buffer_slice(out, template);
    return out->failed ? UV_ENOMEM : 0;
}

int fl_code_load(lua_State *L, const fl_code *code)
{
    int status = luaL_loadbufferx(L, code->bytes, code->size, "=code", "b");
    if (status == LUA_ERRMEM) return UV_ENOMEM;
    return status ? UV_EINVAL : 0;
}
