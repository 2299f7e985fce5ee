#include "notify.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

static int read_address(const char *text, struct sockaddr_un *address, socklen_t *size)
{
    size_t length = strlen(text);
    if ((text[0] != '/' && text[0] != '@') || length < 2) return UV_EINVAL;
    if (length >= sizeof(address->sun_path)) return UV_ENAMETOOLONG;
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(address->sun_path, text, length);
    if (text[0] == '@') address->sun_path[0] = '\0'; /* an abstract name has no NUL at its end */
    size_t end = offsetof(struct sockaddr_un, sun_path) + length + (text[0] == '/');
    *size = (socklen_t)end;
    return 0;
}

int fl_notify_send(const char *address, const char *state)
{
    if (!address || !address[0]) return 0;
    struct sockaddr_un to;
    socklen_t size;
    int error = read_address(address, &to, &size);
    if (error) return error;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return uv_translate_sys_error(errno);
    ssize_t sent =
        sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&to, size);
    error = sent < 0 ? uv_translate_sys_error(errno) : 0;
    close(fd);
    return error;
}

int fl_notify_reloading(const char *address)
{
    char state[64]; /* uv_hrtime is CLOCK_MONOTONIC */
    (void)snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
                   uv_hrtime() / 1000);
    return fl_notify_send(address, state);
}
