#include "resolve.h"

#include <stdlib.h>
#include <uv.h>

#include "server.h"
#include "test.h"
#include "thread.h"

/* As much of a server as looking up needs. */
struct fl_server {
    uv_loop_t loop;
    fl_mailbox *mailbox;
};

fl_mailbox *fl_server_mailbox(fl_server *server)
{
    return server->mailbox;
}

uv_loop_t *fl_server_loop(fl_server *server)
{
    return &server->loop;
}

/* … and of the state's thread. */
void fl_thread_start_deadline(fl_thread *thread, fl_deadline *deadline, uint64_t milliseconds,
                              fl_deadline_callback callback)
{
    fl_deadline_start(&thread->wheel, deadline, thread->wheel.now + milliseconds, callback);
}

typedef struct scene {
    fl_server server;
    fl_thread thread;
    fl_state state;
    unsigned ended;
    fl_resolved result;
} scene;

static scene *open_scene(void)
{
    scene *it = calloc(1, sizeof(*it));
    if (!it || uv_loop_init(&it->server.loop) < 0) abort();
    if (fl_mailbox_new(&it->server.mailbox, &it->server.loop, &it->server) < 0) abort();
    it->thread.server = &it->server;
    if (uv_loop_init(&it->thread.loop) < 0) abort();
    if (fl_mailbox_new(&it->thread.mailbox, &it->thread.loop, it) < 0) abort();
    fl_wheel_init(&it->thread.wheel, 0);
    it->state.thread = &it->thread;
    if (fl_address_new(&it->state.address, it->thread.mailbox, &it->state) < 0) abort();
    return it;
}

static void close_scene(scene *it)
{
    fl_address_close(it->state.address);
    fl_address_release(it->state.address);
    fl_mailbox_close(it->server.mailbox);
    uv_run(&it->server.loop, UV_RUN_DEFAULT);
    uv_loop_close(&it->server.loop);
    fl_mailbox_close(it->thread.mailbox);
    uv_run(&it->thread.loop, UV_RUN_DEFAULT);
    uv_loop_close(&it->thread.loop);
    free(it);
}

static void run(scene *it, uint64_t milliseconds)
{
    uint64_t until = uv_hrtime() + milliseconds * 1000000;
    while (!it->ended && uv_hrtime() < until) {
        uv_run(&it->server.loop, UV_RUN_NOWAIT);
        uv_run(&it->thread.loop, UV_RUN_NOWAIT);
        uv_sleep(1);
    }
}

static void ended(void *data, const fl_resolved *result)
{
    scene *it = data;
    it->ended++;
    it->result = *result;
}

TEST(a_number_needs_no_look_up)
{
    fl_resolved result;
    CHECK(fl_resolve_number("127.0.0.1", 6379, &result));
    CHECK_EQUAL_INT(result.count, 1);
    CHECK_EQUAL_INT(result.addresses[0].any.sa_family, AF_INET);
    CHECK_EQUAL_INT(ntohs(result.addresses[0].v4.sin_port), 6379);
    CHECK(fl_resolve_number("::1", 1, &result));
    CHECK_EQUAL_INT(result.addresses[0].any.sa_family, AF_INET6);
    CHECK(!fl_resolve_number("localhost", 1, &result));
}

TEST(a_name_is_looked_up_elsewhere)
{
    scene *it = open_scene();
    fl_resolve *resolve = NULL;
    int status = fl_resolve_start(&resolve, &it->state, "localhost", 6379, ended, it);
    run(it, 5000);
    unsigned count = it->ended;
    fl_resolved result = it->result;
    close_scene(it);
    CHECK_EQUAL_INT(status, 0);
    CHECK_EQUAL_INT(count, 1);
    CHECK_EQUAL_INT(result.error, 0);
    CHECK(result.count >= 1);
    CHECK_EQUAL_INT(ntohs(result.addresses[0].v4.sin_port), 6379);
}

TEST(a_name_that_does_not_exist_is_an_error)
{
    scene *it = open_scene();
    fl_resolve *resolve = NULL;
    (void)fl_resolve_start(&resolve, &it->state, "no such name.invalid", 1, ended, it);
    run(it, 15000);
    unsigned count = it->ended;
    int error = it->result.error;
    close_scene(it);
    CHECK_EQUAL_INT(count, 1);
    CHECK(error < 0);
}

TEST(one_that_is_cancelled_is_heard_of_no_more)
{
    scene *it = open_scene();
    fl_resolve *resolve = NULL;
    (void)fl_resolve_start(&resolve, &it->state, "localhost", 1, ended, it);
    fl_resolve_cancel(resolve);
    run(it, 100);
    unsigned count = it->ended;
    close_scene(it);
    CHECK_EQUAL_INT(count, 0);
}

TEST(one_that_takes_too_long_ends_with_an_error_and_once)
{
    scene *it = open_scene();
    fl_resolve *resolve = NULL;
    (void)fl_resolve_start(&resolve, &it->state, "localhost", 1, ended, it);
    fl_wheel_advance(&it->thread.wheel, FL_RESOLVE_PATIENCE - 1);
    unsigned before = it->ended;
    fl_wheel_advance(&it->thread.wheel, FL_RESOLVE_PATIENCE + 1);
    unsigned after = it->ended;
    int error = it->result.error;
    it->ended = 0;
    run(it, 100);
    unsigned later = it->ended;
    close_scene(it);
    CHECK_EQUAL_INT(before, 0);
    CHECK_EQUAL_INT(after, 1);
    CHECK_EQUAL_INT(error, UV_ETIMEDOUT);
    CHECK_EQUAL_INT(later, 0);
}

TEST(one_of_a_server_that_has_closed_ends_with_an_error)
{
    scene *it = open_scene();
    fl_resolve *resolve = NULL;
    (void)fl_resolve_start(&resolve, &it->state, "localhost", 1, ended, it);
    fl_mailbox_close(it->server.mailbox);
    run(it, 1000);
    unsigned count = it->ended;
    int error = it->result.error;
    if (fl_mailbox_new(&it->server.mailbox, &it->server.loop, &it->server) < 0) abort();
    close_scene(it);
    CHECK_EQUAL_INT(count, 1);
    CHECK_EQUAL_INT(error, UV_ECANCELED);
}

TEST(a_name_that_is_too_long_is_refused)
{
    scene *it = open_scene();
    char name[300];
    memset(name, 'a', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    fl_resolve *resolve = NULL;
    int status = fl_resolve_start(&resolve, &it->state, name, 1, ended, it);
    close_scene(it);
    CHECK_EQUAL_INT(status, UV_ENAMETOOLONG);
}

TEST_MAIN
