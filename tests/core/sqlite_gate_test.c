#include "drivers/sqlite/sqlite_gate.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "test.h"

static char folder[] = "/tmp/fasterlua-gate-XXXXXX";
static char database[64], side[96];

static bool never(void *data)
{
    (void)data;
    return false;
}

static bool always(void *data)
{
    (void)data;
    return true;
}

static void open_three(fl_sqlite_gate gates[3])
{
    if (database[0] == '\0' && mkdtemp(folder)) {
        (void)snprintf(database, sizeof(database), "%s/a.db", folder);
        (void)snprintf(side, sizeof(side), "%s-fasterlua.lock", database);
    }
    for (int i = 0; i < 3; i++) (void)fl_sqlite_gate_open(&gates[i], database);
}

static void close_three(fl_sqlite_gate gates[3])
{
    for (int i = 0; i < 3; i++) fl_sqlite_gate_close(&gates[i]);
}

TEST(several_may_write)
{
    fl_sqlite_gate gates[3];
    open_three(gates);
    CHECK(gates[0].descriptor >= 0);
    CHECK(fl_sqlite_gate_enter(&gates[0], never, NULL));
    CHECK(fl_sqlite_gate_enter(&gates[1], never, NULL));
    close_three(gates);
}

TEST(nobody_checkpoints_while_one_writes)
{
    fl_sqlite_gate gates[3];
    open_three(gates);
    CHECK(fl_sqlite_gate_enter(&gates[0], never, NULL));
    CHECK(!fl_sqlite_gate_shut(&gates[1], never, NULL));
    CHECK(fl_sqlite_gate_enter(&gates[2], never, NULL)); /* giving up has opened the turnstile */
    fl_sqlite_gate_leave(&gates[0]);
    fl_sqlite_gate_leave(&gates[2]);
    CHECK(fl_sqlite_gate_shut(&gates[1], never, NULL));
    close_three(gates);
}

TEST(nobody_writes_while_one_checkpoints)
{
    fl_sqlite_gate gates[3];
    open_three(gates);
    CHECK(fl_sqlite_gate_shut(&gates[0], never, NULL));
    CHECK(!fl_sqlite_gate_enter(&gates[1], never, NULL));
    CHECK(!fl_sqlite_gate_shut(&gates[2], never, NULL));
    fl_sqlite_gate_reopen(&gates[0]);
    CHECK(fl_sqlite_gate_enter(&gates[1], never, NULL));
    close_three(gates);
}

typedef struct writers {
    fl_sqlite_gate *gate;
    _Atomic bool *over;
} writers;

/* Two of them: one enters before the other leaves. */
static void *write_on(void *data)
{
    writers *self = data;
    while (!atomic_load(self->over)) {
        (void)fl_sqlite_gate_enter(self->gate, always, NULL);
        (void)nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
        fl_sqlite_gate_leave(self->gate);
    }
    return NULL;
}

static bool patient_for_a_while(void *data)
{
    return --*(int *)data > 0;
}

TEST(writers_that_never_cease_do_not_hold_off_a_checkpoint)
{
    fl_sqlite_gate gates[3];
    pthread_t threads[2];
    _Atomic bool over = false;
    open_three(gates);
    writers two[2] = {{&gates[0], &over}, {&gates[1], &over}};
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, write_on, &two[i]);
    int naps = 2000, times = 0;
    while (times < 20 && fl_sqlite_gate_shut(&gates[2], patient_for_a_while, &naps)) {
        fl_sqlite_gate_reopen(&gates[2]);
        times++;
    }
    atomic_store(&over, true);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK_EQUAL_INT(times, 20);
    close_three(gates);
}

TEST(a_missing_folder_is_an_error)
{
    fl_sqlite_gate gate;
    CHECK(fl_sqlite_gate_open(&gate, "/nowhere/at/all.db") < 0);
    (void)unlink(side);
    (void)rmdir(folder);
}

TEST_MAIN
