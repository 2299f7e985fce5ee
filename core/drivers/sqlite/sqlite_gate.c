#include "sqlite_gate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* Bytes of the side file. */
#define ROOM 0      /* who writes is in it */
#define TURNSTILE 1 /* who comes to write goes past it */

#define SHORTEST_NAP 50000 /* ns */
#define LONGEST_NAP 2000000

int fl_sqlite_gate_open(fl_sqlite_gate *gate, const char *database)
{
    char *path;
    gate->descriptor = -1;
    if (asprintf(&path, "%s-fasterlua.lock", database) < 0) return -1;
    gate->descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    int error = errno;
    free(path);
    errno = error;
    return gate->descriptor < 0 ? -1 : 0;
}

void fl_sqlite_gate_close(fl_sqlite_gate *gate)
{
    if (gate->descriptor >= 0) (void)close(gate->descriptor);
    gate->descriptor = -1;
}

/* A lock that cannot be had for another reason than another's lock is as good as none: the file
 * system has none, and so there is but this process. */
static bool try(fl_sqlite_gate *gate, short type, off_t from, off_t count)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = from, .l_len = count};
    return fcntl(gate->descriptor, F_OFD_SETLK, &lock) == 0 ||
           (errno != EAGAIN && errno != EACCES && errno != EINTR);
}

static bool take(fl_sqlite_gate *gate, short type, off_t from, off_t count,
                 fl_sqlite_patience patient, void *data)
{
    long nap = SHORTEST_NAP;
    while (!try(gate, type, from, count)) {
        if (!patient(data)) return false;
        (void)nanosleep(&(struct timespec){.tv_nsec = nap}, NULL);
        nap = nap < LONGEST_NAP ? nap * 2 : LONGEST_NAP;
    }
    return true;
}

bool fl_sqlite_gate_enter(fl_sqlite_gate *gate, fl_sqlite_patience patient, void *data)
{
    if (gate->descriptor < 0) return true;
    if (!take(gate, F_RDLCK, ROOM, 2, patient, data)) return false;
    (void)try(gate, F_UNLCK, TURNSTILE, 1);
    return true;
}

void fl_sqlite_gate_leave(fl_sqlite_gate *gate)
{
    if (gate->descriptor >= 0) (void)try(gate, F_UNLCK, ROOM, 2);
}

bool fl_sqlite_gate_shut(fl_sqlite_gate *gate, fl_sqlite_patience patient, void *data)
{
    if (gate->descriptor < 0) return true;
    if (!take(gate, F_WRLCK, TURNSTILE, 1, patient, data)) return false;
    if (take(gate, F_WRLCK, ROOM, 1, patient, data)) return true;
    fl_sqlite_gate_reopen(gate);
    return false;
}

void fl_sqlite_gate_reopen(fl_sqlite_gate *gate)
{
    fl_sqlite_gate_leave(gate);
}
