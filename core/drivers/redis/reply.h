/* reply: what a server has answered, read by hiredis and kept as bytes until Lua asks for it.
 *
 * A record is one reply, or one of its elements, in the order of reading: a tag, then a number or a
 * size with as many bytes; lists and maps have their elements behind them. What a server sends is
 * not trusted: a reader ends with a problem at what is no reply, is larger than it may be, or lies
 * too deep in others.
 *
 * Owner of a reader: a link; one thread at a time. Records live as long as their buffer. */
#ifndef FL_REDIS_REPLY_H
#define FL_REDIS_REPLY_H

#include <stdbool.h>
#include <stddef.h>

#include <lua.h>

#include "buffer.h"
#include "slice.h"

#define FL_REDIS_DEPTH 32                      /* of lists in lists; hiredis before 1.0 reads 7 */
#define FL_REDIS_ERROR "fasterlua.redis_error" /* registry name of the errors' metatable */

typedef struct redisReader redisReader;

typedef struct fl_redis_reader {
    redisReader *reader;
    fl_buffer record;    /* of the reply that is being read */
    size_t fed;          /* bytes of it that have come; while there are whole ones, of all */
    size_t most;         /* that may be before more is fed */
    const char *problem; /* static, or hiredis' own text until fl_redis_reader_close */
} fl_redis_reader;

/* What becomes of a reply in Lua. */
typedef enum fl_redis_kind {
    FL_REDIS_AS_IT_IS,
    FL_REDIS_MAP,    /* a list of keys and values is a map */
    FL_REDIS_NUMBER, /* a string is a number */
    FL_REDIS_SCORES, /* a list of members and scores is a list of pairs */
    FL_REDIS_PAIRS,  /* a map, or a list of keys and values, is a list of pairs */
    FL_REDIS_MAPS    /* a list of FL_REDIS_MAP */
} fl_redis_kind;

int fl_redis_reader_open(fl_redis_reader *self, size_t most); /* 0 or UV_ENOMEM */
void fl_redis_reader_close(fl_redis_reader *self);            /* harmless when not open */

/* False: there is a problem, and nothing may be fed any more. */
bool fl_redis_reader_feed(fl_redis_reader *self, fl_slice data);
/* 1: `record` has a whole reply, which is the caller's to take away; 0: more must be fed; -1: there
 * is a problem. */
int fl_redis_reader_next(fl_redis_reader *self);

bool fl_redis_reply_is_error(const char *record);
bool fl_redis_reply_is_error_of(const char *record, const char *code); /* which it begins with */
bool fl_redis_reply_is_nil(const char *record);
bool fl_redis_reply_is_push(const char *record); /* RESP3: nobody asked for it */
bool fl_redis_reply_is_list(const char *record, size_t *count);
fl_slice fl_redis_reply_text(const char *record);        /* of an error or a string */
const char *fl_redis_reply_elements(const char *record); /* of a list */
const char *fl_redis_reply_skip(const char *record);     /* what lies behind it */

/* Pushes it: errors as tables, about `command`.  [-0, +1, m] */
void fl_redis_reply_push(lua_State *L, const char *record, fl_redis_kind kind, fl_slice command);
/* A server's error, which begins with its code.  [-0, +1, m] */
void fl_redis_error_push(lua_State *L, fl_slice text, fl_slice command);
/* One of our own.  [-0, +1, m] */
void fl_redis_failure_push(lua_State *L, const char *code, const char *text, fl_slice command);

#endif
