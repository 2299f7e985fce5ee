/* The supervisor runs in a forked process; the server processes it starts are this program again,
 * which then plays the smallest server that keeps to control.h. Files of one directory per test say
 * how it is to behave ("mode") and collect what everybody prints ("log"). */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "control.h"
#include "ledger.h"
#include "supervisor.h"
#include "test.h"

#define TEXT_MAX 16384
#define RETRY 100 /* ms */

static void read_file(const char *path, char text[TEXT_MAX])
{
    FILE *file = fopen(path, "r");
    size_t size = file ? fread(text, 1, TEXT_MAX - 1, file) : 0;
    text[size] = '\0';
    if (file) (void)fclose(file);
}

/* the server process: modes serve, fail, slow fail, die, slow, slower, stubborn, stuck, and
 * patient: serves until the mode is another one, and is stuck from then on */

typedef struct player {
    char mode[TEXT_MAX];
    struct pollfd watched[1 + FL_CONTROL_LISTENERS]; /* the control pair, then the listeners */
    nfds_t count;
} player;

static bool plays(const player *self, const char *mode)
{
    return strcmp(self->mode, mode) == 0;
}

static void say(fl_control_kind kind, const char *text)
{
    if (fl_control_send(FL_CONTROL_FD, kind, text, NULL, 0) != 0) _exit(9);
}

static void play_loading(player *self)
{
    fl_ledger *ledger;
    read_file(getenv("TEST_MODE"), self->mode);
    if (plays(self, "die")) _exit(7);
    if (plays(self, "slow") || plays(self, "slow fail")) (void)poll(NULL, 0, 100);
    if (plays(self, "slower")) (void)poll(NULL, 0, 500);
    if (plays(self, "fail") || plays(self, "slow fail")) {
        say(FL_CONTROL_FAILED, "apps/shop/app.lua:3: what a mess");
        _exit(3);
    }
    if (fl_ledger_map(&ledger, FL_LEDGER_FD) != 0) _exit(8);
    uint32_t route = fl_ledger_route(ledger, FL_SLICE("GET"), FL_SLICE("/held"));
    *fl_ledger_slots(ledger, 0) = (fl_ledger_slot){1, route, 1};
    say(FL_CONTROL_LOADED, NULL);
}

static void play_answers(const player *self)
{
    char answer[64];
    int size = snprintf(answer, sizeof(answer), "%d %s", (int)getpid(), getenv("FASTERLUA_SERVER"));
    for (nfds_t i = 1; i < self->count; i++)
        for (int fd; (fd = accept(self->watched[i].fd, NULL, NULL)) >= 0; close(fd))
            if (write(fd, answer, (size_t)size) < 0) continue;
}

static void play_leaving(player *self)
{
    play_answers(self);
    for (nfds_t i = 1; i < self->count; i++) close(self->watched[i].fd);
    self->count = 1;
    (void)fl_control_send(FL_CONTROL_FD, FL_CONTROL_CLOSED, NULL, NULL, 0);
    if (!plays(self, "stubborn")) _exit(0);
}

static void play_listening(player *self, const fl_control_message *message)
{
    struct sockaddr_in address = {0};
    socklen_t size = sizeof(address);
    for (size_t i = 0; i < message->fd_count; i++)
        self->watched[self->count++] = (struct pollfd){message->fds[i], POLLIN, 0};
    (void)getsockname(message->fds[0], (struct sockaddr *)&address, &size);
    if (address.sin_family == AF_INET) (void)printf("port=%u;\n", ntohs(address.sin_port));
    (void)printf("listeners=%zu %s\n", message->fd_count, message->text);
    (void)fflush(stdout);
    say(FL_CONTROL_READY, NULL);
    if (plays(self, "stuck")) say(FL_CONTROL_STUCK, "GET /loop has run for 1 s");
}

static void play_control(player *self)
{
    static fl_control_message message;
    int got = fl_control_receive(FL_CONTROL_FD, &message);
    if (got == UV_EAGAIN) return;
    if (got <= 0) _exit(0);
    if (message.kind == FL_CONTROL_LISTENERS_SENT)
        play_listening(self, &message);
    else if (message.kind != FL_CONTROL_NOW)
        play_leaving(self);
    else if (!plays(self, "stubborn"))
        _exit(0);
}

static void play_patient(player *self)
{
    if (!plays(self, "patient")) return;
    read_file(getenv("TEST_MODE"), self->mode);
    if (!plays(self, "patient")) say(FL_CONTROL_STUCK, "GET /loop has run for 1 s");
}

__attribute__((constructor)) static void play_server(void)
{
    static player self;
    if (!getenv("FASTERLUA_SERVER")) return;
    (void)signal(SIGTERM, SIG_IGN);
    (void)signal(SIGINT, SIG_IGN);
    play_loading(&self);
    self.watched[self.count++] = (struct pollfd){FL_CONTROL_FD, POLLIN, 0};
    for (;;) {
        (void)poll(self.watched, self.count, plays(&self, "patient") ? 2 : -1);
        play_patient(&self);
        play_control(&self);
        play_answers(&self);
    }
}

/* the test's side */

typedef struct place {
    char directory[40], mode[64], log[64], socket[64], notify[64];
    fl_settings settings;
    pid_t supervisor;
    char text[TEXT_MAX];
} place;

static void set_mode(const place *where, const char *mode)
{
    char other[80]; /* renamed, so that no reader sees half of it */
    (void)snprintf(other, sizeof(other), "%s.new", where->mode);
    FILE *file = fopen(other, "w");
    (void)fputs(mode, file);
    (void)fclose(file);
    (void)rename(other, where->mode);
}

static bool make_place(place *where, const char *mode)
{
    static char none[] = "", host[] = "127.0.0.1", level[] = "info", format[] = "text";
    memcpy(where->directory, "/tmp/fasterlua-supervisor-XXXXXX", 33);
    if (!mkdtemp(where->directory)) return false;
    (void)snprintf(where->mode, sizeof(where->mode), "%s/mode", where->directory);
    (void)snprintf(where->log, sizeof(where->log), "%s/log", where->directory);
    (void)snprintf(where->socket, sizeof(where->socket), "%s/socket", where->directory);
    (void)snprintf(where->notify, sizeof(where->notify), "%s/notify", where->directory);
    where->settings = (fl_settings){.host = host, .fd = -1, .uds = where->socket, .backlog = 64};
    where->settings.user = where->settings.group = none;
    where->settings.log_level = level;
    where->settings.log_format = format;
    where->settings.log_buffer = 65536;
    where->settings.workers = where->settings.threads = 1;
    where->settings.connections = 16;
    where->settings.drain = 10000000000;
    where->supervisor = 0;
    set_mode(where, mode);
    return true;
}

static void remove_place(place *where)
{
    (void)unlink(where->mode);
    (void)unlink(where->log);
    (void)unlink(where->socket);
    (void)unlink(where->notify);
    (void)rmdir(where->directory);
}

/* It ends with this program, also when a check has failed. */
static void run_supervisor(const place *where)
{
    static char name[] = "supervisor_test";
    char *argv[] = {name, NULL};
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    int log = open(where->log, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    (void)dup2(log, 1);
    (void)dup2(log, 2);
    (void)setenv("TEST_MODE", where->mode, 1);
    (void)setenv("NOTIFY_SOCKET", where->notify, 1);
    exit(fl_supervisor_run(&where->settings, argv, RETRY)); /* so that a leak check has its say */
}

static bool start(place *where)
{
    (void)fflush(stdout);
    where->supervisor = fork();
    if (where->supervisor == 0) run_supervisor(where);
    return where->supervisor > 0;
}

static uint64_t now(void)
{
    return uv_hrtime() / 1000000;
}

static void pause_for(int milliseconds)
{
    (void)poll(NULL, 0, milliseconds);
}

/* The exit status, 1000 + the signal, or -1 when it is still there after 3 s. */
static int end_of_process(pid_t pid)
{
    for (uint64_t until = now() + 3000; now() < until; pause_for(1)) {
        int status;
        if (waitpid(pid, &status, WNOHANG) != pid) continue;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    }
    return -1;
}

static int end_of(const place *where)
{
    return end_of_process(where->supervisor);
}

static int stop(const place *where)
{
    (void)kill(where->supervisor, SIGTERM);
    return end_of(where);
}

static int connect_socket(const place *where)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, where->socket, strlen(where->socket));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0) return fd;
    close(fd);
    return -1;
}

static int connect_port(uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0) return fd;
    close(fd);
    return -1;
}

typedef struct answer { /* pid 0 = none */
    int pid;
    unsigned worker, restarts;
} answer;

static answer read_answer(int fd)
{
    char text[65];
    answer from = {0};
    struct pollfd waited = {fd, POLLIN, 0};
    ssize_t size = poll(&waited, 1, 2000) == 1 ? read(fd, text, sizeof(text) - 1) : 0;
    close(fd);
    text[size > 0 ? size : 0] = '\0';
    if (sscanf(text, "%d %u %u", &from.pid, &from.worker, &from.restarts) != 3) from.pid = 0;
    return from;
}

/* Asks until somebody answers: the first start takes its time. */
static answer ask(const place *where)
{
    answer from = {0};
    for (uint64_t until = now() + 2000; from.pid == 0 && now() < until; pause_for(1)) {
        int fd = connect_socket(where);
        if (fd >= 0) from = read_answer(fd);
    }
    return from;
}

/* Its pid; 0: there is no other one. */
static int ask_until_other_than(const place *where, int pid)
{
    int other = pid;
    for (uint64_t until = now() + 2000; other == pid && now() < until; pause_for(1))
        other = ask(where).pid;
    return other == pid ? 0 : other;
}

static bool logged(place *where, const char *text)
{
    for (uint64_t until = now() + 2000; now() < until; pause_for(2)) {
        read_file(where->log, where->text);
        if (strstr(where->text, text)) return true;
    }
    return false;
}

static unsigned times_logged(place *where, const char *text)
{
    unsigned count = 0;
    read_file(where->log, where->text);
    for (const char *at = where->text; (at = strstr(at, text)); at++) count++;
    return count;
}

/* The pid of the stuck process whose replacement has not been started. */
static int still_stuck(place *where)
{
    static const char starts[] = "new server process starts  worker=";
    static const char stuck[] = "server process is stuck  worker=";
    unsigned replaced = 2, worker;
    read_file(where->log, where->text);
    const char *at = strstr(where->text, starts);
    if (at) (void)sscanf(at + strlen(starts), "%u", &replaced);
    for (at = where->text; at && (at = strstr(at, stuck)); at++) {
        int pid;
        if (sscanf(at + strlen(stuck), "%u pid=%d", &worker, &pid) == 2 && worker != replaced)
            return pid;
    }
    return 0;
}

static unsigned descriptors_of(pid_t pid)
{
    char path[32];
    unsigned count = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *directory = opendir(path);
    while (readdir(directory)) count++;
    closedir(directory);
    return count;
}

static place where;

TEST(it_serves_and_ends_cleanly)
{
    struct stat status;
    CHECK(make_place(&where, "serve") && start(&where));
    answer from = ask(&where);
    CHECK(from.pid > 0 && from.pid != where.supervisor);
    CHECK_EQUAL_INT(from.restarts, 0);
    CHECK_EQUAL_INT(getpgid(from.pid), from.pid);
    CHECK_EQUAL_INT(stop(&where), 0);
    CHECK(stat(where.socket, &status) != 0);
    CHECK(kill(from.pid, 0) != 0);
    remove_place(&where);
}

TEST(a_failing_start_says_why_binds_nothing_and_exits_with_3)
{
    struct stat status;
    CHECK(make_place(&where, "fail") && start(&where));
    CHECK_EQUAL_INT(end_of(&where), 3);
    CHECK(logged(&where, "fasterlua: apps/shop/app.lua:3: what a mess"));
    CHECK(stat(where.socket, &status) != 0);
    CHECK_EQUAL_INT(times_logged(&where, "listeners="), 0);
    remove_place(&where);
}

TEST(a_process_that_dies_while_it_loads_fails_the_start)
{
    CHECK(make_place(&where, "die"));
    where.settings.workers = 2;
    CHECK(start(&where));
    CHECK_EQUAL_INT(end_of(&where), 3);
    CHECK(logged(&where, "ended with status 7"));
    remove_place(&where);
}

TEST(an_address_in_use_fails_the_start)
{
    static place other;
    CHECK(make_place(&where, "serve") && start(&where));
    CHECK(ask(&where).pid > 0);
    CHECK(make_place(&other, "serve"));
    other.settings.uds = where.socket;
    CHECK(start(&other));
    CHECK_EQUAL_INT(end_of(&other), 3);
    CHECK(logged(&other, "another server answers on it"));
    CHECK_EQUAL_INT(times_logged(&other, "listeners="), 0);
    CHECK(ask(&where).pid > 0);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&other);
    remove_place(&where);
}

TEST(each_thread_of_each_worker_has_a_socket_of_its_own)
{
    static char none[] = "";
    unsigned port = 0, seen = 0;
    CHECK(make_place(&where, "serve"));
    where.settings.uds = none;
    where.settings.workers = 2;
    where.settings.threads = 3;
    CHECK(start(&where));
    CHECK(logged(&where, "port="));
    CHECK_EQUAL_INT(sscanf(strstr(where.text, "port="), "port=%u;", &port), 1);
    for (int i = 0; i < 100 && seen != 3; i++)
        seen |= 1u << read_answer(connect_port((uint16_t)port)).worker;
    CHECK_EQUAL_INT(seen, 3);
    CHECK_EQUAL_INT(times_logged(&where, "listeners=3 \n"), 2);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(a_shared_socket_is_announced_as_such)
{
    CHECK(make_place(&where, "serve"));
    where.settings.threads = 3;
    CHECK(start(&where));
    CHECK(logged(&where, "listeners=1 shared\n"));
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(after_kill_9_what_waits_is_served_within_200_ms)
{
    CHECK(make_place(&where, "serve") && start(&where));
    answer from = ask(&where);
    CHECK(from.pid > 0);
    CHECK_EQUAL_INT(kill(from.pid, SIGSTOP), 0); /* so that it cannot accept any more */
    int waiting = connect_socket(&where);
    CHECK(waiting >= 0);
    uint64_t killed = now();
    CHECK_EQUAL_INT(kill(from.pid, SIGKILL), 0);
    answer next = read_answer(waiting);
    CHECK(now() - killed < 200 * TEST_SLOWDOWN);
    CHECK(next.pid > 0 && next.pid != from.pid);
    CHECK_EQUAL_INT(next.restarts, 1);
    CHECK(logged(&where, "killed by SIGKILL"));
    CHECK(logged(&where, "GET /held (request "));
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(many_deaths_are_survived_without_a_leak)
{
    unsigned before = 0;
    uint64_t fastest = UINT64_MAX;
    CHECK(make_place(&where, "serve") && start(&where));
    answer from = ask(&where);
    for (unsigned i = 1; i <= 6; i++) {
        uint64_t killed = now();
        CHECK_EQUAL_INT(kill(from.pid, SIGKILL), 0);
        from = ask(&where);
        CHECK(from.pid > 0 && from.restarts == i);
        uint64_t took = now() - killed;
        if (took < fastest) fastest = took;
        if (i == 1) before = descriptors_of(where.supervisor);
    }
    CHECK(fastest < 200);
    CHECK_EQUAL_INT(descriptors_of(where.supervisor), before);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(a_process_that_does_not_load_again_is_retried_until_it_does)
{
    CHECK(make_place(&where, "serve") && start(&where));
    answer from = ask(&where);
    set_mode(&where, "fail");
    CHECK_EQUAL_INT(kill(from.pid, SIGKILL), 0);
    CHECK(logged(&where, "could not be started again"));
    int waiting = connect_socket(&where);
    set_mode(&where, "serve");
    CHECK(read_answer(waiting).pid > 0);
    CHECK(logged(&where, "what a mess"));
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(a_hang_up_replaces_the_server_process)
{
    CHECK(make_place(&where, "serve") && start(&where));
    answer from = ask(&where);
    CHECK_EQUAL_INT(kill(where.supervisor, SIGHUP), 0);
    CHECK(ask_until_other_than(&where, from.pid) > 0);
    CHECK(logged(&where, "server process ended"));
    answer next = ask(&where);
    CHECK(next.pid > 0 && next.restarts == 0);
    CHECK(kill(from.pid, 0) != 0);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(a_hang_up_replaces_all_workers)
{
    CHECK(make_place(&where, "serve"));
    where.settings.workers = 2;
    CHECK(start(&where));
    CHECK(ask(&where).pid > 0);
    CHECK_EQUAL_INT(kill(where.supervisor, SIGHUP), 0);
    for (uint64_t until = now() + 2000; now() < until; pause_for(2))
        if (times_logged(&where, "new server process serves") == 2) break;
    CHECK_EQUAL_INT(times_logged(&where, "new server process serves"), 2);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(a_replacement_that_fails_leaves_the_old_one_serving)
{
    CHECK(make_place(&where, "serve") && start(&where));
    answer from = ask(&where);
    set_mode(&where, "fail");
    CHECK_EQUAL_INT(kill(where.supervisor, SIGHUP), 0);
    CHECK(logged(&where, "the old server process keeps serving"));
    CHECK(logged(&where, "what a mess"));
    CHECK_EQUAL_INT(ask(&where).pid, from.pid);
    set_mode(&where, "serve");
    CHECK_EQUAL_INT(kill(where.supervisor, SIGHUP), 0);
    CHECK(ask_until_other_than(&where, from.pid) > 0);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(hang_ups_during_a_replacement_are_queued_as_one)
{
    CHECK(make_place(&where, "serve") && start(&where));
    CHECK(ask(&where).pid > 0);
    set_mode(&where, "slow");
    CHECK_EQUAL_INT(kill(where.supervisor, SIGHUP), 0);
    CHECK(logged(&where, "new server process starts"));
    CHECK_EQUAL_INT(kill(where.supervisor, SIGHUP), 0);
    pause_for(5);
    CHECK_EQUAL_INT(kill(where.supervisor, SIGHUP), 0);
    pause_for(350);
    CHECK_EQUAL_INT(times_logged(&where, "new server process serves"), 2);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(a_replacement_takes_over_when_the_old_one_dies_meanwhile)
{
    CHECK(make_place(&where, "serve") && start(&where));
    answer from = ask(&where);
    set_mode(&where, "slow");
    CHECK_EQUAL_INT(kill(where.supervisor, SIGHUP), 0);
    CHECK(logged(&where, "new server process starts"));
    CHECK_EQUAL_INT(kill(from.pid, SIGKILL), 0);
    int next = ask_until_other_than(&where, from.pid);
    CHECK(next > 0);
    pause_for(150);
    CHECK_EQUAL_INT(ask(&where).pid, next); /* and nobody else was started */
    CHECK_EQUAL_INT(times_logged(&where, "listeners="), 2);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(a_stuck_process_is_replaced)
{
    CHECK(make_place(&where, "stuck") && start(&where));
    CHECK(logged(&where, "listeners="));
    set_mode(&where, "serve");
    CHECK(logged(&where, "GET /loop has run for 1 s"));
    CHECK(logged(&where, "new server process serves"));
    CHECK(ask(&where).pid > 0);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(a_stuck_process_is_tried_to_be_replaced_less_and_less_often_until_it_is)
{
    CHECK(make_place(&where, "patient") && start(&where));
    answer from = ask(&where);
    uint64_t began = now();
    set_mode(&where, "fail");
    CHECK(logged(&where, "the stuck server process could not be replaced"));
    CHECK(logged(&where, "what a mess\" again_in_s=0.1\n"));
    CHECK(logged(&where, "what a mess\" again_in_s=0.2\n"));
    CHECK(now() - began >= 100);
    CHECK_EQUAL_INT(ask(&where).pid, from.pid);
    set_mode(&where, "serve");
    CHECK(ask_until_other_than(&where, from.pid) > 0);
    CHECK(now() - began >= 300);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

/* Restores it when `most` is 0. */
static bool limit_descriptors(const place *of, rlim_t most)
{
    struct rlimit limit;
    if (prlimit(of->supervisor, RLIMIT_NOFILE, NULL, &limit) != 0) return false;
    limit.rlim_cur = most ? most : limit.rlim_max;
    return prlimit(of->supervisor, RLIMIT_NOFILE, &limit, NULL) == 0;
}

TEST(a_replacement_of_a_stuck_process_that_cannot_be_started_is_tried_again)
{
    CHECK(make_place(&where, "patient") && start(&where));
    answer from = ask(&where);
    CHECK(limit_descriptors(&where, 3));
    set_mode(&where, "serve");
    CHECK(logged(&where, "reason=\"too many open files\" again_in_s=0.1\n"));
    CHECK(limit_descriptors(&where, 0));
    CHECK(ask_until_other_than(&where, from.pid) > 0);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(a_replacement_that_fails_takes_no_other_stuck_worker_its_own)
{
    CHECK(make_place(&where, "patient"));
    where.settings.workers = 2;
    CHECK(start(&where));
    CHECK(ask(&where).pid > 0);
    set_mode(&where, "slow fail"); /* while one is made, the other one is wanted */
    CHECK(logged(&where, "the stuck server process could not be replaced"));
    set_mode(&where, "serve");
    for (uint64_t until = now() + 3000; now() < until; pause_for(2))
        if (times_logged(&where, "new server process serves") == 2) break;
    CHECK_EQUAL_INT(times_logged(&where, "new server process serves"), 2);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(a_stuck_process_that_dies_before_it_could_be_replaced_is_only_restarted)
{
    CHECK(make_place(&where, "patient"));
    where.settings.workers = 2;
    CHECK(start(&where));
    CHECK(ask(&where).pid > 0);
    set_mode(&where, "slower"); /* while one is replaced, the other one waits for it */
    CHECK(logged(&where, "new server process starts"));
    for (uint64_t until = now() + 3000; now() < until; pause_for(1))
        if (times_logged(&where, "server process is stuck") == 2) break;
    int pid = still_stuck(&where);
    CHECK(pid > 0);
    CHECK_EQUAL_INT(kill(pid, SIGKILL), 0);
    CHECK(logged(&where, "new server process serves"));
    for (uint64_t until = now() + 3000; now() < until; pause_for(2))
        if (times_logged(&where, "listeners=") == 4) break;
    CHECK_EQUAL_INT(times_logged(&where, "listeners="), 4);
    pause_for(50);
    CHECK_EQUAL_INT(times_logged(&where, "new server process starts"), 1);
    CHECK_EQUAL_INT(stop(&where), 0);
    remove_place(&where);
}

TEST(a_drain_that_overruns_is_cut_and_logged)
{
    CHECK(make_place(&where, "stubborn"));
    where.settings.drain = 0; /* a second more is given */
    CHECK(start(&where));
    answer from = ask(&where);
    uint64_t asked = now();
    CHECK_EQUAL_INT(stop(&where), 0);
    CHECK(now() - asked >= 1000 && now() - asked < 1500 * TEST_SLOWDOWN);
    CHECK(kill(from.pid, 0) != 0);
    CHECK(logged(&where, "did not end in time and was killed"));
    CHECK(logged(&where, "GET /held (request "));
    remove_place(&where);
}

TEST(a_second_signal_ends_at_once)
{
    CHECK(make_place(&where, "stubborn") && start(&where));
    CHECK(ask(&where).pid > 0);
    uint64_t asked = now();
    CHECK_EQUAL_INT(kill(where.supervisor, SIGINT), 0);
    pause_for(20);
    CHECK_EQUAL_INT(stop(&where), 0);
    CHECK(now() - asked < 1000 * TEST_SLOWDOWN);
    remove_place(&where);
}

TEST(a_signal_while_it_loads_ends_it)
{
    struct stat status;
    CHECK(make_place(&where, "slow") && start(&where));
    pause_for(50);
    CHECK_EQUAL_INT(stop(&where), 0);
    CHECK(stat(where.socket, &status) != 0);
    remove_place(&where);
}

TEST(when_the_supervisor_is_killed_the_server_processes_go_too)
{
    CHECK_EQUAL_INT(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); /* the orphan comes to us */
    CHECK(make_place(&where, "serve") && start(&where));
    answer from = ask(&where);
    CHECK(from.pid > 0);
    CHECK_EQUAL_INT(kill(where.supervisor, SIGKILL), 0);
    CHECK_EQUAL_INT(end_of(&where), 1000 + SIGKILL);
    CHECK_EQUAL_INT(end_of_process(from.pid), 0);
    CHECK_EQUAL_INT(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
    remove_place(&where);
}

static bool hears(int fd, const char *expected)
{
    char text[256];
    struct pollfd waited = {fd, POLLIN, 0};
    if (poll(&waited, 1, 2000) != 1) return false;
    ssize_t size = recv(fd, text, sizeof(text) - 1, 0);
    text[size > 0 ? size : 0] = '\0';
    return strncmp(text, expected, strlen(expected)) == 0;
}

TEST(the_service_manager_hears_of_start_reload_and_stop)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CHECK(make_place(&where, "serve"));
    memcpy(address.sun_path, where.notify, strlen(where.notify));
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK_EQUAL_INT(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    CHECK(start(&where));
    CHECK(hears(fd, "READY=1\n"));
    CHECK_EQUAL_INT(kill(where.supervisor, SIGHUP), 0);
    CHECK(hears(fd, "RELOADING=1\nMONOTONIC_USEC="));
    CHECK(hears(fd, "READY=1\nSTATUS=serving"));
    set_mode(&where, "fail");
    CHECK_EQUAL_INT(kill(where.supervisor, SIGHUP), 0);
    CHECK(hears(fd, "RELOADING=1\n"));
    CHECK(hears(fd, "READY=1\nSTATUS=reload failed"));
    CHECK_EQUAL_INT(stop(&where), 0);
    CHECK(hears(fd, "STOPPING=1"));
    close(fd);
    remove_place(&where);
}

TEST_MAIN
