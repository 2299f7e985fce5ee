/* settings: every value a user can set, as the C core reads it. conf/default.lua names them all
 * with their defaults; lua/fasterlua/settings.lua merges defaults < conf file < environment <
 * flags, and fl_settings_read copies the merged table into this struct once, at start-up (*boot*).
 * Afterwards it is immutable and shared by all threads of the process. Times are seconds in Lua and
 * nanoseconds here; sizes are bytes. A string is "" when not set. */
#ifndef FL_SETTINGS_H
#define FL_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lua.h>

typedef struct fl_app_place { /* an app found beneath `path`, and where it is served */
    char *name;
    char *prefix; /* "" or "/shop": no slash at the end */
    char *file;   /* its app.lua, as given */
    char *folder; /* that its modules are looked for in; absolute */
} fl_app_place;

typedef struct fl_settings {
    /* what and where */
    char *home;         /* the installation: holds lua/ and conf/ */
    char *path;         /* DIR or app.lua, as given */
    fl_app_place *apps; /* found there by lua/fasterlua/apps.lua */
    size_t app_count;
    char *host;                /* "127.0.0.1" */
    uint64_t port;             /* 8000; 0 = a free one */
    char *uds;                 /* Unix socket path */
    int64_t fd;                /* an inherited listening socket; -1 = none */
    uint64_t backlog;          /* 2048 */
    uint64_t workers;          /* server processes, 1 */
    uint64_t threads;          /* web threads per process; 0 = usable CPUs */
    uint64_t cpu_states;       /* cpu pool's size; 0 = usable CPUs */
    uint64_t blocking_threads; /* blocking pool's size, at most */
    uint64_t pool_queue;       /* jobs that wait, per pool */
    uint64_t pool_timeout;     /* of a job */
    uint64_t pool_idle;        /* after which a thread of the blocking pool ends */
    uint64_t retire_rate;      /* threads retired in a minute, per pool */
    char *environment;         /* "development" or "production" */
    char *root_path;           /* prefix that a proxy strips */
    bool proxy_headers;        /* trust X-Forwarded-* and X-Request-ID of forwarded_allow_ips */
    char *forwarded_allow_ips; /* comma-separated addresses or networks, or "*" */
    char *admin;        /* HOST:PORT or a socket path for /health /ready /metrics; "" = off */
    char *user, *group; /* to become after binding */
    /* logs */
    char *log_level;  /* debug info warn error */
    char *log_format; /* auto text json */
    bool access_log;
    uint64_t log_buffer; /* bytes kept while stdout blocks */
    /* HTTP limits */
    uint64_t request_line, header_block, header_fields;
    uint64_t chunk_extensions, trailer_block, trailer_fields;
    uint64_t max_body, form_fields, cookie_fields, cookie_bytes;
    uint64_t json_depth, json_nodes; /* of what is read */
    uint64_t json_bytes;             /* of what is written */
    uint64_t head_timeout, body_rate, body_grace, keep_alive, handler_timeout, write_stall;
    uint64_t requests_per_connection, connections, limit_requests; /* limit_requests 0 = none */
    uint64_t write_buffer; /* bytes a response may queue before write() suspends */
    uint64_t read_ahead;   /* bytes read ahead while a handler runs or a body waits to be taken */
    /* scheduling */
    uint64_t slow_handler, stuck_handler, blocked_handler;
    uint64_t exile;        /* that a route runs in the cpu pool after it has cost a web thread */
    uint64_t queue_delay;  /* admission: shed above this queueing delay, held for as long */
    uint64_t lua_memory;   /* per state */
    uint64_t drain;        /* graceful stop */
    uint64_t file_threads; /* threads for files and name look-ups */
    uint64_t exec_output;  /* bytes of output fl.exec keeps, per stream */
    /* databases; what options of fl.db leave open */
    uint64_t db_connections; /* of a server process, to all databases together */
    uint64_t db_pool;        /* connections of a state to one of them, beside those it shares */
    uint64_t db_timeout, db_connect_timeout, db_pool_timeout, db_idle;
    uint64_t db_result; /* bytes of rows */
    uint64_t db_queue;  /* queries of a state under way */
    /* for all server processes together */
    uint64_t shared_memory; /* bytes of the segment that dictionaries have */
    uint64_t topic_ring;    /* bytes of it for what topics carry between server processes */
    /* for all states of a server process */
    uint64_t channels, channel_bytes;
    uint64_t topic_bytes; /* of what one subscriber has not taken yet */
} fl_settings;

/* Reads the merged table at `index`. Returns 0, UV_EINVAL with a Lua string naming the key pushed,
 * or UV_ENOMEM.   [-0, +0|1, e] */
int fl_settings_read(fl_settings *settings, lua_State *L, int index);
void fl_settings_close(fl_settings *settings);

/* The name of the setting at `index` from 0, or NULL behind the last one: all but `home` and
 * `apps`, which are found and not set. */
const char *fl_settings_name(size_t index);

#endif
