#include "farewell.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "readiness.h"
#include "state.h"
#include "thread.h"

#define PATIENCE 1000 /* ms */

struct fl_farewell {
    fl_farewell *next, **link; /* the database's */
    fl_lease lease;
    fl_address *address; /* held */
    fl_quota_member *slot;
    fl_readiness readiness;
    fl_deadline deadline;
    int fd;
};

static void released(fl_lease *lease)
{
    fl_quota_give(((fl_farewell *)((char *)lease - offsetof(fl_farewell, lease)))->slot);
}

static void end(fl_farewell *self)
{
    *self->link = self->next;
    if (self->next) self->next->link = self->link;
    fl_readiness_close(&self->readiness);
    fl_deadline_stop(&self->deadline);
    (void)close(self->fd);
    if (fl_address_give_back(self->address, &self->lease)) fl_quota_give(self->slot);
    fl_address_release(self->address);
    free(self);
}

static void too_late(fl_deadline *deadline)
{
    end((fl_farewell *)((char *)deadline - offsetof(fl_farewell, deadline)));
}

/* What it still says is of no interest. */
static bool has_closed(int fd)
{
    char waste[512];
    ssize_t size;
    do {
        size = recv(fd, waste, sizeof(waste), MSG_DONTWAIT);
    } while (size > 0 || (size < 0 && errno == EINTR));
    return size == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

static void ready(fl_readiness *readiness, int status, int events)
{
    fl_farewell *self = (fl_farewell *)((char *)readiness - offsetof(fl_farewell, readiness));
    (void)events;
    if (status < 0 || has_closed(self->fd)) end(self);
}

static void enter_list(fl_farewell *self, fl_db *db)
{
    self->next = db->farewells;
    if (self->next) self->next->link = &self->next;
    self->link = &db->farewells;
    db->farewells = self;
}

/* It has its own descriptor of the socket: the caller closes the other one. */
static int open_socket(fl_farewell *self, fl_db *db, int fd)
{
    self->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (self->fd < 0) return -errno;
    int status = fl_readiness_open(&self->readiness, db->state, self->fd, ready);
    if (status == 0) status = fl_address_lend(self->address, &self->lease);
    if (status == 0) return 0;
    fl_readiness_close(&self->readiness);
    (void)close(self->fd);
    return status;
}

void fl_farewell_begin(fl_db *db, int fd, fl_quota_member *slot)
{
    fl_farewell *self = calloc(1, sizeof(*self));
    if (self)
        *self = (fl_farewell){
            .address = db->state->address, .slot = slot, .lease = {.released = released}};
    if (!self || open_socket(self, db, fd) < 0) {
        free(self);
        fl_quota_give(slot);
        return;
    }
    fl_address_hold(self->address);
    enter_list(self, db);
    fl_quota_part(slot);
    fl_readiness_want(&self->readiness, UV_READABLE);
    self->deadline.state = db->state;
    fl_thread_start_deadline(db->state->thread, &self->deadline, PATIENCE, too_late);
}

void fl_farewell_close_all(fl_db *db)
{
    while (db->farewells) end(db->farewells);
}
