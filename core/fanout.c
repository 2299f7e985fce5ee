/* Locks, in order: the fanout's, a station's, a mailbox's. */
#include "fanout.h"

#include <stdlib.h>
#include <time.h>

#define SPREAD_AFTER 64 /* messages in an inbox: the publisher spreads them itself */
#define FIRST_ROOM 8    /* messages of a buffer, at first */
#define LOG_EVERY 1000000000u

struct fl_subscriber {
    _Atomic unsigned references; /* its user's, the station's */
    fl_station *station;         /* held */
    fl_fanout_policy policy;
    size_t most;
    /* the station's lock */
    fl_subscriber *next, **link; /* link NULL: the station has forgotten it */
    fl_fanout_message **ring;
    size_t capacity, first, count, bytes;
    uint64_t dropped;
    bool closed; /* takes no more messages */
    bool overflowed;
    /* its state's thread */
    fl_fanout_wait *waits, **last_wait;
};

struct fl_station {
    _Atomic unsigned references; /* the fanout's, subscribers', the letter's, the lease's */
    fl_fanout *fanout;           /* held */
    fl_address *address;         /* held */
    fl_station *next, **link;    /* the fanout's lock; link NULL: ended */
    fl_lease lease;
    pthread_mutex_t lock; /* of what follows */
    fl_fanout_message *inbox[SPREAD_AFTER];
    size_t inbox_count;
    fl_subscriber *subscribers, **last;
    bool posted; /* the letter is under way */
    fl_letter letter;
};

/* messages */

fl_fanout_message *fl_fanout_message_new(void)
{
    fl_fanout_message *message = calloc(1, sizeof(*message));
    if (!message) return NULL;
    atomic_init(&message->references, 1);
    fl_parcel_init(&message->parcel);
    return message;
}

static void hold_message(fl_fanout_message *message)
{
    atomic_fetch_add_explicit(&message->references, 1, memory_order_relaxed);
}

void fl_fanout_message_release(fl_fanout_message *message)
{
    if (atomic_fetch_sub_explicit(&message->references, 1, memory_order_acq_rel) != 1) return;
    fl_parcel_close(&message->parcel);
    free(message);
}

void fl_fanout_message_weigh(fl_fanout_message *message)
{
    const fl_parcel *parcel = &message->parcel;
    message->bytes = parcel->bytes.size;
    for (size_t i = 0; i < parcel->blob_count; i++) message->bytes += parcel->blobs[i].size + 16;
}

/* telling of what was dropped */

static void tell_dropped(fl_fanout *fanout)
{
    uint64_t count = atomic_exchange(&fanout->unlogged, 0);
    if (!count || !fanout->log) return;
    fl_log_printf(fanout->log, FL_LOG_WARN, "topic \"%s\": subscribers are too slow: %llu %s",
                  fanout->name, (unsigned long long)count,
                  count == 1 ? "message dropped" : "messages dropped");
}

/* At most once a second; what is left is told when a subscriber ends. */
static void maybe_tell_dropped(fl_fanout *fanout)
{
    struct timespec time;
    if (!atomic_load_explicit(&fanout->unlogged, memory_order_relaxed)) return;
    clock_gettime(CLOCK_MONOTONIC, &time);
    uint64_t now = (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
    uint64_t last = atomic_load(&fanout->logged_at);
    if (last && now - last < LOG_EVERY) return;
    if (atomic_compare_exchange_strong(&fanout->logged_at, &last, now)) tell_dropped(fanout);
}

/* buffers, with the station's lock held */

static bool grow(fl_subscriber *self)
{
    if (self->count < self->capacity) return true;
    size_t capacity = self->capacity ? 2 * self->capacity : FIRST_ROOM;
    fl_fanout_message **ring = malloc(capacity * sizeof(fl_fanout_message *));
    if (!ring) return false;
    for (size_t i = 0; i < self->count; i++)
        ring[i] = self->ring[(self->first + i) % self->capacity];
    free((void *)self->ring);
    self->ring = ring;
    self->capacity = capacity;
    self->first = 0;
    return true;
}

static fl_fanout_message *take_first(fl_subscriber *self)
{
    fl_fanout_message *message = self->ring[self->first];
    self->first = (self->first + 1) % self->capacity;
    self->count--;
    self->bytes -= message->bytes;
    return message;
}

static void drop_buffer(fl_subscriber *self)
{
    while (self->count) fl_fanout_message_release(take_first(self));
    free((void *)self->ring);
    self->ring = NULL;
    self->capacity = 0;
}

static void count_dropped(fl_subscriber *self)
{
    self->dropped++;
    atomic_fetch_add_explicit(&self->station->fanout->unlogged, 1, memory_order_relaxed);
}

static bool is_full(const fl_subscriber *self, const fl_fanout_message *message)
{
    if (self->count == 0) return false;
    return self->count >= self->most || self->bytes + message->bytes > self->station->fanout->bytes;
}

/* What it has stays. */
static void take_no_more(fl_subscriber *self)
{
    if (self->closed) return;
    self->closed = true;
    atomic_fetch_sub(&self->station->fanout->subscribers, 1);
}

static void push(fl_subscriber *self, fl_fanout_message *message)
{
    if (!grow(self)) {
        count_dropped(self);
        return;
    }
    hold_message(message);
    self->ring[(self->first + self->count++) % self->capacity] = message;
    self->bytes += message->bytes;
}

static void offer(fl_subscriber *self, fl_fanout_message *message)
{
    if (self->closed) return;
    if (!is_full(self, message)) {
        push(self, message);
        return;
    }
    count_dropped(self);
    switch (self->policy) {
    case FL_FANOUT_DROP_OLDEST:
        fl_fanout_message_release(take_first(self));
        for (; is_full(self, message); count_dropped(self))
            fl_fanout_message_release(take_first(self));
        push(self, message);
        return;
    case FL_FANOUT_DROP_NEWEST: return;
    case FL_FANOUT_CLOSE:
        self->overflowed = true;
        take_no_more(self);
        return;
    }
}

static void spread(fl_station *station)
{
    for (size_t i = 0; i < station->inbox_count; i++) {
        for (fl_subscriber *each = station->subscribers; each; each = each->next)
            offer(each, station->inbox[i]);
        fl_fanout_message_release(station->inbox[i]);
    }
    station->inbox_count = 0;
}

/* The station's reference is the caller's now; false: it had none. */
static bool forget(fl_subscriber *self)
{
    fl_station *station = self->station;
    take_no_more(self);
    drop_buffer(self);
    if (!self->link) return false;
    *self->link = self->next;
    if (self->next)
        self->next->link = self->link;
    else
        station->last = self->link;
    self->link = NULL;
    return true;
}

/* waits */

/* Gives what has come to those who wait, and appends them to a list: without the lock they end. */
static void serve(fl_subscriber *self, fl_fanout_wait ***last)
{
    while (self->waits && (self->count || self->closed)) {
        fl_fanout_wait *wait = self->waits;
        self->waits = wait->next;
        if (!self->waits) self->last_wait = &self->waits;
        wait->message = self->count ? take_first(self) : NULL;
        wait->next = NULL;
        **last = wait;
        *last = &wait->next;
    }
}

static void end_waits(fl_fanout_wait *wait)
{
    while (wait) {
        fl_fanout_wait *next = wait->next;
        wait->ended(wait);
        wait = next;
    }
}

/* stations */

static void hold_station(fl_station *station)
{
    atomic_fetch_add_explicit(&station->references, 1, memory_order_relaxed);
}

static void release_station(fl_station *station)
{
    if (atomic_fetch_sub_explicit(&station->references, 1, memory_order_acq_rel) != 1) return;
    for (size_t i = 0; i < station->inbox_count; i++) fl_fanout_message_release(station->inbox[i]);
    fl_address_release(station->address);
    station->fanout->release(station->fanout);
    pthread_mutex_destroy(&station->lock);
    free(station);
}

static fl_station *station_of_letter(fl_letter *letter)
{
    return (fl_station *)((char *)letter - offsetof(fl_station, letter));
}

static void deliver(fl_letter *letter, fl_state *state)
{
    (void)state;
    fl_station *station = station_of_letter(letter);
    fl_fanout_wait *ended = NULL, **last = &ended;
    pthread_mutex_lock(&station->lock);
    station->posted = false;
    spread(station);
    for (fl_subscriber *each = station->subscribers; each; each = each->next) serve(each, &last);
    pthread_mutex_unlock(&station->lock);
    end_waits(ended);
    maybe_tell_dropped(station->fanout);
    release_station(station);
}

static void drop_letter(fl_letter *letter)
{
    release_station(station_of_letter(letter));
}

static void post(fl_station *station)
{
    if (station->posted) return;
    station->posted = true;
    station->letter = (fl_letter){.deliver = deliver, .drop = drop_letter};
    hold_station(station);
    if (fl_address_post(station->address, &station->letter) < 0) release_station(station);
}

/* With the fanout's lock held, so that messages come in the same order everywhere. */
static void put_into(fl_station *station, fl_fanout_message *message)
{
    pthread_mutex_lock(&station->lock);
    hold_message(message);
    station->inbox[station->inbox_count++] = message;
    if (station->inbox_count == SPREAD_AFTER) spread(station);
    post(station);
    pthread_mutex_unlock(&station->lock);
}

/* With the fanout's lock held. The fanout's reference is the caller's now; false: it had none. */
static bool unlink_station(fl_station *station)
{
    if (!station->link) return false;
    *station->link = station->next;
    if (station->next) station->next->link = station->link;
    station->link = NULL;
    return true;
}

/* Their users have references: none goes with the station's. */
static void forget_all(fl_station *station)
{
    pthread_mutex_lock(&station->lock);
    while (station->subscribers) {
        fl_subscriber *subscriber = station->subscribers;
        (void)forget(subscriber);
        fl_subscriber_release(subscriber);
    }
    pthread_mutex_unlock(&station->lock);
}

/* The state closes, when nobody waits there any more, or is given up, when nobody ever will. */
static void released(fl_lease *lease)
{
    fl_station *station = (fl_station *)((char *)lease - offsetof(fl_station, lease));
    fl_fanout *fanout = station->fanout;
    pthread_mutex_lock(&fanout->lock);
    bool was_linked = unlink_station(station);
    pthread_mutex_unlock(&fanout->lock);
    forget_all(station);
    if (was_linked) release_station(station);
    release_station(station);
}

static fl_station *find_station(const fl_fanout *fanout, const fl_address *address)
{
    fl_station *each = fanout->stations;
    while (each && each->address != address) each = each->next;
    return each;
}

/* One reference. */
static fl_station *new_station(fl_fanout *fanout, fl_address *address)
{
    fl_station *self = calloc(1, sizeof(*self));
    if (!self) return NULL;
    atomic_init(&self->references, 1);
    pthread_mutex_init(&self->lock, NULL);
    self->last = &self->subscribers;
    self->fanout = fanout;
    self->address = address;
    self->lease.released = released;
    fanout->hold(fanout);
    fl_address_hold(address);
    return self;
}

/* With the fanout's lock held; the first reference becomes the lease's. */
static int link_station(fl_station *self)
{
    fl_fanout *fanout = self->fanout;
    int status = fl_address_lend(self->address, &self->lease);
    if (status < 0) {
        release_station(self);
        return status;
    }
    hold_station(self);
    self->next = fanout->stations;
    if (self->next) self->next->link = &self->next;
    self->link = &fanout->stations;
    fanout->stations = self;
    return 0;
}

static int find_or_make_station(fl_station **out, fl_fanout *fanout, fl_address *address)
{
    *out = find_station(fanout, address);
    if (*out) return 0;
    *out = new_station(fanout, address);
    return *out ? link_station(*out) : UV_ENOMEM;
}

/* subscribers */

static fl_subscriber *new_subscriber(size_t buffer, fl_fanout_policy policy)
{
    fl_subscriber *self = calloc(1, sizeof(*self));
    if (!self) return NULL;
    atomic_init(&self->references, 1);
    self->policy = policy;
    self->most = buffer;
    self->last_wait = &self->waits;
    return self;
}

static void join(fl_station *station, fl_subscriber *subscriber)
{
    hold_station(station);
    subscriber->station = station;
    fl_subscriber_hold(subscriber);
    pthread_mutex_lock(&station->lock);
    spread(station); /* what was published before is not for it */
    subscriber->link = station->last;
    *station->last = subscriber;
    station->last = &subscriber->next;
    atomic_fetch_add(&station->fanout->subscribers, 1);
    pthread_mutex_unlock(&station->lock);
}

int fl_fanout_subscribe(fl_subscriber **out, fl_fanout *fanout, fl_address *address, size_t buffer,
                        fl_fanout_policy policy)
{
    fl_station *station = NULL;
    fl_subscriber *subscriber = new_subscriber(buffer, policy);
    if (!subscriber) return UV_ENOMEM;
    pthread_mutex_lock(&fanout->lock);
    int status = find_or_make_station(&station, fanout, address);
    if (status == 0) join(station, subscriber);
    pthread_mutex_unlock(&fanout->lock);
    if (status < 0)
        free(subscriber);
    else
        *out = subscriber;
    return status;
}

int fl_subscriber_next(fl_subscriber *self, fl_fanout_wait *wait, bool waits)
{
    fl_station *station = self->station;
    int status = UV_EAGAIN;
    pthread_mutex_lock(&station->lock);
    spread(station);
    if (self->count && !self->waits) {
        wait->message = take_first(self);
        status = 0;
    } else if (self->closed && !self->count) {
        status = UV_EOF;
    }
    pthread_mutex_unlock(&station->lock);
    if (status != UV_EAGAIN || !waits) return status;
    wait->next = NULL;
    *self->last_wait = wait;
    self->last_wait = &wait->next;
    return status;
}

void fl_subscriber_cancel(fl_subscriber *self, fl_fanout_wait *wait)
{
    fl_fanout_wait **link = &self->waits;
    while (*link && *link != wait) link = &(*link)->next;
    if (!*link) return;
    *link = wait->next;
    if (!wait->next) self->last_wait = link;
}

static bool push_front(fl_subscriber *self, fl_fanout_message *message)
{
    bool ended = self->closed && !self->overflowed;
    if (ended || !grow(self)) return false;
    self->first = (self->first + self->capacity - 1) % self->capacity;
    self->ring[self->first] = message;
    self->count++;
    self->bytes += message->bytes;
    return true;
}

void fl_subscriber_put_back(fl_subscriber *self, fl_fanout_message *message)
{
    fl_fanout_wait *ended = NULL, **last = &ended;
    pthread_mutex_lock(&self->station->lock);
    bool kept = push_front(self, message);
    serve(self, &last);
    pthread_mutex_unlock(&self->station->lock);
    if (!kept) fl_fanout_message_release(message);
    end_waits(ended);
}

/* With the fanout's lock held: the last one of its station takes that along. */
static bool leave_station(fl_subscriber *self, fl_fanout_wait ***last)
{
    fl_station *station = self->station;
    pthread_mutex_lock(&station->lock);
    spread(station);
    self->overflowed = false;
    if (forget(self)) fl_subscriber_release(self);
    serve(self, last);
    bool is_last = !station->subscribers;
    pthread_mutex_unlock(&station->lock);
    return is_last && unlink_station(station);
}

void fl_subscriber_close(fl_subscriber *self)
{
    fl_station *station = self->station;
    fl_fanout *fanout = station->fanout;
    fl_fanout_wait *ended = NULL, **last = &ended;
    pthread_mutex_lock(&fanout->lock);
    bool ends_station = leave_station(self, &last);
    pthread_mutex_unlock(&fanout->lock);
    end_waits(ended);
    tell_dropped(fanout);
    if (!ends_station) return;
    if (fl_address_give_back(station->address, &station->lease)) release_station(station);
    release_station(station); /* the fanout's; the subscriber has one yet */
}

void fl_subscriber_hold(fl_subscriber *self)
{
    atomic_fetch_add_explicit(&self->references, 1, memory_order_relaxed);
}

void fl_subscriber_release(fl_subscriber *self)
{
    if (atomic_fetch_sub_explicit(&self->references, 1, memory_order_acq_rel) != 1) return;
    drop_buffer(self);
    release_station(self->station);
    free(self);
}

uint64_t fl_subscriber_dropped(fl_subscriber *self)
{
    fl_station *station = self->station;
    pthread_mutex_lock(&station->lock);
    spread(station);
    uint64_t dropped = self->dropped;
    pthread_mutex_unlock(&station->lock);
    return dropped;
}

bool fl_subscriber_overflowed(fl_subscriber *self)
{
    pthread_mutex_lock(&self->station->lock);
    bool overflowed = self->overflowed;
    pthread_mutex_unlock(&self->station->lock);
    return overflowed;
}

/* publishing */

size_t fl_fanout_publish(fl_fanout *fanout, fl_fanout_message *message)
{
    if (atomic_load(&fanout->subscribers) == 0) return 0;
    pthread_mutex_lock(&fanout->lock);
    for (fl_station *each = fanout->stations; each; each = each->next) put_into(each, message);
    size_t subscribers = atomic_load(&fanout->subscribers);
    pthread_mutex_unlock(&fanout->lock);
    maybe_tell_dropped(fanout);
    return subscribers;
}

void fl_fanout_init(fl_fanout *fanout)
{
    pthread_mutex_init(&fanout->lock, NULL);
}

void fl_fanout_close(fl_fanout *fanout)
{
    pthread_mutex_destroy(&fanout->lock);
}
