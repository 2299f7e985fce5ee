#include "queue.h"

void fl_redis_queue_init(fl_redis_queue *self)
{
    *self = (fl_redis_queue){.last = &self->first};
}

void fl_redis_queue_add(fl_redis_queue *self, fl_redis_command *command)
{
    command->in = self;
    command->next = NULL;
    command->link = self->last;
    *self->last = command;
    self->last = &command->next;
    self->count++;
    self->bytes += command->bytes.size;
}

void fl_redis_queue_leave(fl_redis_command *command)
{
    fl_redis_queue *self = command->in;
    if (!self) return;
    *command->link = command->next;
    if (command->next)
        command->next->link = command->link;
    else
        self->last = command->link;
    command->in = NULL;
    self->count--;
    self->bytes -= command->bytes.size;
}

void fl_redis_queue_replace(fl_redis_command *old, fl_redis_command *by)
{
    fl_redis_queue *self = old->in;
    by->in = self;
    by->next = old->next;
    by->link = old->link;
    *by->link = by;
    if (by->next)
        by->next->link = &by->next;
    else
        self->last = &by->next;
    self->bytes += by->bytes.size;
    self->bytes -= old->bytes.size;
    old->in = NULL;
}

void fl_redis_queue_put_in_front(fl_redis_queue *self, fl_redis_queue *from)
{
    if (!from->first) return;
    for (fl_redis_command *command = from->first; command; command = command->next)
        command->in = self;
    *from->last = self->first;
    if (self->first)
        self->first->link = from->last;
    else
        self->last = from->last;
    self->first = from->first;
    self->first->link = &self->first;
    self->count += from->count;
    self->bytes += from->bytes;
    fl_redis_queue_init(from);
}
