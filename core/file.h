/* file: something done to a file on the housekeeping loop for a Lua state.
 *
 * The state's thread makes an fl_file and starts it, which posts it to the server; when all its
 * steps are over, `ended` is called on the thread that runs the state then, unless the state has
 * gone. Nothing of it is ever in a loop of the state's.
 * Reference-counted: the maker holds one until fl_file_release, the work another one. Between start
 * and `ended` the housekeeping loop owns everything in it; the maker may only cancel and release.
 *
 * It has copies of its paths and of the text to write, because Lua's own may go with the state; the
 * text's copy goes when the work is over. Whatever happens, what was opened is closed. */
#ifndef FL_FILE_H
#define FL_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "address.h"
#include "slice.h"

#define FL_FILE_READ_MOST ((uint64_t)64 << 20) /* bytes that one read returns */

typedef struct fl_server fl_server;

typedef enum fl_file_kind {
    FL_FILE_READ,
    FL_FILE_WRITE,
    FL_FILE_STAT,   /* about a link itself */
    FL_FILE_EXISTS, /* about a link itself */
    FL_FILE_LIST,
    FL_FILE_MKDIR,
    FL_FILE_RENAME,
    FL_FILE_REMOVE /* a file or an empty folder */
} fl_file_kind;

typedef struct fl_file_order {
    fl_file_kind kind;
    const char *path, *to;  /* absolute; `to`: rename only, else NULL */
    fl_slice text;          /* write */
    uint64_t offset, limit; /* read; limit: UINT64_MAX for all */
    int flags, mode;        /* read, write: of open */
} fl_file_order;

typedef struct fl_file_result {
    int error;         /* negative uv code; UV_ECANCELED: cancelled */
    uint64_t promised; /* read: bytes that the file's size promises; 0: it tells no size */
    char *data;        /* read */
    size_t size;
    uv_stat_t status; /* stat */
    bool found;       /* exists */
    char **names;     /* list, sorted by bytes */
    size_t name_count;
} fl_file_result;

typedef struct fl_file fl_file;

/* Copies the order. 0 or UV_ENOMEM. *any* */
int fl_file_new(fl_file **out, const fl_file_order *order);

/* *loop* of the thread of the state that `reply` leads to. 0: `ended` will be called, after which
 * the result stays as it is. Or a negative uv code, when the server has closed. */
int fl_file_start(fl_file *file, fl_server *server, fl_address *reply, void (*ended)(void *data),
                  void *data);

/* *loop* of that thread, at most once, before `ended`. What has reached the disk stays there. */
void fl_file_cancel(fl_file *file);

const fl_file_result *fl_file_result_of(const fl_file *file); /* after `ended` */
void fl_file_release(fl_file *file);                          /* *any* */

#endif
