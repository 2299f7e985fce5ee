/* supervisor: owns the listening sockets, starts, watches and replaces server processes. No Lua.
 *
 * Runs in the main process on its own uv loop until everything has ended. SIGTERM/SIGINT/SIGQUIT:
 * STOP to all, exit when they have gone or, after the drain time and a second, killed them; a
 * second signal kills now. SIGHUP: a new server process is started with the settings as they are
 * now; when it is READY the old one is told REPLACED; when it FAILED the old one keeps serving and
 * the reason is logged; a SIGHUP meanwhile is queued (one). A server process that dies is started
 * again at once (with back-off when it keeps dying young), and the log names signal or status, and
 * the requests the ledger shows. STUCK: as SIGHUP, at most once a minute, the old one gets the
 * drain time; when the new one fails, again after `retry` ms, doubled up to a minute. The SIGHUP of
 * a terminal that is closed means STOP, unless started by nohup. */
#ifndef FL_SUPERVISOR_H
#define FL_SUPERVISOR_H

#include <stdint.h>

#include "settings.h"

#define FL_SUPERVISOR_RETRY 1000 /* ms */

/* argv: as given to main, run again for each server process. Returns the exit status: 0, 1, or 3
 * when the first start failed. */
int fl_supervisor_run(const fl_settings *settings, char **argv, uint64_t retry);

#endif
