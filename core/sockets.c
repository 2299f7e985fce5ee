#include "sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "privileges.h"

#define FIRST_INHERITED 3 /* SD_LISTEN_FDS_START */
#define SOCKET_TYPE (SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)

typedef struct failure { /* where the sentence goes */
    char *text;
    size_t size;
} failure;

static int last_error(void)
{
    return uv_translate_sys_error(errno);
}

static int fail(failure where, int error, const char *address, const char *why)
{
    (void)snprintf(where.text, where.size, "cannot listen on %s: %s", address,
                   why ? why : uv_strerror(error));
    return error;
}

static int reserve(fl_sockets *sockets, size_t count)
{
    sockets->fds = calloc(count, sizeof(*sockets->fds));
    return sockets->fds ? 0 : UV_ENOMEM;
}

static int backlog_of(const fl_settings *settings)
{
    return settings->backlog > INT_MAX ? INT_MAX : (int)settings->backlog;
}

static int enable(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof(value)) == 0 ? 0 : last_error();
}

/* host and port */

static int set_options(int fd, int family, bool joins)
{
    int error = enable(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (!error && family == AF_INET6) error = enable(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (!error && joins) error = enable(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    return error;
}

/* The first is bound without SO_REUSEPORT, so that it fails when anybody else listens there, and
 * allows the others afterwards; they `join` it. */
static int bind_one(int *out, const struct sockaddr *address, socklen_t size, bool joins)
{
    int fd = socket(address->sa_family, SOCKET_TYPE, 0);
    if (fd < 0) return last_error();
    int error = set_options(fd, address->sa_family, joins);
    if (!error && bind(fd, address, size) != 0) error = last_error();
    if (!error && !joins) error = enable(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    if (error)
        close(fd);
    else
        *out = fd;
    return error;
}

static int bind_all(fl_sockets *sockets, const struct addrinfo *where, size_t count)
{
    struct sockaddr_storage address;
    socklen_t size = where->ai_addrlen;
    memcpy(&address, where->ai_addr, size);
    while (sockets->count < count) {
        int error = bind_one(&sockets->fds[sockets->count], (const struct sockaddr *)&address, size,
                             sockets->count > 0);
        if (error) return error;
        sockets->count++;
        size = sizeof(address); /* with the port that the kernel chose */
        if (getsockname(sockets->fds[0], (struct sockaddr *)&address, &size) != 0)
            return last_error();
    }
    return 0;
}

static int listen_all(fl_sockets *sockets, int backlog)
{
    for (size_t i = 0; i < sockets->count; i++)
        if (listen(sockets->fds[i], backlog) != 0) return last_error();
    return 0;
}

static bool is_not_here(int error)
{
    return error == UV_EADDRNOTAVAIL || error == UV_EAFNOSUPPORT;
}

static int open_found(fl_sockets *sockets, const struct addrinfo *found, size_t count, int backlog)
{
    int error = reserve(sockets, count);
    if (error) return error;
    error = UV_EADDRNOTAVAIL;
    for (; found && sockets->count == 0 && is_not_here(error); found = found->ai_next)
        error = bind_all(sockets, found, count);
    return error ? error : listen_all(sockets, backlog);
}

static int open_tcp(fl_sockets *sockets, const fl_settings *settings, size_t count, failure where)
{
    char port[8], address[300], why[64];
    const char *host = settings->host;
    (void)snprintf(port, sizeof(port), "%u", (unsigned)(settings->port & 0xffff));
    (void)snprintf(address, sizeof(address), strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    struct addrinfo wish = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int failed = getaddrinfo(host[0] ? host : NULL, port, &wish, &found);
    if (failed) return fail(where, UV_EINVAL, address, gai_strerror(failed));
    int error = open_found(sockets, found, count, backlog_of(settings));
    freeaddrinfo(found);
    if (!error) return 0;
    (void)snprintf(why, sizeof(why), "port %s is already in use", port);
    return fail(where, error, address, error == UV_EADDRINUSE ? why : NULL);
}

/* a Unix socket */

/* A socket file outlives its owner. It may be replaced when nobody answers on it. */
static int remove_stale(const struct sockaddr_un *address)
{
    struct stat status;
    if (lstat(address->sun_path, &status) != 0) return errno == ENOENT ? 0 : last_error();
    if (!S_ISSOCK(status.st_mode)) return UV_EEXIST;
    int fd = socket(AF_UNIX, SOCKET_TYPE, 0);
    if (fd < 0) return last_error();
    int answer = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    int error = answer == 0 || errno == EAGAIN ? UV_EADDRINUSE : last_error();
    close(fd);
    if (error != UV_ECONNREFUSED) return error;
    return unlink(address->sun_path) == 0 ? 0 : last_error();
}

/* Nobody can connect before listen(), so the mode is never wider than meant. */
static int publish(fl_sockets *sockets, const fl_settings *settings, uid_t uid, gid_t gid)
{
    struct stat status;
    if (lstat(sockets->path, &status) != 0) return last_error();
    sockets->device = status.st_dev;
    sockets->inode = status.st_ino;
    if (chmod(sockets->path, 0660) != 0) return last_error();
    bool owned = uid == FL_NOBODY && gid == FL_NO_GROUP;
    if (!owned && lchown(sockets->path, uid, gid) != 0) return last_error();
    return listen(sockets->fds[0], backlog_of(settings)) == 0 ? 0 : last_error();
}

static int bind_path(fl_sockets *sockets, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) return UV_ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path));
    int error = remove_stale(&address);
    if (!error) error = reserve(sockets, 1);
    if (error) return error;
    int fd = socket(AF_UNIX, SOCKET_TYPE, 0);
    if (fd < 0) return last_error();
    sockets->fds[sockets->count++] = fd;
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) return last_error();
    memcpy(sockets->path, address.sun_path, sizeof(sockets->path));
    return 0;
}

static int open_unix(fl_sockets *sockets, const fl_settings *settings, failure where)
{
    uid_t uid;
    gid_t gid;
    int error =
        fl_privileges_find(settings->user, settings->group, &uid, &gid, where.text, where.size);
    if (error) return error;
    error = bind_path(sockets, settings->uds);
    if (!error) error = publish(sockets, settings, uid, gid);
    if (!error) return 0;
    const char *why = NULL;
    if (error == UV_EEXIST) why = "the file exists and is not a socket";
    if (error == UV_EADDRINUSE) why = "another server answers on it";
    return fail(where, error, settings->uds, why);
}

/* inherited */

static int adopt(fl_sockets *sockets, int fd, int backlog)
{
    int type = 0, listening = 0;
    socklen_t size = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0) return last_error();
    if (type != SOCK_STREAM) return UV_EPROTOTYPE;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0) return last_error();
    if (!listening && listen(fd, backlog) != 0) return last_error();
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) return last_error();
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) return last_error();
    sockets->fds[sockets->count++] = fd;
    return 0;
}

static int open_inherited(fl_sockets *sockets, const fl_settings *settings, int first, size_t count,
                          failure where)
{
    int error = reserve(sockets, count);
    for (int fd = first; !error && fd < first + (int)count; fd++) {
        error = adopt(sockets, fd, backlog_of(settings));
        char address[48];
        (void)snprintf(address, sizeof(address), "inherited descriptor %d", fd);
        if (error) return fail(where, error, address, NULL);
    }
    return error;
}

/* How many sockets the service manager left, see sd_listen_fds(3). */
static size_t listen_fds(void)
{
    const char *process = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    if (!process || !count || strtol(process, NULL, 10) != (long)getpid()) return 0;
    long number = strtol(count, NULL, 10);
    return number > 0 && number <= 1024 ? (size_t)number : 0;
}

static int open_any(fl_sockets *sockets, const fl_settings *settings, size_t count, failure where)
{
    sockets->shared = true;
    if (settings->uds[0]) return open_unix(sockets, settings, where);
    if (settings->fd >= 0) return open_inherited(sockets, settings, (int)settings->fd, 1, where);
    size_t left = listen_fds();
    if (left > 0) return open_inherited(sockets, settings, FIRST_INHERITED, left, where);
    sockets->shared = false;
    return open_tcp(sockets, settings, count, where);
}

int fl_sockets_open(fl_sockets *sockets, const fl_settings *settings, size_t count, char *error,
                    size_t error_size)
{
    *sockets = (fl_sockets){0};
    if (error_size > 0) error[0] = '\0';
    int result = open_any(sockets, settings, count, (failure){error, error_size});
    if (result) fl_sockets_close(sockets);
    if (result && error_size > 0 && !error[0])
        (void)snprintf(error, error_size, "cannot listen: %s", uv_strerror(result));
    return result;
}

void fl_sockets_close(fl_sockets *sockets)
{
    struct stat status;
    if (sockets->path[0] && lstat(sockets->path, &status) == 0 &&
        status.st_dev == sockets->device && status.st_ino == sockets->inode)
        (void)unlink(sockets->path);
    for (size_t i = 0; i < sockets->count; i++) close(sockets->fds[i]);
    free(sockets->fds);
    *sockets = (fl_sockets){0};
}
