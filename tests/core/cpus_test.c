#include "cpus.h"
#include "test.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[PATH_MAX];

static void make_root(void)
{
    const char *temporary = getenv("TMPDIR");
    (void)snprintf(root, sizeof(root), "%s/cpus_test.XXXXXX", temporary ? temporary : "/tmp");
    if (!mkdtemp(root)) root[0] = '\0';
}

static void make_folder(const char *name)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%.2000s/%s", root, name);
    (void)mkdir(path, 0700);
}

static void make_file(const char *name, const char *text)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%.2000s/%s", root, name);
    FILE *file = fopen(path, "w");
    if (!file) return;
    (void)fputs(text, file);
    (void)fclose(file);
}

static void remove_names(const char *const *names)
{
    for (; *names; names++) {
        char path[PATH_MAX];
        (void)snprintf(path, sizeof(path), "%.2000s/%s", root, *names);
        (void)remove(path);
    }
    (void)rmdir(root);
}

TEST(a_quota_is_rounded_up_to_processors)
{
    CHECK_EQUAL_INT(fl_cpus_parse("200000 100000\n"), 2);
    CHECK_EQUAL_INT(fl_cpus_parse("150000 100000"), 2);
    CHECK_EQUAL_INT(fl_cpus_parse("1000 100000"), 1);
    CHECK_EQUAL_INT(fl_cpus_parse("100001 100000"), 2);
    CHECK_EQUAL_INT(fl_cpus_parse("18446744073709551615 1"), UINT_MAX);
}

TEST(no_quota_is_zero)
{
    CHECK_EQUAL_INT(fl_cpus_parse("max 100000\n"), 0);
    CHECK_EQUAL_INT(fl_cpus_parse("-1 100000"), 0);
    CHECK_EQUAL_INT(fl_cpus_parse("0 100000"), 0);
    CHECK_EQUAL_INT(fl_cpus_parse("100000 0"), 0);
    CHECK_EQUAL_INT(fl_cpus_parse("100000"), 0);
    CHECK_EQUAL_INT(fl_cpus_parse("100000 "), 0);
    CHECK_EQUAL_INT(fl_cpus_parse(""), 0);
}

TEST(the_smallest_quota_of_all_ancestors_counts)
{
    make_root();
    make_folder("a");
    make_folder("a/b");
    make_file("a/cpu.max", "300000 100000\n");
    make_file("a/b/cpu.max", "max 100000\n");
    CHECK_EQUAL_INT(fl_cpus_quota(root, "0::/a/b\n"), 3);
    make_file("a/b/cpu.max", "50000 100000\n");
    CHECK_EQUAL_INT(fl_cpus_quota(root, "0::/a/b\n"), 1);
    CHECK_EQUAL_INT(fl_cpus_quota(root, "0::/a\n"), 3);
    CHECK_EQUAL_INT(fl_cpus_quota(root, "0::/\n"), 0);
    remove_names((const char *const[]){"a/b/cpu.max", "a/b", "a/cpu.max", "a", NULL});
}

TEST(a_container_finds_its_quota_at_the_mount)
{
    make_root();
    make_file("cpu.max", "200000 100000\n");
    CHECK_EQUAL_INT(fl_cpus_quota(root, "0::/\n"), 2);
    CHECK_EQUAL_INT(fl_cpus_quota(root, "0::/docker/unseen\n"), 2);
    remove_names((const char *const[]){"cpu.max", NULL});
}

TEST(version_1_has_quota_and_period_apart)
{
    make_root();
    make_folder("cpu,cpuacct");
    make_folder("cpu,cpuacct/a");
    make_file("cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    make_file("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    make_file("cpu,cpuacct/a/cpu.cfs_quota_us", "250000\n");
    make_file("cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
    CHECK_EQUAL_INT(fl_cpus_quota(root, "5:memory:/a\n4:cpu,cpuacct:/a\n"), 3);
    CHECK_EQUAL_INT(fl_cpus_quota(root, "4:cpu,cpuacct:/\n"), 0);
    CHECK_EQUAL_INT(fl_cpus_quota(root, "4:cpuset:/a\n"), 0);
    remove_names((const char *const[]){
        "cpu,cpuacct/a/cpu.cfs_quota_us", "cpu,cpuacct/a/cpu.cfs_period_us", "cpu,cpuacct/a",
        "cpu,cpuacct/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_period_us", "cpu,cpuacct", NULL});
}

TEST(membership_that_makes_no_sense_is_no_quota)
{
    CHECK_EQUAL_INT(fl_cpus_quota("/nowhere", "0::/a\n"), 0);
    CHECK_EQUAL_INT(fl_cpus_quota("/nowhere", "\n:\n0:\nx"), 0);
    CHECK_EQUAL_INT(fl_cpus_quota("/nowhere", ""), 0);
}

TEST(this_process_may_use_at_least_one_and_at_most_all)
{
    CHECK(fl_cpus_usable() >= 1);
    CHECK((long)fl_cpus_usable() <= sysconf(_SC_NPROCESSORS_CONF));
}

TEST_MAIN
