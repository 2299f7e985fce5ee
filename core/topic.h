/* topic: what one Lua state publishes reaches all that have subscribed, in all states of the app,
 * in this server process (fanout.h) and, by the ring (ring.h), in the others of the same server.
 *
 * Owner: fl_topics, the server's, from its start to its end; a topic lives while somebody has it
 * open or subscribes. Any thread may call what is here; nothing calls Lua.
 *
 * A process reads what the others publish on a thread of its own, which the first subscriber
 * starts. While no other process reads, publishing costs nothing beyond this one. Messages of one
 * publisher arrive in order. */
#ifndef FL_TOPIC_H
#define FL_TOPIC_H

#include "fanout.h"
#include "segment.h"
#include "slice.h"

#define FL_TOPIC_NAME_MOST 200
#define FL_TOPIC_BUFFER 100 /* messages, by default */
#define FL_TOPIC_BUFFER_MOST 1000000

typedef struct fl_topics fl_topics;
typedef struct fl_topic fl_topic;

typedef struct fl_topic_options {
    fl_log *log;         /* NULL: none */
    fl_segment *segment; /* NULL: there are no other processes */
    size_t ring;         /* bytes of it */
    size_t bytes;        /* of what a subscriber has not taken yet */
    unsigned processes;  /* that the server has */
} fl_topic_options;

/* *boot* and *end* of the server: nobody publishes or subscribes any more. */
int fl_topics_new(fl_topics **out, const fl_topic_options *options);
void fl_topics_free(fl_topics *topics);

/* What the segment must have for a ring of so many bytes. */
size_t fl_topics_room(size_t ring);

/* The topic `name` of the app of that name. NULL: no memory. Each open has its close. */
fl_topic *fl_topic_open(fl_topics *topics, fl_slice app, fl_slice name);
void fl_topic_close(fl_topic *topic);
const char *fl_topic_name(const fl_topic *topic);
size_t fl_topic_message_most(const fl_topic *topic); /* bytes, when it has to leave the process */

/* Says how many subscribers of this process it was for. 0, or UV_E2BIG: it does not fit the ring;
 * UV_ENOMEM: it has not left the process. The message stays the caller's too. */
int fl_topic_publish(fl_topic *topic, fl_fanout_message *message, size_t *subscribers);

/* On the thread of the address's state; see fl_fanout_subscribe. */
int fl_topic_subscribe(fl_subscriber **out, fl_topic *topic, fl_address *address, size_t buffer,
                       fl_fanout_policy policy);

#endif
