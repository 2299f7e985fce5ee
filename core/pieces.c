#include "pieces.h"

#include <stddef.h>
#include <stdlib.h>

#include "task.h"

int fl_pieces_new(fl_job *job)
{
    fl_pieces *pieces = calloc(1, sizeof(*pieces));
    if (!pieces) return UV_ENOMEM;
    pieces->job = job;
    pieces->last = &pieces->first;
    fl_parcel_init(&pieces->draft);
    pthread_mutex_init(&pieces->lock, NULL);
    job->pieces = pieces;
    return 0;
}

void fl_piece_free(fl_piece *piece)
{
    fl_parcel_close(&piece->values);
    free(piece);
}

static void free_list(fl_piece *piece)
{
    while (piece) {
        fl_piece *next = piece->next;
        fl_piece_free(piece);
        piece = next;
    }
}

void fl_pieces_free(fl_pieces *pieces)
{
    free_list(pieces->first);
    fl_parcel_close(&pieces->draft);
    if (pieces->producer) fl_address_release(pieces->producer);
    pthread_mutex_destroy(&pieces->lock);
    free(pieces);
}

/* letters, which hold the job */

static fl_pieces *of_news(fl_letter *letter)
{
    return (fl_pieces *)((char *)letter - offsetof(fl_pieces, news));
}

static fl_pieces *of_room(fl_letter *letter)
{
    return (fl_pieces *)((char *)letter - offsetof(fl_pieces, room));
}

static void set(fl_pieces *pieces, bool *flag, bool value)
{
    pthread_mutex_lock(&pieces->lock);
    *flag = value;
    pthread_mutex_unlock(&pieces->lock);
}

static void deliver_news(fl_letter *letter, fl_state *state)
{
    (void)state;
    fl_pieces *pieces = of_news(letter);
    fl_job *job = pieces->job;
    set(pieces, &pieces->told, false); /* from here on it may be posted again */
    if (job->waiter) job->arrived(job);
    fl_job_release(job);
}

static void drop_news(fl_letter *letter)
{
    fl_job_release(of_news(letter)->job);
}

static void deliver_room(fl_letter *letter, fl_state *state)
{
    fl_pieces *pieces = of_room(letter);
    pthread_mutex_lock(&pieces->lock);
    pieces->calling = false;
    double ticket = pieces->ticket;
    pthread_mutex_unlock(&pieces->lock);
    (void)fl_task_wake(state, ticket);
    fl_job_release(pieces->job);
}

static void drop_room(fl_letter *letter)
{
    fl_job_release(of_room(letter)->job);
}

static void post(fl_pieces *pieces, fl_address *to, fl_letter *letter)
{
    fl_job_hold(pieces->job);
    if (fl_address_post(to, letter) < 0) fl_job_release(pieces->job);
}

/* the producer */

void fl_pieces_begin(fl_pieces *pieces, fl_address *producer)
{
    fl_address_hold(producer);
    pthread_mutex_lock(&pieces->lock);
    pieces->producer = producer;
    pthread_mutex_unlock(&pieces->lock);
}

static bool has_room(const fl_pieces *pieces)
{
    return !pieces->closed && pieces->count < FL_PIECES_MOST && pieces->bytes < FL_PIECES_BYTES;
}

bool fl_pieces_has_room(fl_pieces *pieces)
{
    pthread_mutex_lock(&pieces->lock);
    bool room = has_room(pieces);
    pthread_mutex_unlock(&pieces->lock);
    return room;
}

bool fl_pieces_wait(fl_pieces *pieces, double ticket)
{
    pthread_mutex_lock(&pieces->lock);
    pieces->waits = !has_room(pieces);
    pieces->ticket = ticket;
    bool waits = pieces->waits;
    pthread_mutex_unlock(&pieces->lock);
    return waits;
}

static size_t size_of(const fl_parcel *parcel)
{
    size_t size = parcel->bytes.size;
    for (size_t i = 0; i < parcel->blob_count; i++) size += parcel->blobs[i].size;
    return size;
}

static bool append(fl_pieces *pieces, fl_piece *piece)
{
    *pieces->last = piece;
    pieces->last = &piece->next;
    pieces->count++;
    pieces->bytes += piece->bytes;
    bool tell = !pieces->told;
    pieces->told = true;
    return tell;
}

int fl_pieces_put(fl_pieces *pieces)
{
    fl_piece *piece = calloc(1, sizeof(*piece));
    if (!piece) return UV_ENOMEM;
    piece->values = pieces->draft;
    piece->bytes = size_of(&piece->values);
    fl_parcel_init(&pieces->draft);
    pthread_mutex_lock(&pieces->lock);
    bool closed = pieces->closed, tell = !closed && append(pieces, piece);
    pthread_mutex_unlock(&pieces->lock);
    if (closed) fl_piece_free(piece);
    if (!tell) return 0;
    pieces->news = (fl_letter){.deliver = deliver_news, .drop = drop_news};
    post(pieces, pieces->job->reply, &pieces->news);
    return 0;
}

/* the consumer */

/* With the lock held. Half of it free, so that not every piece wakes the producer. */
static bool call(fl_pieces *pieces)
{
    bool free = pieces->count <= FL_PIECES_MOST / 2 && pieces->bytes <= FL_PIECES_BYTES / 2;
    if (!pieces->waits || pieces->calling || !free) return false;
    pieces->waits = false;
    pieces->calling = true;
    return true;
}

static fl_piece *take(fl_pieces *pieces)
{
    fl_piece *piece = pieces->first;
    if (!piece) return NULL;
    pieces->first = piece->next;
    if (!pieces->first) pieces->last = &pieces->first;
    pieces->count--;
    pieces->bytes -= piece->bytes;
    return piece;
}

fl_piece *fl_pieces_take(fl_pieces *pieces)
{
    pthread_mutex_lock(&pieces->lock);
    fl_piece *piece = take(pieces);
    bool calling = piece && call(pieces);
    pthread_mutex_unlock(&pieces->lock);
    if (calling) {
        pieces->room = (fl_letter){.deliver = deliver_room, .drop = drop_room};
        post(pieces, pieces->producer, &pieces->room);
    }
    return piece;
}

bool fl_pieces_are_there(fl_pieces *pieces)
{
    pthread_mutex_lock(&pieces->lock);
    bool there = pieces->first != NULL;
    pthread_mutex_unlock(&pieces->lock);
    return there;
}

void fl_pieces_close(fl_pieces *pieces)
{
    pthread_mutex_lock(&pieces->lock);
    fl_piece *list = pieces->first;
    pieces->first = NULL;
    pieces->last = &pieces->first;
    pieces->count = 0;
    pieces->bytes = 0;
    pieces->closed = true;
    pthread_mutex_unlock(&pieces->lock);
    free_list(list);
}
