/* cpus: how many processors this process may really use.
 *
 * The affinity mask says which processors it may run on, a cgroup's quota how much of them it gets;
 * a container with 2 of 64 cores usually shows only in the second. Reads files: *boot*. */
#ifndef FL_CPUS_H
#define FL_CPUS_H

/* Affinity and quota together, rounded up, at least 1. */
unsigned fl_cpus_usable(void);

/* The smallest quota from a process' cgroups up to their roots, in processors rounded up; 0 = none.
 * `mount` is where cgroups are mounted, `membership` the text of the process' /proc/PID/cgroup. */
unsigned fl_cpus_quota(const char *mount, const char *membership);

/* "max 100000" or "150000 100000" (cgroup v2's cpu.max; v1's quota and period joined alike) in
 * processors rounded up; 0 = no limit, or no such text. */
unsigned fl_cpus_parse(const char *text);

#endif
