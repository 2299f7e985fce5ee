#include "privileges.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#define TEXT_MAX 16384 /* one entry of passwd or group */

static bool read_number(const char *text, unsigned *number)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value >= (unsigned)-1) return false;
    *number = (unsigned)value;
    return true;
}

static int not_found(const char *what, const char *name, int found, char *error, size_t error_size)
{
    const char *why = found ? strerror(found) : "there is none";
    (void)snprintf(error, error_size, "cannot become %s \"%s\": %s", what, name, why);
    return found ? uv_translate_sys_error(found) : UV_ENOENT;
}

static int find_user(const char *user, uid_t *uid, gid_t *gid, char *error, size_t error_size)
{
    char text[TEXT_MAX];
    struct passwd entry, *found = NULL;
    unsigned number;
    bool is_number = read_number(user, &number);
    int result = is_number ? getpwuid_r(number, &entry, text, sizeof(text), &found)
                           : getpwnam_r(user, &entry, text, sizeof(text), &found);
    if (found) {
        *uid = found->pw_uid;
        *gid = found->pw_gid;
        return 0;
    }
    if (!is_number) return not_found("user", user, result, error, error_size);
    *uid = number; /* a number needs no entry; its group has the same number, unless one is named */
    *gid = number;
    return 0;
}

static int find_group(const char *group, gid_t *gid, char *error, size_t error_size)
{
    char text[TEXT_MAX];
    struct group entry, *found = NULL;
    unsigned number;
    if (read_number(group, &number)) {
        *gid = number;
        return 0;
    }
    int result = getgrnam_r(group, &entry, text, sizeof(text), &found);
    if (!found) return not_found("group", group, result, error, error_size);
    *gid = found->gr_gid;
    return 0;
}

int fl_privileges_find(const char *user, const char *group, uid_t *uid, gid_t *gid, char *error,
                       size_t error_size)
{
    *uid = FL_NOBODY;
    *gid = FL_NO_GROUP;
    int result = user[0] ? find_user(user, uid, gid, error, error_size) : 0;
    if (result == 0 && group[0]) result = find_group(group, gid, error, error_size);
    return result;
}

static bool is_user(uid_t uid)
{
    uid_t real, effective, saved;
    if (uid == FL_NOBODY) return true;
    return getresuid(&real, &effective, &saved) == 0 && real == uid && effective == uid &&
           saved == uid;
}

static bool is_group(gid_t gid)
{
    gid_t real, effective, saved;
    if (gid == FL_NO_GROUP) return true;
    return getresgid(&real, &effective, &saved) == 0 && real == gid && effective == gid &&
           saved == gid;
}

static int set_groups(const char *user, uid_t uid, gid_t gid)
{
    char text[TEXT_MAX];
    struct passwd entry, *found = NULL;
    if (user[0]) (void)getpwuid_r(uid, &entry, text, sizeof(text), &found);
    return found ? initgroups(found->pw_name, gid) : setgroups(1, &gid);
}

static int change(const char *user, uid_t uid, gid_t gid)
{
    if (set_groups(user, uid, gid) != 0) return uv_translate_sys_error(errno);
    if (setresgid(gid, gid, gid) != 0) return uv_translate_sys_error(errno);
    if (uid != FL_NOBODY && setresuid(uid, uid, uid) != 0) return uv_translate_sys_error(errno);
    if (!is_user(uid) || !is_group(gid)) return UV_EPERM;
    if (uid != FL_NOBODY && uid != 0 && setuid(0) == 0) return UV_EPERM; /* there is a way back */
    return 0;
}

int fl_privileges_become(const char *user, const char *group, char *error, size_t error_size)
{
    uid_t uid;
    gid_t gid;
    int result = fl_privileges_find(user, group, &uid, &gid, error, error_size);
    if (result || (geteuid() != 0 && is_user(uid) && is_group(gid))) return result;
    if (gid == FL_NO_GROUP) return 0;
    result = change(user, uid, gid);
    if (result == 0) return 0;
    const char *what = user[0] ? "user" : "group";
    (void)snprintf(error, error_size, "cannot become %s \"%s\": %s", what, user[0] ? user : group,
                   uv_strerror(result));
    return result;
}
