/* The work goes through steps, one uv_fs_t request at a time: a step submits the request, whose
 * callback keeps the result and proceeds to the next step. */
#include "file.h"

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

#define FIRST_ROOM 4096              /* for what tells no size, as in /proc */
#define WRITE_MOST ((size_t)1 << 30) /* bytes of one request; uv_buf_t counts in 32 bits */

typedef enum { WORKING, CLOSING } file_phase;

struct fl_file {
    _Atomic unsigned references;
    fl_server *server;
    fl_address *reply; /* held while it works */
    void (*ended)(void *data);
    void *data;
    fl_message message; /* to the server */
    fl_letter letter;   /* back */
    fl_message cancel;
    fl_file_order order;    /* its pointers are the maker's: instead of them, */
    char *path, *to, *text; /* copies; NULL: none */
    fl_file_result result;
    file_phase phase;
    bool cancelled, at_end;
    uv_loop_t *loop;
    uv_fs_t request;
    uv_file descriptor; /* -1: none */
    size_t capacity;    /* of the result's data */
    size_t written;
};

/* Submits a request: 0; or has nothing left to do: 1; or a negative uv code. */
typedef int (*step)(fl_file *file);

/* back to the state */

static fl_file *file_of_letter(fl_letter *letter)
{
    return (fl_file *)((char *)letter - offsetof(fl_file, letter));
}

static void deliver_reply(fl_letter *letter, fl_state *state)
{
    (void)state;
    fl_file *file = file_of_letter(letter);
    file->ended(file->data);
    fl_file_release(file);
}

static void drop_reply(fl_letter *letter)
{
    fl_file_release(file_of_letter(letter));
}

static void free_text(fl_file *file)
{
    free(file->text);
    file->text = NULL;
}

/* Nothing may touch `file` after this but a cancelling that is under way, and that its phase. */
static void reply(fl_file *file)
{
    fl_address *address = file->reply;
    file->reply = NULL;
    file->phase = CLOSING;
    free_text(file); /* the collector, which frees the rest, does not know how large it is */
    file->letter = (fl_letter){.deliver = deliver_reply, .drop = drop_reply};
    if (fl_address_post(address, &file->letter) < 0) fl_file_release(file);
    fl_address_release(address);
}

/* from step to step */

static void keep_error(fl_file *file, ssize_t error)
{
    if (file->result.error == 0) file->result.error = (int)error;
}

static void closed(uv_fs_t *request)
{
    fl_file *file = request->data;
    if (request->result < 0) keep_error(file, request->result);
    uv_fs_req_cleanup(request);
    reply(file);
}

static void finish(fl_file *file)
{
    file->phase = CLOSING;
    if (file->descriptor < 0) {
        reply(file);
        return;
    }
    int status = uv_fs_close(file->loop, &file->request, file->descriptor, closed);
    assert(status == 0); /* it allocates nothing */
    (void)status;
}

static void proceed(fl_file *file, step next)
{
    int status = file->result.error ? file->result.error : next(file);
    if (status == 0) return;
    if (status < 0) keep_error(file, status);
    finish(file);
}

/* The result of the request that has ended. */
static ssize_t end_request(fl_file *file)
{
    ssize_t result = file->request.result;
    uv_fs_req_cleanup(&file->request);
    if (file->cancelled) keep_error(file, UV_ECANCELED);
    if (result < 0) keep_error(file, result);
    return result;
}

static void last_request_ended(uv_fs_t *request)
{
    (void)end_request(request->data);
    finish(request->data);
}

static void opened(fl_file *file, step next)
{
    ssize_t result = end_request(file);
    if (result >= 0) file->descriptor = (uv_file)result;
    proceed(file, next);
}

/* reading */

static bool make_room(fl_file *file)
{
    fl_file_result *result = &file->result;
    if (result->size < file->capacity) return true;
    uint64_t capacity = file->capacity ? (uint64_t)file->capacity * 2 : FIRST_ROOM;
    if (result->promised && file->capacity == 0) capacity = result->promised;
    if (capacity > FL_FILE_READ_MOST + 1) capacity = FL_FILE_READ_MOST + 1;
    if (capacity > file->order.limit) capacity = file->order.limit;
    char *data = realloc(result->data, capacity);
    if (!data) return false;
    result->data = data;
    file->capacity = capacity;
    return true;
}

static void have_read(uv_fs_t *request);

static int read_more(fl_file *file)
{
    const fl_file_result *result = &file->result;
    bool is_whole = result->promised && result->size == result->promised;
    if (is_whole || file->at_end || result->size == file->order.limit) return 1;
    if (result->size > FL_FILE_READ_MOST) return UV_EFBIG;
    if (!make_room(file)) return UV_ENOMEM;
    uv_buf_t room =
        uv_buf_init(result->data + result->size, (unsigned)(file->capacity - result->size));
    /* Only what can be positioned is asked to be: a pipe cannot. */
    int64_t at = file->order.offset ? (int64_t)(file->order.offset + result->size) : -1;
    return uv_fs_read(file->loop, &file->request, file->descriptor, &room, 1, at, have_read);
}

static void have_read(uv_fs_t *request)
{
    fl_file *file = request->data;
    ssize_t size = end_request(file);
    if (size > 0) file->result.size += (size_t)size;
    file->at_end = size == 0;
    proceed(file, read_more);
}

static void measured(uv_fs_t *request)
{
    fl_file *file = request->data;
    uint64_t size = request->result < 0 ? 0 : request->statbuf.st_size;
    (void)end_request(file);
    uint64_t rest = size > file->order.offset ? size - file->order.offset : 0;
    file->result.promised = rest < file->order.limit ? rest : file->order.limit;
    if (file->result.promised > FL_FILE_READ_MOST) keep_error(file, UV_EFBIG);
    proceed(file, read_more);
}

static int measure(fl_file *file)
{
    return uv_fs_fstat(file->loop, &file->request, file->descriptor, measured);
}

static void opened_to_read(uv_fs_t *request)
{
    opened(request->data, measure);
}

static int begin_read(fl_file *file)
{
    return uv_fs_open(file->loop, &file->request, file->path, file->order.flags, 0, opened_to_read);
}

/* writing */

static void have_written(uv_fs_t *request);

static int write_more(fl_file *file)
{
    size_t rest = file->order.text.size - file->written;
    if (rest == 0) return 1;
    if (rest > WRITE_MOST) rest = WRITE_MOST;
    uv_buf_t part = uv_buf_init(file->text + file->written, (unsigned)rest);
    return uv_fs_write(file->loop, &file->request, file->descriptor, &part, 1, -1, have_written);
}

static void have_written(uv_fs_t *request)
{
    fl_file *file = request->data;
    ssize_t size = end_request(file);
    if (size > 0) file->written += (size_t)size;
    if (size == 0) keep_error(file, UV_EIO); /* it would be so for ever */
    proceed(file, write_more);
}

static void opened_to_write(uv_fs_t *request)
{
    opened(request->data, write_more);
}

static int begin_write(fl_file *file)
{
    return uv_fs_open(file->loop, &file->request, file->path, file->order.flags, file->order.mode,
                      opened_to_write);
}

/* looking */

static void status_read(uv_fs_t *request)
{
    fl_file *file = request->data;
    if (request->result == 0) file->result.status = request->statbuf;
    last_request_ended(request);
}

static int begin_stat(fl_file *file)
{
    return uv_fs_lstat(file->loop, &file->request, file->path, status_read);
}

static void looked_for(uv_fs_t *request)
{
    fl_file *file = request->data;
    file->result.found = request->result == 0;
    if (request->result == UV_ENOENT || request->result == UV_ENOTDIR) request->result = 0;
    last_request_ended(request);
}

static int begin_exists(fl_file *file)
{
    return uv_fs_lstat(file->loop, &file->request, file->path, looked_for);
}

/* folders */

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int keep_names(fl_file *file)
{
    fl_file_result *result = &file->result;
    if (file->request.result <= 0) return 0;
    result->names = calloc((size_t)file->request.result, sizeof(*result->names));
    if (!result->names) return UV_ENOMEM;
    uv_dirent_t found;
    while (uv_fs_scandir_next(&file->request, &found) == 0) {
        char *name = strdup(found.name);
        if (!name) return UV_ENOMEM;
        result->names[result->name_count++] = name;
    }
    qsort(result->names, result->name_count, sizeof(*result->names), by_bytes);
    return 0;
}

static void listed(uv_fs_t *request)
{
    fl_file *file = request->data;
    int status = keep_names(file);
    if (status < 0) keep_error(file, status);
    last_request_ended(request);
}

static int begin_list(fl_file *file)
{
    return uv_fs_scandir(file->loop, &file->request, file->path, 0, listed);
}

static int begin_mkdir(fl_file *file)
{
    return uv_fs_mkdir(file->loop, &file->request, file->path, 0777, last_request_ended);
}

static int begin_rename(fl_file *file)
{
    return uv_fs_rename(file->loop, &file->request, file->path, file->to, last_request_ended);
}

static int remove_directory(fl_file *file)
{
    return uv_fs_rmdir(file->loop, &file->request, file->path, last_request_ended);
}

static void unlinked(uv_fs_t *request)
{
    if (request->result == UV_EISDIR) {
        request->result = 0;
        (void)end_request(request->data);
        proceed(request->data, remove_directory);
    } else {
        last_request_ended(request);
    }
}

static int begin_remove(fl_file *file)
{
    return uv_fs_unlink(file->loop, &file->request, file->path, unlinked);
}

static step begin_of(fl_file_kind kind)
{
    switch (kind) {
    case FL_FILE_READ: return begin_read;
    case FL_FILE_WRITE: return begin_write;
    case FL_FILE_STAT: return begin_stat;
    case FL_FILE_EXISTS: return begin_exists;
    case FL_FILE_LIST: return begin_list;
    case FL_FILE_MKDIR: return begin_mkdir;
    case FL_FILE_RENAME: return begin_rename;
    case FL_FILE_REMOVE: return begin_remove;
    }
    return NULL;
}

/* the start */

static fl_file *file_of_message(fl_message *message)
{
    return (fl_file *)((char *)message - offsetof(fl_file, message));
}

static void deliver_start(fl_message *message, void *owner)
{
    fl_file *file = file_of_message(message);
    file->loop = fl_server_loop(owner);
    file->request.data = file;
    proceed(file, begin_of(file->order.kind));
}

static void drop_start(fl_message *message)
{
    fl_file *file = file_of_message(message);
    file->result.error = UV_ECANCELED;
    reply(file);
}

/* cancelling */

static fl_file *file_of_cancel(fl_message *cancel)
{
    return (fl_file *)((char *)cancel - offsetof(fl_file, cancel));
}

/* Closing is not to be cancelled: the file would stay open. */
static void deliver_cancel(fl_message *cancel, void *owner)
{
    (void)owner;
    fl_file *file = file_of_cancel(cancel);
    if (file->phase == WORKING) {
        file->cancelled = true;
        (void)uv_cancel((uv_req_t *)&file->request);
    }
    fl_file_release(file);
}

static void drop_cancel(fl_message *cancel)
{
    fl_file_release(file_of_cancel(cancel));
}

static char *copy(const char *data, size_t size)
{
    char *text = malloc(size + 1);
    if (!text) return NULL;
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    return text;
}

static bool copy_texts(fl_file *file, const fl_file_order *order)
{
    file->path = copy(order->path, strlen(order->path));
    if (order->to) file->to = copy(order->to, strlen(order->to));
    if (order->text.size) file->text = copy(order->text.data, order->text.size);
    return file->path && (file->to || !order->to) && (file->text || !order->text.size);
}

int fl_file_new(fl_file **out, const fl_file_order *order)
{
    fl_file *file = calloc(1, sizeof(*file));
    if (!file) return UV_ENOMEM;
    file->order = *order;
    file->descriptor = -1;
    atomic_init(&file->references, 1);
    if (!copy_texts(file, order)) {
        fl_file_release(file);
        return UV_ENOMEM;
    }
    *out = file;
    return 0;
}

int fl_file_start(fl_file *file, fl_server *server, fl_address *reply_to, void (*ended)(void *data),
                  void *data)
{
    file->server = server;
    file->reply = reply_to;
    file->ended = ended;
    file->data = data;
    file->message = (fl_message){.deliver = deliver_start, .drop = drop_start};
    fl_address_hold(reply_to);
    atomic_fetch_add(&file->references, 1);
    int status = fl_mailbox_post(fl_server_mailbox(server), &file->message);
    if (status == 0) return 0;
    fl_address_release(reply_to);
    fl_file_release(file);
    return status;
}

void fl_file_cancel(fl_file *file)
{
    file->cancel = (fl_message){.deliver = deliver_cancel, .drop = drop_cancel};
    atomic_fetch_add(&file->references, 1);
    if (fl_mailbox_post(fl_server_mailbox(file->server), &file->cancel) < 0) fl_file_release(file);
}

const fl_file_result *fl_file_result_of(const fl_file *file)
{
    return &file->result;
}

void fl_file_release(fl_file *file)
{
    if (atomic_fetch_sub(&file->references, 1) != 1) return;
    free(file->result.data);
    for (size_t i = 0; i < file->result.name_count; i++) free(file->result.names[i]);
    free((void *)file->result.names);
    free(file->path);
    free(file->to);
    free(file->text);
    free(file);
}
