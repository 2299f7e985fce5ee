/* What a web thread is told, and what it says, needs no memory at that moment. */
#include "web.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control.h"
#include "scarcity.h"
#include "server_inside.h"
#include "test.h"

typedef struct fl_house { /* a server and its only web thread, which are both run by hand */
    fl_settings settings;
    fl_server server;
    _Atomic(fl_web *) place;
    fl_web web;
} fl_house;

static void open_house(fl_house *house)
{
    static char none[] = "";
    *house = (fl_house){.settings = {.admin = none}, .server = {.web_count = 1}};
    CHECK_EQUAL_INT(uv_loop_init(&house->server.loop), 0);
    CHECK_EQUAL_INT(fl_mailbox_new(&house->server.mailbox, &house->server.loop, &house->server), 0);
    house->server.webs = &house->place;
    house->place = &house->web;
    house->web.thread.settings = &house->settings;
    house->web.thread.server = &house->server;
    house->web.thread.metrics = calloc(1, sizeof(*house->web.thread.metrics));
    CHECK_EQUAL_INT(fl_web_init(&house->web), 0);
    fl_thread_begin(&house->web.thread);
    house->web.phase = FL_WEB_SERVING;
}

static void close_house(fl_house *house)
{
    fl_thread_end_loop(&house->web.thread);
    fl_web_close(&house->web);
    free(house->web.thread.metrics);
    fl_mailbox_close(house->server.mailbox);
    uv_run(&house->server.loop, UV_RUN_DEFAULT);
    CHECK_EQUAL_INT(uv_loop_close(&house->server.loop), 0);
}

static int supervisor; /* its end of the control pair */

/* Before anything else gets that number. */
__attribute__((constructor)) static void open_control(void)
{
    int fds[2];
    if (fl_control_pair(fds) < 0) abort();
    supervisor = fcntl(fds[0], F_DUPFD_CLOEXEC, FL_CONTROL_FD + 1);
    int server = fcntl(fds[1], F_DUPFD_CLOEXEC, FL_CONTROL_FD + 1);
    close(fds[0]);
    close(fds[1]);
    if (dup2(server, FL_CONTROL_FD) < 0) abort();
    close(server);
}

/* -1: the supervisor has been told nothing more. */
static int told_supervisor(void)
{
    static fl_control_message message;
    return fl_control_receive(supervisor, &message) > 0 ? (int)message.kind : -1;
}

static void turn_web(fl_house *house)
{
    uv_run(&house->web.thread.loop, UV_RUN_NOWAIT);
}

static void turn_server(fl_house *house)
{
    uv_run(&house->server.loop, UV_RUN_NOWAIT);
}

static unsigned helping(const fl_house *house, int fd)
{
    unsigned count = 0;
    for (const fl_listener *listener = house->web.listeners; listener; listener = listener->next)
        count += listener->helping && listener->helps_fd == fd;
    return count;
}

static void tell_to_help(fl_house *house, int fd)
{
    scarcity_resume();
    fl_web_help_accept(&house->web, fd);
    scarcity_pause();
}

TEST(it_helps_one_at_a_time_and_none_when_told_so)
{
    fl_house house;
    int fds[2];
    CHECK_EQUAL_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    open_house(&house);
    tell_to_help(&house, fds[0]);
    turn_web(&house);
    CHECK_EQUAL_INT(helping(&house, fds[0]), 1);
    tell_to_help(&house, fds[1]);
    turn_web(&house);
    CHECK_EQUAL_INT(helping(&house, fds[0]), 0);
    CHECK_EQUAL_INT(helping(&house, fds[1]), 1);
    tell_to_help(&house, -1);
    turn_web(&house);
    CHECK(!house.web.listeners);
    close(fds[0]);
    close(fds[1]);
    close_house(&house);
}

TEST(what_is_over_before_it_was_heard_leaves_nothing_behind)
{
    fl_house house;
    int fds[2];
    CHECK_EQUAL_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    open_house(&house);
    tell_to_help(&house, fds[0]);
    tell_to_help(&house, -1);
    turn_web(&house);
    CHECK(!house.web.listeners);
    close(fds[0]);
    close(fds[1]);
    close_house(&house);
}

/* As when it has been rung before an evacuation, and is heard after it. */
TEST(what_another_was_told_to_help_is_older_than_what_it_was_told_itself)
{
    fl_house house;
    int fds[2];
    CHECK_EQUAL_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    open_house(&house);
    tell_to_help(&house, fds[0]);
    turn_web(&house);
    fl_web *before = calloc(1, sizeof(*before)); /* the same thread's predecessor */
    fl_bell_init(&before->told, house.web.told.heard);
    before->thread.mailbox = house.web.thread.mailbox;
    fl_web_help_accept(before, fds[1]);
    turn_web(&house);
    CHECK_EQUAL_INT(helping(&house, fds[0]), 1);
    CHECK_EQUAL_INT(helping(&house, fds[1]), 0);
    tell_to_help(&house, -1);
    turn_web(&house);
    free(before);
    close(fds[0]);
    close(fds[1]);
    close_house(&house);
}

TEST(who_cannot_accept_has_no_socket_to_help_with_and_asks_for_another_process)
{
    fl_house house;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC); /* which cannot be polled */
    open_house(&house);
    CHECK_EQUAL_INT(fl_log_open(&house.web.thread.log, null, FL_LOG_TEXT, FL_LOG_INFO, 4096), 0);
    house.server.phase = FL_SERVER_SERVING;
    int fd = dup(null);
    house.web.own_listener = fd;
    while (told_supervisor() >= 0) continue;
    CHECK(fl_web_listen(&house.web, fd));
    turn_web(&house);
    CHECK_EQUAL_INT(house.web.own_listener, -1);
    CHECK(!house.web.listeners);
    turn_server(&house);
    CHECK_EQUAL_INT(told_supervisor(), FL_CONTROL_STUCK);
    CHECK_EQUAL_INT(told_supervisor(), -1);
    fl_log_close(house.web.thread.log, 1000000000);
    close(null);
    close_house(&house);
}

TEST(the_server_is_told_what_becomes_of_it_to_its_end)
{
    fl_house house;
    open_house(&house);
    scarcity_resume();
    fl_server_loaded(&house.server, &house.web, NULL);
    scarcity_pause();
    turn_server(&house);
    CHECK_EQUAL_INT(house.server.phase, FL_SERVER_LISTENING);
    house.server.phase = FL_SERVER_DRAINING;
    scarcity_resume();
    fl_web_drain(&house.web, true);
    turn_web(&house);
    CHECK_EQUAL_INT(house.web.phase, FL_WEB_ENDED);
    turn_server(&house);
    scarcity_pause();
    CHECK_EQUAL_INT(house.server.closed, 1);
    CHECK_EQUAL_INT(house.server.phase, FL_SERVER_ENDING);
    uv_run(&house.web.thread.loop, UV_RUN_DEFAULT); /* until it is stopped, which it was told */
    fl_server_ended(&house.server, &house.web);
    turn_server(&house);
    CHECK_EQUAL_INT(house.server.ended, 1);
    close_house(&house);
}

TEST_MAIN
