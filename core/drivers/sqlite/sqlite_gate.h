/* sqlite_gate: keeps one connection's checkpoint apart from another's commits, in other processes
 * too: SQLite up to 3.51.2 may corrupt a file when both happen at the same instant.
 *
 * A file beside the database is locked: shared by who writes, exclusively by who checkpoints.
 * Who comes to write goes past a turnstile first, which a checkpoint closes: so writers that never
 * cease cannot hold it off for ever.
 *
 * Owner: a connection, on its thread; open ⇒ close. */
#ifndef FL_SQLITE_GATE_H
#define FL_SQLITE_GATE_H

#include <stdbool.h>

typedef struct fl_sqlite_gate {
    int descriptor; /* -1: there is nobody else */
} fl_sqlite_gate;

/* 0 or -1 with errno. */
int fl_sqlite_gate_open(fl_sqlite_gate *gate, const char *database);
void fl_sqlite_gate_close(fl_sqlite_gate *gate);

/* Waits as long as `patient(data)` says so. Whether it got through. */
typedef bool (*fl_sqlite_patience)(void *data);
bool fl_sqlite_gate_enter(fl_sqlite_gate *gate, fl_sqlite_patience patient, void *data);
void fl_sqlite_gate_leave(fl_sqlite_gate *gate);

bool fl_sqlite_gate_shut(fl_sqlite_gate *gate, fl_sqlite_patience patient, void *data);
void fl_sqlite_gate_reopen(fl_sqlite_gate *gate);

#endif
