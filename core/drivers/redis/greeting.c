#include "greeting.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>

#include "reply.h"

static void put_bulk(fl_buffer *out, const char *text)
{
    fl_buffer_printf(out, "$%zu\r\n", strlen(text));
    fl_buffer_append(out, text, strlen(text));
    FL_BUFFER_LITERAL(out, "\r\n");
}

static void say(fl_redis_greeting *self, fl_buffer *out, size_t count, const char *const *words)
{
    fl_buffer_printf(out, "*%zu\r\n", count);
    for (size_t i = 0; i < count; i++) put_bulk(out, words[i]);
    self->pending++;
}

static bool speaks_resp3(const fl_redis_greeting *self)
{
    return HIREDIS_MAJOR >= 1 && !self->plain_only;
}

static void say_hello(fl_redis_greeting *self, const fl_redis_target *target, fl_buffer *out)
{
    const char *user = target->user ? target->user : "default";
    const char *words[] = {"HELLO", "3", "AUTH", user, target->password};
    say(self, out, target->password ? 5 : 2, words);
}

static void say_password(fl_redis_greeting *self, const fl_redis_target *target, fl_buffer *out)
{
    if (!target->password) return;
    const char *words[] = {"AUTH", target->password, NULL};
    if (target->user) {
        words[1] = target->user;
        words[2] = target->password;
    }
    say(self, out, target->user ? 3 : 2, words);
}

static void say_name(fl_redis_greeting *self, const fl_redis_target *target, fl_buffer *out)
{
    if (!target->name) return;
    const char *words[] = {"CLIENT", "SETNAME", target->name};
    say(self, out, 3, words);
}

static void say_database(fl_redis_greeting *self, const fl_redis_target *target, fl_buffer *out)
{
    char number[16];
    if (!target->database) return;
    (void)snprintf(number, sizeof(number), "%u", target->database);
    const char *words[] = {"SELECT", number};
    say(self, out, 2, words);
}

static fl_redis_greeting_answer take_error(fl_redis_greeting *self, const char *record)
{
    if (speaks_resp3(self) && (fl_redis_reply_is_error_of(record, "NOPROTO") ||
                               fl_redis_reply_is_error_of(record, "ERR unkn"))) {
        self->plain_only = true;
        return FL_GREETING_AGAIN;
    }
    if (fl_redis_reply_is_error_of(record, "LOADING") ||
        fl_redis_reply_is_error_of(record, "ERR max number"))
        return FL_GREETING_AGAIN;
    return FL_GREETING_REFUSED;
}

void fl_redis_greeting_say(fl_redis_greeting *self, const fl_redis_target *target, fl_buffer *out)
{
    self->pending = 0;
    if (speaks_resp3(self))
        say_hello(self, target, out);
    else
        say_password(self, target, out);
    say_name(self, target, out);
    say_database(self, target, out);
}

fl_redis_greeting_answer fl_redis_greeting_take(fl_redis_greeting *self, const char *record)
{
    if (fl_redis_reply_is_error(record)) return take_error(self, record);
    return --self->pending == 0 ? FL_GREETING_DONE : FL_GREETING_GOES_ON;
}
