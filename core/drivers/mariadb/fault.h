/* fault: what MariaDB or libmariadb says is wrong, and what an app is told of it.
 *
 * Pure functions; a fault is a copy of its own. */
#ifndef FL_MARIADB_FAULT_H
#define FL_MARIADB_FAULT_H

#include <stdbool.h>

#include <mysql.h>

#include "database.h"

typedef struct fl_mariadb_fault {
    unsigned number; /* 0: there is none */
    char state[SQLSTATE_LENGTH + 1];
    char message[MYSQL_ERRMSG_SIZE];
} fl_mariadb_fault;

void fl_mariadb_fault_of(fl_mariadb_fault *fault, MYSQL *mysql, MYSQL_STMT *statement);
void fl_mariadb_fault_set(fl_mariadb_fault *fault, unsigned number, const char *message);
/* The connection is over. */
bool fl_mariadb_fault_is_loss(const fl_mariadb_fault *fault);
/* Trying again does not help: the server is there and refuses. */
bool fl_mariadb_fault_is_refusal(const fl_mariadb_fault *fault);
void fl_mariadb_fault_tell(const fl_mariadb_fault *fault, fl_query *query);

#endif
