#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "control.h"
#include "test.h"

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

TEST(a_message_arrives_with_its_kind_and_text)
{
    int pair[2];
    fl_control_message message;
    CHECK_EQUAL_INT(fl_control_pair(pair), 0);
    CHECK_EQUAL_INT(fl_control_send(pair[0], FL_CONTROL_FAILED, "no such app", NULL, 0), 0);
    CHECK_EQUAL_INT(fl_control_receive(pair[1], &message), 1);
    CHECK_EQUAL_INT(message.kind, FL_CONTROL_FAILED);
    CHECK(strcmp(message.text, "no such app") == 0);
    CHECK_EQUAL_INT(message.fd_count, 0);
    close(pair[0]);
    close(pair[1]);
}

TEST(messages_keep_their_borders_and_may_have_no_text)
{
    int pair[2];
    fl_control_message message;
    CHECK_EQUAL_INT(fl_control_pair(pair), 0);
    CHECK_EQUAL_INT(fl_control_send(pair[1], FL_CONTROL_LOADED, NULL, NULL, 0), 0);
    CHECK_EQUAL_INT(fl_control_send(pair[1], FL_CONTROL_READY, "", NULL, 0), 0);
    CHECK_EQUAL_INT(fl_control_receive(pair[0], &message), 1);
    CHECK_EQUAL_INT(message.kind, FL_CONTROL_LOADED);
    CHECK(message.text[0] == '\0');
    CHECK_EQUAL_INT(fl_control_receive(pair[0], &message), 1);
    CHECK_EQUAL_INT(message.kind, FL_CONTROL_READY);
    CHECK_EQUAL_INT(fl_control_receive(pair[0], &message), UV_EAGAIN);
    close(pair[0]);
    close(pair[1]);
}

TEST(a_text_that_is_too_long_is_cut)
{
    static char text[2 * FL_CONTROL_TEXT];
    int pair[2];
    fl_control_message message;
    memset(text, 'x', sizeof(text) - 1);
    CHECK_EQUAL_INT(fl_control_pair(pair), 0);
    CHECK_EQUAL_INT(fl_control_send(pair[0], FL_CONTROL_STUCK, text, NULL, 0), 0);
    CHECK_EQUAL_INT(fl_control_receive(pair[1], &message), 1);
    CHECK_EQUAL_INT(strlen(message.text), FL_CONTROL_TEXT - 1);
    close(pair[0]);
    close(pair[1]);
}

TEST(as_many_descriptors_as_allowed_arrive_close_on_exec)
{
    int pair[2], fds[FL_CONTROL_LISTENERS];
    fl_control_message message;
    CHECK_EQUAL_INT(fl_control_pair(pair), 0);
    for (size_t i = 0; i < FL_CONTROL_LISTENERS; i++) fds[i] = pair[0];
    CHECK_EQUAL_INT(fl_control_send(pair[0], FL_CONTROL_LISTENERS_SENT, FL_CONTROL_MORE, fds,
                                    FL_CONTROL_LISTENERS),
                    0);
    CHECK_EQUAL_INT(fl_control_receive(pair[1], &message), 1);
    CHECK_EQUAL_INT(message.fd_count, FL_CONTROL_LISTENERS);
    for (size_t i = 0; i < message.fd_count; i++) {
        CHECK_EQUAL_INT(fcntl(message.fds[i], F_GETFD), FD_CLOEXEC);
        close(message.fds[i]);
    }
    CHECK_EQUAL_INT(
        fl_control_send(pair[0], FL_CONTROL_LISTENERS_SENT, NULL, fds, FL_CONTROL_LISTENERS + 1),
        UV_EINVAL);
    close(pair[0]);
    close(pair[1]);
}

TEST(a_receiver_without_descriptors_left_keeps_none_and_says_so)
{
    int pair[2];
    fl_control_message message;
    struct rlimit before, none;
    CHECK_EQUAL_INT(fl_control_pair(pair), 0);
    int fds[2] = {pair[0], pair[0]};
    CHECK_EQUAL_INT(fl_control_send(pair[0], FL_CONTROL_LISTENERS_SENT, NULL, fds, 2), 0);
    CHECK_EQUAL_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = (rlim_t)pair[1] + 2; /* room for one of the two */
    CHECK_EQUAL_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
    int got = fl_control_receive(pair[1], &message);
    (void)setrlimit(RLIMIT_NOFILE, &before);
    CHECK_EQUAL_INT(got, UV_EMFILE);
    CHECK_EQUAL_INT(message.fd_count, 0);
    CHECK(!is_open(pair[1] + 1));
    close(pair[0]);
    close(pair[1]);
}

TEST(what_was_said_before_closing_is_still_heard_then_the_end)
{
    int pair[2];
    fl_control_message message;
    CHECK_EQUAL_INT(fl_control_pair(pair), 0);
    CHECK_EQUAL_INT(fl_control_send(pair[0], FL_CONTROL_STOP, NULL, NULL, 0), 0); /* never read */
    CHECK_EQUAL_INT(fl_control_send(pair[1], FL_CONTROL_FAILED, "why", NULL, 0), 0);
    close(pair[1]);
    CHECK_EQUAL_INT(fl_control_receive(pair[0], &message), 1);
    CHECK(strcmp(message.text, "why") == 0);
    CHECK_EQUAL_INT(fl_control_receive(pair[0], &message), 0);
    CHECK_EQUAL_INT(fl_control_send(pair[0], FL_CONTROL_STOP, NULL, NULL, 0), UV_EPIPE);
    close(pair[0]);
}

TEST(a_full_pair_does_not_block)
{
    int pair[2], error = 0;
    CHECK_EQUAL_INT(fl_control_pair(pair), 0);
    for (int i = 0; i < 100000 && !error; i++)
        error = fl_control_send(pair[0], FL_CONTROL_NOW, "x", NULL, 0);
    CHECK_EQUAL_INT(error, UV_EAGAIN);
    close(pair[0]);
    close(pair[1]);
}

TEST(an_unknown_kind_is_refused)
{
    int pair[2];
    fl_control_message message;
    CHECK_EQUAL_INT(fl_control_pair(pair), 0);
    CHECK_EQUAL_INT(send(pair[0], "\xff", 1, 0), 1);
    CHECK_EQUAL_INT(fl_control_receive(pair[1], &message), UV_EPROTO);
    close(pair[0]);
    close(pair[1]);
}

TEST_MAIN
