#include "environment.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static bool is_inherited(const char *variable)
{
    static const char *const own[] = {"FASTERLUA_SERVER=", "FASTERLUA_POOL=", "NOTIFY_SOCKET=",
                                      "LISTEN_PID=",       "LISTEN_FDS=",     "LISTEN_FDNAMES="};
    for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
        if (strncmp(variable, own[i], strlen(own[i])) == 0) return false;
    return true;
}

char **fl_environment_inherited(char *variable)
{
    size_t count = 0, kept = 0;
    while (environ[count]) count++;
    char **list = calloc(count + 2, sizeof(*list));
    if (!list) return NULL;
    for (size_t i = 0; i < count; i++)
        if (is_inherited(environ[i])) list[kept++] = environ[i];
    list[kept] = variable;
    return list;
}
