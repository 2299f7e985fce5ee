/* What the decoder accepts, the encoder writes; and that text, read and written again, stays as it
 * is. The heap of the state is collected now and then, so a run's memory stays flat. */
#include "fuzz_lua.h"
#include "json.h"
#include "utf8.h"

#define DEPTH 32
#define NODES 4096

static void encode(lua_State *L, fl_buffer *out)
{
    demand(fl_json_encode(L, -1, out, FL_JSON_BYTES) == 0);
    demand(fl_utf8_valid(fl_slice_of(out->data, out->size)));
    lua_settop(L, 0);
}

/* The order of an object's keys may differ between two tables of the same content, so texts with
 * objects are compared by length. */
static void compare(const fl_buffer *first, const fl_buffer *second)
{
    demand(first->size == second->size);
    if (!memchr(first->data, '{', first->size))
        demand(memcmp(first->data, second->data, first->size) == 0);
}

static void round_trip(lua_State *L, fl_slice text)
{
    fl_buffer first, second;
    fl_buffer_init(&first);
    fl_buffer_init(&second);
    bool accepted = fl_json_decode(L, text, DEPTH, NODES) == 0;
    demand(lua_gettop(L) == 1);
    if (accepted) {
        demand(fl_utf8_valid(text)); /* RFC 8259 section 8.1 */
        encode(L, &first);
        demand(fl_json_decode(L, fl_slice_of(first.data, first.size), DEPTH, NODES) == 0);
        encode(L, &second);
        compare(&first, &second);
    }
    lua_settop(L, 0);
    fl_buffer_close(&first);
    fl_buffer_close(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lua_State *L;
    if (!L) L = fuzz_lua_new();
    round_trip(L, fl_slice_of((const char *)data, size));
    fuzz_lua_collect(L);
    return 0;
}
