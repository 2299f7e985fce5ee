#include "cpus.h"

#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CPU_CAPACITY 8192 /* the kernel refuses a mask smaller than its own */
#define TEXT_CAPACITY 4096

static bool read_file(const char *path, char *text, size_t capacity)
{
    FILE *file = fopen(path, "re");
    if (!file) return false;
    size_t size = fread(text, 1, capacity - 1, file);
    text[size] = '\0';
    (void)fclose(file);
    return size > 0;
}

static unsigned smaller_limit(unsigned a, unsigned b)
{
    if (a == 0) return b;
    return b == 0 || a < b ? a : b;
}

static unsigned read_v2(const char *folder)
{
    char path[PATH_MAX], text[64];
    (void)snprintf(path, sizeof(path), "%.4000s/cpu.max", folder);
    return read_file(path, text, sizeof(text)) ? fl_cpus_parse(text) : 0;
}

static unsigned read_v1(const char *folder)
{
    char path[PATH_MAX], quota[32], period[32], text[sizeof(quota) + sizeof(period)];
    (void)snprintf(path, sizeof(path), "%.4000s/cpu.cfs_quota_us", folder);
    if (!read_file(path, quota, sizeof(quota))) return 0;
    (void)snprintf(path, sizeof(path), "%.4000s/cpu.cfs_period_us", folder);
    if (!read_file(path, period, sizeof(period))) return 0;
    (void)snprintf(text, sizeof(text), "%.*s %s", (int)strcspn(quota, "\n"), quota, period);
    return fl_cpus_parse(text);
}

/* Every ancestor limits too; the path as seen from a container may not exist beneath its mount, but
 * the mount's root then is the container's own group. */
static unsigned climb(const char *root, const char *group, unsigned (*read_limit)(const char *))
{
    char folder[PATH_MAX];
    int size = snprintf(folder, sizeof(folder), "%s%s", root, group);
    if (size < 0 || (size_t)size >= sizeof(folder)) return read_limit(root);
    unsigned limit = 0;
    size_t root_size = strlen(root);
    for (;;) {
        limit = smaller_limit(limit, read_limit(folder));
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < root_size) return limit;
        *slash = '\0';
    }
}

static bool has_controller(const char *list, const char *name)
{
    size_t size = strlen(name);
    for (const char *item = list; *item;) {
        size_t item_size = strcspn(item, ",");
        if (item_size == size && memcmp(item, name, size) == 0) return true;
        item += item_size + (item[item_size] == ',');
    }
    return false;
}

/* One line of /proc/self/cgroup: "0::/group" is v2, "4:cpu,cpuacct:/group" v1. */
static unsigned line_quota(const char *mount, char *line)
{
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) return 0;
    *group++ = '\0';
    controllers++;
    if (*controllers == '\0') return climb(mount, group, read_v2);
    if (!has_controller(controllers, "cpu")) return 0;
    char root[PATH_MAX];
    (void)snprintf(root, sizeof(root), "%.2000s/%.1000s", mount, controllers);
    return climb(root, group, read_v1);
}

unsigned fl_cpus_parse(const char *text)
{
    char *end;
    unsigned long long quota = strtoull(text, &end, 10); /* "max" and "-1" are no quota */
    if (end == text || text[0] == '-' || *end != ' ') return 0;
    char *rest = end;
    unsigned long long period = strtoull(rest, &end, 10);
    if (end == rest || period == 0 || quota == 0) return 0;
    unsigned long long count = quota / period + (quota % period != 0);
    return count < UINT_MAX ? (unsigned)count : UINT_MAX;
}

unsigned fl_cpus_quota(const char *mount, const char *membership)
{
    unsigned limit = 0;
    for (const char *line = membership; *line;) {
        char copy[TEXT_CAPACITY];
        size_t size = strcspn(line, "\n");
        (void)snprintf(copy, sizeof(copy), "%.*s", (int)size, line);
        limit = smaller_limit(limit, line_quota(mount, copy));
        line += size + (line[size] == '\n');
    }
    return limit;
}

static unsigned affinity(void)
{
    cpu_set_t *set = CPU_ALLOC(CPU_CAPACITY);
    if (!set) return 1;
    size_t size = CPU_ALLOC_SIZE(CPU_CAPACITY);
    int count = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 1;
    CPU_FREE(set);
    return count > 0 ? (unsigned)count : 1;
}

unsigned fl_cpus_usable(void)
{
    char membership[TEXT_CAPACITY];
    unsigned quota = 0;
    if (read_file("/proc/self/cgroup", membership, sizeof(membership))) {
        quota = fl_cpus_quota("/sys/fs/cgroup", membership);
        if (quota == 0) quota = fl_cpus_quota("/sys/fs/cgroup/unified", membership); /* hybrid */
    }
    return smaller_limit(affinity(), quota);
}
