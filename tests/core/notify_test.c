#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "notify.h"
#include "test.h"

/* A service manager's socket; `name` begins with '/' or '@'. */
static int manager(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = offsetof(struct sockaddr_un, sun_path) + strlen(name);
    memcpy(address.sun_path, name, strlen(name));
    if (name[0] == '@') address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (bind(fd, (const struct sockaddr *)&address, (socklen_t)size) == 0) return fd;
    close(fd);
    return -1;
}

TEST(without_a_service_manager_nothing_happens)
{
    CHECK_EQUAL_INT(fl_notify_send(NULL, "READY=1"), 0);
    CHECK_EQUAL_INT(fl_notify_send("", "READY=1"), 0);
}

TEST(a_state_reaches_a_socket_in_a_directory)
{
    char directory[] = "/tmp/fasterlua-notify-XXXXXX", path[64], text[64];
    CHECK(mkdtemp(directory) != NULL);
    (void)snprintf(path, sizeof(path), "%s/socket", directory);
    int fd = manager(path);
    CHECK(fd >= 0);
    CHECK_EQUAL_INT(fl_notify_send(path, "READY=1\nSTATUS=serving"), 0);
    ssize_t size = recv(fd, text, sizeof(text), 0);
    CHECK(size > 0);
    CHECK_EQUAL_BYTES(text, (size_t)size, "READY=1\nSTATUS=serving");
    close(fd);
    CHECK_EQUAL_INT(fl_notify_send(path, "STOPPING=1"), UV_ECONNREFUSED);
    unlink(path);
    rmdir(directory);
}

TEST(a_state_reaches_an_abstract_socket)
{
    char name[64], text[64];
    (void)snprintf(name, sizeof(name), "@fasterlua-notify-%d", (int)getpid());
    int fd = manager(name);
    CHECK(fd >= 0);
    CHECK_EQUAL_INT(fl_notify_reloading(name), 0);
    ssize_t size = recv(fd, text, sizeof(text) - 1, 0);
    CHECK(size > 0);
    text[size] = '\0';
    unsigned long long time = 0;
    CHECK_EQUAL_INT(sscanf(text, "RELOADING=1\nMONOTONIC_USEC=%llu", &time), 1);
    CHECK(time > 0 && time <= uv_hrtime() / 1000);
    close(fd);
}

TEST(an_address_of_another_kind_is_refused)
{
    char name[200];
    memset(name, 'x', sizeof(name) - 1);
    name[0] = '/';
    name[sizeof(name) - 1] = '\0';
    CHECK_EQUAL_INT(fl_notify_send(name, "READY=1"), UV_ENAMETOOLONG);
    CHECK_EQUAL_INT(fl_notify_send("vsock:2:1234", "READY=1"), UV_EINVAL);
    CHECK_EQUAL_INT(fl_notify_send("/", "READY=1"), UV_EINVAL);
}

TEST_MAIN
