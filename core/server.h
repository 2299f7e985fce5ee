/* server: one server process: its web threads, its housekeeping loop (the main thread: control
 * messages, child programs, files, admin listener; no Lua) and its watch thread.
 *
 * Started by the supervisor (control.h). Runs until drained. Exit status: 0 drained, 3 when the
 * start failed. */
#ifndef FL_SERVER_H
#define FL_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "channel.h"
#include "mailbox.h"
#include "modules.h"
#include "segment.h"
#include "settings.h"
#include "topic.h"

typedef struct fl_server fl_server;
typedef struct fl_web fl_web;
typedef struct fl_thread fl_thread;
typedef struct fl_pool fl_pool;
typedef struct fl_pools fl_pools;
typedef struct fl_spares fl_spares;
typedef struct fl_profiler fl_profiler;
typedef struct fl_console fl_console;
typedef struct fl_quota fl_quota;

/* `arguments`: the program's, with which pools start processes of their own. */
int fl_server_run(const fl_settings *settings, char **arguments);

/* Such a process (pool_child.h): it has no web threads, listeners, admin address and watch thread,
 * and ends when its parent is gone. Its pools are there by name; jobs of it cannot use them. */
int fl_server_run_pool(const fl_settings *settings);

/* One function, instead of all that (console.h); returns when it has ended. What it logs goes to
 * stderr. 0, or a negative uv code with why. */
int fl_server_run_console(const fl_settings *settings, fl_console *console, char *why, size_t size);

/* Any thread. */
fl_web *fl_server_least_loaded(fl_server *server, fl_web *self, unsigned lead); /* self, unless it
                                                            has `lead` more than the least loaded */
uint64_t fl_server_in_flight(fl_server *server);
fl_mailbox *fl_server_mailbox(fl_server *server); /* of the housekeeping loop; owner: the server */
uv_loop_t *fl_server_loop(fl_server *server);     /* the housekeeping loop: its thread only */
fl_channels *fl_server_channels(fl_server *server); /* NULL: a child process of a pool */
fl_topics *fl_server_topics(fl_server *server);
fl_segment *fl_server_segment(fl_server *server); /* until the last web thread is closed */
void fl_server_loaded(fl_server *server, fl_web *web, const char *error); /* NULL: loaded */
const fl_app_place *fl_server_app(fl_server *server, size_t number);      /* longest prefix first */
unsigned fl_server_app_number(fl_server *server, const fl_app_place *app);
const fl_settings *fl_server_settings(const fl_server *server);
char **fl_server_arguments(const fl_server *server);
bool fl_server_is_pool(const fl_server *server);
fl_pools *fl_server_pools(fl_server *server);
fl_quota *fl_server_quota(fl_server *server);                 /* of connections to databases */
fl_pool *fl_server_pool(fl_server *server, const char *name); /* "cpu", "blocking"; NULL: another */
void fl_server_prepare_thread(fl_server *server, fl_thread *thread); /* what all threads share */
fl_modules *fl_server_modules(fl_server *server); /* what Lua source has been compiled */
/* A web thread has accepted its backlog and closed it, has nothing more to do, and will use the
 * server no more. */
void fl_server_closed(fl_server *server, fl_web *web);
void fl_server_drained(fl_server *server, fl_web *web);
void fl_server_ended(fl_server *server, fl_web *web);
/* It cannot accept on its socket, to which the kernel keeps sending clients: the process must go.
 */
void fl_server_is_deaf(fl_server *server, fl_web *web);
void fl_server_will_hear(fl_web *web);                     /* *boot*: before it says any of these */
void fl_server_stuck(fl_server *server, const char *what); /* asks to be replaced */

unsigned fl_server_web_count(fl_server *server);
fl_web *fl_server_web(fl_server *server, unsigned number); /* who has that place now */
void fl_server_set_web(fl_server *server, unsigned number, fl_web *web);
fl_spares *fl_server_spares(fl_server *server);
fl_profiler *fl_server_profiler(fl_server *server);

#endif
