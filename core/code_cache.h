/* code_cache: where one Lua state keeps the functions that it has loaded, by their code. It knows
 * places; what lies there is its owner's. When all are taken, the least recently used makes room.
 *
 * Owner: fl_functions, so one Lua state and that state's thread; init ⇒ close. It holds the codes.
 */
#ifndef FL_CODE_CACHE_H
#define FL_CODE_CACHE_H

#include <stdint.h>

#include "code.h"

#define FL_CODE_CACHE 1000 /* places */

typedef struct fl_code_entry {
    fl_code *code;
    uint16_t next;         /* in its bucket */
    uint16_t newer, older; /* by last use; of FL_CODE_CACHE itself, the oldest and the newest */
} fl_code_entry;

typedef struct fl_code_cache {
    fl_code_entry *entries;
    uint16_t *buckets;
    uint16_t count;
} fl_code_cache;

void fl_code_cache_init(fl_code_cache *cache); /* allocates nothing */
void fl_code_cache_close(fl_code_cache *cache);

/* The place of this code, FL_CODE_CACHE when there is none. */
uint16_t fl_code_cache_find(fl_code_cache *cache, const fl_code *code);

/* The place that the next fl_code_cache_put takes. 0 or UV_ENOMEM. */
int fl_code_cache_place(fl_code_cache *cache, uint16_t *place);
void fl_code_cache_put(fl_code_cache *cache, fl_code *code);

#endif
