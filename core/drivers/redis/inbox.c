#include "inbox.h"

#include <stdio.h>

#define MESSAGES_MOST 10000
#define BYTES_MOST ((size_t)8 << 20)

static void tell_listener(fl_redis_inbox *self)
{
    fl_redis_messages *listener = self->listener;
    self->listener = NULL;
    listener->ended(listener);
}

void fl_redis_inbox_init(fl_redis_inbox *self)
{
    *self = (fl_redis_inbox){0};
    fl_buffer_init(&self->records);
}

bool fl_redis_inbox_add(fl_redis_inbox *self, const fl_buffer *record)
{
    fl_buffer_append(&self->records, record->data, record->size);
    self->count++;
    return !self->records.failed;
}

bool fl_redis_inbox_is_full(const fl_redis_inbox *self)
{
    return self->count >= MESSAGES_MOST || self->records.size >= BYTES_MOST;
}

void fl_redis_inbox_listen(fl_redis_inbox *self, fl_redis_messages *listener)
{
    self->listener = listener;
    fl_redis_inbox_hand_over(self);
}

void fl_redis_inbox_hand_over(fl_redis_inbox *self)
{
    if (!self->listener || !self->count) return;
    self->listener->records = self->records;
    self->listener->count = self->count;
    fl_buffer_init(&self->records);
    self->count = 0;
    tell_listener(self);
}

void fl_redis_inbox_lose(fl_redis_inbox *self, const char *label, const char *problem)
{
    fl_redis_messages *listener = self->listener;
    self->lost_unheard = !listener;
    if (!listener) return;
    listener->lost = true;
    (void)snprintf(listener->problem, sizeof(listener->problem), "%s: %s", label, problem);
    tell_listener(self);
}

void fl_redis_inbox_close(fl_redis_inbox *self)
{
    fl_buffer_close(&self->records);
}
