#include "readiness.h"

#include <stdlib.h>
#include <unistd.h>

#include "state.h"
#include "thread.h"

static void handle_ready(uv_poll_t *handle, int status, int events)
{
    fl_readiness *self = handle->data;
    self->ready(self, status, events);
}

static void handle_closed(uv_handle_t *handle)
{
    free(handle);
}

static int make_handle(fl_readiness *self)
{
    uv_poll_t *handle = malloc(sizeof(*handle));
    if (!handle) return UV_ENOMEM;
    int status = uv_poll_init(&self->state->thread->loop, handle, self->fd);
    if (status < 0) {
        free(handle);
        return status;
    }
    handle->data = self;
    self->handle = handle;
    return 0;
}

static void enlist(fl_readiness *self)
{
    self->next = self->state->readiness;
    if (self->next) self->next->link = &self->next;
    self->link = &self->state->readiness;
    self->state->readiness = self;
}

int fl_readiness_open(fl_readiness *self, fl_state *state, int fd, fl_readiness_ready ready)
{
    *self = (fl_readiness){.state = state, .fd = fd, .ready = ready};
    int status = make_handle(self);
    if (status < 0) return status;
    enlist(self);
    return 0;
}

/* Neither starting nor stopping can fail on a handle that is open. */
void fl_readiness_want(fl_readiness *self, int events)
{
    if (self->events == events) return;
    self->events = events;
    if (!self->handle) return; /* it is not moved yet, or could not be */
    if (events)
        (void)uv_poll_start(self->handle, events, handle_ready);
    else
        (void)uv_poll_stop(self->handle);
}

static void leave(fl_readiness *self)
{
    *self->link = self->next;
    if (self->next) self->next->link = self->link;
    self->link = NULL;
}

void fl_readiness_close(fl_readiness *self)
{
    if (!self->link) return;
    leave(self);
    if (self->handle) uv_close((uv_handle_t *)self->handle, handle_closed);
    self->handle = NULL;
}

static void move(fl_readiness *self)
{
    int events = self->events;
    self->events = 0;
    int status = make_handle(self);
    if (status < 0)
        self->ready(self, status, 0);
    else
        fl_readiness_want(self, events);
}

void fl_readiness_move_all(fl_state *state)
{
    fl_readiness *all = state->readiness;
    for (fl_readiness *self = all; self; self = self->next)
        self->handle = NULL; /* the old loop's, which nobody runs */
    state->readiness = NULL;
    if (all) all->link = &all; /* so that each may close any other */
    while (all) {
        fl_readiness *self = all;
        leave(self);
        enlist(self);
        move(self);
    }
}

void fl_readiness_abandon_all(fl_state *state)
{
    for (fl_readiness *self = state->readiness; self; self = self->next) (void)close(self->fd);
    state->readiness = NULL;
}
