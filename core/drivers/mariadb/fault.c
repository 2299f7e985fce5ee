#include "fault.h"

#include <errmsg.h>
#include <mysqld_error.h>
#include <stdio.h>
#include <string.h>

#ifndef ER_CLIENT_INTERACTION_TIMEOUT
#define ER_CLIENT_INTERACTION_TIMEOUT 4031 /* MySQL's */
#endif
#define CONSTRAINT_FAILED 4025
#define SECURE_TRANSPORT_REQUIRED 3159

void fl_mariadb_fault_set(fl_mariadb_fault *fault, unsigned number, const char *message)
{
    fault->number = number;
    (void)snprintf(fault->state, sizeof(fault->state), "HY000");
    (void)snprintf(fault->message, sizeof(fault->message), "%s", message);
}

/* A statement has errors of its own; what it does not know the connection does. */
void fl_mariadb_fault_of(fl_mariadb_fault *fault, MYSQL *mysql, MYSQL_STMT *statement)
{
    bool own = statement && mysql_stmt_errno(statement) != 0;
    unsigned number = own ? mysql_stmt_errno(statement) : mysql_errno(mysql);
    const char *message = own ? mysql_stmt_error(statement) : mysql_error(mysql);
    const char *state = own ? mysql_stmt_sqlstate(statement) : mysql_sqlstate(mysql);
    fl_mariadb_fault_set(fault, number ? number : CR_UNKNOWN_ERROR,
                         number ? message : "unknown error");
    if (number) (void)snprintf(fault->state, sizeof(fault->state), "%s", state);
}

bool fl_mariadb_fault_is_loss(const fl_mariadb_fault *fault)
{
    switch (fault->number) {
    case CR_SERVER_GONE_ERROR:
    case CR_SERVER_LOST:
    case CR_COMMANDS_OUT_OF_SYNC:
    case CR_MALFORMED_PACKET:
    case ER_SERVER_SHUTDOWN:
    case ER_NORMAL_SHUTDOWN:
    case ER_CONNECTION_KILLED:
    case ER_NET_PACKET_TOO_LARGE:
    case ER_CLIENT_INTERACTION_TIMEOUT: return true;
    default: return false;
    }
}

bool fl_mariadb_fault_is_refusal(const fl_mariadb_fault *fault)
{
    switch (fault->number) {
    case ER_ACCESS_DENIED_ERROR:
    case ER_ACCESS_DENIED_NO_PASSWORD_ERROR:
    case ER_DBACCESS_DENIED_ERROR:
    case ER_BAD_DB_ERROR:
    case ER_HOST_NOT_PRIVILEGED:
    case ER_ACCOUNT_HAS_BEEN_LOCKED:
    case ER_NOT_SUPPORTED_AUTH_MODE:
    case ER_MUST_CHANGE_PASSWORD_LOGIN:
    case SECURE_TRANSPORT_REQUIRED:
    case CR_SSL_CONNECTION_ERROR:
    case CR_AUTH_PLUGIN_CANNOT_LOAD: return true;
    default: return false;
    }
}

static int status_of(unsigned number)
{
    switch (number) {
    case ER_CON_COUNT_ERROR:
    case ER_SERVER_SHUTDOWN:
    case CR_CONNECTION_ERROR:
    case CR_CONN_HOST_ERROR:
    case CR_SERVER_GONE_ERROR:
    case CR_SERVER_LOST: return 503;
    default: return 0;
    }
}

static bool says_something(const char *state)
{
    return strcmp(state, "HY000") != 0 && strcmp(state, "00000") != 0 && state[0];
}

static void write_code(char *code, size_t size, const fl_mariadb_fault *fault)
{
    if (fault->number == ER_LOCK_WAIT_TIMEOUT || fault->number == ER_LOCK_DEADLOCK)
        (void)snprintf(code, size, "40001");
    else if (says_something(fault->state))
        (void)snprintf(code, size, "%s", fault->state);
    else
        (void)snprintf(code, size, "%u", fault->number);
}

/* what messages name */

static fl_slice between(const char *begin, char end)
{
    const char *last = begin ? strchr(begin, end) : NULL;
    return last ? fl_slice_of(begin, (size_t)(last - begin)) : fl_slice_of(NULL, 0);
}

static const char *behind(const char *text, const char *words)
{
    const char *found = strstr(text, words);
    return found ? found + strlen(words) : NULL;
}

static const char *behind_last(const char *text, const char *words)
{
    const char *found = NULL;
    for (const char *next; (next = behind(text, words)) != NULL; text = next) found = next;
    return found;
}

/* Duplicate entry '1' for key 'PRIMARY'; MySQL says 'table.PRIMARY'. */
static void explain_duplicate(const char *message, fl_query *query)
{
    fl_slice name = between(behind_last(message, "for key '"), '\'');
    const char *dot = name.size ? memrchr(name.data, '.', name.size) : NULL;
    if (dot) name = fl_slice_of(dot + 1, name.size - (size_t)(dot + 1 - name.data));
    fl_query_explain(&query->error.constraint, name);
}

/* … fails (`db`.`table`, CONSTRAINT `name` …); CONSTRAINT `name` failed for `db`.`table` */
static void explain_constraint(const char *message, fl_query *query)
{
    fl_query_explain(&query->error.constraint, between(behind(message, "CONSTRAINT `"), '`'));
    fl_query_explain(&query->error.table, between(behind(message, "`.`"), '`'));
}

static void explain_column(const char *message, fl_query *query)
{
    const char *name = behind(message, "olumn '");
    if (!name) name = behind(message, "Field '");
    fl_query_explain(&query->error.column, between(name, '\''));
}

static void explain(const fl_mariadb_fault *fault, fl_query *query)
{
    switch (fault->number) {
    case ER_DUP_ENTRY: explain_duplicate(fault->message, query); return;
    case ER_NO_REFERENCED_ROW:
    case ER_NO_REFERENCED_ROW_2:
    case ER_ROW_IS_REFERENCED:
    case ER_ROW_IS_REFERENCED_2:
    case CONSTRAINT_FAILED: explain_constraint(fault->message, query); return;
    case ER_BAD_NULL_ERROR:
    case ER_BAD_FIELD_ERROR:
    case ER_NO_DEFAULT_FOR_FIELD:
    case ER_DATA_TOO_LONG:
    case ER_WARN_DATA_OUT_OF_RANGE: explain_column(fault->message, query); return;
    default: return;
    }
}

void fl_mariadb_fault_tell(const fl_mariadb_fault *fault, fl_query *query)
{
    char code[SQLSTATE_LENGTH + 8], detail[32];
    if (query->error.message) return;
    write_code(code, sizeof(code), fault);
    fl_query_fail(query, code, status_of(fault->number), "%s", fault->message);
    int size = snprintf(detail, sizeof(detail), "errno %u", fault->number);
    fl_query_explain(&query->error.detail, fl_slice_of(detail, (size_t)size));
    explain(fault, query);
}
