#include "link.h"

#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "greeting.h"
#include "line.h"
#include "queue.h"
#include "reply.h"
#include "thread.h"

#define OUT_MOST ((size_t)256 << 10) /* bytes that are put together for writing */
#define OUT_KEEP ((size_t)64 << 10)
#define READ_SIZE ((size_t)32 << 10)
#define READS_MOST 32 /* of a turn */

struct fl_redis_link {
    fl_state *state;
    const fl_redis_target *target;
    fl_redis_line line;
    fl_redis_greeting greeting;
    fl_redis_reader reader;
    fl_buffer out;
    size_t written; /* of `out` */
    fl_redis_queue waiting, sent;
    fl_redis_inbox inbox; /* of a subscriber */
    fl_turn_end turn_end;
    uint64_t last_read; /* ms */
    unsigned long connects;
    bool is_ready; /* the line is up, and the greeting over */
    bool is_subscriber, pinned, lost_while_pinned, read_again;
    bool is_fresh; /* the first reply is to come */
    bool is_told;  /* the log says that there is no connection */
};

static fl_thread *thread_of(const fl_redis_link *link)
{
    return link->state->thread;
}

static uint64_t now_of(const fl_redis_link *link)
{
    return uv_now(&thread_of(link)->loop);
}

static bool is_up(const fl_redis_link *link)
{
    return link->line.phase == FL_LINE_UP;
}

/* losing the connection */

static void say_lost(fl_redis_link *link)
{
    if (link->is_subscriber)
        fl_redis_inbox_lose(&link->inbox, link->target->label, link->line.problem);
}

static void let_connection_go(fl_redis_link *link)
{
    fl_redis_line_close(&link->line);
    fl_redis_reader_close(&link->reader);
    fl_buffer_reset(&link->out, OUT_KEEP);
    link->written = 0;
    link->read_again = false;
    link->is_ready = false;
}

static bool is_to_repeat(const fl_redis_link *link, const fl_redis_command *command)
{
    return command->may_repeat && !command->repeated && !command->received && command->ended &&
           !link->pinned;
}

/* What was sent: nobody knows whether it was carried out. */
static void settle_sent(fl_redis_link *link)
{
    fl_redis_queue again;
    fl_redis_queue_init(&again);
    for (fl_redis_command *command; (command = link->sent.first);) {
        if (is_to_repeat(link, command)) {
            fl_redis_queue_leave(command);
            fl_redis_queue_add(&again, command);
            command->repeated = true;
            command->sent = false;
        } else {
            fl_redis_command_fail(command, "CONNECTION",
                                  "the connection to %s was lost while it was under way: %s",
                                  link->target->label, link->line.problem);
        }
    }
    fl_redis_queue_put_in_front(&link->waiting, &again);
}

static void fail_waiting(fl_redis_link *link, const char *code, const char *prefix)
{
    while (link->waiting.first)
        fl_redis_command_fail(link->waiting.first, code, "%s%s", prefix, link->line.problem);
}

/* What a subscriber has sent is sent again by who listens. */
static void drop_silent(fl_redis_link *link)
{
    for (fl_redis_command *command = link->waiting.first, *next; command; command = next) {
        next = command->next;
        if (!command->replies) fl_redis_command_end(command);
    }
}

static void log_loss(fl_redis_link *link)
{
    fl_log *log = thread_of(link)->log;
    const char *label = link->target->label, *problem = link->line.problem;
    if (link->is_ready) {
        fl_log_printf(log, FL_LOG_INFO, "redis %s: connection lost: %s", label, problem);
    } else if (!link->is_told) {
        link->is_told = true;
        fl_log_printf(log, FL_LOG_WARN, "redis %s: cannot connect: %s", label, problem);
    }
}

static void log_return(fl_redis_link *link)
{
    if (link->is_told)
        fl_log_printf(thread_of(link)->log, FL_LOG_INFO, "redis %s: connected again",
                      link->target->label);
    link->is_told = false;
}

static void lose(fl_redis_link *link, const char *problem)
{
    bool was_ready = link->is_ready;
    fl_redis_line_note(&link->line, problem);
    log_loss(link);
    let_connection_go(link);
    settle_sent(link);
    if (link->pinned && was_ready) {
        link->lost_while_pinned = true;
        fail_waiting(link, "CONNECTION", "the connection was lost: ");
    }
    drop_silent(link);
    say_lost(link);
    fl_redis_line_back_off(&link->line);
    if (link->waiting.first) fl_redis_line_open_later(&link->line);
}

/* A server that refuses us will do so again: who waits is told so at once. */
static void lose_refused(fl_redis_link *link, const char *problem)
{
    fl_redis_line_note(&link->line, problem);
    fail_waiting(link, "", "");
    lose(link, link->line.problem);
}

/* writing */

static void want_next(fl_redis_link *link)
{
    if (is_up(link)) fl_redis_line_want(&link->line, !fl_redis_inbox_is_full(&link->inbox));
}

static void send_command(fl_redis_link *link, fl_redis_command *command)
{
    fl_buffer_slice(&link->out, command->bytes);
    if (!command->replies) {
        fl_redis_command_end(command);
        return;
    }
    command->sent = true;
    command->sent_at = now_of(link);
    fl_redis_queue_leave(command);
    fl_redis_queue_add(&link->sent, command);
}

static void fill_out(fl_redis_link *link)
{
    if (!link->is_ready) return;
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
    ssize_t count = fl_transport_write(&link->line.transport, link->out.data + link->written,
                                       link->out.size - link->written);
    if (count < 0) lose(link, link->line.transport.problem);
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
    link->line.transport.want = 0;
    write_out(link);
}

/* greeting */

static void be_ready(fl_redis_link *link)
{
    fl_redis_line_settle(&link->line);
    log_return(link);
    link->is_ready = true;
    link->is_fresh = true;
    link->connects++;
}

static fl_redis_link *link_of_line(fl_redis_line *line)
{
    return (fl_redis_link *)((char *)line - offsetof(fl_redis_link, line));
}

static void line_connected(fl_redis_line *line)
{
    fl_redis_link *link = link_of_line(line);
    if (fl_redis_reader_open(&link->reader, link->target->reply_most) < 0) {
        lose(link, "not enough memory");
        return;
    }
    fl_redis_greeting_say(&link->greeting, link->target, &link->out);
    if (!link->greeting.pending) be_ready(link);
    write_out(link);
}

/* The error that was read. */
static void note_error(fl_redis_link *link, const char *otherwise)
{
    char problem[sizeof(link->line.problem)];
    fl_slice text = fl_redis_reply_text(link->reader.record.data);
    int size = (int)(text.size < sizeof(problem) ? text.size : sizeof(problem) - 1);
    (void)snprintf(problem, sizeof(problem), "%.*s", size, text.data);
    fl_redis_line_note(&link->line, size ? problem : otherwise);
}

static void take_greeting(fl_redis_link *link)
{
    switch (fl_redis_greeting_take(&link->greeting, link->reader.record.data)) {
    case FL_GREETING_GOES_ON: break;
    case FL_GREETING_DONE: be_ready(link); break;
    case FL_GREETING_AGAIN:
        note_error(link, "");
        lose(link, link->line.problem);
        break;
    case FL_GREETING_REFUSED:
        note_error(link, "");
        lose_refused(link, link->line.problem);
        break;
    }
}

/* reading */

static void take_message(fl_redis_link *link)
{
    link->line.failures = 0;
    if (!fl_redis_inbox_add(&link->inbox, &link->reader.record))
        lose(link, "there is no memory for a message");
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
    if (!link->sent.first) return true;
    return link->is_fresh && (fl_redis_reply_is_error_of(record, "ERR max number") ||
                              fl_redis_reply_is_error_of(record, "DENIED"));
}

static void turn_away(fl_redis_link *link)
{
    note_error(link, "it has sent what nobody asked for");
    lose(link, link->line.problem);
}

static void take_reply(fl_redis_link *link)
{
    fl_redis_command *command = link->sent.first;
    if (is_turned_away(link, link->reader.record.data)) {
        turn_away(link);
        return;
    }
    link->is_fresh = false;
    link->line.failures = 0;
    if (!keep_reply(command, &link->reader.record)) {
        lose(link, "there is no memory for a reply");
        return;
    }
    if (++command->received < command->replies) return;
    fl_redis_command_end(command);
}

static void take_record(fl_redis_link *link)
{
    bool is_push = fl_redis_reply_is_push(link->reader.record.data);
    if (!link->is_ready && !is_push)
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
        if (!is_up(link)) return; /* it was lost */
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
        if (fl_redis_inbox_is_full(&link->inbox)) return;
        ssize_t count = fl_transport_read(&link->line.transport, data, sizeof(data));
        if (count < 0) lose(link, link->line.transport.problem);
        if (count <= 0) return;
        link->last_read = now_of(link);
        take_records(link, fl_slice_of(data, (size_t)count));
        if (!is_up(link)) return;
        if ((size_t)count < sizeof(data) && !link->line.transport.tls) return;
    }
    link->read_again = true; /* TLS may have more that no descriptor tells of */
}

static void turn_ends(fl_turn_end *end);

static void line_ready(fl_redis_line *line)
{
    fl_redis_link *link = link_of_line(line);
    link->line.transport.want = 0;
    read_in(link);
    fl_redis_inbox_hand_over(&link->inbox);
    if (!is_up(link)) return;
    write_out(link);
    if (link->read_again) fl_turn_end_start(&link->turn_end, link->state, turn_ends);
}

static void line_failed(fl_redis_line *line, const char *problem)
{
    lose(link_of_line(line), problem);
}

static void line_rested(fl_redis_line *line)
{
    if (link_of_line(line)->waiting.first) fl_redis_line_open(line);
}

static void turn_ends(fl_turn_end *end)
{
    fl_redis_link *link = (fl_redis_link *)((char *)end - offsetof(fl_redis_link, turn_end));
    if (link->line.phase == FL_LINE_DOWN && link->waiting.first)
        fl_redis_line_open(&link->line);
    else if (link->is_ready && link->read_again)
        line_ready(&link->line);
    else if (link->is_ready)
        write_turn(link);
}

/* commands' deadlines */

static void time_out_waiting(fl_redis_command *command)
{
    const fl_redis_link *link = command->on;
    if (link->is_ready)
        fl_redis_command_fail(command, "TIMEOUT", "%s takes no commands within %llu ms",
                              link->target->label, (unsigned long long)command->timeout);
    else
        fl_redis_command_fail(command, "CONNECTION", "cannot connect to %s: %s",
                              link->target->label,
                              link->line.problem[0] ? link->line.problem : "no answer in time");
}

/* Puts one that nobody waits for in the place of a command whose replies are still to come. */
static bool leave_ghost(fl_redis_link *link, fl_redis_command *command)
{
    fl_redis_command *ghost = fl_redis_command_new(0, command->replies);
    if (!ghost) return false;
    ghost->on = link;
    ghost->sent = true;
    ghost->received = command->received;
    fl_redis_queue_replace(command, ghost);
    return true;
}

/* When nothing at all has come since it was sent, the connection is of no use. */
static void time_out_sent(fl_redis_command *command)
{
    fl_redis_link *link = command->on;
    bool is_useless = link->last_read <= command->sent_at || !leave_ghost(link, command);
    fl_redis_command_fail(command, "TIMEOUT", "no answer from %s within %llu ms",
                          link->target->label, (unsigned long long)command->timeout);
    if (is_useless) lose(link, "no answer in time");
}

static void command_timed_out(fl_deadline *deadline)
{
    fl_redis_command *command =
        (fl_redis_command *)((char *)deadline - offsetof(fl_redis_command, deadline));
    fl_redis_link *link = command->on;
    uint64_t past = now_of(link) - command->began;
    bool may_go_on = command->sent || link->is_ready;
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
    if (!link->is_ready && (!patience || patience > link->target->connect_timeout))
        patience = link->target->connect_timeout;
    command->began = now_of(link);
    command->deadline.state = link->state;
    if (patience && command->replies)
        fl_thread_start_deadline(thread_of(link), &command->deadline, patience, command_timed_out);
}

static size_t bytes_of(const fl_redis_link *link)
{
    return link->waiting.bytes + link->sent.bytes;
}

static bool is_refused(fl_redis_link *link, fl_redis_command *command)
{
    const fl_redis_target *target = link->target;
    size_t pending = link->waiting.count + link->sent.count;
    size_t bytes = bytes_of(link);
    const char *full = NULL;
    if (bytes + command->bytes.size > target->bytes_most) full = "max_bytes";
    if (pending >= target->commands_most) full = "max_commands";
    if (link->lost_while_pinned)
        fl_redis_command_fail(command, "CONNECTION", "the connection to %s was lost: %s",
                              target->label, link->line.problem);
    else if (full && command->ended)
        fl_redis_command_fail(command, "QUEUE_FULL", "%zu commands of %zu bytes wait for %s (%s)",
                              pending, bytes, target->label, full);
    else
        return false;
    return true;
}

void fl_redis_link_send(fl_redis_link *link, fl_redis_command *command)
{
    command->on = link;
    if (is_refused(link, command)) return;
    fl_redis_queue_add(&link->waiting, command);
    start_deadline(link, command);
    if (link->line.phase == FL_LINE_DOWN || link->is_ready)
        fl_turn_end_start(&link->turn_end, link->state, turn_ends);
}

bool fl_redis_link_cancel(fl_redis_command *command)
{
    fl_deadline_stop(&command->deadline);
    command->ended = NULL;
    if (command->sent && command->in) return false;
    fl_redis_queue_leave(command);
    return true;
}

void fl_redis_link_pin(fl_redis_link *link, bool pinned)
{
    link->pinned = pinned;
    link->lost_while_pinned = false;
}

static void drop_all(fl_redis_queue *from)
{
    for (fl_redis_command *command; (command = from->first);) {
        fl_redis_queue_leave(command);
        fl_deadline_stop(&command->deadline);
        fl_redis_command_free(command);
    }
}

void fl_redis_link_close(fl_redis_link *link, const char *why)
{
    fl_redis_line_note(&link->line, why);
    fail_waiting(link, "CONNECTION", "the connection was closed: ");
    link->line.failures = 0;
    let_connection_go(link);
    settle_sent(link);
    fail_waiting(link, "CONNECTION", "the connection was closed: ");
    say_lost(link);
    link->line.not_before = 0;
}

void fl_redis_link_listen(fl_redis_link *link, fl_redis_messages *messages)
{
    fl_redis_inbox_listen(&link->inbox, messages);
    if (link->inbox.lost_unheard && link->inbox.listener) {
        say_lost(link);
        return;
    }
    if (link->is_ready && !link->read_again) want_next(link);
    if (link->is_ready && link->line.transport.tls) {
        link->read_again = true;
        fl_turn_end_start(&link->turn_end, link->state, turn_ends);
    }
}

void fl_redis_link_ignore(fl_redis_link *link)
{
    link->inbox.listener = NULL;
}

bool fl_redis_link_is_heard(const fl_redis_link *link)
{
    return link->inbox.listener != NULL;
}

fl_redis_link_status fl_redis_link_look(const fl_redis_link *link)
{
    return (fl_redis_link_status){.connected = link->is_ready,
                                  .waiting = link->waiting.count,
                                  .sent = link->sent.count,
                                  .bytes = bytes_of(link),
                                  .connects = link->connects};
}

fl_redis_link *fl_redis_link_new(fl_state *state, const fl_redis_target *target, bool is_subscriber)
{
    static const fl_redis_line_events events = {line_rested, line_connected, line_ready,
                                                line_failed};
    fl_redis_link *link = calloc(1, sizeof(*link));
    if (!link) return NULL;
    link->state = state;
    link->target = target;
    link->is_subscriber = is_subscriber;
    fl_redis_line_init(&link->line, state, target, &events);
    fl_redis_queue_init(&link->waiting);
    fl_redis_queue_init(&link->sent);
    fl_buffer_init(&link->out);
    fl_redis_inbox_init(&link->inbox);
    return link;
}

void fl_redis_link_free(fl_redis_link *link)
{
    fl_turn_end_stop(&link->turn_end);
    let_connection_go(link);
    drop_all(&link->waiting);
    drop_all(&link->sent);
    fl_buffer_close(&link->out);
    fl_redis_inbox_close(&link->inbox);
    free(link);
}
