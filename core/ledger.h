/* ledger: which requests are in flight, in memory shared with the supervisor, so that the log can
 * name them after the server process was killed.
 *
 * Owner: the supervisor makes one (memfd) for each server process, which maps it and trusts its
 * numbers of threads and slots rather than its own settings. A web thread writes only the slots of
 * its own range, with two plain stores per request; the supervisor reads it when the process is
 * dead, and believes nothing of what it reads. Routes are registered at *boot*. */
#ifndef FL_LEDGER_H
#define FL_LEDGER_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "slice.h"

#define FL_LEDGER_ROUTES 16384

typedef struct fl_ledger fl_ledger;

/* Written by its web thread alone, read by the watch thread and the supervisor: relaxed atomics, so
 * that a store costs no more than a plain one. */
typedef struct fl_ledger_slot {
    _Atomic uint64_t request; /* see request id below; 0 = free */
    _Atomic uint32_t route;   /* index from fl_ledger_route */
    _Atomic uint32_t in_lua;  /* 1 while this request's Lua runs */
} fl_ledger_slot;

static inline void fl_ledger_note_request(fl_ledger_slot *slot, uint64_t request)
{
    atomic_store_explicit(&slot->request, request, memory_order_relaxed);
    atomic_store_explicit(&slot->route, 0, memory_order_relaxed);
}

static inline void fl_ledger_note_route(fl_ledger_slot *slot, uint32_t route)
{
    atomic_store_explicit(&slot->route, route, memory_order_relaxed);
}

static inline void fl_ledger_note_running(fl_ledger_slot *slot, uint32_t in_lua)
{
    atomic_store_explicit(&slot->in_lua, in_lua, memory_order_relaxed);
}

/* The supervisor: makes an empty one for `threads` web threads of `slots` requests each; the fd is
 * passed to the child and closed by the caller. The child: maps it; the fd stays the caller's. Both
 * return 0 or a negative uv code. */
int fl_ledger_create(fl_ledger **out, int *fd, unsigned threads, unsigned slots);
int fl_ledger_map(fl_ledger **out, int fd);
void fl_ledger_close(fl_ledger *ledger);

unsigned fl_ledger_threads(const fl_ledger *ledger);
unsigned fl_ledger_slots_each(const fl_ledger *ledger); /* of one thread */

/* *boot*, any thread: registers "GET /users/{id}" once and returns its index (the same for the
 * same text, which is cut when it is very long); 0 when the table is full ("?"). */
uint32_t fl_ledger_route(fl_ledger *ledger, fl_slice method, fl_slice pattern);
fl_ledger_slot *fl_ledger_slots(fl_ledger *ledger, unsigned thread); /* first slot of a thread */
uint32_t fl_ledger_boot(const fl_ledger *ledger); /* random, part of every request id */

/* The supervisor: "GET /x (request 1f03c1ab-1-2a, running), …": up to `most`, those that were in
 * Lua first, then "and N more". Returns how many were in flight. */
unsigned fl_ledger_describe(const fl_ledger *ledger, fl_buffer *out, unsigned most);

/* Any thread: a route's text, cut to fit and NUL-terminated; returns its length. */
size_t fl_ledger_route_text(const fl_ledger *ledger, uint32_t route, char *out, size_t size);

/* A request's id is text made of the boot id and its number (thread << 48 | counter), at most 40
 * characters and unique on this machine: "9f03c1ab-1-2a". Returns its length. */
size_t fl_request_id(char id[40], uint32_t boot, uint64_t number);

#endif
