/* The phases of a link: a failure in any of them leads back to IDLE, or to PAUSED while something
 * waits for a connection. */
#include "link.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <uv.h>

#include "readiness.h"
#include "reply.h"
#include "resolve.h"
#include "thread.h"
#include "transport.h"

#define FIRST_PAUSE 50               /* ms between attempts to connect */
#define LONGEST_PAUSE 2000           /* ms */
#define OUT_MOST ((size_t)256 << 10) /* bytes that are put together for writing */
#define OUT_KEEP ((size_t)64 << 10)
#define READ_SIZE ((size_t)32 << 10)
#define READS_MOST 32       /* of a turn */
#define MESSAGES_MOST 10000 /* that wait to be listened to; then no more is read */
#define MESSAGE_BYTES ((size_t)8 << 20)

typedef enum { IDLE, PAUSED, RESOLVING, CONNECTING, GREETING, READY } link_phase;

typedef struct queue {
    fl_redis_command *first, **last;
    size_t count;
} queue;

struct fl_redis_link {
    fl_state *state;
    const fl_redis_target *target;
    link_phase phase;
    fl_transport transport;
    fl_readiness readiness;
    fl_redis_reader reader;
    fl_buffer out;
    size_t written; /* of `out` */
    queue waiting, sent;
    size_t bytes; /* of both */
    fl_turn_end turn_end;
    fl_deadline timer; /* of a pause, or of an attempt */
    fl_resolve *resolve;
    fl_resolved found;
    unsigned next_address;
    unsigned greetings;  /* replies to come before it is ready */
    unsigned failures;   /* since it was last of use */
    uint64_t not_before; /* ms: the next attempt */
    uint64_t last_read;  /* ms */
    unsigned long connects;
    bool is_subscriber, pinned, lost_while_pinned, read_again;
    bool plain_only;   /* RESP3: this server does not speak it */
    char problem[300]; /* why there is no connection */
    fl_buffer records; /* messages that nobody has asked for yet */
    size_t record_count;
    fl_redis_messages *listener;
    bool lost_unheard; /* nobody listened when the connection was lost */
    bool is_fresh;     /* the first reply is to come */
};

static fl_thread *thread_of(const fl_redis_link *link)
{
    return link->state->thread;
}

static uint64_t now_of(const fl_redis_link *link)
{
    return uv_now(&thread_of(link)->loop);
}

/* queues */

static void add_command(queue *to, fl_redis_command *command)
{
    command->next = NULL;
    command->link = to->last;
    *to->last = command;
    to->last = &command->next;
    to->count++;
}

static void remove_command(queue *from, fl_redis_command *command)
{
    *command->link = command->next;
    if (command->next)
        command->next->link = command->link;
    else
        from->last = command->link;
    command->link = NULL;
    from->count--;
}

static void init_queue(queue *self)
{
    *self = (queue){.last = &self->first};
}

/* All of `from` before those of `to`. */
static void put_in_front(queue *to, queue *from)
{
    if (!from->first) return;
    *from->last = to->first;
    if (to->first)
        to->first->link = from->last;
    else
        to->last = from->last;
    to->first = from->first;
    to->first->link = &to->first;
    to->count += from->count;
    init_queue(from);
}

/* commands */

fl_redis_command *fl_redis_command_new(size_t size, size_t replies)
{
    fl_redis_command *command = calloc(1, sizeof(*command) + size);
    if (!command) return NULL;
    command->replies = replies;
    return command;
}

void fl_redis_command_free(fl_redis_command *command)
{
    fl_buffer_close(&command->reply);
    free(command);
}

static void end_command(fl_redis_command *command)
{
    fl_deadline_stop(&command->deadline);
    if (command->ended)
        command->ended(command);
    else
        fl_redis_command_free(command);
}

static queue *queue_of(fl_redis_command *command)
{
    return command->sent ? &command->on->sent : &command->on->waiting;
}

static void leave_queue(fl_redis_command *command)
{
    if (!command->link) return;
    command->on->bytes -= command->bytes.size;
    remove_command(queue_of(command), command);
}

static void fail_command(fl_redis_command *command, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void fail_command(fl_redis_command *command, const char *code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    command->code = code;
    (void)vsnprintf(command->problem, sizeof(command->problem), format, arguments);
    va_end(arguments);
    leave_queue(command);
    end_command(command);
}

/* messages */

static void tell_listener(fl_redis_link *link)
{
    fl_redis_messages *listener = link->listener;
    link->listener = NULL;
    if (listener) listener->ended(listener);
}

static void hand_messages_over(fl_redis_link *link)
{
    if (!link->listener || !link->record_count) return;
    link->listener->records = link->records;
    link->listener->count = link->record_count;
    fl_buffer_init(&link->records);
    link->record_count = 0;
    tell_listener(link);
}

static void say_lost(fl_redis_link *link)
{
    fl_redis_messages *listener = link->listener;
    link->lost_unheard = link->is_subscriber && !listener;
    if (!listener) return;
    listener->lost = true;
    (void)snprintf(listener->problem, sizeof(listener->problem), "%s: %s", link->target->label,
                   link->problem);
    tell_listener(link);
}

static bool is_overheard(const fl_redis_link *link)
{
    return link->record_count >= MESSAGES_MOST || link->records.size >= MESSAGE_BYTES;
}

/* losing the connection */

static void let_connection_go(fl_redis_link *link)
{
    fl_readiness_close(&link->readiness);
    fl_transport_close(&link->transport);
    fl_redis_reader_close(&link->reader);
    fl_deadline_stop(&link->timer);
    if (link->resolve) fl_resolve_cancel(link->resolve);
    link->resolve = NULL;
    fl_buffer_reset(&link->out, OUT_KEEP);
    link->written = 0;
    link->greetings = 0;
    link->read_again = false;
    link->phase = IDLE;
}

static bool is_to_repeat(const fl_redis_link *link, const fl_redis_command *command)
{
    return command->may_repeat && !command->repeated && !command->received && command->ended &&
           !link->pinned;
}

/* What was sent: nobody knows whether it was carried out. */
static void settle_sent(fl_redis_link *link)
{
    queue again;
    init_queue(&again);
    for (fl_redis_command *command; (command = link->sent.first);) {
        remove_command(&link->sent, command);
        if (is_to_repeat(link, command)) {
            command->repeated = true;
            command->sent = false;
            add_command(&again, command);
            continue;
        }
        link->bytes -= command->bytes.size;
        fail_command(command, "CONNECTION",
                     "the connection to %s was lost while it was under way: %s",
                     link->target->label, link->problem);
    }
    put_in_front(&link->waiting, &again);
}

static void fail_waiting(fl_redis_link *link, const char *code, const char *prefix)
{
    while (link->waiting.first)
        fail_command(link->waiting.first, code, "%s%s", prefix, link->problem);
}

/* What a subscriber has sent is sent again by who listens. */
static void drop_silent(fl_redis_link *link)
{
    for (fl_redis_command *command = link->waiting.first, *next; command; command = next) {
        next = command->next;
        if (command->replies) continue;
        leave_queue(command);
        end_command(command);
    }
}

static uint64_t pause_of(const fl_redis_link *link)
{
    unsigned doublings = link->failures < 8 ? link->failures : 8;
    if (doublings == 0) return 0;
    uint64_t pause = (uint64_t)FIRST_PAUSE << (doublings - 1);
    return pause < LONGEST_PAUSE ? pause : LONGEST_PAUSE;
}

static void connect_soon(fl_redis_link *link);

static void note_problem(fl_redis_link *link, const char *problem)
{
    if (problem != link->problem)
        (void)snprintf(link->problem, sizeof(link->problem), "%s", problem);
}

static void lose(fl_redis_link *link, const char *problem)
{
    bool was_ready = link->phase == READY;
    note_problem(link, problem);
    let_connection_go(link);
    settle_sent(link);
    if (link->pinned && was_ready) {
        link->lost_while_pinned = true;
        fail_waiting(link, "CONNECTION", "the connection was lost: ");
    }
    drop_silent(link);
    say_lost(link);
    link->not_before = now_of(link) + pause_of(link);
    link->failures++;
    if (link->waiting.first) connect_soon(link);
}

/* A server that refuses us will do so again: who waits is told so at once. */
static void lose_refused(fl_redis_link *link, const char *problem)
{
    note_problem(link, problem);
    fail_waiting(link, "", "");
    lose(link, link->problem);
}

/* writing */

static void write_out(fl_redis_link *link);

static void want_next(fl_redis_link *link)
{
    if (link->phase < CONNECTING) return;
    if (link->phase > CONNECTING && !is_overheard(link)) link->transport.want |= UV_READABLE;
    fl_readiness_want(&link->readiness, link->transport.want);
}

static void send_command(fl_redis_link *link, fl_redis_command *command)
{
    remove_command(&link->waiting, command);
    fl_buffer_slice(&link->out, command->bytes);
    if (!command->replies) {
        link->bytes -= command->bytes.size;
        end_command(command);
        return;
    }
    command->sent = true;
    command->sent_at = now_of(link);
    add_command(&link->sent, command);
}

static void fill_out(fl_redis_link *link)
{
    if (link->phase != READY) return;
    while (link->waiting.first && link->out.size - link->written < OUT_MOST)
        send_command(link, link->waiting.first);
}

/* false: the connection is lost, or takes no more for now. */
static bool write_some(fl_redis_link *link)
{
    if (link->out.failed) {
        lose(link, "not enough memory");
        return false;
    }
    ssize_t count = fl_transport_write(&link->transport, link->out.data + link->written,
                                       link->out.size - link->written);
    if (count < 0) lose(link, link->transport.problem);
    if (count <= 0) return false;
    link->written += (size_t)count;
    if (link->written == link->out.size) {
        fl_buffer_reset(&link->out, OUT_KEEP);
        link->written = 0;
    }
    return true;
}

static void write_out(fl_redis_link *link)
{
    do fill_out(link);
    while (link->written < link->out.size && write_some(link));
    want_next(link);
}

static void write_turn(fl_redis_link *link)
{
    link->transport.want = 0;
    write_out(link);
}

/* greeting */

static void put_bulk(fl_buffer *out, const char *text)
{
    fl_buffer_printf(out, "$%zu\r\n", strlen(text));
    fl_buffer_append(out, text, strlen(text));
    FL_BUFFER_LITERAL(out, "\r\n");
}

static void put_command(fl_buffer *out, size_t count, const char *const *words)
{
    fl_buffer_printf(out, "*%zu\r\n", count);
    for (size_t i = 0; i < count; i++) put_bulk(out, words[i]);
}

static bool speaks_resp3(const fl_redis_link *link)
{
    return HIREDIS_MAJOR >= 1 && !link->plain_only;
}

static void say_hello(fl_redis_link *link)
{
    const fl_redis_target *target = link->target;
    const char *user = target->user ? target->user : "default";
    const char *words[] = {"HELLO", "3", "AUTH", user, target->password};
    put_command(&link->out, target->password ? 5 : 2, words);
    link->greetings++;
}

static void say_password(fl_redis_link *link)
{
    const fl_redis_target *target = link->target;
    if (!target->password) return;
    const char *words[] = {"AUTH", target->password, NULL};
    if (target->user) {
        words[1] = target->user;
        words[2] = target->password;
    }
    put_command(&link->out, target->user ? 3 : 2, words);
    link->greetings++;
}

static void say_name(fl_redis_link *link)
{
    if (!link->target->name) return;
    const char *words[] = {"CLIENT", "SETNAME", link->target->name};
    put_command(&link->out, 3, words);
    link->greetings++;
}

static void say_database(fl_redis_link *link)
{
    char number[16];
    if (!link->target->database) return;
    (void)snprintf(number, sizeof(number), "%u", link->target->database);
    const char *words[] = {"SELECT", number};
    put_command(&link->out, 2, words);
    link->greetings++;
}

static void be_ready(fl_redis_link *link)
{
    fl_deadline_stop(&link->timer);
    link->phase = READY;
    link->is_fresh = true;
    link->connects++;
}

static void greet(fl_redis_link *link)
{
    link->phase = GREETING;
    if (fl_redis_reader_open(&link->reader, link->target->reply_most) < 0) {
        lose(link, "not enough memory");
        return;
    }
    if (speaks_resp3(link))
        say_hello(link);
    else
        say_password(link);
    say_name(link);
    say_database(link);
    if (!link->greetings) be_ready(link);
    write_out(link);
}

static bool begins_with(fl_slice text, const char *word)
{
    size_t size = strlen(word);
    return text.size >= size && memcmp(text.data, word, size) == 0;
}

static void note_text(fl_redis_link *link, fl_slice text)
{
    int size = (int)(text.size < sizeof(link->problem) ? text.size : sizeof(link->problem) - 1);
    (void)snprintf(link->problem, sizeof(link->problem), "%.*s", size, text.data);
}

static void take_greeting(fl_redis_link *link)
{
    const char *record = link->reader.record.data;
    if (fl_redis_reply_is_error(record)) {
        fl_slice text = fl_redis_reply_text(record);
        note_text(link, text);
        if (speaks_resp3(link) && (begins_with(text, "NOPROTO") || begins_with(text, "ERR unkn"))) {
            link->plain_only = true;
            lose(link, link->problem);
        } else if (begins_with(text, "LOADING") || begins_with(text, "ERR max number")) {
            lose(link, link->problem);
        } else {
            lose_refused(link, link->problem);
        }
        return;
    }
    if (--link->greetings == 0) be_ready(link);
}

/* reading */

static void take_message(fl_redis_link *link)
{
    fl_buffer *record = &link->reader.record;
    fl_buffer_append(&link->records, record->data, record->size);
    link->record_count++;
    link->failures = 0;
    if (link->records.failed) lose(link, "there is no memory for a message");
}

static bool keep_reply(fl_redis_command *command, fl_buffer *record)
{
    if (!command->ended) return true;
    if (command->reply.data) {
        fl_buffer_append(&command->reply, record->data, record->size);
        return !command->reply.failed;
    }
    command->reply = *record;
    fl_buffer_init(record);
    return true;
}

/* Some say why they let nobody in before anything was asked. */
static bool is_turned_away(const fl_redis_link *link, const char *record)
{
    fl_slice text = fl_redis_reply_text(record);
    if (!link->sent.first) return true;
    return link->is_fresh && fl_redis_reply_is_error(record) &&
           (begins_with(text, "ERR max number") || begins_with(text, "DENIED"));
}

static void turn_away(fl_redis_link *link)
{
    fl_slice text = fl_redis_reply_text(link->reader.record.data);
    note_text(link, text.size ? text : FL_SLICE("it has sent what nobody asked for"));
    lose(link, link->problem);
}

static void take_reply(fl_redis_link *link)
{
    fl_redis_command *command = link->sent.first;
    if (is_turned_away(link, link->reader.record.data)) {
        turn_away(link);
        return;
    }
    link->is_fresh = false;
    link->failures = 0;
    if (!keep_reply(command, &link->reader.record)) {
        lose(link, "there is no memory for a reply");
        return;
    }
    if (++command->received < command->replies) return;
    leave_queue(command);
    end_command(command);
}

static void take_record(fl_redis_link *link)
{
    bool is_push = fl_redis_reply_is_push(link->reader.record.data);
    if (link->phase == GREETING && !is_push)
        take_greeting(link);
    else if (link->is_subscriber)
        take_message(link);
    else if (!is_push)
        take_reply(link);
    fl_buffer_reset(&link->reader.record, OUT_KEEP);
}

static void take_records(fl_redis_link *link, fl_slice data)
{
    int status = fl_redis_reader_feed(&link->reader, data) ? 1 : -1;
    while (status > 0 && (status = fl_redis_reader_next(&link->reader)) > 0) {
        take_record(link);
        if (link->phase < GREETING) return; /* it was lost */
    }
    if (status == 0) return;
    char problem[200];
    (void)snprintf(problem, sizeof(problem), "its answer is not understood: %s",
                   link->reader.problem);
    lose(link, problem);
}

static void read_in(fl_redis_link *link)
{
    char data[READ_SIZE];
    link->read_again = false;
    for (int i = 0; i < READS_MOST; i++) {
        if (is_overheard(link)) return;
        ssize_t count = fl_transport_read(&link->transport, data, sizeof(data));
        if (count < 0) lose(link, link->transport.problem);
        if (count <= 0) return;
        link->last_read = now_of(link);
        take_records(link, fl_slice_of(data, (size_t)count));
        if (link->phase < GREETING) return;
        if ((size_t)count < sizeof(data) && !link->transport.tls) return;
    }
    link->read_again = true; /* TLS may have more that no descriptor tells of */
}

static void turn_ends(fl_turn_end *end);

static void serve(fl_redis_link *link)
{
    link->transport.want = 0;
    read_in(link);
    hand_messages_over(link);
    if (link->phase < GREETING) return;
    write_out(link);
    if (link->read_again) fl_turn_end_start(&link->turn_end, link->state, turn_ends);
}

/* connecting */

static void connect_next(fl_redis_link *link);

static fl_redis_link *link_of_readiness(fl_readiness *readiness)
{
    return (fl_redis_link *)((char *)readiness - offsetof(fl_redis_link, readiness));
}

static void give_address_up(fl_redis_link *link, const char *problem)
{
    note_problem(link, problem);
    fl_readiness_close(&link->readiness);
    fl_transport_close(&link->transport);
    connect_next(link);
}

static void go_on_connecting(fl_redis_link *link)
{
    int status = fl_transport_connect(&link->transport);
    if (status < 0)
        give_address_up(link, link->transport.problem);
    else if (status > 0)
        greet(link);
    else
        want_next(link);
}

/* libuv says so, and listens no more, when there is an error at the socket, which reading tells. */
static void socket_failed(fl_redis_link *link)
{
    if (link->phase == CONNECTING) {
        int status = fl_transport_connect(&link->transport);
        give_address_up(link, status < 0 ? link->transport.problem : "the connection failed");
        return;
    }
    serve(link);
    if (link->phase >= GREETING) lose(link, "the connection failed");
}

static void socket_ready(fl_readiness *readiness, int status, int events)
{
    fl_redis_link *link = link_of_readiness(readiness);
    (void)events;
    if (status == UV_EBADF)
        socket_failed(link);
    else if (status < 0)
        lose(link, uv_strerror(status));
    else if (link->phase == CONNECTING)
        go_on_connecting(link);
    else
        serve(link);
}

static fl_redis_link *link_of_timer(fl_deadline *timer)
{
    return (fl_redis_link *)((char *)timer - offsetof(fl_redis_link, timer));
}

static void attempt_timed_out(fl_deadline *timer)
{
    fl_redis_link *link = link_of_timer(timer);
    if (link->phase == CONNECTING)
        give_address_up(link, "no answer in time");
    else
        lose(link, "no answer in time");
}

static int open_socket(fl_redis_link *link, const struct sockaddr *address, socklen_t size)
{
    const fl_redis_target *target = link->target;
    int status = fl_transport_open(&link->transport, address, size, target->tls, target->tls_name);
    if (status < 0) return status;
    status = fl_readiness_open(&link->readiness, link->state, link->transport.fd, socket_ready);
    if (status < 0) fl_transport_close(&link->transport);
    if (status < 0) return status;
    link->phase = CONNECTING;
    fl_thread_start_deadline(thread_of(link), &link->timer, target->connect_timeout,
                             attempt_timed_out);
    want_next(link);
    return 0;
}

static int open_path(fl_redis_link *link)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = strlen(link->target->path);
    if (size >= sizeof(address.sun_path)) return UV_ENAMETOOLONG;
    memcpy(address.sun_path, link->target->path, size + 1);
    return open_socket(link, (const struct sockaddr *)&address, sizeof(address));
}

static int open_address(fl_redis_link *link, const fl_resolved_address *address)
{
    bool is_v4 = address->any.sa_family == AF_INET;
    return open_socket(link, &address->any, is_v4 ? sizeof(address->v4) : sizeof(address->v6));
}

static void connect_next(fl_redis_link *link)
{
    while (link->next_address < link->found.count) {
        int status = open_address(link, &link->found.addresses[link->next_address++]);
        if (status == 0) return;
        note_problem(link, uv_strerror(status));
    }
    lose(link, link->problem);
}

static void connect_found(fl_redis_link *link)
{
    link->next_address = 0;
    note_problem(link, "the host has no address");
    connect_next(link);
}

static void resolved(void *data, const fl_resolved *result)
{
    fl_redis_link *link = data;
    link->resolve = NULL;
    if (result->error) {
        lose(link, uv_strerror(result->error));
        return;
    }
    link->found = *result;
    connect_found(link);
}

static void look_up(fl_redis_link *link)
{
    const fl_redis_target *target = link->target;
    link->phase = RESOLVING;
    int status =
        fl_resolve_start(&link->resolve, link->state, target->host, target->port, resolved, link);
    if (status < 0) lose(link, uv_strerror(status));
}

static void connect_now(fl_redis_link *link)
{
    if (!link->target->host[0]) {
        int status = open_path(link);
        link->next_address = link->found.count = 0;
        if (status < 0) lose(link, uv_strerror(status));
    } else if (fl_resolve_number(link->target->host, link->target->port, &link->found)) {
        connect_found(link);
    } else {
        look_up(link);
    }
}

static void pause_ends(fl_deadline *timer)
{
    fl_redis_link *link = link_of_timer(timer);
    link->phase = IDLE;
    if (link->waiting.first) connect_now(link);
}

/* Never from here: what fails at once would come back. */
static void connect_soon(fl_redis_link *link)
{
    uint64_t now = now_of(link);
    link->phase = PAUSED;
    fl_thread_start_deadline(thread_of(link), &link->timer,
                             link->not_before > now ? link->not_before - now : 0, pause_ends);
}

static void turn_ends(fl_turn_end *end)
{
    fl_redis_link *link = (fl_redis_link *)((char *)end - offsetof(fl_redis_link, turn_end));
    if (link->phase == IDLE && link->waiting.first) {
        if (now_of(link) < link->not_before)
            connect_soon(link);
        else
            connect_now(link);
    } else if (link->phase == READY) {
        if (link->read_again)
            serve(link);
        else
            write_turn(link);
    }
}

/* commands' deadlines */

static void time_out_waiting(fl_redis_command *command)
{
    const fl_redis_link *link = command->on;
    if (link->phase == READY)
        fail_command(command, "TIMEOUT", "%s takes no commands within %llu ms", link->target->label,
                     (unsigned long long)command->timeout);
    else
        fail_command(command, "CONNECTION", "cannot connect to %s: %s", link->target->label,
                     link->problem[0] ? link->problem : "no answer in time");
}

/* Puts one that nobody waits for in the place of a command whose replies are still to come. */
static bool leave_ghost(fl_redis_link *link, fl_redis_command *command)
{
    fl_redis_command *ghost = fl_redis_command_new(0, command->replies);
    if (!ghost) return false;
    ghost->on = link;
    ghost->sent = true;
    ghost->received = command->received;
    ghost->next = command->next;
    ghost->link = command->link;
    *ghost->link = ghost;
    if (ghost->next)
        ghost->next->link = &ghost->next;
    else
        link->sent.last = &ghost->next;
    link->bytes -= command->bytes.size;
    command->link = NULL;
    return true;
}

/* When nothing at all has come since it was sent, the connection is of no use. */
static void time_out_sent(fl_redis_command *command)
{
    fl_redis_link *link = command->on;
    bool is_useless = link->last_read <= command->sent_at || !leave_ghost(link, command);
    fail_command(command, "TIMEOUT", "no answer from %s within %llu ms", link->target->label,
                 (unsigned long long)command->timeout);
    if (is_useless) lose(link, "no answer in time");
}

static void command_timed_out(fl_deadline *deadline)
{
    fl_redis_command *command =
        (fl_redis_command *)((char *)deadline - offsetof(fl_redis_command, deadline));
    fl_redis_link *link = command->on;
    uint64_t past = now_of(link) - command->began;
    bool may_go_on = command->sent || link->phase == READY;
    if (may_go_on && !command->timeout) return;
    if (may_go_on && past < command->timeout)
        fl_thread_start_deadline(thread_of(link), deadline, command->timeout - past,
                                 command_timed_out);
    else if (command->sent)
        time_out_sent(command);
    else
        time_out_waiting(command);
}

static void start_deadline(fl_redis_link *link, fl_redis_command *command)
{
    uint64_t patience = command->timeout;
    if (link->phase != READY && (!patience || patience > link->target->connect_timeout))
        patience = link->target->connect_timeout;
    command->began = now_of(link);
    command->deadline.state = link->state;
    if (patience && command->replies)
        fl_thread_start_deadline(thread_of(link), &command->deadline, patience, command_timed_out);
}

static bool is_refused(fl_redis_link *link, fl_redis_command *command)
{
    const fl_redis_target *target = link->target;
    size_t pending = link->waiting.count + link->sent.count;
    const char *full = NULL;
    if (link->bytes + command->bytes.size > target->bytes_most) full = "max_bytes";
    if (pending >= target->commands_most) full = "max_commands";
    if (link->lost_while_pinned)
        fail_command(command, "CONNECTION", "the connection to %s was lost: %s", target->label,
                     link->problem);
    else if (full && command->ended)
        fail_command(command, "QUEUE_FULL", "%zu commands of %zu bytes wait for %s (%s)", pending,
                     link->bytes, target->label, full);
    else
        return false;
    return true;
}

void fl_redis_link_send(fl_redis_link *link, fl_redis_command *command)
{
    command->on = link;
    if (is_refused(link, command)) return;
    add_command(&link->waiting, command);
    link->bytes += command->bytes.size;
    start_deadline(link, command);
    if (link->phase == IDLE || link->phase == READY)
        fl_turn_end_start(&link->turn_end, link->state, turn_ends);
}

bool fl_redis_link_cancel(fl_redis_command *command)
{
    fl_deadline_stop(&command->deadline);
    command->ended = NULL;
    if (command->sent && command->link) return false;
    leave_queue(command);
    return true;
}

void fl_redis_link_pin(fl_redis_link *link, bool pinned)
{
    link->pinned = pinned;
    link->lost_while_pinned = false;
}

static void drop_all(queue *from)
{
    for (fl_redis_command *command; (command = from->first);) {
        remove_command(from, command);
        fl_deadline_stop(&command->deadline);
        fl_redis_command_free(command);
    }
}

void fl_redis_link_close(fl_redis_link *link, const char *why)
{
    note_problem(link, why);
    fail_waiting(link, "CONNECTION", "the connection was closed: ");
    link->failures = 0;
    let_connection_go(link);
    settle_sent(link);
    fail_waiting(link, "CONNECTION", "the connection was closed: ");
    say_lost(link);
    link->not_before = 0;
}

void fl_redis_link_listen(fl_redis_link *link, fl_redis_messages *messages)
{
    link->listener = messages;
    hand_messages_over(link);
    if (link->lost_unheard && link->listener) {
        say_lost(link);
        return;
    }
    if (link->phase == READY && !link->read_again) want_next(link);
    if (link->phase == READY && link->transport.tls) {
        link->read_again = true;
        fl_turn_end_start(&link->turn_end, link->state, turn_ends);
    }
}

void fl_redis_link_ignore(fl_redis_link *link)
{
    link->listener = NULL;
}

bool fl_redis_link_is_heard(const fl_redis_link *link)
{
    return link->listener != NULL;
}

fl_redis_link_status fl_redis_link_look(const fl_redis_link *link)
{
    return (fl_redis_link_status){.connected = link->phase == READY,
                                  .waiting = link->waiting.count,
                                  .sent = link->sent.count,
                                  .bytes = link->bytes,
                                  .connects = link->connects};
}

fl_redis_link *fl_redis_link_new(fl_state *state, const fl_redis_target *target, bool is_subscriber)
{
    fl_redis_link *link = calloc(1, sizeof(*link));
    if (!link) return NULL;
    link->state = state;
    link->target = target;
    link->is_subscriber = is_subscriber;
    link->transport.fd = -1;
    link->timer.state = state;
    init_queue(&link->waiting);
    init_queue(&link->sent);
    fl_buffer_init(&link->out);
    fl_buffer_init(&link->records);
    return link;
}

void fl_redis_link_free(fl_redis_link *link)
{
    fl_turn_end_stop(&link->turn_end);
    let_connection_go(link);
    drop_all(&link->waiting);
    drop_all(&link->sent);
    fl_buffer_close(&link->out);
    fl_buffer_close(&link->records);
    free(link);
}
