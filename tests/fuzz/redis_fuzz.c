/* Any bytes are read as what a server of Redis sends, in pieces and as a whole: both give the same
 * replies and the same end, and each reply becomes one Lua value in every way there is. */
#include "drivers/redis/reply.h"
#include "fuzz_lua.h"

#define MOST 65536 /* bytes of a reply */

static lua_State *state_new(void)
{
    lua_State *L = fuzz_lua_new();
    luaL_newmetatable(L, FL_REDIS_ERROR);
    lua_settop(L, 0);
    return L;
}

static int push_all_ways(lua_State *L)
{
    const fl_buffer *record = lua_touserdata(L, 1);
    lua_settop(L, 0);
    demand(fl_redis_reply_skip(record->data) == record->data + record->size);
    for (int kind = FL_REDIS_AS_IT_IS; kind <= FL_REDIS_MAPS; kind++) {
        fl_redis_reply_push(L, record->data, (fl_redis_kind)kind, FL_SLICE("FUZZ"));
        demand(lua_gettop(L) == kind + 1);
    }
    size_t count;
    bool is_list = fl_redis_reply_is_list(record->data, &count);
    if (is_list) demand(lua_istable(L, 1));
    if (fl_redis_reply_is_nil(record->data)) demand(lua_isnil(L, 1));
    if (fl_redis_reply_is_error(record->data)) demand(lua_istable(L, 1));
    return 0;
}

/* The records of all replies, with a mark behind each; true: it ended with a problem. */
static bool read_pieces(lua_State *L, fl_slice bytes, size_t piece, fl_buffer *all)
{
    fl_redis_reader reader;
    demand(fl_redis_reader_open(&reader, MOST) == 0);
    int status = 0;
    for (size_t at = 0; at < bytes.size && status >= 0; at += piece) {
        size_t size = bytes.size - at < piece ? bytes.size - at : piece;
        status = fl_redis_reader_feed(&reader, fl_slice_of(bytes.data + at, size)) ? 0 : -1;
        while (status >= 0 && (status = fl_redis_reader_next(&reader)) > 0) {
            demand(lua_cpcall(L, push_all_ways, &reader.record) == 0);
            fl_buffer_append(all, reader.record.data, reader.record.size);
            fl_buffer_byte(all, '|');
            fl_buffer_reset(&reader.record, 0);
        }
    }
    bool failed = reader.problem != NULL;
    demand(failed == (status < 0));
    fl_redis_reader_close(&reader);
    return failed;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lua_State *L;
    if (!L) L = state_new();
    if (size < 1 || size > MOST) return 0;
    fl_slice bytes = fl_slice_of((const char *)data + 1, size - 1);
    fl_buffer whole = {0}, pieces = {0};
    bool failed = read_pieces(L, bytes, MOST, &whole);
    demand(failed == read_pieces(L, bytes, 1 + (size_t)data[0] % 16, &pieces));
    demand(whole.size == pieces.size);
    demand(whole.size == 0 || memcmp(whole.data, pieces.data, whole.size) == 0);
    fl_buffer_close(&whole);
    fl_buffer_close(&pieces);
    fuzz_lua_collect(L);
    return 0;
}
