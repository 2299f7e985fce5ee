/* killer: stops statements that run on other connections, over a short-lived one of its own: as
 * many as there are to be stopped, one after the other.
 *
 * Owner: its database. *loop*. Whoever is to be stopped must start nothing new until it is told
 * how that went: a KILL QUERY that comes late would hit that. */
#ifndef FL_MARIADB_KILLER_H
#define FL_MARIADB_KILLER_H

#include <stdbool.h>

#include "wire.h"

typedef struct fl_mariadb_victim fl_mariadb_victim;
struct fl_mariadb_victim {
    fl_mariadb_victim *next, **link; /* link NULL: it is not in line */
    bool asked;                      /* in line, or being stopped now */
    unsigned long id;                /* of its connection */
    /* The server has done it; false: it could not be asked. */
    void (*told)(fl_mariadb_victim *victim, bool done);
};

typedef struct fl_mariadb_killer {
    fl_mariadb_wire wire;
    fl_mariadb_victim *first, **last;
    fl_mariadb_victim *present; /* NULL: none, or it is gone */
    char text[48];
} fl_mariadb_killer;

void fl_mariadb_killer_init(fl_mariadb_killer *killer, fl_db *db);
void fl_mariadb_killer_add(fl_mariadb_killer *killer, fl_mariadb_victim *victim);
/* The victim's memory goes. Harmless when it was not asked for. */
void fl_mariadb_killer_forget(fl_mariadb_killer *killer, fl_mariadb_victim *victim);
void fl_mariadb_killer_close(fl_mariadb_killer *killer);

#endif
