#include "command.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "queue.h"

fl_redis_command *fl_redis_command_new(size_t size, size_t replies)
{
    fl_redis_command *command = calloc(1, sizeof(*command) + size);
    if (!command) return NULL;
    command->replies = replies;
    return command;
}

void fl_redis_command_end(fl_redis_command *command)
{
    fl_redis_queue_leave(command);
    fl_deadline_stop(&command->deadline);
    if (command->ended)
        command->ended(command);
    else
        fl_redis_command_free(command);
}

void fl_redis_command_fail(fl_redis_command *command, const char *code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    command->code = code;
    (void)vsnprintf(command->problem, sizeof(command->problem), format, arguments);
    va_end(arguments);
    fl_redis_command_end(command);
}

void fl_redis_command_free(fl_redis_command *command)
{
    fl_buffer_close(&command->reply);
    free(command);
}
