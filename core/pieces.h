/* pieces: what a streaming job has yielded and its waiter has not taken yet.
 *
 * Owner: the job. The *producer* is the pool's thread that runs the job, the *consumer* the thread
 * that waits for it; both look at it under its lock. At most FL_PIECES_MOST pieces, and no further
 * one once they hold FL_PIECES_BYTES, are under way: then the producer's task waits. Each side
 * tells the other by a letter, of which one is under way at a time. */
#ifndef FL_PIECES_H
#define FL_PIECES_H

#include <pthread.h>
#include <stdbool.h>

#include "job.h"

#define FL_PIECES_MOST 16
#define FL_PIECES_BYTES (1u << 20)

typedef struct fl_piece fl_piece;
struct fl_piece {
    fl_piece *next;
    fl_parcel values;
    size_t bytes;
};

struct fl_pieces {
    fl_job *job;
    fl_parcel draft; /* the producer's: what it packs */

    pthread_mutex_t lock;
    fl_piece *first, **last;
    unsigned count;
    size_t bytes;
    bool closed;  /* the consumer wants no more */
    bool told;    /* `news` is under way */
    bool waits;   /* the producer's task does, with this ticket */
    bool calling; /* `room` is under way */
    double ticket;
    fl_address *producer; /* held; NULL until it has begun */
    fl_letter news, room;
};

int fl_pieces_new(fl_job *job); /* becomes job->pieces */
void fl_pieces_free(fl_pieces *pieces);

/* The producer. */
void fl_pieces_begin(fl_pieces *pieces, fl_address *producer);
bool fl_pieces_has_room(fl_pieces *pieces);
/* The ticket is used once there is room; false: there is already. */
bool fl_pieces_wait(fl_pieces *pieces, double ticket);
int fl_pieces_put(fl_pieces *pieces); /* the draft. 0 or UV_ENOMEM */

/* The consumer. */
fl_piece *fl_pieces_take(fl_pieces *pieces); /* NULL: there is none */
bool fl_pieces_are_there(fl_pieces *pieces);
void fl_pieces_close(fl_pieces *pieces); /* drops what there is; no room from now on */
void fl_piece_free(fl_piece *piece);

#endif
