/* frames: messages between a server process and a child process of one of its pools: a kind and
 * bytes, over a stream socket.
 *
 * Owner: who opens it, on its loop. What arrives is handed over frame by frame, and points into the
 * buffer until the callback returns, in which the frames may be closed. What the socket does not
 * take at once is kept and written when it does. Both ends are the same program. */
#ifndef FL_FRAMES_H
#define FL_FRAMES_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "buffer.h"
#include "slice.h"

#define FL_FRAME_MOST (1u << 30) /* bytes */

typedef enum {
    FL_FRAME_READY,  /* child: takes jobs */
    FL_FRAME_FAILED, /* child: why it cannot start: text */
    FL_FRAME_JOB,
    FL_FRAME_CANCEL, /* the job; why: text */
    FL_FRAME_OUTCOME /* child */
} fl_frame_kind;

typedef struct fl_frames fl_frames;

typedef struct fl_frames_events {
    void *data;
    void (*arrived)(void *data, fl_frame_kind kind, fl_slice bytes);
    void (*ended)(void *data); /* the other end has gone; once */
} fl_frames_events;

/* Takes the socket, which does not block, when it returns 0; or a negative uv code. */
int fl_frames_open(fl_frames **out, uv_loop_t *loop, int fd, fl_frames_events events);

/* Where the bytes of the next frame are to be appended. */
fl_buffer *fl_frames_begin(fl_frames *frames, fl_frame_kind kind);
/* Sends them. UV_ENOMEM, or UV_E2BIG when it has more than FL_FRAME_MOST: nothing is sent. */
int fl_frames_send(fl_frames *frames);

void fl_frames_close(fl_frames *frames); /* a turn of the loop later it is gone */

/* Sends one frame over a socket before anything else is, as far as that takes it at once. */
void fl_frames_say(int fd, fl_frame_kind kind, const char *text);

#endif
