#include "topic.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "actor.h"
#include "ring.h"
#include "scarcity.h"
#include "test.h"

enum { RING = 65536, MESSAGES = 300 };

static fl_segment *open_segment(void)
{
    int fd;
    char why[256];
    fl_segment *segment = NULL;
    if (fl_segment_create(&fd, fl_topics_room(RING)) != 0) return NULL;
    (void)fl_segment_map(&segment, fd, why, sizeof(why));
    close(fd);
    return segment;
}

/* What a server process has. */
static fl_topics *open_topics(fl_segment *segment, unsigned processes)
{
    fl_topics *topics = NULL;
    const fl_topic_options options = {
        .segment = segment, .ring = RING, .bytes = 1 << 20, .processes = processes};
    (void)fl_topics_new(&topics, &options);
    return topics;
}

static int publish_bytes(fl_topic *topic, const char *text, size_t bytes, size_t *subscribers)
{
    fl_fanout_message *message = fl_fanout_message_new();
    fl_buffer *out = &message->parcel.bytes;
    fl_buffer_append(out, text, strlen(text));
    message->parcel.values = 1;
    while (out->size < bytes) fl_buffer_byte(out, 'x');
    int status = fl_topic_publish(topic, message, subscribers);
    fl_fanout_message_release(message);
    return status;
}

static int publish(fl_topic *topic, const char *text)
{
    size_t subscribers;
    return publish_bytes(topic, text, 0, &subscribers);
}

typedef struct fl_reader {
    fl_fanout_wait wait;
    bool is_over;
} fl_reader;

static void ended(fl_fanout_wait *wait)
{
    ((fl_reader *)wait)->is_over = true;
}

/* The text of the next message, which is copied into `text`. */
static const char *next(fl_subscriber *subscriber, fl_actor *actor, char text[64])
{
    fl_reader reader = {.wait = {.ended = ended}};
    if (fl_subscriber_next(subscriber, &reader.wait, true) == UV_EAGAIN)
        while (!reader.is_over) actor_wait(actor);
    const fl_buffer *bytes = &reader.wait.message->parcel.bytes;
    (void)snprintf(text, 64, "%.*s", (int)bytes->size, bytes->data);
    fl_fanout_message_release(reader.wait.message);
    return text;
}

static void end(fl_subscriber *subscriber)
{
    fl_subscriber_close(subscriber);
    fl_subscriber_release(subscriber);
}

static fl_topic *open_news(fl_topics *topics)
{
    return fl_topic_open(topics, FL_SLICE("shop"), FL_SLICE("news"));
}

TEST(a_topic_is_found_by_app_and_name)
{
    fl_topics *topics = open_topics(NULL, 1);
    fl_topic *news = open_news(topics), *same = open_news(topics);
    fl_topic *other = fl_topic_open(topics, FL_SLICE("sho"), FL_SLICE("pnews"));
    CHECK(news && news == same && other && other != news);
    CHECK(strcmp(fl_topic_name(news), "news") == 0);
    fl_topic_close(news);
    fl_topic_close(same);
    fl_topic_close(other);
    fl_topics_free(topics);
}

TEST(two_processes_hear_each_other_and_themselves_once)
{
    fl_segment *segment = open_segment();
    fl_topics *here = open_topics(segment, 2), *there = open_topics(segment, 2);
    fl_topic *ours = open_news(here), *theirs = open_news(there);
    fl_actor actor;
    fl_subscriber *mine, *other;
    char text[64];
    CHECK_EQUAL_INT(actor_open(&actor), 0);
    CHECK_EQUAL_INT(fl_topic_subscribe(&mine, ours, actor.address, 100, FL_FANOUT_DROP_OLDEST), 0);
    CHECK_EQUAL_INT(fl_topic_subscribe(&other, theirs, actor.address, 100, FL_FANOUT_DROP_OLDEST),
                    0);
    CHECK(publish(ours, "from here") == 0 && publish(theirs, "from there") == 0);
    CHECK(strcmp(next(mine, &actor, text), "from here") == 0);
    CHECK(strcmp(next(mine, &actor, text), "from there") == 0);
    CHECK(publish(ours, "last") == 0);
    CHECK(strcmp(next(mine, &actor, text), "last") == 0);
    unsigned seen = 0;
    for (int i = 0; i < 3; i++) {
        const char *got = next(other, &actor, text);
        seen |= strcmp(got, "from here") == 0 ? 1 : strcmp(got, "last") == 0 ? 2 : 4;
    }
    CHECK_EQUAL_INT(seen, 7);
    end(mine);
    end(other);
    fl_topic_close(ours);
    fl_topic_close(theirs);
    CHECK_EQUAL_INT(actor_close(&actor), 0);
    fl_topics_free(here);
    fl_topics_free(there);
    fl_segment_close(segment);
}

TEST(what_does_not_fit_the_ring_is_refused_when_there_are_more_processes)
{
    fl_segment *segment = open_segment();
    fl_topics *alone = open_topics(segment, 1), *many = open_topics(segment, 2);
    fl_topic *ours = open_news(alone), *theirs = open_news(many);
    fl_actor actor;
    fl_subscriber *subscriber;
    size_t count = 0;
    CHECK_EQUAL_INT(actor_open(&actor), 0);
    CHECK_EQUAL_INT(publish_bytes(ours, "", RING, &count), 0);
    CHECK_EQUAL_INT(publish_bytes(theirs, "", RING, &count), UV_E2BIG);
    CHECK_EQUAL_INT(
        fl_topic_subscribe(&subscriber, theirs, actor.address, 9, FL_FANOUT_DROP_OLDEST), 0);
    CHECK_EQUAL_INT(publish_bytes(ours, "", RING, &count), UV_E2BIG);
    CHECK_EQUAL_INT(publish_bytes(ours, "", fl_topic_message_most(ours), &count), 0);
    end(subscriber);
    fl_topic_close(ours);
    fl_topic_close(theirs);
    CHECK_EQUAL_INT(actor_close(&actor), 0);
    fl_topics_free(alone);
    fl_topics_free(many);
    fl_segment_close(segment);
}

TEST(nothing_is_written_while_no_other_process_reads)
{
    fl_segment *segment = open_segment();
    fl_topics *topics = open_topics(segment, 1);
    fl_topic *news = open_news(topics);
    fl_ring *ring;
    fl_actor actor;
    fl_subscriber *subscriber;
    CHECK_EQUAL_INT(actor_open(&actor), 0);
    CHECK_EQUAL_INT(fl_ring_open(&ring, segment, RING), 0);
    CHECK_EQUAL_INT(fl_topic_subscribe(&subscriber, news, actor.address, 9, FL_FANOUT_DROP_OLDEST),
                    0);
    uint32_t mark = fl_ring_mark(ring);
    CHECK_EQUAL_INT(publish(news, "x"), 0);
    CHECK_EQUAL_INT(fl_ring_mark(ring), mark);
    CHECK_EQUAL_INT(fl_ring_join(ring), 0);
    CHECK_EQUAL_INT(publish(news, "y"), 0);
    CHECK(fl_ring_mark(ring) != mark);
    fl_ring_leave(ring);
    fl_ring_close(ring);
    end(subscriber);
    fl_topic_close(news);
    CHECK_EQUAL_INT(actor_close(&actor), 0);
    fl_topics_free(topics);
    fl_segment_close(segment);
}

static void publish_in_child(fl_segment *segment, bool dies)
{
    fl_topics *topics = open_topics(segment, 2);
    fl_topic *news = open_news(topics);
    char text[64];
    for (int i = 0; i < MESSAGES; i++) {
        (void)snprintf(text, sizeof(text), "%d", i);
        if (publish(news, text) != 0) _exit(1);
        usleep(20);
    }
    if (dies) (void)raise(SIGKILL);
    fl_topic_close(news);
    fl_topics_free(topics);
}

static bool reads_all_of_a_child(bool dies)
{
    fl_segment *segment = open_segment();
    fl_topics *topics = open_topics(segment, 2);
    fl_topic *news = open_news(topics);
    fl_actor actor;
    fl_subscriber *subscriber;
    char text[64], expected[64];
    int status;
    bool complete =
        actor_open(&actor) == 0 &&
        fl_topic_subscribe(&subscriber, news, actor.address, MESSAGES, FL_FANOUT_DROP_OLDEST) == 0;
    (void)fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        publish_in_child(segment, dies);
        _exit(0);
    }
    for (int i = 0; i < MESSAGES; i++) {
        (void)snprintf(expected, sizeof(expected), "%d", i);
        complete &= strcmp(next(subscriber, &actor, text), expected) == 0;
    }
    complete &= waitpid(pid, &status, 0) == pid && (dies ? WIFSIGNALED(status) : status == 0);
    end(subscriber);
    fl_topic_close(news);
    complete &= actor_close(&actor) == 0;
    fl_topics_free(topics);
    fl_segment_close(segment);
    return complete;
}

TEST(a_process_hears_all_that_another_publishes)
{
    CHECK(reads_all_of_a_child(false));
}

TEST(a_process_hears_all_that_one_published_before_it_was_killed)
{
    CHECK(reads_all_of_a_child(true));
}

static int publish_scarcely(fl_topics *topics)
{
    size_t subscribers;
    fl_topic *topic = fl_topic_open(topics, FL_SLICE("app"), FL_SLICE("news"));
    fl_fanout_message *message = topic ? fl_fanout_message_new() : NULL;
    int status = UV_ENOMEM;
    if (message) {
        fl_buffer_append(&message->parcel.bytes, "word", 4);
        message->parcel.values = 1;
        status = message->parcel.bytes.failed ? UV_ENOMEM : 0;
        if (status == 0) status = fl_topic_publish(topic, message, &subscribers);
        fl_fanout_message_release(message);
    }
    if (topic) fl_topic_close(topic);
    return status;
}

static fl_segment *scarce;

/* Another process reads: what is published has to be written for it. */
static int use_topics(void)
{
    const fl_topic_options options = {
        .segment = scarce, .ring = RING, .bytes = 1 << 20, .processes = 2};
    fl_topics *topics = NULL;
    int status = fl_topics_new(&topics, &options);
    if (status == 0) status = publish_scarcely(topics);
    fl_topics_free(topics);
    return status;
}

TEST(without_memory_nothing_is_published)
{
    scarce = open_segment();
    fl_ring *reader = NULL;
    CHECK_EQUAL_INT(fl_ring_open(&reader, scarce, RING), 0);
    CHECK_EQUAL_INT(fl_ring_join(reader), 0);
    CHECK_SCARCITY(use_topics);
    fl_ring_leave(reader);
    fl_ring_close(reader);
    fl_segment_close(scarce);
}

TEST_MAIN
