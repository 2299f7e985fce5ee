#include "wire.h"

#include <arpa/inet.h>
#include <errmsg.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <uv.h>

#include "farewell.h"
#include "state.h"
#include "thread.h"

#define STACK_SIZE ((size_t)256 << 10) /* for the library's calls: TLS needs some */
#define DEFAULT_PORT 3306
#define LAST_TRIES 100

/* The password never goes out readable, whatever a server asks for. */
#define METHODS "mysql_native_password,client_ed25519,caching_sha2_password,sha256_password,parsec"

/* A stream's reader may be slow. The scanner of statements reads as the server does: no
 * ANSI_QUOTES, alone or in a combination, no NO_BACKSLASH_ESCAPES. */
const char fl_mariadb_setup[] =
    "set names utf8mb4, autocommit = 1, net_write_timeout = 600, time_zone = '+00:00', sql_mode = "
    "concat('STRICT_TRANS_TABLES,', "
    "replace(replace(replace(replace(replace(replace(replace(replace(@@sql_mode, "
    "'NO_BACKSLASH_ESCAPES', ''), 'ANSI_QUOTES', ''), 'ANSI', ''), 'ORACLE', ''), 'MSSQL', ''), "
    "'DB2', ''), 'MAXDB', ''), 'POSTGRESQL', ''))";

/* what is lent */

static fl_mariadb_wire *wire_of_lease(fl_lease *lease)
{
    return (fl_mariadb_wire *)((char *)lease - offsetof(fl_mariadb_wire, lease));
}

static void released(fl_lease *lease)
{
    fl_mariadb_wire *wire = wire_of_lease(lease);
    pthread_mutex_lock(&wire->lock);
    if (wire->fd >= 0) (void)shutdown(wire->fd, SHUT_RDWR);
    pthread_mutex_unlock(&wire->lock);
    if (wire->slot) fl_quota_give(wire->slot);
}

static void set_fd(fl_mariadb_wire *wire, int fd)
{
    pthread_mutex_lock(&wire->lock);
    wire->fd = fd;
    pthread_mutex_unlock(&wire->lock);
}

/* options */

static bool is_one_of(const char *value, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(value, *words) == 0) return true;
    return false;
}

static bool wants_tls(const fl_db *db, bool *name_too)
{
    static const char *const off[] = {"0", "false", "off", "no", "disable", "disabled", NULL};
    static const char *const full[] = {"verify", "verify-full", "verify_full", "verify_identity",
                                       NULL};
    const char *ssl = fl_db_option_of(db, "ssl");
    *name_too = ssl && is_one_of(ssl, full);
    if (!ssl) return fl_db_option_of(db, "ssl_ca") != NULL;
    return !is_one_of(ssl, off);
}

/* Without an authority the library (from 3.4 on) takes a server that knows the password for the
 * right one: so where nothing is named it is the machine's. */
static const char *authorities(const char *ca, bool verify)
{
    return verify && !ca ? X509_get_default_cert_dir() : NULL;
}

static void set_tls(MYSQL *mysql, const fl_db *db)
{
    bool name_too;
    my_bool enforce = wants_tls(db, &name_too), verify = name_too;
    const char *ca = fl_db_option_of(db, "ssl_ca");
    if (enforce)
        (void)mysql_ssl_set(mysql, fl_db_option_of(db, "ssl_key"), fl_db_option_of(db, "ssl_cert"),
                            ca, authorities(ca, name_too), NULL);
    (void)mysql_options(mysql, MYSQL_OPT_SSL_ENFORCE, &enforce);
    (void)mysql_options(mysql, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &verify);
}

static void set_options(MYSQL *mysql, const fl_db *db)
{
    size_t stack = STACK_SIZE;
    unsigned off = 0;
    my_bool no = 0;
    (void)mysql_options(mysql, MYSQL_OPT_NONBLOCK, &stack);
    (void)mysql_options(mysql, MYSQL_OPT_LOCAL_INFILE, &off);
    (void)mysql_options(mysql, MYSQL_OPT_RECONNECT, &no);
    (void)mysql_options(mysql, MYSQL_REPORT_DATA_TRUNCATION, &no);
    (void)mysql_options(mysql, MYSQL_SET_CHARSET_NAME, "utf8mb4");
    (void)mysql_options(mysql, MYSQL_INIT_COMMAND, fl_mariadb_setup);
    (void)mysql_options(mysql, MARIADB_OPT_RESTRICTED_AUTH, METHODS);
    set_tls(mysql, db);
}

/* calls */

static unsigned short port_of(const fl_db *db)
{
    const char *port = fl_db_option_of(db, "port");
    return port && *port ? (unsigned short)strtoul(port, NULL, 10) : DEFAULT_PORT;
}

static const char *host_of(const fl_db *db)
{
    const char *host = fl_db_option_of(db, "host");
    return host && *host ? host : "127.0.0.1";
}

/* A certificate is checked by the name that the library connects to: so that is looked up once
 * more, by the library, which waits for it; it has just been found. */
static int begin_connect(fl_mariadb_wire *wire)
{
    const fl_db *db = wire->db;
    const char *socket = fl_db_option_of(db, "socket");
    const char *host = socket ? NULL : wire->addresses;
    bool name_too;
    if (host && wants_tls(db, &name_too) && name_too) host = host_of(db);
    unsigned protocol = socket ? MYSQL_PROTOCOL_SOCKET : MYSQL_PROTOCOL_TCP;
    (void)mysql_options(wire->mysql, MYSQL_OPT_PROTOCOL, &protocol);
    return mysql_real_connect_start(&wire->connected, wire->mysql, host,
                                    fl_db_option_of(db, "user"), fl_db_option_of(db, "password"),
                                    fl_db_option_of(db, "database"), port_of(db), socket, 0);
}

/* -> what it waits for; 0: it has ended */
static int begin(fl_mariadb_wire *wire)
{
    MYSQL *mysql = wire->mysql;
    switch (wire->call) {
    case FL_WIRE_NOTHING: return 0;
    case FL_WIRE_CONNECT: return begin_connect(wire);
    case FL_WIRE_QUERY:
        return mysql_real_query_start(&wire->status, mysql, wire->text.data, wire->text.size);
    case FL_WIRE_FETCH_ROW: return mysql_fetch_row_start(&wire->row, wire->result);
    case FL_WIRE_NEXT_RESULT: return mysql_next_result_start(&wire->status, mysql);
    case FL_WIRE_PREPARE:
        return mysql_stmt_prepare_start(&wire->status, wire->statement, wire->text.data,
                                        wire->text.size);
    case FL_WIRE_EXECUTE: return mysql_stmt_execute_start(&wire->status, wire->statement);
    case FL_WIRE_FETCH: return mysql_stmt_fetch_start(&wire->status, wire->statement);
    case FL_WIRE_NEXT: return mysql_stmt_next_result_start(&wire->status, wire->statement);
    case FL_WIRE_FREE: return mysql_stmt_close_start(&wire->flag, wire->statement);
    case FL_WIRE_RESET: return mysql_reset_connection_start(&wire->status, mysql);
    }
    return 0;
}

static int go_on(fl_mariadb_wire *wire, int events)
{
    MYSQL *mysql = wire->mysql;
    switch (wire->call) {
    case FL_WIRE_NOTHING: return 0;
    case FL_WIRE_CONNECT: return mysql_real_connect_cont(&wire->connected, mysql, events);
    case FL_WIRE_QUERY: return mysql_real_query_cont(&wire->status, mysql, events);
    case FL_WIRE_FETCH_ROW: return mysql_fetch_row_cont(&wire->row, wire->result, events);
    case FL_WIRE_NEXT_RESULT: return mysql_next_result_cont(&wire->status, mysql, events);
    case FL_WIRE_PREPARE: return mysql_stmt_prepare_cont(&wire->status, wire->statement, events);
    case FL_WIRE_EXECUTE: return mysql_stmt_execute_cont(&wire->status, wire->statement, events);
    case FL_WIRE_FETCH: return mysql_stmt_fetch_cont(&wire->status, wire->statement, events);
    case FL_WIRE_NEXT: return mysql_stmt_next_result_cont(&wire->status, wire->statement, events);
    case FL_WIRE_FREE: return mysql_stmt_close_cont(&wire->flag, wire->statement, events);
    case FL_WIRE_RESET: return mysql_reset_connection_cont(&wire->status, mysql, events);
    }
    return 0;
}

static void ready(fl_readiness *readiness, int status, int events);

/* The library opens and closes the socket as it likes. While it connects, `pvio` is not set yet. */
static int follow_socket(fl_mariadb_wire *wire, bool waits)
{
    int fd = waits || wire->mysql->net.pvio ? mysql_get_socket(wire->mysql) : -1;
    bool open = wire->readiness.link != NULL;
    if (fd == (open ? wire->readiness.fd : -1)) return 0;
    fl_readiness_close(&wire->readiness);
    set_fd(wire, fd);
    return fd < 0 ? 0 : fl_readiness_open(&wire->readiness, wire->db->state, fd, ready);
}

/* Nothing is waited for any more. */
static void give_up(fl_mariadb_wire *wire)
{
    fl_mariadb_wire_cut(wire);
    for (int i = 0; i < LAST_TRIES && go_on(wire, MYSQL_WAIT_TIMEOUT) != 0; i++) continue;
}

static void end(fl_mariadb_wire *wire)
{
    if (wire->call == FL_WIRE_CONNECT && !wire->connected) wire->status = 1;
    if (wire->call == FL_WIRE_FREE) wire->statement = NULL;
    wire->call = FL_WIRE_NOTHING;
    fl_deadline_stop(&wire->patience);
    if (follow_socket(wire, false) < 0) wire->status = 1;
    fl_mariadb_wire_listen(wire, true);
}

static void impatient(fl_deadline *deadline);

/* Says whether the call has ended. */
static bool settle(fl_mariadb_wire *wire, int waits)
{
    if (waits != 0 && (follow_socket(wire, true) < 0 || wire->fd < 0)) {
        give_up(wire);
        waits = 0;
    }
    if (waits == 0) {
        end(wire);
        return true;
    }
    int events = waits & (MYSQL_WAIT_READ | MYSQL_WAIT_EXCEPT) ? UV_READABLE : 0;
    if (waits & MYSQL_WAIT_WRITE) events |= UV_WRITABLE;
    fl_readiness_want(&wire->readiness, events);
    if (waits & MYSQL_WAIT_TIMEOUT && !fl_deadline_started(&wire->patience))
        fl_thread_start_deadline(wire->db->state->thread, &wire->patience,
                                 mysql_get_timeout_value_ms(wire->mysql), impatient);
    return false;
}

static fl_mariadb_wire *wire_of_deadline(fl_deadline *deadline)
{
    return (fl_mariadb_wire *)((char *)deadline - offsetof(fl_mariadb_wire, patience));
}

static void impatient(fl_deadline *deadline)
{
    fl_mariadb_wire *wire = wire_of_deadline(deadline);
    wire->failure = "no answer in time";
    if (wire->resolve) {
        fl_resolve_cancel(wire->resolve);
        wire->resolve = NULL;
    } else {
        give_up(wire);
    }
    wire->connected = NULL;
    if (wire->status == 0) wire->status = 1;
    end(wire);
    wire->ended(wire);
}

static fl_mariadb_wire *wire_of_readiness(fl_readiness *readiness)
{
    return (fl_mariadb_wire *)((char *)readiness - offsetof(fl_mariadb_wire, readiness));
}

static void ready(fl_readiness *readiness, int status, int events)
{
    fl_mariadb_wire *wire = wire_of_readiness(readiness);
    if (wire->call == FL_WIRE_NOTHING) {
        fl_readiness_want(readiness, 0);
        wire->heard(wire);
        return;
    }
    int happened = status < 0 ? MYSQL_WAIT_TIMEOUT : 0;
    if (events & UV_READABLE) happened |= MYSQL_WAIT_READ;
    if (events & UV_WRITABLE) happened |= MYSQL_WAIT_WRITE;
    if (settle(wire, go_on(wire, happened))) wire->ended(wire);
}

/* connecting */

static void append_address(fl_buffer *text, const fl_resolved_address *address)
{
    char number[INET6_ADDRSTRLEN] = "";
    bool six = address->any.sa_family == AF_INET6;
    if (six)
        (void)uv_ip6_name(&address->v6, number, sizeof(number));
    else
        (void)uv_ip4_name(&address->v4, number, sizeof(number));
    if (text->size) fl_buffer_byte(text, ',');
    if (six && strchr(number, ':'))
        fl_buffer_printf(text, "[%s]", number);
    else
        fl_buffer_slice(text, fl_slice_from_string(number));
}

/* As the library takes them: one after the other is tried. */
static char *join_addresses(const fl_resolved *found)
{
    fl_buffer text;
    fl_buffer_init(&text);
    for (unsigned i = 0; i < found->count; i++) append_address(&text, &found->addresses[i]);
    char *joined = text.failed ? NULL : strndup(text.data, text.size);
    fl_buffer_close(&text);
    return joined;
}

static void fail_to_resolve(fl_mariadb_wire *wire, int error)
{
    wire->failure = uv_strerror(error);
    wire->status = 1;
    wire->call = FL_WIRE_NOTHING;
    fl_deadline_stop(&wire->patience);
}

static void resolved(void *data, const fl_resolved *found)
{
    fl_mariadb_wire *wire = data;
    wire->resolve = NULL;
    wire->addresses = found->error ? NULL : join_addresses(found);
    if (!wire->addresses) {
        fail_to_resolve(wire, found->error ? found->error : UV_ENOMEM);
        wire->ended(wire);
    } else if (settle(wire, begin(wire))) {
        wire->ended(wire);
    }
}

static bool connect_to(fl_mariadb_wire *wire, const char *host)
{
    fl_resolved number;
    if (fl_resolve_number(host, 0, &number)) {
        wire->addresses = strdup(host);
        if (wire->addresses) return settle(wire, begin(wire));
        fail_to_resolve(wire, UV_ENOMEM);
        return true;
    }
    int status =
        fl_resolve_start(&wire->resolve, wire->db->state, host, port_of(wire->db), resolved, wire);
    if (status == 0) return false;
    fail_to_resolve(wire, status);
    return true;
}

static bool start_connect(fl_mariadb_wire *wire)
{
    if (fl_db_option_of(wire->db, "socket")) return settle(wire, begin(wire));
    return connect_to(wire, host_of(wire->db));
}

/* in order of life */

int fl_mariadb_wire_open(fl_mariadb_wire *wire, fl_db *db, bool counts)
{
    wire->slot = NULL;
    int status = counts ? fl_db_take_slot(db, &wire->slot) : 0;
    if (status < 0) return status;
    wire->db = db;
    wire->address = db->state->address;
    wire->fd = -1;
    wire->lease.released = released;
    wire->patience.state = db->state;
    wire->mysql = mysql_init(NULL);
    status = wire->mysql ? 0 : UV_ENOMEM;
    pthread_mutex_init(&wire->lock, NULL);
    if (status == 0) status = fl_address_lend(wire->address, &wire->lease);
    if (status == 0) {
        fl_address_hold(wire->address); /* the state's own is gone when it closes its databases */
        set_options(wire->mysql, db);
        return 0;
    }
    if (wire->mysql) mysql_close(wire->mysql);
    wire->mysql = NULL;
    pthread_mutex_destroy(&wire->lock);
    if (wire->slot) fl_quota_give(wire->slot);
    return status;
}

bool fl_mariadb_wire_start(fl_mariadb_wire *wire, fl_wire_call call, uint64_t patience)
{
    wire->call = call;
    wire->status = 0;
    if (patience)
        fl_thread_start_deadline(wire->db->state->thread, &wire->patience, patience, impatient);
    if (call == FL_WIRE_CONNECT) return start_connect(wire);
    return settle(wire, begin(wire));
}

void fl_mariadb_wire_listen(fl_mariadb_wire *wire, bool wanted)
{
    if (wire->readiness.link) fl_readiness_want(&wire->readiness, wanted ? UV_READABLE : 0);
}

void fl_mariadb_wire_cut(fl_mariadb_wire *wire)
{
    if (wire->fd >= 0) (void)shutdown(wire->fd, SHUT_RDWR);
}

void fl_mariadb_wire_part(fl_mariadb_wire *wire)
{
    if (fl_address_give_back(wire->address, &wire->lease))
        fl_farewell_begin(wire->db, wire->fd, wire->slot);
}

/* What the library holds for a call that has not ended goes only when that ends. */
void fl_mariadb_wire_close(fl_mariadb_wire *wire)
{
    if (!wire->mysql) return;
    if (wire->resolve)
        fl_resolve_cancel(wire->resolve);
    else if (wire->call != FL_WIRE_NOTHING)
        give_up(wire);
    wire->resolve = NULL;
    wire->call = FL_WIRE_NOTHING;
    fl_deadline_stop(&wire->patience);
    fl_readiness_close(&wire->readiness);
    bool lent = fl_address_give_back(wire->address, &wire->lease);
    fl_address_release(wire->address);
    mysql_close(wire->mysql);
    wire->mysql = NULL;
    wire->fd = -1;
    if (lent && wire->slot) fl_quota_give(wire->slot);
    pthread_mutex_destroy(&wire->lock);
    free(wire->addresses);
    wire->addresses = NULL;
}
