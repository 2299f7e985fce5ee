/* Locks, in order: the registry's, a channel's, a mailbox's. A wait is referred to by its state's
 * op, by the line it stands in and then by its letter, and by its lease. */
#include "channel.h"

#include <stdio.h>
#include <stdlib.h>

#define BUCKETS 256

typedef struct wait_line {
    fl_channel_wait *first, **last;
} wait_line;

struct fl_channel {
    fl_channel *next; /* of its bucket */
    fl_channels *channels;
    _Atomic unsigned handles; /* waits have one too; from 0 up with the registry's lock */
    unsigned app;
    size_t size;
    pthread_mutex_t lock;
    fl_channel_item *first, **last;
    size_t length, bytes, lent;
    uint64_t number;
    wait_line putters, takers;
    bool closed;
    char name[];
};

struct fl_channels {
    pthread_mutex_t lock;
    size_t most, bytes, count;
    fl_channel *buckets[BUCKETS];
};

/* items */

fl_channel_item *fl_channel_item_new(void)
{
    fl_channel_item *item = calloc(1, sizeof(*item));
    if (!item) return NULL;
    atomic_init(&item->references, 1);
    fl_parcel_init(&item->parcel);
    return item;
}

void fl_channel_item_release(fl_channel_item *item)
{
    if (atomic_fetch_sub_explicit(&item->references, 1, memory_order_acq_rel) != 1) return;
    fl_parcel_close(&item->parcel);
    free(item);
}

static size_t bytes_of(const fl_channel_item *item)
{
    const fl_parcel *parcel = &item->parcel;
    size_t bytes = sizeof(*item) + parcel->bytes.capacity;
    for (size_t i = 0; i < parcel->blob_count; i++) bytes += parcel->blobs[i].size;
    return bytes;
}

static void append(fl_channel *channel, fl_channel_item *item)
{
    item->next = NULL;
    item->number = channel->number++;
    *channel->last = item;
    channel->last = &item->next;
    channel->length++;
    channel->bytes += item->bytes;
}

static fl_channel_item *take_first(fl_channel *channel)
{
    fl_channel_item *item = channel->first;
    channel->first = item->next;
    if (!channel->first) channel->last = &channel->first;
    channel->length--;
    channel->bytes -= item->bytes;
    return item;
}

/* Where it was: before all that were put later. */
static void put_back(fl_channel *channel, fl_channel_item *item)
{
    fl_channel_item **place = &channel->first;
    while (*place && (*place)->number < item->number) place = &(*place)->next;
    item->next = *place;
    *place = item;
    if (!item->next) channel->last = &item->next;
    channel->length++;
    channel->bytes += item->bytes;
}

static bool has_room(const fl_channel *channel, const fl_channel_item *item)
{
    return channel->length < channel->size &&
           channel->bytes + item->bytes <= channel->channels->bytes;
}

/* waits */

fl_channel_wait *fl_channel_wait_new(fl_channel *channel, fl_address *address)
{
    fl_channel_wait *wait = calloc(1, sizeof(*wait));
    if (!wait) return NULL;
    atomic_init(&wait->references, 1);
    wait->channel = channel;
    atomic_fetch_add(&channel->handles, 1);
    wait->address = address;
    fl_address_hold(address);
    return wait;
}

static void hold(fl_channel_wait *wait)
{
    atomic_fetch_add_explicit(&wait->references, 1, memory_order_relaxed);
}

void fl_channel_wait_release(fl_channel_wait *wait)
{
    if (atomic_fetch_sub_explicit(&wait->references, 1, memory_order_acq_rel) != 1) return;
    if (wait->item) fl_channel_item_release(wait->item);
    fl_address_release(wait->address);
    fl_channel_close_handle(wait->channel);
    free(wait);
}

static void line_init(wait_line *line)
{
    line->first = NULL;
    line->last = &line->first;
}

static void stand_in(wait_line *line, fl_channel_wait *wait)
{
    hold(wait);
    wait->next = NULL;
    wait->link = line->last;
    *line->last = wait;
    line->last = &wait->next;
}

/* The line's reference is the caller's now. */
static void leave(wait_line *line, fl_channel_wait *wait)
{
    *wait->link = wait->next;
    if (wait->next)
        wait->next->link = wait->link;
    else
        line->last = wait->link;
    wait->link = NULL;
}

static fl_channel_wait *wait_of_letter(fl_letter *letter)
{
    return (fl_channel_wait *)((char *)letter - offsetof(fl_channel_wait, letter));
}

static void deliver(fl_letter *letter, fl_state *state)
{
    (void)state;
    fl_channel_wait *wait = wait_of_letter(letter);
    if (wait->waiter)
        wait->ended(wait);
    else
        fl_channel_give_back(wait);
    fl_channel_wait_release(wait);
}

static void drop(fl_letter *letter)
{
    fl_channel_wait *wait = wait_of_letter(letter);
    fl_channel_give_back(wait);
    fl_channel_wait_release(wait);
}

/* With the line's reference. false: the state is gone. */
static bool tell(fl_channel_wait *wait)
{
    wait->letter = (fl_letter){.deliver = deliver, .drop = drop};
    return fl_address_post(wait->address, &wait->letter) == 0;
}

static void match(fl_channel *channel);

/* With the channel's lock held: the lease is over. */
static void take_back(fl_channel_wait *wait)
{
    fl_channel *channel = wait->channel;
    put_back(channel, wait->item);
    wait->item = NULL;
    channel->lent--;
}

static void released(fl_lease *lease)
{
    fl_channel_wait *wait = (fl_channel_wait *)((char *)lease - offsetof(fl_channel_wait, lease));
    fl_channel *channel = wait->channel;
    pthread_mutex_lock(&channel->lock);
    take_back(wait);
    match(channel);
    pthread_mutex_unlock(&channel->lock);
    fl_channel_wait_release(wait);
}

/* With the channel's lock held. */
static bool lend(fl_channel_wait *wait)
{
    fl_channel *channel = wait->channel;
    wait->lease.released = released;
    hold(wait);
    if (fl_address_lend(wait->address, &wait->lease) < 0) {
        fl_channel_wait_release(wait);
        return false;
    }
    wait->item = take_first(channel);
    channel->lent++;
    return true;
}

/* The first item to the first taker. */
static void serve_taker(fl_channel *channel)
{
    fl_channel_wait *wait = channel->takers.first;
    leave(&channel->takers, wait);
    if (lend(wait)) {
        if (tell(wait)) return;
        if (fl_address_give_back(wait->address, &wait->lease)) { /* else it is being released */
            take_back(wait);
            fl_channel_wait_release(wait);
        }
    }
    fl_channel_wait_release(wait);
}

/* What the first putter has goes in, unless its state is gone. */
static void serve_putter(fl_channel *channel)
{
    fl_channel_wait *wait = channel->putters.first;
    leave(&channel->putters, wait);
    fl_channel_item *item = wait->item;
    wait->item = NULL;
    if (tell(wait)) {
        append(channel, item);
    } else {
        fl_channel_item_release(item);
        fl_channel_wait_release(wait);
    }
}

static void end_all(wait_line *line)
{
    while (line->first) {
        fl_channel_wait *wait = line->first;
        leave(line, wait);
        wait->is_closed = true;
        if (!tell(wait)) fl_channel_wait_release(wait);
    }
}

/* After every change, with the lock held: nobody waits for what is there. */
static void match(fl_channel *channel)
{
    for (;;) {
        if (channel->first && channel->takers.first)
            serve_taker(channel);
        else if (channel->putters.first && has_room(channel, channel->putters.first->item))
            serve_putter(channel);
        else
            break;
    }
    if (channel->closed && !channel->first && !channel->lent) end_all(&channel->takers);
}

/* putting and taking */

static int put(fl_channel *channel, fl_channel_wait *wait, bool waits)
{
    fl_channel_item *item = wait->item;
    if (channel->closed) return UV_EOF;
    if (item->bytes > channel->channels->bytes) return UV_E2BIG;
    if (channel->putters.first || !has_room(channel, item)) {
        if (waits) stand_in(&channel->putters, wait);
        return UV_EAGAIN;
    }
    wait->item = NULL;
    append(channel, item);
    match(channel);
    return 0;
}

int fl_channel_put(fl_channel_wait *wait, bool waits)
{
    fl_channel *channel = wait->channel;
    wait->item->bytes = bytes_of(wait->item);
    pthread_mutex_lock(&channel->lock);
    int status = put(channel, wait, waits);
    pthread_mutex_unlock(&channel->lock);
    return status;
}

static int take(fl_channel *channel, fl_channel_wait *wait, bool waits)
{
    wait->is_taker = true;
    if (channel->first) {
        if (!lend(wait)) return UV_ECANCELED;
        match(channel);
        return 0;
    }
    if (channel->closed && !channel->lent) return UV_EOF;
    if (waits) stand_in(&channel->takers, wait);
    return UV_EAGAIN;
}

int fl_channel_take(fl_channel_wait *wait, bool waits)
{
    fl_channel *channel = wait->channel;
    pthread_mutex_lock(&channel->lock);
    int status = take(channel, wait, waits);
    pthread_mutex_unlock(&channel->lock);
    return status;
}

void fl_channel_cancel(fl_channel_wait *wait)
{
    fl_channel *channel = wait->channel;
    wait->waiter = NULL;
    pthread_mutex_lock(&channel->lock);
    bool in_line = wait->link != NULL;
    if (in_line) {
        leave(wait->is_taker ? &channel->takers : &channel->putters, wait);
        match(channel); /* a smaller item may fit */
    }
    pthread_mutex_unlock(&channel->lock);
    if (!in_line) return;
    if (wait->item) fl_channel_item_release(wait->item);
    wait->item = NULL;
    fl_channel_wait_release(wait);
}

fl_channel_item *fl_channel_look(fl_channel_wait *wait)
{
    fl_channel *channel = wait->channel;
    pthread_mutex_lock(&channel->lock);
    fl_channel_item *item = wait->item;
    if (item) atomic_fetch_add_explicit(&item->references, 1, memory_order_relaxed);
    pthread_mutex_unlock(&channel->lock);
    return item;
}

bool fl_channel_received(fl_channel_wait *wait)
{
    fl_channel *channel = wait->channel;
    if (!fl_address_give_back(wait->address, &wait->lease)) return false;
    pthread_mutex_lock(&channel->lock);
    fl_channel_item *item = wait->item;
    wait->item = NULL;
    channel->lent--;
    if (channel->closed) match(channel);
    pthread_mutex_unlock(&channel->lock);
    fl_channel_item_release(item);
    fl_channel_wait_release(wait);
    return true;
}

void fl_channel_give_back(fl_channel_wait *wait)
{
    if (fl_address_give_back(wait->address, &wait->lease)) released(&wait->lease);
}

void fl_channel_end(fl_channel *channel)
{
    pthread_mutex_lock(&channel->lock);
    channel->closed = true;
    end_all(&channel->putters);
    match(channel);
    pthread_mutex_unlock(&channel->lock);
}

size_t fl_channel_length(fl_channel *channel)
{
    pthread_mutex_lock(&channel->lock);
    size_t length = channel->length;
    pthread_mutex_unlock(&channel->lock);
    return length;
}

const char *fl_channel_name(const fl_channel *channel)
{
    return channel->name;
}

size_t fl_channel_size(const fl_channel *channel)
{
    return channel->size;
}

size_t fl_channel_bytes_most(const fl_channel *channel)
{
    return channel->channels->bytes;
}

/* the registry */

int fl_channels_new(fl_channels **out, size_t most, size_t bytes)
{
    fl_channels *channels = *out = calloc(1, sizeof(*channels));
    if (!channels) return UV_ENOMEM;
    pthread_mutex_init(&channels->lock, NULL);
    channels->most = most;
    channels->bytes = bytes;
    return 0;
}

/* Of states that have been given up. */
static void leave_all(wait_line *line)
{
    while (line->first) {
        fl_channel_wait *wait = line->first;
        leave(line, wait);
        fl_channel_wait_release(wait);
    }
}

static void channel_free(fl_channel *channel)
{
    leave_all(&channel->putters);
    leave_all(&channel->takers);
    while (channel->first) fl_channel_item_release(take_first(channel));
    pthread_mutex_destroy(&channel->lock);
    free(channel);
}

void fl_channels_free(fl_channels *channels)
{
    if (!channels) return;
    for (size_t i = 0; i < BUCKETS; i++) {
        for (fl_channel *channel = channels->buckets[i], *next; channel; channel = next) {
            next = channel->next;
            channel_free(channel);
        }
    }
    pthread_mutex_destroy(&channels->lock);
    free(channels);
}

/* FNV-1a: the app chooses the names. */
static fl_channel **bucket_of(fl_channels *channels, unsigned app, fl_slice name)
{
    uint32_t value = 2166136261u ^ app;
    for (size_t i = 0; i < name.size; i++)
        value = (value ^ (unsigned char)name.data[i]) * 16777619u;
    return &channels->buckets[value % BUCKETS];
}

static bool is_idle(const fl_channel *channel)
{
    return atomic_load(&channel->handles) == 0 && !channel->first;
}

static void free_idle(fl_channels *channels)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        fl_channel **link = &channels->buckets[i];
        while (*link) {
            fl_channel *channel = *link;
            if (!is_idle(channel)) {
                link = &channel->next;
                continue;
            }
            *link = channel->next;
            channels->count--;
            channel_free(channel);
        }
    }
}

static fl_channel *find(fl_channels *channels, unsigned app, fl_slice name)
{
    fl_channel *channel = *bucket_of(channels, app, name);
    while (channel &&
           (channel->app != app || !fl_slice_equal(fl_slice_from_string(channel->name), name)))
        channel = channel->next;
    return channel;
}

static int make(fl_channel **out, fl_channels *channels, unsigned app, fl_slice name, size_t size)
{
    if (channels->count >= channels->most) free_idle(channels);
    if (channels->count >= channels->most) return UV_ENOSPC;
    fl_channel *channel = *out = calloc(1, sizeof(*channel) + name.size + 1);
    if (!channel) return UV_ENOMEM;
    channel->channels = channels;
    channel->app = app;
    channel->size = size ? size : FL_CHANNEL_SIZE;
    memcpy(channel->name, name.data, name.size);
    pthread_mutex_init(&channel->lock, NULL);
    channel->last = &channel->first;
    line_init(&channel->putters);
    line_init(&channel->takers);
    fl_channel **bucket = bucket_of(channels, app, name);
    channel->next = *bucket;
    *bucket = channel;
    channels->count++;
    return 0;
}

static int find_or_make(fl_channel **out, fl_channels *channels, unsigned app, fl_slice name,
                        size_t size)
{
    *out = find(channels, app, name);
    if (!*out) return make(out, channels, app, name, size);
    return size && (*out)->size != size ? UV_EEXIST : 0;
}

int fl_channel_open(fl_channel **out, fl_channels *channels, unsigned app, fl_slice name,
                    size_t size, char *why, size_t why_size)
{
    fl_channel *found = NULL;
    pthread_mutex_lock(&channels->lock);
    int status = find_or_make(&found, channels, app, name, size);
    if (status == 0) atomic_fetch_add(&found->handles, 1);
    if (status == UV_EEXIST)
        (void)snprintf(why, why_size,
                       "channel \"%s\" is there with a size of %zu, and was asked for with %zu",
                       found->name, found->size, size);
    else if (status == UV_ENOSPC)
        (void)snprintf(why, why_size, "channel \"%.*s\": there are %zu already (setting channels)",
                       (int)name.size, name.data, channels->most);
    else if (status < 0)
        (void)snprintf(why, why_size, "channel \"%.*s\": not enough memory", (int)name.size,
                       name.data);
    pthread_mutex_unlock(&channels->lock);
    *out = found;
    return status;
}

void fl_channel_close_handle(fl_channel *channel)
{
    atomic_fetch_sub(&channel->handles, 1);
}
