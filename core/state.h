/* state: one Lua VM with one app loaded in it.
 *
 * Owner: a thread (thread.h), at *boot* and *loop*. Holds the app's router, its routes' functions,
 * its tasks, and an allocator that counts bytes. The cap (settings->lua_memory) is enforced only
 * while Lua runs protected, so that C never meets an allocation failure outside; past 60 % of it a
 * full collection runs at the next safe point, because LuaJIT has no emergency collection. */
#ifndef FL_STATE_H
#define FL_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include <lauxlib.h>
#include <lua.h>

#include "address.h"
#include "jit.h"
#include "ledger.h"
#include "metrics.h"
#include "op.h"
#include "router.h"
#include "settings.h"
#include "slots.h"
#include "task.h"

typedef struct fl_thread fl_thread;
typedef struct fl_readiness fl_readiness;
typedef struct fl_db fl_db;
typedef struct fl_pool fl_pool;
typedef struct fl_job fl_job;

typedef struct fl_route {
    char *method, *pattern;
    char *title;                     /* "GET /items/{id}", for logs */
    int handler;                     /* registry reference */
    int names[FL_ROUTER_PARAMETERS]; /* of its path parameters, in order: registry references */
    uint64_t timeout;                /* ms; 0: none */
    uint64_t max_body;
    uint64_t stuck, blocked; /* ns; 0: never */
    bool cancel;             /* cancelled when the client leaves */
    bool replay;             /* may run once more when its state had to be given up */
    fl_pool *pool;           /* where its handler runs; NULL: here */
    uint32_t ledger;
    fl_route_metrics *metrics;
} fl_route;

typedef struct fl_memory { /* the allocator's account */
    lua_Alloc allocate;
    void *data;
    size_t used, cap, high;
    bool enforced; /* Lua runs protected */
    bool refused;  /* `used` would have passed the cap */
    bool collect;  /* it passed `high` */
    bool large;    /* the collector is set for a large heap */
} fl_memory;

struct fl_state {
    fl_state *next; /* discarded ones of a thread */
    lua_State *L;
    fl_thread *thread;
    fl_address *address;
    const fl_app_place *app;
    unsigned number; /* of the app, in the server's order */
    fl_slice prefix; /* app->prefix */
    fl_router *router;
    fl_route *routes;
    uint32_t route_count;
    int fallback, start, stop; /* registry references, LUA_NOREF when the app has none */
    int params_key;            /* "params", interned */
    int request_metatable;     /* registry references too */
    int stream;                /* (handle, fn): runs fl.stream's function */
    int explain;               /* (error, traceback) -> text, for logs */
    int describe;              /* (error, traceback) -> both, able to cross between states; text */
    int run_map, run_stream;   /* (fn, …): kinds of jobs */
    bool is_pooled;            /* of a pool's thread: the app is loaded when a route needs it */
    bool is_loaded;
    fl_memory memory;
    fl_jit jit;
    uint64_t jit_asked; /* ms of its loop */
    fl_slots task_slots;
    fl_task *free_tasks;
    unsigned free_count;
    fl_task *ready, **ready_last;
    fl_task *own_tasks; /* without a request */
    fl_task *running;
    fl_op *ops;
    const void *op_metatable;
    int op_metatable_reference;
    const void *db_metatable; /* of a database's handle; NULL: none was opened yet */
    fl_readiness *readiness;  /* descriptors that it waits for */
    fl_db *databases;         /* that it has opened */
    fl_job *kept_jobs;        /* to be used again: see job.h */
    unsigned kept_job_count;
    unsigned live_tasks;
};

/* Registers every C module in package.preload, for the boot state too.  [-0, +0, e] */
void fl_state_preload(lua_State *L);

/* *boot*: makes the VM and loads the app. 0, or a negative uv code with why in `error`; `*out` is
 * to be freed in both cases. */
int fl_state_new(fl_state **out, fl_thread *thread, const fl_app_place *app, char *error,
                 size_t error_size);
/* *loop* of a pool's thread: makes the VM with the framework alone; `cap` bytes of Lua heap. */
int fl_state_new_pooled(fl_state **out, fl_thread *thread, const fl_app_place *app, size_t cap,
                        char *error, size_t error_size);
/* *loop*: loads the app in a pooled state, unless that has been done. */
int fl_state_load(fl_state *state, char *error, size_t error_size);
void fl_state_free(fl_state *state);

/* *loop* of a web thread that has its number: where its requests are counted and named. */
int fl_state_register_routes(fl_state *state);

/* *loop*, between two turns, after a pool's job: collects when memory ran high, and notes that
 * machine code was thrown away. */
void fl_state_safe_point(fl_state *state);

/* The state that L belongs to; NULL in the boot state. */
fl_state *fl_state_of(lua_State *L);

/* Registers "name" -> C function in the table on top. */
void fl_state_functions(lua_State *L, const luaL_Reg *functions);

#endif
