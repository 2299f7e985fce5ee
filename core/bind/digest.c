#include "bind/digest.h"

#include <assert.h>
#include <lauxlib.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "slice.h"

#define SMALL 512
#define LARGEST_BLOCK 144 /* sha3-224's, the widest of all below */
#define MOST_RANDOM (1 << 20)

typedef struct algorithm {
    const char *name;
    const char *openssl_name;
    EVP_MD *md; /* NULL when this OpenSSL, or its configuration, does without */
} algorithm;

/* OpenSSL 3 looks an algorithm up under a process-wide lock, so each is fetched once and shared by
 * all threads, for the life of the process. Written under `fetched_once` only, constant after. */
static algorithm algorithms[] = {
    {"md5", "MD5", NULL},
    {"sha1", "SHA1", NULL},
    {"sha224", "SHA224", NULL},
    {"sha256", "SHA256", NULL},
    {"sha384", "SHA384", NULL},
    {"sha512", "SHA512", NULL},
    {"sha512-256", "SHA512-256", NULL},
    {"sha3-224", "SHA3-224", NULL},
    {"sha3-256", "SHA3-256", NULL},
    {"sha3-384", "SHA3-384", NULL},
    {"sha3-512", "SHA3-512", NULL},
    {"blake2b512", "BLAKE2B-512", NULL},
    {"blake2s256", "BLAKE2S-256", NULL},
};
static pthread_once_t fetched_once = PTHREAD_ONCE_INIT;

#define ALGORITHMS (sizeof(algorithms) / sizeof(algorithms[0]))

static void fetch_all(void)
{
    for (size_t i = 0; i < ALGORITHMS; i++)
        algorithms[i].md = EVP_MD_fetch(NULL, algorithms[i].openssl_name, NULL);
}

static int raise_unknown(lua_State *L, const char *name)
{
    lua_pushfstring(L, "unknown algorithm \"%s\", known are", name);
    const char *separator = " ";
    for (size_t i = 0; i < ALGORITHMS; i++) {
        if (!algorithms[i].md) continue;
        lua_pushfstring(L, "%s%s", separator, algorithms[i].name);
        lua_concat(L, 2);
        separator = ", ";
    }
    return luaL_argerror(L, 1, lua_tostring(L, -1));
}

static const EVP_MD *check_algorithm(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    for (size_t i = 0; i < ALGORITHMS; i++)
        if (algorithms[i].md && strcmp(algorithms[i].name, name) == 0) return algorithms[i].md;
    (void)raise_unknown(L, name);
    return NULL;
}

static fl_slice check_text(lua_State *L, int index)
{
    fl_slice text;
    text.data = luaL_checklstring(L, index, &text.size);
    return text;
}

/* Room for `size` bytes: the caller's, or a userdata's when that is too small. */
static uint8_t *scratch(lua_State *L, uint8_t small[SMALL], size_t size)
{
    return size <= SMALL ? small : lua_newuserdata(L, size);
}

static void push_bytes(lua_State *L, const uint8_t *bytes, size_t size)
{
    lua_pushlstring(L, (const char *)bytes, size);
}

static void push_hex(lua_State *L, const uint8_t *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    char text[2 * EVP_MAX_MD_SIZE];
    for (size_t i = 0; i < size; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    lua_pushlstring(L, text, 2 * size);
}

static size_t digest(lua_State *L, uint8_t out[EVP_MAX_MD_SIZE])
{
    const EVP_MD *md = check_algorithm(L);
    fl_slice data = check_text(L, 2);
    unsigned size = 0;
    if (!EVP_Digest(data.data, data.size, out, &size, md, NULL))
        return (size_t)luaL_error(L, "the digest failed");
    return size;
}

/* digest of block ‖ data */
static bool digest_two(EVP_MD_CTX *context, const EVP_MD *md, fl_slice block, fl_slice data,
                       uint8_t out[EVP_MAX_MD_SIZE])
{
    return EVP_DigestInit_ex2(context, md, NULL) &&
           EVP_DigestUpdate(context, block.data, block.size) &&
           EVP_DigestUpdate(context, data.data, data.size) &&
           EVP_DigestFinal_ex(context, out, NULL);
}

/* The key as one block, each byte combined with `pad`. */
static bool make_block(const EVP_MD *md, fl_slice key, uint8_t pad, uint8_t block[LARGEST_BLOCK])
{
    size_t size = (size_t)EVP_MD_get_block_size(md);
    memset(block, 0, size);
    if (key.size > size) {
        if (!EVP_Digest(key.data, key.size, block, NULL, md, NULL)) return false;
    } else if (key.size > 0) {
        memcpy(block, key.data, key.size);
    }
    for (size_t i = 0; i < size; i++) block[i] ^= pad;
    return true;
}

/* RFC 2104. OpenSSL's own HMAC looks its implementation up at every call. */
static bool hmac(EVP_MD_CTX *context, const EVP_MD *md, fl_slice key, fl_slice data,
                 uint8_t out[EVP_MAX_MD_SIZE])
{
    uint8_t block[LARGEST_BLOCK], inner[EVP_MAX_MD_SIZE];
    fl_slice padded = {(const char *)block, (size_t)EVP_MD_get_block_size(md)};
    fl_slice result = {(const char *)inner, (size_t)EVP_MD_get_size(md)};
    assert(padded.size <= LARGEST_BLOCK);
    bool done = make_block(md, key, 0x36, block) && digest_two(context, md, padded, data, inner) &&
                make_block(md, key, 0x5c, block) && digest_two(context, md, padded, result, out);
    OPENSSL_cleanse(block, sizeof(block));
    OPENSSL_cleanse(inner, sizeof(inner));
    return done;
}

static size_t hmac_arguments(lua_State *L, uint8_t out[EVP_MAX_MD_SIZE])
{
    const EVP_MD *md = check_algorithm(L);
    fl_slice key = check_text(L, 2), data = check_text(L, 3);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool done = context && hmac(context, md, key, data, out);
    EVP_MD_CTX_free(context);
    if (!done) return (size_t)luaL_error(L, "the digest failed");
    return (size_t)EVP_MD_get_size(md);
}

/* hex(algorithm, data) -> string   [-0, +1, e] */
static int module_hex(lua_State *L)
{
    uint8_t bytes[EVP_MAX_MD_SIZE];
    push_hex(L, bytes, digest(L, bytes));
    return 1;
}

/* raw(algorithm, data) -> bytes   [-0, +1, e] */
static int module_raw(lua_State *L)
{
    uint8_t bytes[EVP_MAX_MD_SIZE];
    push_bytes(L, bytes, digest(L, bytes));
    return 1;
}

/* hmac(algorithm, key, data) -> string   [-0, +1, e] */
static int module_hmac(lua_State *L)
{
    uint8_t bytes[EVP_MAX_MD_SIZE];
    push_hex(L, bytes, hmac_arguments(L, bytes));
    return 1;
}

/* hmac_raw(algorithm, key, data) -> bytes   [-0, +1, e] */
static int module_hmac_raw(lua_State *L)
{
    uint8_t bytes[EVP_MAX_MD_SIZE];
    push_bytes(L, bytes, hmac_arguments(L, bytes));
    return 1;
}

/* equal(a, b) -> boolean, in a time that depends on the lengths only   [-0, +1, e] */
static int module_equal(lua_State *L)
{
    fl_slice a = check_text(L, 1), b = check_text(L, 2);
    lua_pushboolean(L, a.size == b.size && CRYPTO_memcmp(a.data, b.data, a.size) == 0);
    return 1;
}

/* random(n) -> n bytes nobody can guess   [-0, +1, e] */
static int module_random(lua_State *L)
{
    uint8_t small[SMALL];
    lua_Number size = luaL_checknumber(L, 1);
    bool fits = size >= 0 && size <= MOST_RANDOM && size == (lua_Number)(int)size;
    luaL_argcheck(L, fits, 1, "expected a whole number from 0 to 1048576");
    uint8_t *bytes = scratch(L, small, (size_t)size);
    if (RAND_bytes(bytes, (int)size) != 1) return luaL_error(L, "no random bytes to be had");
    push_bytes(L, bytes, (size_t)size);
    OPENSSL_cleanse(bytes, (size_t)size);
    return 1;
}

/* algorithms() -> list of names   [-0, +1, m] */
static int module_algorithms(lua_State *L)
{
    int count = 0;
    lua_createtable(L, (int)ALGORITHMS, 0);
    for (size_t i = 0; i < ALGORITHMS; i++) {
        if (!algorithms[i].md) continue;
        lua_pushstring(L, algorithms[i].name);
        lua_rawseti(L, -2, ++count);
    }
    return 1;
}

static const char standard[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char for_urls[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static int push_base64(lua_State *L, const char *alphabet, bool padded)
{
    uint8_t small[SMALL];
    fl_slice text = check_text(L, 1);
    const uint8_t *in = (const uint8_t *)text.data;
    uint8_t *start = scratch(L, small, text.size / 3 * 4 + 4), *out = start;
    for (; text.size >= 3; text.size -= 3, in += 3) {
        *out++ = (uint8_t)alphabet[in[0] >> 2];
        *out++ = (uint8_t)alphabet[(in[0] << 4 | in[1] >> 4) & 63];
        *out++ = (uint8_t)alphabet[(in[1] << 2 | in[2] >> 6) & 63];
        *out++ = (uint8_t)alphabet[in[2] & 63];
    }
    if (text.size > 0) {
        uint8_t second = text.size == 2 ? in[1] : 0;
        *out++ = (uint8_t)alphabet[in[0] >> 2];
        *out++ = (uint8_t)alphabet[(in[0] << 4 | second >> 4) & 63];
        if (text.size == 2) *out++ = (uint8_t)alphabet[(second << 2) & 63];
        while (padded && (out - start) % 4) *out++ = '=';
    }
    push_bytes(L, start, (size_t)(out - start));
    return 1;
}

/* What each byte stands for, 64 when for nothing. */
static void invert(const char *alphabet, uint8_t values[256])
{
    memset(values, 64, 256);
    for (uint8_t i = 0; i < 64; i++) values[(uint8_t)alphabet[i]] = i;
}

/* Cuts the padding off: two at most, and as many as complete the last group. */
static bool cut_padding(fl_slice *text, bool required)
{
    size_t size = text->size;
    while (size > 0 && text->size - size < 2 && text->data[size - 1] == '=') size--;
    bool padded = size < text->size;
    if ((padded || required) && text->size % 4) return false;
    text->size = size;
    return size % 4 != 1;
}

/* RFC 4648: no other characters, and the bits that stand for nothing are zero (section 3.5), so
 * that two different texts never decode to the same bytes. */
static bool decode_base64(fl_slice text, const uint8_t values[256], uint8_t *out, size_t *size)
{
    uint32_t bits = 0;
    unsigned count = 0;
    *size = 0;
    for (size_t i = 0; i < text.size; i++) {
        uint8_t value = values[(uint8_t)text.data[i]];
        if (value == 64) return false;
        bits = bits << 6 | value;
        count += 6;
        if (count < 8) continue;
        count -= 8;
        out[(*size)++] = (uint8_t)(bits >> count);
    }
    return (bits & ((1u << count) - 1)) == 0;
}

static int push_decoded(lua_State *L, const char *alphabet, bool padding_required)
{
    uint8_t small[SMALL], values[256];
    fl_slice text = check_text(L, 1);
    uint8_t *out = scratch(L, small, text.size);
    size_t size;
    invert(alphabet, values);
    if (cut_padding(&text, padding_required) && decode_base64(text, values, out, &size)) {
        push_bytes(L, out, size);
        return 1;
    }
    lua_pushnil(L);
    lua_pushliteral(L, "invalid base64");
    return 2;
}

/* base64(bytes) -> string   [-0, +1, e] */
static int module_base64(lua_State *L)
{
    return push_base64(L, standard, true);
}

/* base64url(bytes) -> string without padding   [-0, +1, e] */
static int module_base64url(lua_State *L)
{
    return push_base64(L, for_urls, false);
}

/* base64_decode(text) -> bytes | nil, message   [-0, +1|2, e] */
static int module_base64_decode(lua_State *L)
{
    return push_decoded(L, standard, true);
}

/* base64url_decode(text, padded or not) -> bytes | nil, message   [-0, +1|2, e] */
static int module_base64url_decode(lua_State *L)
{
    return push_decoded(L, for_urls, false);
}

int fl_digest_module(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"hex", module_hex},
        {"raw", module_raw},
        {"hmac", module_hmac},
        {"hmac_raw", module_hmac_raw},
        {"equal", module_equal},
        {"random", module_random},
        {"algorithms", module_algorithms},
        {"base64", module_base64},
        {"base64url", module_base64url},
        {"base64_decode", module_base64_decode},
        {"base64url_decode", module_base64url_decode},
        {NULL, NULL},
    };
    (void)pthread_once(&fetched_once, fetch_all);
    lua_createtable(L, 0, (int)(sizeof(functions) / sizeof(functions[0])) - 1);
    luaL_setfuncs(L, functions, 0);
    return 1;
}
