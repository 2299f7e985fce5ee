#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "sockets.h"
#include "test.h"

static char error[256];

static fl_settings settings_for(const char *host, uint64_t port)
{
    static char none[] = "";
    return (fl_settings){.host = (char *)(uintptr_t)host,
                         .port = port,
                         .fd = -1,
                         .backlog = 16,
                         .uds = none,
                         .user = none,
                         .group = none};
}

static int open_with(fl_sockets *sockets, const fl_settings *settings, size_t count)
{
    return fl_sockets_open(sockets, settings, count, error, sizeof(error));
}

static uint16_t port_of(int fd)
{
    struct sockaddr_in6 address; /* the port is at the same place in both */
    socklen_t size = sizeof(address);
    (void)getsockname(fd, (struct sockaddr *)&address, &size);
    return ntohs(address.sin6_port);
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0) return fd;
    close(fd);
    return -1;
}

static unsigned accept_all(int fd)
{
    unsigned count = 0;
    for (int one; (one = accept(fd, NULL, NULL)) >= 0; count++) close(one);
    return errno == EAGAIN ? count : 1000000;
}

TEST(one_free_port_is_shared_by_a_socket_for_each_thread)
{
    fl_sockets sockets;
    fl_settings settings = settings_for("127.0.0.1", 0);
    CHECK_EQUAL_INT(open_with(&sockets, &settings, 3), 0);
    CHECK_EQUAL_INT(sockets.count, 3);
    CHECK(!sockets.shared);
    uint16_t port = port_of(sockets.fds[0]);
    CHECK(port > 0);
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQUAL_INT(port_of(sockets.fds[i]), port);
        CHECK_EQUAL_INT(fcntl(sockets.fds[i], F_GETFD), FD_CLOEXEC);
        CHECK(fcntl(sockets.fds[i], F_GETFL) & O_NONBLOCK);
    }
    fl_sockets_close(&sockets);
    CHECK(connect_to(port) < 0);
}

TEST(connections_are_spread_over_all_sockets)
{
    fl_sockets sockets;
    int clients[60];
    unsigned accepted = 0;
    fl_settings settings = settings_for("127.0.0.1", 0);
    settings.backlog = 100;
    CHECK_EQUAL_INT(open_with(&sockets, &settings, 2), 0);
    for (size_t i = 0; i < 60; i++) clients[i] = connect_to(port_of(sockets.fds[0]));
    for (size_t i = 0; i < 2; i++) {
        unsigned part = accept_all(sockets.fds[i]);
        CHECK(part > 0);
        accepted += part;
    }
    CHECK_EQUAL_INT(accepted, 60);
    for (size_t i = 0; i < 60; i++) close(clients[i]);
    fl_sockets_close(&sockets);
}

TEST(a_port_that_our_own_kind_serves_is_in_use)
{
    fl_sockets first, second;
    char expected[128];
    fl_settings settings = settings_for("127.0.0.1", 0);
    CHECK_EQUAL_INT(open_with(&first, &settings, 2), 0);
    settings.port = port_of(first.fds[0]);
    CHECK_EQUAL_INT(open_with(&second, &settings, 2), UV_EADDRINUSE);
    (void)snprintf(expected, sizeof(expected),
                   "cannot listen on 127.0.0.1:%u: port %u is already in use",
                   (unsigned)settings.port, (unsigned)settings.port);
    CHECK_EQUAL_BYTES(error, strlen(error), expected);
    CHECK_EQUAL_INT(second.count, 0);
    fl_sockets_close(&first);
    CHECK_EQUAL_INT(open_with(&second, &settings, 2), 0);
    fl_sockets_close(&second);
}

TEST(a_port_is_free_again_at_once_though_connections_linger)
{
    fl_sockets sockets;
    fl_settings settings = settings_for("127.0.0.1", 0);
    CHECK_EQUAL_INT(open_with(&sockets, &settings, 1), 0);
    settings.port = port_of(sockets.fds[0]);
    int client = connect_to((uint16_t)settings.port);
    int server = accept(sockets.fds[0], NULL, NULL);
    close(server); /* closes first: TIME_WAIT is on this side */
    close(client);
    fl_sockets_close(&sockets);
    CHECK_EQUAL_INT(open_with(&sockets, &settings, 1), 0);
    fl_sockets_close(&sockets);
}

TEST(ipv6_and_host_names_are_listened_on)
{
    fl_sockets sockets;
    fl_settings settings = settings_for("localhost", 0);
    CHECK_EQUAL_INT(open_with(&sockets, &settings, 1), 0);
    fl_sockets_close(&sockets);
    settings = settings_for("::1", 0);
    int result = open_with(&sockets, &settings, 2);
    CHECK(result == 0 || result == UV_EADDRNOTAVAIL || result == UV_EAFNOSUPPORT);
    if (result == 0) CHECK_EQUAL_INT(port_of(sockets.fds[0]), port_of(sockets.fds[1]));
    fl_sockets_close(&sockets);
}

TEST(an_address_that_is_not_ours_is_named)
{
    fl_sockets sockets;
    fl_settings settings = settings_for("192.0.2.1", 8000); /* RFC 5737: documentation */
    CHECK_EQUAL_INT(open_with(&sockets, &settings, 1), UV_EADDRNOTAVAIL);
    CHECK(strstr(error, "cannot listen on 192.0.2.1:8000: ") == error);
    settings.host = (char[]){"not a host"};
    CHECK_EQUAL_INT(open_with(&sockets, &settings, 1), UV_EINVAL);
    CHECK(strstr(error, "cannot listen on not a host:8000: ") == error);
}

typedef struct place { /* for socket files */
    char directory[40], path[64];
    fl_settings settings;
} place;

static bool make_place(place *where)
{
    memcpy(where->directory, "/tmp/fasterlua-sockets-XXXXXX", 30);
    if (!mkdtemp(where->directory)) return false;
    (void)snprintf(where->path, sizeof(where->path), "%s/socket", where->directory);
    where->settings = settings_for("", 0);
    where->settings.uds = where->path;
    return true;
}

static bool remove_place(place *where)
{
    (void)unlink(where->path);
    return rmdir(where->directory) == 0;
}

static int connect_path(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0) return fd;
    close(fd);
    return -1;
}

TEST(a_unix_socket_is_one_for_all_and_removed_at_the_end)
{
    place where;
    fl_sockets sockets;
    struct stat status;
    CHECK(make_place(&where));
    CHECK_EQUAL_INT(open_with(&sockets, &where.settings, 4), 0);
    CHECK_EQUAL_INT(sockets.count, 1);
    CHECK(sockets.shared);
    CHECK_EQUAL_INT(stat(where.path, &status), 0);
    CHECK_EQUAL_INT(status.st_mode & 0777, 0660);
    int client = connect_path(where.path);
    CHECK(client >= 0);
    CHECK_EQUAL_INT(accept_all(sockets.fds[0]), 1);
    close(client);
    fl_sockets_close(&sockets);
    CHECK(lstat(where.path, &status) != 0);
    CHECK(remove_place(&where));
}

TEST(a_unix_socket_belongs_to_the_user_and_group_named)
{
    place where;
    fl_sockets sockets;
    struct stat status;
    if (geteuid() != 0) return;
    CHECK(make_place(&where));
    where.settings.user = (char[]){"54321"};
    where.settings.group = (char[]){"54322"};
    CHECK_EQUAL_INT(open_with(&sockets, &where.settings, 1), 0);
    CHECK_EQUAL_INT(stat(where.path, &status), 0);
    CHECK_EQUAL_INT(status.st_uid, 54321);
    CHECK_EQUAL_INT(status.st_gid, 54322);
    fl_sockets_close(&sockets);
    where.settings.user = (char[]){"no-such-user-x"};
    CHECK_EQUAL_INT(open_with(&sockets, &where.settings, 1), UV_ENOENT);
    CHECK(strstr(error, "no-such-user-x") != NULL);
    CHECK(remove_place(&where));
}

TEST(a_stale_socket_file_is_replaced)
{
    place where;
    fl_sockets dead, sockets;
    CHECK(make_place(&where));
    CHECK_EQUAL_INT(open_with(&dead, &where.settings, 1), 0);
    close(dead.fds[0]); /* as if its server had been killed */
    free(dead.fds);
    CHECK_EQUAL_INT(open_with(&sockets, &where.settings, 1), 0);
    int client = connect_path(where.path);
    CHECK(client >= 0);
    close(client);
    fl_sockets_close(&sockets);
    CHECK(remove_place(&where));
}

TEST(a_socket_file_that_another_server_answers_on_is_left_alone)
{
    place where;
    fl_sockets first, second;
    CHECK(make_place(&where));
    CHECK_EQUAL_INT(open_with(&first, &where.settings, 1), 0);
    CHECK_EQUAL_INT(open_with(&second, &where.settings, 1), UV_EADDRINUSE);
    CHECK(strstr(error, "another server answers on it") != NULL);
    CHECK_EQUAL_INT(unlink(where.path), 0); /* somebody insists */
    CHECK_EQUAL_INT(open_with(&second, &where.settings, 1), 0);
    fl_sockets_close(&first);
    int client = connect_path(where.path);
    CHECK(client >= 0);
    close(client);
    fl_sockets_close(&second);
    CHECK(remove_place(&where));
}

TEST(a_file_that_is_no_socket_is_never_removed)
{
    place where;
    fl_sockets sockets;
    struct stat status;
    CHECK(make_place(&where));
    int fd = open(where.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    close(fd);
    CHECK_EQUAL_INT(open_with(&sockets, &where.settings, 1), UV_EEXIST);
    CHECK(strstr(error, "is not a socket") != NULL);
    CHECK_EQUAL_INT(stat(where.path, &status), 0);
    CHECK(remove_place(&where));
}

TEST(a_path_that_is_too_long_is_refused)
{
    char path[200];
    fl_sockets sockets;
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    fl_settings settings = settings_for("", 0);
    settings.uds = path;
    CHECK_EQUAL_INT(open_with(&sockets, &settings, 1), UV_ENAMETOOLONG);
}

TEST(an_inherited_socket_is_taken_over_listening_or_only_bound)
{
    fl_sockets sockets;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fl_settings settings = settings_for("", 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQUAL_INT(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    settings.fd = fd;
    CHECK_EQUAL_INT(open_with(&sockets, &settings, 4), 0);
    CHECK_EQUAL_INT(sockets.count, 1);
    CHECK(sockets.shared);
    CHECK_EQUAL_INT(fcntl(fd, F_GETFD), FD_CLOEXEC);
    int client = connect_to(port_of(fd));
    CHECK(client >= 0);
    CHECK_EQUAL_INT(accept_all(fd), 1);
    close(client);
    fl_sockets_close(&sockets);
}

TEST(a_descriptor_that_cannot_listen_is_named)
{
    fl_sockets sockets;
    fl_settings settings = settings_for("", 0);
    int fds[2];
    CHECK_EQUAL_INT(pipe2(fds, O_CLOEXEC), 0);
    settings.fd = fds[0];
    CHECK_EQUAL_INT(open_with(&sockets, &settings, 1), UV_ENOTSOCK);
    CHECK(strstr(error, "inherited descriptor") != NULL);
    close(fds[0]);
    close(fds[1]);
    int datagrams = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    settings.fd = datagrams;
    CHECK_EQUAL_INT(open_with(&sockets, &settings, 1), UV_EPROTOTYPE);
    close(datagrams);
}

/* In a process of its own, whose descriptors 3 and 4 are as a service manager would leave them. */
static bool takes_what_the_service_manager_left(void)
{
    fl_sockets sockets;
    char pid[16];
    fl_settings settings = settings_for("127.0.0.1", 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int first = fcntl(fd, F_DUPFD, 10), second = socket(AF_INET, SOCK_STREAM, 0);
    if (second == 3) second = fcntl(second, F_DUPFD, 10);
    if (dup2(first, 3) != 3 || dup2(second, 4) != 4) return false;
    (void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
    setenv("LISTEN_FDS", "2", 1);
    setenv("LISTEN_PID", "1", 1);
    if (open_with(&sockets, &settings, 5) != 0 || sockets.shared) return false; /* not for us */
    fl_sockets_close(&sockets);
    setenv("LISTEN_PID", pid, 1);
    if (open_with(&sockets, &settings, 5) != 0 || !sockets.shared) return false;
    return sockets.count == 2 && sockets.fds[0] == 3 && sockets.fds[1] == 4;
}

TEST(all_sockets_of_the_service_manager_are_taken)
{
    int status = 1;
    pid_t pid = fork();
    if (pid == 0) _exit(!takes_what_the_service_manager_left());
    CHECK_EQUAL_INT(waitpid(pid, &status, 0), pid);
    CHECK_EQUAL_INT(status, 0);
}

TEST(closing_twice_is_harmless)
{
    fl_sockets sockets;
    fl_settings settings = settings_for("127.0.0.1", 0);
    CHECK_EQUAL_INT(open_with(&sockets, &settings, 1), 0);
    fl_sockets_close(&sockets);
    fl_sockets_close(&sockets);
}

TEST_MAIN
