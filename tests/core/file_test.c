#include "file.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "server.h"
#include "test.h"

#define TEXT "twelve bytes"
#define TURNS 12 /* more than any of these works takes */

/* As much of a server as files need. */
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

typedef struct fl_scene {
    fl_server server;
    bool served;    /* its mailbox is open */
    uv_loop_t loop; /* of the state's thread */
    fl_mailbox *mailbox;
    fl_address *address;
    unsigned ended;
    char folder[32], path[64];
    int descriptors; /* that were open */
} fl_scene;

static int count_descriptors(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (folder && readdir(folder)) count++;
    if (folder) closedir(folder);
    return count;
}

static bool open_scene(fl_scene *scene)
{
    *scene = (fl_scene){.folder = "/tmp/file-test-XXXXXX", .served = true};
    if (!mkdtemp(scene->folder)) return false;
    (void)snprintf(scene->path, sizeof(scene->path), "%s/file", scene->folder);
    bool open = uv_loop_init(&scene->server.loop) == 0 && uv_loop_init(&scene->loop) == 0;
    open = open &&
           fl_mailbox_new(&scene->server.mailbox, &scene->server.loop, &scene->server) == 0 &&
           fl_mailbox_new(&scene->mailbox, &scene->loop, NULL) == 0 &&
           fl_address_new(&scene->address, scene->mailbox, (fl_state *)scene) == 0;
    scene->descriptors = count_descriptors();
    return open;
}

static void stop_serving(fl_scene *scene)
{
    if (scene->served) fl_mailbox_close(scene->server.mailbox);
    scene->served = false;
}

/* Whether both loops are empty and nothing is left open. */
static bool close_scene(fl_scene *scene)
{
    stop_serving(scene);
    (void)uv_run(&scene->server.loop, UV_RUN_DEFAULT);
    bool clean = count_descriptors() == scene->descriptors;
    fl_address_close(scene->address);
    fl_address_release(scene->address);
    fl_mailbox_close(scene->mailbox);
    (void)uv_run(&scene->loop, UV_RUN_DEFAULT);
    (void)unlink(scene->path);
    (void)rmdir(scene->folder);
    return uv_loop_close(&scene->server.loop) == 0 && uv_loop_close(&scene->loop) == 0 && clean;
}

static void ended(void *data)
{
    ((fl_scene *)data)->ended++;
}

static fl_file_order to_write(const fl_scene *scene)
{
    return (fl_file_order){.kind = FL_FILE_WRITE,
                           .path = scene->path,
                           .text = fl_slice_from_string(TEXT),
                           .flags = O_WRONLY | O_CREAT | O_TRUNC,
                           .mode = 0600};
}

static fl_file_order to_read(const fl_scene *scene)
{
    return (fl_file_order){
        .kind = FL_FILE_READ, .path = scene->path, .limit = UINT64_MAX, .flags = O_RDONLY};
}

static fl_file *begin(fl_scene *scene, const fl_file_order *order)
{
    fl_file *file;
    if (fl_file_new(&file, order) < 0) return NULL;
    if (fl_file_start(file, &scene->server, scene->address, ended, scene) == 0) return file;
    fl_file_release(file);
    return NULL;
}

static void serve(fl_scene *scene, int turns)
{
    for (int i = 0; i < turns; i++) {
        (void)uv_run(&scene->server.loop, UV_RUN_NOWAIT);
        uv_sleep(1);
    }
}

/* Until it has ended; bounded. */
static bool wait(fl_scene *scene)
{
    for (int i = 0; i < 5000 && !scene->ended; i++) {
        serve(scene, 1);
        (void)uv_run(&scene->loop, UV_RUN_NOWAIT);
    }
    return scene->ended == 1;
}

static bool put_file(const fl_scene *scene)
{
    FILE *file = fopen(scene->path, "w");
    return file && fputs(TEXT, file) >= 0 && fclose(file) == 0;
}

TEST(what_was_written_is_read)
{
    fl_scene scene;
    CHECK(open_scene(&scene));
    fl_file_order order = to_write(&scene);
    fl_file *file = begin(&scene, &order);
    CHECK(file && wait(&scene));
    CHECK_EQUAL_INT(fl_file_result_of(file)->error, 0);
    fl_file_release(file);
    scene.ended = 0;
    order = to_read(&scene);
    file = begin(&scene, &order);
    CHECK(file && wait(&scene));
    CHECK_EQUAL_INT(fl_file_result_of(file)->error, 0);
    CHECK_EQUAL_BYTES(fl_file_result_of(file)->data, fl_file_result_of(file)->size, TEXT);
    fl_file_release(file);
    CHECK(close_scene(&scene));
}

TEST(the_makers_path_and_text_may_go_at_once)
{
    fl_scene scene;
    CHECK(open_scene(&scene));
    char path[sizeof(scene.path)], text[] = TEXT;
    memcpy(path, scene.path, sizeof(path));
    fl_file_order order = to_write(&scene);
    order.path = path;
    order.text.data = text;
    fl_file *file = begin(&scene, &order);
    memset(path, 'x', sizeof(path));
    memset(text, 'x', sizeof(text));
    CHECK(file && wait(&scene));
    fl_file_release(file);
    scene.ended = 0;
    order = to_read(&scene);
    file = begin(&scene, &order);
    CHECK(file && wait(&scene));
    CHECK_EQUAL_BYTES(fl_file_result_of(file)->data, fl_file_result_of(file)->size, TEXT);
    fl_file_release(file);
    CHECK(close_scene(&scene));
}

/* The error of an order that is cancelled after so many turns of the server's loop; 1: the test
 * itself failed. */
static int cancel_after(int turns, fl_file_order (*order_of)(const fl_scene *scene))
{
    fl_scene scene;
    if (!open_scene(&scene) || !put_file(&scene)) return 1;
    fl_file_order order = order_of(&scene);
    fl_file *file = begin(&scene, &order);
    if (!file) return 1;
    serve(&scene, turns);
    fl_file_cancel(file);
    int error = wait(&scene) ? fl_file_result_of(file)->error : 1;
    fl_file_release(file);
    return close_scene(&scene) ? error : 1;
}

TEST(cancelled_at_any_moment_it_ends_once_and_leaves_nothing_open)
{
    fl_file_order (*const orders[])(const fl_scene *) = {to_read, to_write};
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL_INT(cancel_after(0, orders[i]), UV_ECANCELED);
        CHECK_EQUAL_INT(cancel_after(1, orders[i]), UV_ECANCELED);
        for (int turns = 2; turns < TURNS; turns++) {
            int error = cancel_after(turns, orders[i]);
            CHECK(error == UV_ECANCELED || error == 0);
        }
        CHECK_EQUAL_INT(cancel_after(200, orders[i]), 0); /* it had ended */
    }
}

TEST(a_state_that_has_gone_hears_nothing)
{
    for (int turns = 0; turns < TURNS; turns++) {
        fl_scene scene;
        CHECK(open_scene(&scene));
        fl_file_order order = to_write(&scene);
        fl_file *file = begin(&scene, &order);
        CHECK(file);
        serve(&scene, turns);
        fl_file_release(file);
        fl_address_close(scene.address);
        serve(&scene, TURNS);
        (void)uv_run(&scene.loop, UV_RUN_NOWAIT);
        CHECK_EQUAL_INT(scene.ended, 0);
        CHECK(close_scene(&scene));
    }
}

TEST(what_has_begun_is_finished_when_the_server_ends)
{
    fl_scene scene;
    CHECK(open_scene(&scene));
    fl_file_order order = to_write(&scene);
    fl_file *file = begin(&scene, &order);
    CHECK(file);
    (void)uv_run(&scene.server.loop, UV_RUN_NOWAIT);
    stop_serving(&scene);
    CHECK(wait(&scene));
    CHECK_EQUAL_INT(fl_file_result_of(file)->error, 0);
    fl_file_release(file);
    CHECK(access(scene.path, F_OK) == 0);
    CHECK(close_scene(&scene));
}

TEST(what_has_not_begun_is_cancelled_when_the_server_ends)
{
    fl_scene scene;
    CHECK(open_scene(&scene));
    fl_file_order order = to_write(&scene);
    fl_file *file = begin(&scene, &order);
    CHECK(file);
    fl_file_cancel(file);
    stop_serving(&scene);
    CHECK(wait(&scene));
    CHECK_EQUAL_INT(fl_file_result_of(file)->error, UV_ECANCELED);
    fl_file_release(file);
    CHECK(access(scene.path, F_OK) < 0);
    CHECK(close_scene(&scene));
}

TEST(a_server_that_has_ended_refuses)
{
    fl_scene scene;
    CHECK(open_scene(&scene));
    fl_file_order order = to_read(&scene);
    fl_file *file;
    CHECK(fl_file_new(&file, &order) == 0);
    fl_mailbox_hold(scene.server.mailbox);
    stop_serving(&scene);
    CHECK_EQUAL_INT(fl_file_start(file, &scene.server, scene.address, ended, &scene), UV_ECANCELED);
    CHECK_EQUAL_INT(scene.ended, 0);
    fl_file_release(file);
    fl_mailbox_release(scene.server.mailbox);
    CHECK(close_scene(&scene));
}

TEST_MAIN
