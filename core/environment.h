/* environment: the variables that a process of ours is started with.
 *
 * Any thread that does not change the environment meanwhile. */
#ifndef FL_ENVIRONMENT_H
#define FL_ENVIRONMENT_H

/* Our own, without what tells a server's processes their places and what the service manager says
 * to the supervisor alone, and with `variable` ("NAME=value", which must outlive it; NULL: nothing)
 * at the end. For the caller to free; NULL: no memory. */
char **fl_environment_inherited(char *variable);

#endif
