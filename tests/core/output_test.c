#include "output.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../support/test.h"

#define MUCH (4u << 20) /* bytes: more than a socket takes */

/* One end of a socket pair on a loop; the other is read by hand. */
static struct {
    uv_loop_t loop;
    uv_pipe_t pipe;
    int peer;
    fl_output *output;
    unsigned writes;
    int status;
} scene;

static uv_stream_t *begin(void)
{
    int ends[2];
    memset(&scene, 0, sizeof(scene));
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) return NULL;
    uv_loop_init(&scene.loop);
    uv_pipe_init(&scene.loop, &scene.pipe, 0);
    uv_pipe_open(&scene.pipe, ends[0]);
    scene.peer = ends[1];
    return (uv_stream_t *)&scene.pipe;
}

static int end(void)
{
    if (scene.peer >= 0) close(scene.peer);
    uv_close((uv_handle_t *)&scene.pipe, NULL);
    uv_run(&scene.loop, UV_RUN_DEFAULT);
    fl_output_free(scene.output);
    return uv_loop_close(&scene.loop);
}

static void wrote(uv_write_t *write, int status)
{
    scene.writes++;
    scene.status = write->data == &scene ? status : UV_EINVAL;
    if (status < 0 || !fl_output_next(scene.output)) return;
    scene.status = fl_output_start(scene.output, (uv_stream_t *)&scene.pipe, wrote, &scene);
}

static char pattern(size_t at)
{
    return (char)('a' + at % 23);
}

/* Bytes first, first + 1, … of the pattern. */
static fl_slice much(size_t first)
{
    static char text[MUCH];
    for (size_t i = 0; i < MUCH; i++) text[i] = pattern(first + i);
    return fl_slice_of(text, MUCH);
}

/* Reads so many bytes, while the loop writes; how many were as they should be. */
static size_t read_pattern(size_t total)
{
    static char text[65536];
    size_t right = 0;
    while (right < total) {
        uv_run(&scene.loop, UV_RUN_NOWAIT);
        ssize_t size = recv(scene.peer, text, sizeof(text), MSG_DONTWAIT);
        if (size == 0 || scene.status < 0) return right;
        for (ssize_t i = 0; i < size; i++, right++)
            if (text[i] != pattern(right)) return right;
    }
    return right;
}

TEST(what_the_socket_takes_at_once_makes_no_output)
{
    uv_stream_t *socket = begin();
    const fl_slice pieces[FL_OUTPUT_PIECES] = {FL_SLICE("abc"), {0}, FL_SLICE("defg")};
    CHECK_EQUAL_INT(fl_output_write(&scene.output, socket, pieces, FL_OUTPUT_PIECES), 0);
    CHECK(!scene.output);
    CHECK_EQUAL_INT(fl_output_size(NULL), 0);
    CHECK_EQUAL_INT(read_pattern(7), 7);
    CHECK_EQUAL_INT(end(), 0);
}

TEST(the_rest_is_kept_and_what_comes_meanwhile_follows)
{
    uv_stream_t *socket = begin();
    fl_slice first = much(0);
    CHECK_EQUAL_INT(fl_output_write(&scene.output, socket, &first, 1), 0);
    CHECK(scene.output);
    size_t kept = fl_output_size(scene.output);
    CHECK(kept > 0 && kept < MUCH);
    CHECK_EQUAL_INT(fl_output_start(scene.output, socket, wrote, &scene), 0);
    fl_slice second = much(MUCH);
    const fl_slice pieces[2] = {fl_slice_of(second.data, 10),
                                fl_slice_of(second.data + 10, MUCH - 10)};
    CHECK_EQUAL_INT(fl_output_write(&scene.output, socket, pieces, 2), 0);
    CHECK_EQUAL_INT(fl_output_size(scene.output), kept + MUCH);
    CHECK_EQUAL_INT(read_pattern((size_t)2 * MUCH), (size_t)2 * MUCH);
    while (uv_run(&scene.loop, UV_RUN_NOWAIT)) continue;
    CHECK_EQUAL_INT(scene.status, 0);
    CHECK_EQUAL_INT(scene.writes, 2);
    CHECK_EQUAL_INT(end(), 0);
}

TEST(another_loop_sends_what_is_left)
{
    uv_stream_t *socket = begin();
    fl_slice all = much(0);
    CHECK_EQUAL_INT(fl_output_write(&scene.output, socket, &all, 1), 0);
    size_t kept = fl_output_size(scene.output), sent = MUCH - kept;
    fl_output *old = scene.output;
    scene.output = fl_output_anew(old, kept - 1000); /* 1000 bytes more had been sent */
    free(old);
    CHECK_EQUAL_INT(fl_output_size(scene.output), kept - 1000);
    CHECK_EQUAL_INT(read_pattern(sent), sent);
    CHECK_EQUAL_INT(fl_output_start(scene.output, socket, wrote, &scene), 0);
    size_t right = 0;
    static char text[MUCH];
    while (right < kept - 1000) {
        uv_run(&scene.loop, UV_RUN_NOWAIT);
        ssize_t size = recv(scene.peer, text, sizeof(text), MSG_DONTWAIT);
        for (ssize_t i = 0; i < size; i++, right++)
            CHECK_EQUAL_INT(text[i], pattern(sent + 1000 + right));
    }
    CHECK_EQUAL_INT(end(), 0);
}

TEST(a_peer_that_has_gone_is_an_error)
{
    signal(SIGPIPE, SIG_IGN); /* as the server does */
    uv_stream_t *socket = begin();
    close(scene.peer);
    scene.peer = -1;
    fl_slice piece = FL_SLICE("text");
    CHECK_EQUAL_INT(fl_output_write(&scene.output, socket, &piece, 1), UV_EPIPE);
    CHECK(!scene.output);
    CHECK_EQUAL_INT(end(), 0);
}

TEST_MAIN
