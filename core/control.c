#include "control.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

/* A message is one byte of kind, then the text without its NUL. */
typedef union descriptors {
    struct cmsghdr header; /* for its alignment */
    char bytes[CMSG_SPACE(sizeof(int) * FL_CONTROL_LISTENERS)];
} descriptors;

int fl_control_pair(int fds[2])
{
    int type = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK;
    return socketpair(AF_UNIX, type, 0, fds) == 0 ? 0 : uv_translate_sys_error(errno);
}

static void attach(struct msghdr *header, descriptors *room, const int *fds, size_t fd_count)
{
    memset(room, 0, sizeof(*room));
    header->msg_control = room->bytes;
    header->msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
    struct cmsghdr *part = CMSG_FIRSTHDR(header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
    memcpy(CMSG_DATA(part), fds, sizeof(int) * fd_count);
}

int fl_control_send(int fd, fl_control_kind kind, const char *text, const int *fds, size_t fd_count)
{
    if (fd_count > FL_CONTROL_LISTENERS) return UV_EINVAL;
    unsigned char first = (unsigned char)kind;
    size_t size = text ? strnlen(text, FL_CONTROL_TEXT - 1) : 0;
    struct iovec parts[2] = {{&first, 1}, {(void *)(uintptr_t)text, size}};
    struct msghdr header = {.msg_iov = parts, .msg_iovlen = 2};
    descriptors room;
    if (fd_count > 0) attach(&header, &room, fds, fd_count);
    ssize_t sent;
    do sent = sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? uv_translate_sys_error(errno) : 0;
}

static void close_all(fl_control_message *message)
{
    for (size_t i = 0; i < message->fd_count; i++) close(message->fds[i]);
    message->fd_count = 0;
}

static void take_descriptors(struct msghdr *header, fl_control_message *message)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part; part = CMSG_NXTHDR(header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(message->fds + message->fd_count, CMSG_DATA(part), count * sizeof(int));
        message->fd_count += count;
    }
}

/* A peer that closed with our messages unread leaves ECONNRESET in front of what it sent: the error
 * is reported once, so the next turn reads the message. */
static ssize_t receive(int fd, struct msghdr *header)
{
    ssize_t size;
    do size = recvmsg(fd, header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (size < 0 && (errno == EINTR || errno == ECONNRESET));
    return size;
}

int fl_control_receive(int fd, fl_control_message *message)
{
    unsigned char first = 0;
    struct iovec parts[2] = {{&first, 1}, {message->text, FL_CONTROL_TEXT - 1}};
    descriptors room;
    struct msghdr header = {.msg_iov = parts,
                            .msg_iovlen = 2,
                            .msg_control = room.bytes,
                            .msg_controllen = sizeof(room.bytes)};
    message->fd_count = 0;
    ssize_t size = receive(fd, &header);
    if (size < 0) return uv_translate_sys_error(errno);
    if (size == 0) return 0;
    take_descriptors(&header, message);
    message->kind = (fl_control_kind)first;
    message->text[size - 1] = '\0';
    int error = 0;
    if (header.msg_flags & MSG_CTRUNC)
        error = UV_EMFILE; /* this process has no descriptor left */
    else if (header.msg_flags & MSG_TRUNC)
        error = UV_EMSGSIZE;
    else if (first < FL_CONTROL_LOADED || first > FL_CONTROL_NOW)
        error = UV_EPROTO;
    if (!error) return 1;
    close_all(message);
    return error;
}
