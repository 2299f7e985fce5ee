/* Locks, in order: a fanout's, the registry's. */
#include "topic.h"

#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "ring.h"

#define BUCKETS 256
#define LOG_EVERY 1000000000u
#define SWEEP_EVERY 5000 /* ms */

struct fl_topic {
    fl_fanout fanout;
    fl_topic *next, **link; /* of its bucket, as `references`: the registry's lock */
    unsigned references;
    fl_topics *topics;
    size_t key_size, app_size;
    char key[]; /* app, NUL, name, NUL */
};

struct fl_topics {
    fl_topic_options options;
    pthread_mutex_t lock;
    fl_topic *buckets[BUCKETS];
    fl_ring *ring;
    /* reading */
    bool reading;
    pthread_t reader;
    sem_t joined;
    int join_status;
    _Atomic bool stopping;
};

/* publishing */

/* size of the key, key, parcel */
static int publish_elsewhere(fl_topic *topic, const fl_fanout_message *message)
{
    fl_buffer out;
    uint16_t size = (uint16_t)topic->key_size;
    fl_buffer_init(&out);
    (void)fl_buffer_room(&out, topic->key_size + message->bytes + 128);
    fl_buffer_append(&out, (const char *)&size, sizeof(size));
    fl_buffer_append(&out, topic->key, topic->key_size);
    int status = fl_parcel_write(&message->parcel, &out);
    if (out.failed) status = UV_ENOMEM;
    if (status == 0) status = fl_ring_write(topic->topics->ring, fl_slice_of(out.data, out.size));
    fl_buffer_close(&out);
    return status;
}

size_t fl_topic_message_most(const fl_topic *topic)
{
    const fl_ring *ring = topic->topics->ring;
    return ring ? fl_ring_most(ring) - topic->key_size - 64 : SIZE_MAX;
}

int fl_topic_publish(fl_topic *topic, fl_fanout_message *message, size_t *subscribers)
{
    fl_topics *topics = topic->topics;
    bool others = topics->ring && fl_ring_has_others(topics->ring);
    fl_fanout_message_weigh(message);
    if ((others || topics->options.processes > 1) && message->bytes > fl_topic_message_most(topic))
        return UV_E2BIG;
    *subscribers = fl_fanout_publish(&topic->fanout, message);
    return others ? publish_elsewhere(topic, message) : 0;
}

/* the registry */

static fl_topic **bucket_of(fl_topics *topics, fl_slice key)
{
    uint32_t value = 2166136261u; /* FNV-1a: the app chooses the names */
    for (size_t i = 0; i < key.size; i++) value = (value ^ (unsigned char)key.data[i]) * 16777619u;
    return &topics->buckets[value % BUCKETS];
}

/* With the registry's lock held. */
static fl_topic *find(fl_topics *topics, fl_slice key)
{
    fl_topic *topic = *bucket_of(topics, key);
    while (topic && !fl_slice_equal(fl_slice_of(topic->key, topic->key_size), key))
        topic = topic->next;
    if (topic) topic->references++;
    return topic;
}

static void hold(fl_fanout *fanout)
{
    fl_topic *topic = (fl_topic *)fanout; /* its first member */
    pthread_mutex_lock(&topic->topics->lock);
    topic->references++;
    pthread_mutex_unlock(&topic->topics->lock);
}

static void release(fl_fanout *fanout)
{
    fl_topic_close((fl_topic *)fanout);
}

static fl_topic *make(fl_topics *topics, fl_slice key, size_t app_size)
{
    fl_topic *topic = calloc(1, sizeof(*topic) + key.size + 1);
    if (!topic) return NULL;
    topic->references = 1;
    topic->topics = topics;
    memcpy(topic->key, key.data, key.size);
    topic->key_size = key.size;
    topic->app_size = app_size;
    topic->fanout = (fl_fanout){.name = fl_topic_name(topic),
                                .log = topics->options.log,
                                .bytes = topics->options.bytes,
                                .hold = hold,
                                .release = release};
    fl_fanout_init(&topic->fanout);
    fl_topic **bucket = bucket_of(topics, key);
    topic->next = *bucket;
    topic->link = bucket;
    if (topic->next) topic->next->link = &topic->next;
    *bucket = topic;
    return topic;
}

static bool write_key(fl_buffer *out, fl_slice app, fl_slice name)
{
    fl_buffer_slice(out, app);
    fl_buffer_byte(out, '\0');
    fl_buffer_slice(out, name);
    return !out->failed && out->size <= UINT16_MAX;
}

fl_topic *fl_topic_open(fl_topics *topics, fl_slice app, fl_slice name)
{
    fl_buffer key;
    fl_topic *topic = NULL;
    fl_buffer_init(&key);
    if (write_key(&key, app, name)) {
        fl_slice slice = fl_slice_of(key.data, key.size);
        pthread_mutex_lock(&topics->lock);
        topic = find(topics, slice);
        if (!topic) topic = make(topics, slice, app.size);
        pthread_mutex_unlock(&topics->lock);
    }
    fl_buffer_close(&key);
    return topic;
}

void fl_topic_close(fl_topic *topic)
{
    fl_topics *topics = topic->topics;
    pthread_mutex_lock(&topics->lock);
    bool last = --topic->references == 0;
    if (last) {
        *topic->link = topic->next;
        if (topic->next) topic->next->link = topic->link;
    }
    pthread_mutex_unlock(&topics->lock);
    if (!last) return;
    fl_fanout_close(&topic->fanout);
    free(topic);
}

const char *fl_topic_name(const fl_topic *topic)
{
    return topic->key + topic->app_size + 1;
}

/* what other processes publish */

static void publish_read(fl_topic *topic, fl_slice bytes)
{
    fl_fanout_message *message = fl_fanout_message_new();
    if (!message) return;
    if (fl_parcel_read(&message->parcel, bytes) == 0) {
        fl_fanout_message_weigh(message);
        (void)fl_fanout_publish(&topic->fanout, message);
    }
    fl_fanout_message_release(message);
}

static void read_message(fl_topics *topics, fl_slice bytes)
{
    uint16_t size;
    if (bytes.size < sizeof(size)) return;
    memcpy(&size, bytes.data, sizeof(size));
    if (bytes.size - sizeof(size) < size) return;
    fl_slice key = fl_slice_of(bytes.data + sizeof(size), size);
    pthread_mutex_lock(&topics->lock);
    fl_topic *topic = find(topics, key);
    pthread_mutex_unlock(&topics->lock);
    if (!topic) return; /* nobody here wants it */
    if (atomic_load(&topic->fanout.subscribers))
        publish_read(topic, fl_slice_of(key.data + size, bytes.size - sizeof(size) - size));
    fl_topic_close(topic);
}

static void read_messages(fl_topics *topics, const fl_buffer *buffer)
{
    uint32_t size;
    for (size_t at = 0; at < buffer->size; at += sizeof(size) + size) {
        memcpy(&size, buffer->data + at, sizeof(size));
        read_message(topics, fl_slice_of(buffer->data + at + sizeof(size), size));
    }
}

typedef struct fl_missing { /* messages that this process read too late */
    uint64_t count, told_at;
} fl_missing;

static void tell_missing(const fl_topics *topics, fl_missing *missing)
{
    uint64_t now = uv_hrtime();
    if (!missing->count || (missing->told_at && now - missing->told_at < LOG_EVERY)) return;
    if (topics->options.log)
        fl_log_printf(topics->options.log, FL_LOG_WARN,
                      "topics: %llu messages of other server processes were missed: this one reads "
                      "them too slowly for the setting topic_ring",
                      (unsigned long long)missing->count);
    *missing = (struct fl_missing){.told_at = now};
}

static void read_until_stopped(fl_topics *topics)
{
    fl_buffer buffer;
    fl_missing missing = {0};
    fl_buffer_init(&buffer);
    while (!atomic_load(&topics->stopping)) {
        uint32_t mark = fl_ring_mark(topics->ring);
        fl_buffer_reset(&buffer, SIZE_MAX);
        unsigned count = fl_ring_read(topics->ring, &buffer, &missing.count);
        read_messages(topics, &buffer);
        tell_missing(topics, &missing);
        if (!count && !fl_ring_wait(topics->ring, mark, missing.count ? 1000 : SWEEP_EVERY))
            fl_ring_sweep(topics->ring);
    }
    fl_buffer_close(&buffer);
}

static void *read_ring(void *data)
{
    fl_topics *topics = data;
    topics->join_status = fl_ring_join(topics->ring);
    bool joined = topics->join_status == 0;
    sem_post(&topics->joined);
    if (!joined) return NULL;
    read_until_stopped(topics);
    fl_ring_leave(topics->ring);
    return NULL;
}

/* Signals are for other threads. */
static int start_thread(fl_topics *topics)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&topics->reader, NULL, read_ring, topics);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -error;
}

static void wait_until_joined(fl_topics *topics)
{
    while (sem_wait(&topics->joined) != 0) {
    }
}

/* Once it returns, nothing that is published elsewhere is missed. */
static int start_reading(fl_topics *topics)
{
    int status = 0;
    if (!topics->ring) return 0;
    pthread_mutex_lock(&topics->lock);
    if (!topics->reading) {
        status = start_thread(topics);
        if (status == 0) {
            wait_until_joined(topics);
            status = topics->join_status;
            if (status < 0) pthread_join(topics->reader, NULL);
        }
        topics->reading = status == 0;
    }
    pthread_mutex_unlock(&topics->lock);
    return status;
}

int fl_topic_subscribe(fl_subscriber **out, fl_topic *topic, fl_address *address, size_t buffer,
                       fl_fanout_policy policy)
{
    int status = start_reading(topic->topics);
    return status < 0 ? status : fl_fanout_subscribe(out, &topic->fanout, address, buffer, policy);
}

static void stop_reading(fl_topics *topics)
{
    if (!topics->reading) return;
    atomic_store(&topics->stopping, true);
    fl_ring_wake(topics->ring);
    pthread_join(topics->reader, NULL);
}

size_t fl_topics_room(size_t ring)
{
    return fl_ring_room(ring);
}

int fl_topics_new(fl_topics **out, const fl_topic_options *options)
{
    fl_topics *topics = *out = calloc(1, sizeof(*topics));
    if (!topics) return UV_ENOMEM;
    topics->options = *options;
    pthread_mutex_init(&topics->lock, NULL);
    (void)sem_init(&topics->joined, 0, 0);
    int status =
        options->segment ? fl_ring_open(&topics->ring, options->segment, options->ring) : 0;
    if (status == 0) return 0;
    fl_topics_free(topics);
    *out = NULL;
    return status;
}

void fl_topics_free(fl_topics *topics)
{
    if (!topics) return;
    stop_reading(topics);
    if (topics->ring) fl_ring_close(topics->ring);
    (void)sem_destroy(&topics->joined);
    pthread_mutex_destroy(&topics->lock);
    free(topics);
}
