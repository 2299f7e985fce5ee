/* privileges: becoming the user and group that `--user` and `--group` name.
 *
 * *boot*, while the process has one thread: the server process calls fl_privileges_become first of
 * all, before any code of an app is loaded. The supervisor stays what it was, to bind and to
 * signal. Names may be numbers, "" means none. 0 or a negative uv code and a sentence in `error`.
 */
#ifndef FL_PRIVILEGES_H
#define FL_PRIVILEGES_H

#include <stddef.h>
#include <sys/types.h>

#define FL_NOBODY (~(uid_t)0) /* what chown(2) takes for "leave it" */
#define FL_NO_GROUP (~(gid_t)0)

/* Looks both up. A user without a group brings its own. */
int fl_privileges_find(const char *user, const char *group, uid_t *uid, gid_t *gid, char *error,
                       size_t error_size);

/* Becomes them for good, supplementary groups too, and checks that it worked. Nothing happens when
 * both are "" or are already what this process is. */
int fl_privileges_become(const char *user, const char *group, char *error, size_t error_size);

#endif
