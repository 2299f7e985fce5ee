/* sqlite_file: a database file as this server process has it, for all its Lua states: one thread
 * that writes and up to eight that read, started when there is something to do.
 *
 * Known by its path: who opens it again gets the same one. It ends when nobody uses it any more:
 * its threads finish, the last of them frees it. Reference-counted beyond that: seats and links
 * hold it. *Any* thread; what is not said to be constant is guarded by its lock. */
#ifndef FL_SQLITE_FILE_H
#define FL_SQLITE_FILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "sqlite_options.h"
#include "sqlite_queue.h"

#define FL_SQLITE_WAITING_MOST 100000 /* jobs, in each queue */
#define FL_SQLITE_SEATED_MOST 16      /* sessions that read at once */

typedef struct fl_sqlite_worker fl_sqlite_worker;

typedef struct fl_sqlite_file {
    struct fl_sqlite_file *next; /* of those that are open */
    unsigned users;              /* with the lock of the registry */
    _Atomic unsigned references;
    fl_sqlite_options options; /* constant: of whoever came first */
    _Atomic bool ending;
    pthread_mutex_t lock;
    pthread_cond_t quiet; /* a thread has ended */
    bool ready;           /* the writer has opened it: it can be read */
    fl_sqlite_queue writes, reads;
    fl_sqlite_queue sittings; /* of sessions: they may have a reader for themselves for long */
    _Atomic unsigned reads_waiting; /* in both, for a glance without the lock */
    fl_sqlite_worker *writer;       /* NULL: not started */
    fl_sqlite_worker *idle;         /* readers that sleep, the last one first */
    unsigned readers, idle_readers;
    unsigned slow_readers; /* that will not be free in a moment */
    unsigned seated;       /* readers that sessions have: beside those that the options allow */
    unsigned threads, sessions;
} fl_sqlite_file;

/* The file that the options are about; takes them over. NULL: no memory. */
fl_sqlite_file *fl_sqlite_file_open(const fl_sqlite_options *options);
void fl_sqlite_file_leave(fl_sqlite_file *file); /* one user less; never waits */
void fl_sqlite_file_wait(fl_sqlite_file *file);  /* *loop*: until its threads have ended, if so */
void fl_sqlite_file_hold(fl_sqlite_file *file);
void fl_sqlite_file_release(fl_sqlite_file *file);

/* Empties the queue, which is the caller's own. */
void fl_sqlite_file_submit(fl_sqlite_file *file, fl_sqlite_queue *jobs);
/* true: nobody had taken it up, and the queue's reference is the caller's. */
bool fl_sqlite_file_withdraw(fl_sqlite_file *file, fl_sqlite_job *job);

bool fl_sqlite_file_is_quick(const fl_sqlite_job *job); /* its statement is known for that */

/* With the lock. */
void fl_sqlite_file_push(fl_sqlite_file *file, fl_sqlite_job *job); /* into the queue it is for */
void fl_sqlite_file_push_write(fl_sqlite_file *file, fl_sqlite_job *job);
bool fl_sqlite_file_is_write(const fl_sqlite_file *file, const fl_sqlite_job *job);
void fl_sqlite_file_help(fl_sqlite_file *file); /* more readers, if there is need */
bool fl_sqlite_file_can_read(const fl_sqlite_file *file);
fl_sqlite_job *fl_sqlite_file_take_read(fl_sqlite_file *file);         /* NULL: nothing waits */
const fl_sqlite_job *fl_sqlite_file_first(const fl_sqlite_file *file); /* of any that waits */

#endif
