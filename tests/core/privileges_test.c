#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "privileges.h"
#include "test.h"

static char error[256];

/* Runs `change` in a process of its own; 0 when it returned true. */
static int in_child(bool (*change)(void))
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) _exit(change() ? 0 : 1);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) return -1;
    return WEXITSTATUS(status);
}

static bool is_root(void)
{
    return geteuid() == 0;
}

TEST(an_unknown_user_is_named)
{
    uid_t uid;
    gid_t gid;
    int result = fl_privileges_find("no-such-user-x", "", &uid, &gid, error, sizeof(error));
    CHECK_EQUAL_INT(result, UV_ENOENT);
    CHECK_EQUAL_BYTES(error, strlen(error), "cannot become user \"no-such-user-x\": there is none");
}

TEST(an_unknown_group_is_named)
{
    CHECK_EQUAL_INT(fl_privileges_become("", "no-such-group-x", error, sizeof(error)), UV_ENOENT);
    CHECK(strstr(error, "group \"no-such-group-x\"") != NULL);
}

TEST(a_user_brings_its_group_unless_one_is_named)
{
    uid_t uid;
    gid_t gid;
    const struct passwd *root = getpwuid(0);
    CHECK(root != NULL);
    CHECK_EQUAL_INT(fl_privileges_find(root->pw_name, "", &uid, &gid, error, sizeof(error)), 0);
    CHECK_EQUAL_INT(uid, 0);
    CHECK_EQUAL_INT(gid, root->pw_gid);
    CHECK_EQUAL_INT(fl_privileges_find(root->pw_name, "1234", &uid, &gid, error, sizeof(error)), 0);
    CHECK_EQUAL_INT(gid, 1234);
}

TEST(no_names_change_nothing)
{
    uid_t uid;
    gid_t gid;
    CHECK_EQUAL_INT(fl_privileges_find("", "", &uid, &gid, error, sizeof(error)), 0);
    CHECK(uid == FL_NOBODY && gid == FL_NO_GROUP);
    CHECK_EQUAL_INT(fl_privileges_become("", "", error, sizeof(error)), 0);
}

static bool becomes_nobody(void)
{
    const struct passwd *nobody = getpwnam("nobody");
    uid_t uid = nobody->pw_uid;
    gid_t gid = nobody->pw_gid, groups[64];
    if (fl_privileges_become("nobody", "", error, sizeof(error)) != 0) return false;
    int count = getgroups(64, groups);
    for (int i = 0; i < count; i++)
        if (groups[i] == 0) return false;
    return getuid() == uid && geteuid() == uid && getgid() == gid && getegid() == gid &&
           setuid(0) != 0 && setgid(0) != 0;
}

TEST(root_becomes_another_user_with_no_way_back)
{
    if (is_root()) CHECK_EQUAL_INT(in_child(becomes_nobody), 0);
}

static bool becomes_numbers(void)
{
    return fl_privileges_become("54321", "54322", error, sizeof(error)) == 0 && getuid() == 54321 &&
           getgid() == 54322 && getgroups(0, NULL) == 1;
}

TEST(numbers_without_an_entry_are_taken)
{
    if (is_root()) CHECK_EQUAL_INT(in_child(becomes_numbers), 0);
}

static bool becomes_group_only(void)
{
    return fl_privileges_become("", "54322", error, sizeof(error)) == 0 && getuid() == 0 &&
           getgid() == 54322;
}

TEST(a_group_alone_leaves_the_user)
{
    if (is_root()) CHECK_EQUAL_INT(in_child(becomes_group_only), 0);
}

static bool stays_itself_but_no_other(void)
{
    if (is_root() && setresgid(54321, 54321, 54321) != 0) return false;
    if (is_root() && setresuid(54321, 54321, 54321) != 0) return false;
    char self[32];
    (void)snprintf(self, sizeof(self), "%u", (unsigned)getuid());
    char group[32];
    (void)snprintf(group, sizeof(group), "%u", (unsigned)getgid());
    return fl_privileges_become(self, group, error, sizeof(error)) == 0 &&
           fl_privileges_become("0", "", error, sizeof(error)) == UV_EPERM &&
           strstr(error, "user \"0\"") != NULL;
}

TEST(who_is_not_root_may_only_stay_itself)
{
    CHECK_EQUAL_INT(in_child(stays_itself_but_no_other), 0);
}

TEST_MAIN
