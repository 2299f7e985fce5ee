#include "frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROOM 65536 /* bytes that are read at once, and kept when there is nothing to do */

typedef struct head {
    uint32_t kind, size;
} head;

struct fl_frames {
    int fd;
    uv_poll_t poll;
    int watched; /* uv's events */
    bool closed;
    fl_frames_events events;
    fl_buffer in, out;
    size_t begun;   /* where in `out` the present frame has its head */
    size_t written; /* of `out` */
};

static void socket_event(uv_poll_t *poll, int status, int events);

static void watch(fl_frames *frames, int events)
{
    if (frames->watched == events) return;
    frames->watched = events;
    (void)uv_poll_start(&frames->poll, events, socket_event);
}

/* reading */

/* A frame is made room for as a whole once its size is known. */
static size_t take_frames(fl_frames *frames)
{
    size_t at = 0;
    while (!frames->closed && frames->in.size - at >= sizeof(head)) {
        head first;
        memcpy(&first, frames->in.data + at, sizeof(first));
        size_t size = sizeof(first) + first.size;
        if (first.size > FL_FRAME_MOST) { /* it is none */
            frames->in.failed = true;
            break;
        }
        if (frames->in.size - at < size) {
            (void)fl_buffer_room(&frames->in, size - (frames->in.size - at));
            break;
        }
        fl_slice bytes = fl_slice_of(frames->in.data + at + sizeof(first), first.size);
        frames->events.arrived(frames->events.data, (fl_frame_kind)first.kind, bytes);
        at += size;
    }
    return at;
}

static void take_all(fl_frames *frames)
{
    size_t taken = take_frames(frames);
    if (taken == frames->in.size)
        fl_buffer_reset(&frames->in, 4 * ROOM);
    else
        fl_buffer_consume(&frames->in, taken);
}

static void end(fl_frames *frames)
{
    (void)uv_poll_stop(&frames->poll);
    frames->watched = 0;
    frames->events.ended(frames->events.data);
}

/* false: there is no more for now. */
static bool read_some(fl_frames *frames)
{
    fl_buffer *in = &frames->in;
    ssize_t got = -1;
    errno = ENOMEM;
    if (fl_buffer_room(in, ROOM)) do
            got = read(frames->fd, in->data + in->size, in->capacity - in->size);
        while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN) return false;
    if (got <= 0) {
        end(frames);
        return false;
    }
    bool full = in->size + (size_t)got == in->capacity;
    in->size += (size_t)got;
    take_all(frames);
    if (!frames->closed && in->failed) end(frames);
    return full && !frames->closed && !in->failed;
}

/* writing */

/* What cannot be written because the other end has gone is dropped: reading tells. */
static void write_some(fl_frames *frames)
{
    fl_buffer *out = &frames->out;
    while (frames->written < out->size) {
        size_t left = out->size - frames->written;
        ssize_t sent = send(frames->fd, out->data + frames->written, left, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) {
            watch(frames, UV_READABLE | UV_WRITABLE);
            return;
        }
        frames->written += sent < 0 ? left : (size_t)sent;
    }
    fl_buffer_reset(out, 4 * ROOM);
    frames->written = 0;
    if (frames->watched) watch(frames, UV_READABLE);
}

static void socket_event(uv_poll_t *poll, int status, int events)
{
    fl_frames *frames = poll->data;
    if (status < 0) {
        end(frames);
        return;
    }
    if (events & UV_WRITABLE) write_some(frames);
    if (events & UV_READABLE)
        while (read_some(frames)) {
        }
}

fl_buffer *fl_frames_begin(fl_frames *frames, fl_frame_kind kind)
{
    const head first = {.kind = kind};
    frames->begun = frames->out.size;
    fl_buffer_append(&frames->out, (const char *)&first, sizeof(first));
    return &frames->out;
}

int fl_frames_send(fl_frames *frames)
{
    fl_buffer *out = &frames->out;
    bool failed = out->failed || out->size < frames->begun + sizeof(head);
    size_t size = failed ? 0 : out->size - frames->begun - sizeof(head);
    if (failed || size > FL_FRAME_MOST) {
        out->size = frames->begun;
        out->failed = false;
        return failed ? UV_ENOMEM : UV_E2BIG;
    }
    uint32_t told = (uint32_t)size;
    memcpy(out->data + frames->begun + offsetof(head, size), &told, sizeof(told));
    if (!(frames->watched & UV_WRITABLE)) write_some(frames);
    return 0;
}

void fl_frames_say(int fd, fl_frame_kind kind, const char *text)
{
    const head first = {.kind = kind, .size = (uint32_t)strlen(text)};
    if (send(fd, &first, sizeof(first), MSG_NOSIGNAL) == (ssize_t)sizeof(first))
        (void)send(fd, text, first.size, MSG_NOSIGNAL);
}

/* opening and closing */

int fl_frames_open(fl_frames **out, uv_loop_t *loop, int fd, fl_frames_events events)
{
    fl_frames *frames = calloc(1, sizeof(*frames));
    if (!frames) return UV_ENOMEM;
    int status = uv_poll_init(loop, &frames->poll, fd);
    if (status < 0) {
        free(frames);
        return status;
    }
    frames->poll.data = frames;
    frames->fd = fd;
    frames->events = events;
    watch(frames, UV_READABLE);
    *out = frames;
    return 0;
}

static void poll_closed(uv_handle_t *handle)
{
    fl_frames *frames = handle->data;
    fl_buffer_close(&frames->in);
    fl_buffer_close(&frames->out);
    free(frames);
}

void fl_frames_close(fl_frames *frames)
{
    frames->closed = true;
    uv_close((uv_handle_t *)&frames->poll, poll_closed);
    close(frames->fd);
}
