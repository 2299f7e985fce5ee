/* resolve: a host's addresses, looked up on the housekeeping loop for a Lua state: a look-up hangs
 * in the loop it was begun on, which an evacuation would abandon.
 *
 * *loop* of the state's thread. From fl_resolve_start until `ended` is called, or
 * fl_resolve_cancel, whoever started it has the fl_resolve; after either it is gone. It ends within
 * FL_RESOLVE_PATIENCE; a look-up that goes on after that, or is cancelled, is heard of no more.
 * When the state is given up nobody is told. */
#ifndef FL_RESOLVE_H
#define FL_RESOLVE_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#define FL_RESOLVE_MOST 8         /* addresses of a host that are kept */
#define FL_RESOLVE_PATIENCE 10000 /* ms */

typedef struct fl_state fl_state;
typedef struct fl_resolve fl_resolve;

typedef union fl_resolved_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} fl_resolved_address;

typedef struct fl_resolved {
    int error;      /* negative uv code; 0: there is at least one */
    unsigned count; /* in the order of preference */
    fl_resolved_address addresses[FL_RESOLVE_MOST];
} fl_resolved;

typedef void (*fl_resolve_ended)(void *data, const fl_resolved *result);

/* What needs no look-up: true, and the one address, when the name is a number. *any* */
bool fl_resolve_number(const char *name, uint16_t port, fl_resolved *result);

/* Copies the name. 0: `ended` will be called, never from here; or a negative uv code. */
int fl_resolve_start(fl_resolve **out, fl_state *state, const char *name, uint16_t port,
                     fl_resolve_ended ended, void *data);
void fl_resolve_cancel(fl_resolve *resolve); /* `ended` is not called any more */

#endif
