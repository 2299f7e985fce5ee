#include "console.h"

#include <stdio.h>

#include "pool.h"
#include "server.h"

static void move(fl_parcel *to, fl_parcel *from)
{
    fl_parcel_close(to);
    *to = *from;
    fl_parcel_init(from);
}

static void ended(fl_job *job)
{
    fl_console *self = job->waiter;
    self->outcome = job->outcome;
    (void)snprintf(self->text, sizeof(self->text), "%s", job->text);
    move(&self->result, &job->result);
    job->waiter = NULL;
    self->job = NULL;
    fl_job_release(job);
    uv_stop(fl_server_loop(self->server));
}

int fl_console_start(fl_console *self, fl_server *server)
{
    fl_pool *pool = fl_server_pool(server, "blocking");
    self->server = server;
    int status = fl_address_new(&self->address, fl_server_mailbox(server), &self->stub);
    if (status < 0) return status;
    self->job = fl_job_new(pool, FL_JOB_CALL, self->address);
    if (!self->job) return UV_ENOMEM;
    self->job->waiter = self;
    self->job->ended = ended;
    move(&self->job->call, &self->call);
    return fl_pool_submit(pool, self->job, false);
}

void fl_console_end(fl_console *self)
{
    if (self->job) fl_job_release(self->job);
    if (!self->address) return;
    fl_address_close(self->address);
    fl_address_release(self->address);
}
