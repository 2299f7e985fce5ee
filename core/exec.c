#include "exec.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "environment.h"
#include "server.h"

#define PATIENCE 1000  /* ms from SIGTERM to SIGKILL */
#define LAST_WORDS 200 /* ms from SIGKILL until outputs are closed that others hold open */
#define READ_SIZE 16384

typedef enum { RUNNING, TERMINATED, KILLED, CLOSING } exec_phase;
enum { INPUT, OUTPUT, ERRORS, PIPES };

struct fl_exec {
    _Atomic unsigned references;
    fl_server *server;
    fl_address *reply; /* held while it runs */
    void (*ended)(void *data);
    void *data;
    fl_message message; /* to the server */
    fl_letter letter;   /* back */
    fl_message cancel;
    fl_exec_program program; /* its slices lie in `text` */
    char *text;
    fl_exec_result result;
    exec_phase phase;
    bool exited;
    unsigned open_handles;
    uv_process_t process;
    uv_timer_t timer;
    uv_pipe_t pipes[PIPES];
    uv_write_t write;
    char read[READ_SIZE];
};

static fl_exec *exec_of_message(fl_message *message)
{
    return (fl_exec *)((char *)message - offsetof(fl_exec, message));
}

static fl_exec *exec_of_cancel(fl_message *cancel)
{
    return (fl_exec *)((char *)cancel - offsetof(fl_exec, cancel));
}

/* back to the state */

static fl_exec *exec_of_letter(fl_letter *letter)
{
    return (fl_exec *)((char *)letter - offsetof(fl_exec, letter));
}

static void deliver_reply(fl_letter *letter, fl_state *state)
{
    (void)state;
    fl_exec *exec = exec_of_letter(letter);
    exec->ended(exec->data);
    fl_exec_release(exec);
}

static void drop_reply(fl_letter *letter)
{
    fl_exec_release(exec_of_letter(letter));
}

/* Nothing may touch `exec` after this. */
static void reply(fl_exec *exec)
{
    fl_address *address = exec->reply;
    exec->reply = NULL;
    exec->letter = (fl_letter){.deliver = deliver_reply, .drop = drop_reply};
    if (fl_address_post(address, &exec->letter) < 0) fl_exec_release(exec);
    fl_address_release(address);
}

/* the end of a run */

static void handle_closed(uv_handle_t *handle)
{
    fl_exec *exec = handle->data;
    if (--exec->open_handles == 0) reply(exec);
}

static bool is_open(const uv_handle_t *handle)
{
    return uv_handle_get_type(handle) != UV_UNKNOWN_HANDLE && !uv_is_closing(handle);
}

static void close_handle(void *handle)
{
    if (is_open(handle)) uv_close(handle, handle_closed);
}

static void close_all(fl_exec *exec)
{
    exec->phase = CLOSING;
    for (int i = 0; i < PIPES; i++) close_handle(&exec->pipes[i]);
    close_handle(&exec->process);
    close_handle(&exec->timer);
}

static void maybe_ended(fl_exec *exec)
{
    bool outputs_open = is_open((uv_handle_t *)&exec->pipes[OUTPUT]) ||
                        is_open((uv_handle_t *)&exec->pipes[ERRORS]);
    if (exec->exited && !outputs_open && exec->phase != CLOSING) close_all(exec);
}

/* Somebody outside of the process group may hold the outputs open for ever. */
static void give_outputs_up(uv_timer_t *timer)
{
    fl_exec *exec = timer->data;
    close_handle(&exec->pipes[OUTPUT]);
    close_handle(&exec->pipes[ERRORS]);
    maybe_ended(exec);
}

/* The group outlives the program that leads it while others of it run. */
static void signal_group(const fl_exec *exec, int signal)
{
    (void)uv_kill(-exec->process.pid, signal);
}

static void kill_group(uv_timer_t *timer)
{
    fl_exec *exec = timer->data;
    exec->phase = KILLED;
    signal_group(exec, SIGKILL);
    (void)uv_timer_start(timer, give_outputs_up, LAST_WORDS, 0);
}

static void terminate(fl_exec *exec)
{
    if (exec->phase != RUNNING) return;
    exec->phase = TERMINATED;
    signal_group(exec, SIGTERM);
    (void)uv_timer_start(&exec->timer, kill_group, PATIENCE, 0);
}

static void timed_out(uv_timer_t *timer)
{
    fl_exec *exec = timer->data;
    exec->result.timed_out = true;
    terminate(exec);
}

static void exited(uv_process_t *process, int64_t code, int signal)
{
    fl_exec *exec = process->data;
    exec->exited = true;
    exec->result.code = code;
    exec->result.signal = signal;
    maybe_ended(exec);
}

/* its input and outputs */

static void offer_room(uv_handle_t *handle, size_t suggested, uv_buf_t *room)
{
    (void)suggested;
    fl_exec *exec = handle->data;
    *room = uv_buf_init(exec->read, sizeof(exec->read));
}

static void keep_output(fl_exec *exec, fl_buffer *kept, const char *data, size_t size)
{
    size_t room = (size_t)exec->program.output_most - kept->size;
    if (size > room) exec->result.truncated = true;
    fl_buffer_append(kept, data, size < room ? size : room);
    if (kept->failed) exec->result.truncated = true;
}

static void have_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *room)
{
    fl_exec *exec = stream->data;
    bool is_output = stream == (uv_stream_t *)&exec->pipes[OUTPUT];
    if (size > 0) {
        keep_output(exec, is_output ? &exec->result.output : &exec->result.errors, room->base,
                    (size_t)size);
    } else if (size < 0) {
        close_handle(stream);
        maybe_ended(exec);
    }
}

/* A program need not read what it is given: failing is fine. */
static void have_written(uv_write_t *write, int status)
{
    (void)status;
    close_handle(write->handle);
}

static void write_input(fl_exec *exec)
{
    const fl_slice *input = &exec->program.input;
    uv_buf_t all = uv_buf_init((char *)input->data, (unsigned)input->size);
    uv_stream_t *stream = (uv_stream_t *)&exec->pipes[INPUT];
    if (uv_write(&exec->write, stream, &all, 1, have_written) < 0) close_handle(stream);
}

/* Real pipes: programs may open /dev/stdin and /dev/stdout, which sockets refuse. */
static int open_pipe(fl_exec *exec, uv_loop_t *loop, int which, int *theirs)
{
    int fds[2], mine = which == INPUT ? 1 : 0;
    int status = uv_pipe(fds, 0, 0);
    if (status < 0) return status;
    *theirs = fds[1 - mine];
    (void)uv_pipe_init(loop, &exec->pipes[which], 0);
    exec->pipes[which].data = exec;
    exec->open_handles++;
    status = uv_pipe_open(&exec->pipes[which], fds[mine]);
    if (status < 0) close(fds[mine]);
    return status;
}

static int open_pipes(fl_exec *exec, uv_loop_t *loop, int theirs[PIPES])
{
    int status = 0;
    for (int i = exec->program.input.data ? INPUT : OUTPUT; i < PIPES && status == 0; i++)
        status = open_pipe(exec, loop, i, &theirs[i]);
    return status;
}

/* the start */

/* Pointers to the texts with a NUL behind each, and NULL. */
static char **split(fl_slice texts)
{
    size_t count = 0, kept = 0;
    for (size_t i = 0; i < texts.size; i++) count += texts.data[i] == '\0';
    char **list = calloc(count + 1, sizeof(*list));
    for (size_t at = 0; list && at < texts.size; at += strlen(texts.data + at) + 1)
        list[kept++] = (char *)texts.data + at;
    return list;
}

/* Libraries and apps open descriptors that would be inherited; so is what the supervisor gave us. A
 * kernel before 5.11 cannot do this, and then libuv's slower way is taken. */
static void keep_descriptors(void)
{
    if (close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
        uv_disable_stdio_inheritance();
}

static int spawn_with(fl_exec *exec, uv_loop_t *loop, const int fds[PIPES], char **arguments,
                      char **environment)
{
    uv_stdio_container_t stdio[PIPES];
    for (int i = 0; i < PIPES; i++) {
        stdio[i].flags = fds[i] < 0 ? UV_IGNORE : UV_INHERIT_FD;
        stdio[i].data.fd = fds[i];
    }
    uv_process_options_t options = {.exit_cb = exited,
                                    .file = arguments[0],
                                    .args = arguments,
                                    .env = environment,
                                    .cwd = exec->program.folder.data,
                                    .flags = UV_PROCESS_DETACHED,
                                    .stdio_count = PIPES,
                                    .stdio = stdio};
    exec->process.data = exec;
    exec->open_handles++;
    keep_descriptors();
    return uv_spawn(loop, &exec->process, &options);
}

static int spawn(fl_exec *exec, uv_loop_t *loop)
{
    int theirs[PIPES] = {-1, -1, -1};
    char **arguments = split(exec->program.arguments);
    char **environment = exec->program.environment.data ? split(exec->program.environment)
                                                        : fl_environment_inherited(NULL);
    int status = arguments && environment ? open_pipes(exec, loop, theirs) : UV_ENOMEM;
    if (status == 0) status = spawn_with(exec, loop, theirs, arguments, environment);
    for (int i = 0; i < PIPES; i++)
        if (theirs[i] >= 0) close(theirs[i]);
    free(arguments);
    free(environment);
    return status;
}

static void watch(fl_exec *exec)
{
    if (exec->program.input.data) write_input(exec);
    for (int i = OUTPUT; i < PIPES; i++)
        (void)uv_read_start((uv_stream_t *)&exec->pipes[i], offer_room, have_read);
    uv_update_time(exec->timer.loop); /* spawning takes its time */
    if (exec->program.timeout)
        (void)uv_timer_start(&exec->timer, timed_out, exec->program.timeout, 0);
}

static void deliver_start(fl_message *message, void *owner)
{
    fl_exec *exec = exec_of_message(message);
    uv_loop_t *loop = fl_server_loop(owner);
    (void)uv_timer_init(loop, &exec->timer);
    exec->timer.data = exec;
    exec->open_handles = 1;
    exec->result.error = spawn(exec, loop);
    if (exec->result.error)
        close_all(exec);
    else
        watch(exec);
}

static void drop_start(fl_message *message)
{
    fl_exec *exec = exec_of_message(message);
    exec->result.error = UV_ECANCELED;
    reply(exec);
}

/* A run that has ended by now goes to CLOSING before its reply leaves. */
static void deliver_cancel(fl_message *cancel, void *owner)
{
    (void)owner;
    fl_exec *exec = exec_of_cancel(cancel);
    if (exec->phase != CLOSING) {
        exec->result.error = UV_ECANCELED;
        terminate(exec);
    }
    fl_exec_release(exec);
}

static void drop_cancel(fl_message *cancel)
{
    fl_exec_release(exec_of_cancel(cancel));
}

static size_t put(char *to, size_t at, fl_slice *slice)
{
    if (!slice->data) return at;
    memcpy(to + at, slice->data, slice->size);
    slice->data = to + at;
    to[at + slice->size] = '\0';
    return at + slice->size + 1;
}

int fl_exec_new(fl_exec **out, const fl_exec_program *program)
{
    size_t size = program->arguments.size + program->environment.size + program->folder.size +
                  program->input.size + 4;
    fl_exec *exec = calloc(1, sizeof(*exec));
    if (!exec) return UV_ENOMEM;
    exec->text = malloc(size);
    if (!exec->text) {
        free(exec);
        return UV_ENOMEM;
    }
    exec->program = *program;
    size_t at = put(exec->text, 0, &exec->program.arguments);
    at = put(exec->text, at, &exec->program.environment);
    at = put(exec->text, at, &exec->program.folder);
    (void)put(exec->text, at, &exec->program.input);
    fl_buffer_init(&exec->result.output);
    fl_buffer_init(&exec->result.errors);
    atomic_init(&exec->references, 1);
    *out = exec;
    return 0;
}

int fl_exec_start(fl_exec *exec, fl_server *server, fl_address *reply_to, void (*ended)(void *data),
                  void *data)
{
    exec->server = server;
    exec->reply = reply_to;
    exec->ended = ended;
    exec->data = data;
    exec->message = (fl_message){.deliver = deliver_start, .drop = drop_start};
    fl_address_hold(reply_to);
    atomic_fetch_add(&exec->references, 1);
    int status = fl_mailbox_post(fl_server_mailbox(server), &exec->message);
    if (status == 0) return 0;
    fl_address_release(reply_to);
    fl_exec_release(exec);
    return status;
}

void fl_exec_cancel(fl_exec *exec)
{
    exec->cancel = (fl_message){.deliver = deliver_cancel, .drop = drop_cancel};
    atomic_fetch_add(&exec->references, 1);
    if (fl_mailbox_post(fl_server_mailbox(exec->server), &exec->cancel) < 0) fl_exec_release(exec);
}

const fl_exec_result *fl_exec_result_of(const fl_exec *exec)
{
    return &exec->result;
}

void fl_exec_release(fl_exec *exec)
{
    if (atomic_fetch_sub(&exec->references, 1) != 1) return;
    fl_buffer_close(&exec->result.output);
    fl_buffer_close(&exec->result.errors);
    free(exec->text);
    free(exec);
}

/* Processes of this loop are ours: nothing else of the server starts any. */
static void end_walked(uv_handle_t *handle, void *data)
{
    (void)data;
    if (uv_handle_get_type(handle) != UV_PROCESS || uv_is_closing(handle)) return;
    fl_exec *exec = handle->data;
    signal_group(exec, SIGKILL);
    exec->result.error = UV_ECANCELED;
    close_all(exec);
}

void fl_exec_end_all(uv_loop_t *loop)
{
    uv_walk(loop, end_walked, NULL);
}
